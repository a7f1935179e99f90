"""Gaussian clouds as one HTML page with viewer, turntable and download, which opens from a disk
without a network: the pack's own viewer, the cloud as it draws it (`compact`) and a .sog.

Nothing is loaded from elsewhere, and the page's own policy forbids it. Colours that depend on the
view are in the download, not in the picture.
"""

from __future__ import annotations

import base64
import html
import os
import re
import tempfile
from pathlib import Path
from string import Template

from ..gaussians.cloud import Gaussians
from .atomic import appearing_at_once, atomic_write
from .compact import pack
from .sog_writer import save_sog

WEB = Path(__file__).resolve().parents[2] / "web"
MODULES = ("gsplat", "orbit", "message", "viewer")  # what one imports comes before it
LIMIT = 1_000_000  # Gaussians that the page draws; the download has all


def save_html(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the page; atomic.

    Raises ValueError if the cloud is empty or holds NaNs, or the folder does not exist; OSError if
    the disk refuses.
    """
    path = Path(path)
    with atomic_write(path) as file:
        with tempfile.TemporaryDirectory() as folder, appearing_at_once():
            save_sog(gaussians, Path(folder) / "a.sog")
            saved = (Path(folder) / "a.sog").read_bytes()
        values = {
            "title": html.escape(path.stem),
            "file": html.escape(f"{path.stem.rstrip('_')}.sog", quote=True),
            "script": "const modules = {};\n" + "\n".join(map(module, MODULES)),
            "cloud": base64.b64encode(pack(gaussians.check(), LIMIT)).decode(),
            "saved": base64.b64encode(saved).decode(),
        }
        page = Template((WEB / "share.html").read_text("utf-8")).substitute(values)
        file.write(page.encode())


def module(name: str) -> str:
    """A module of the folder web as an expression: a page on a disk may import nothing."""
    text = (WEB / f"{name}.mjs").read_text("utf-8")
    text = re.sub(r'import (\{[^}]*\}) from "\./(\w+)\.mjs";', r"const \1 = modules.\2;", text)
    names = re.findall(r"^export (?:class|const|function) (\w+)", text, re.M)
    exports = [f"{key}: {key}" for key in names]
    text = re.sub(r"^export (?=class|const|function)", "", text, flags=re.M)
    if (found := re.search(r"export\{([^}]*)\};?", text)) is not None:
        pairs = (pair.split(" as ") for pair in found[1].split(","))
        exports += [f"{pair[-1]}: {pair[0]}" for pair in pairs]
        text = text.replace(found[0], "")
    text = _classic_workers(text)
    # a closing tag in a string would end the script
    text = text.replace("</script", "<\\/script")
    return f"modules.{name} = (() => {{\n{text}\nreturn {{ {', '.join(exports)} }};\n}})();"


def _classic_workers(text: str) -> str:
    """gsplat.js starts module workers, which a browser does not let a page from a disk do; without
    their own address, which they do without, they need not be modules.
    """

    def renamed(found: re.Match[str]) -> str:
        source = base64.b64decode(found[0]).replace(b"import.meta.url", b'""')
        return base64.b64encode(source).decode()

    text = text.replace('"URL.revokeObjectURL(import.meta.url);",', "")
    text = re.sub(r"(?<=\")[A-Za-z0-9+/=]{2000,}(?=\")", renamed, text)
    return text.replace('type:"module"', 'type:"classic"')

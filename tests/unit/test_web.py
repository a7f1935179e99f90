"""The page's files: nothing is loaded from elsewhere, the library is the one that is asked for, help is of nodes."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
LIBRARY = WEB / "gsplat.mjs"


def scripts():
    return [file for file in WEB.rglob("*") if file.suffix in (".js", ".mjs")]


def test_page_loads_one_script_by_itself_and_that_the_others():
    assert [file.name for file in WEB.rglob("*.js")] == ["distill3d.js"]
    for file in scripts():
        for path in re.findall(r'(?:from|import)\s*\(?"([^"]+)"', file.read_text(encoding="utf-8")):
            assert path in ("../../scripts/api.js", "../../scripts/app.js") or (file.parent / path).is_file(), path


def test_no_script_names_an_address_outside():
    for file in scripts():
        named = set(re.findall(r"https?://[\w.]+/[\w-]+", file.read_text(encoding="utf-8")))
        # A name that is never fetched, and a shader's comment.
        assert named <= {"http://www.w3.org/2000", "https://github.com/graphdeco-inria"}, file


def test_bundled_library_is_the_pinned_one_with_its_licence():
    pinned = json.loads(ROOT.joinpath("web-src", "package.json").read_text(encoding="utf-8"))["devDependencies"]
    head = LIBRARY.read_text(encoding="utf-8")[:1500]
    assert head.startswith(f"/* gsplat.js {pinned['gsplat']} (MIT)") and "Permission is hereby granted" in head
    assert LIBRARY.stat().st_size < 150_000


def test_help_pages_are_of_nodes_that_exist():
    ids = set(re.findall(r'node_id="(\w+)"', "".join(f.read_text(encoding="utf-8") for f in ROOT.glob("nodes/*.py"))))
    pages = {file.stem for file in WEB.glob("docs/*.md")}
    assert len(pages) > 3 and pages <= ids

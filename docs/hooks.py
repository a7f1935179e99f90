"""What makes the manual of plain Markdown files: formulas as MathML, pictures that lie outside
docs/.

The pages are written to be read in a repository browser too, so they name pictures and files where
they lie in the repository.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# in the repository: in the site
PICTURES = {"assets": "assets", "web/docs/pictures": "nodes/pictures"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
README = re.compile(r"\]\((?:\.\./)+README\.md(?:#[\w-]*)?\)")


def on_config(config):
    """All node pages below "Nodes"; they are generated, so mkdocs.yml does not list them."""
    folder = ROOT / "docs" / "nodes"
    titles = {
        file: file.read_text(encoding="utf-8").split("\n", 1)[0] for file in folder.glob("*.md")
    }
    pages = {title.removeprefix("# "): file for file, title in titles.items()}
    pages.pop("Nodes")
    listed = ["nodes/index.md", *({title: f"nodes/{pages[title].name}"} for title in sorted(pages))]
    config.nav = [{"Nodes": listed} if "Nodes" in entry else entry for entry in config.nav]
    return config


def on_files(files, config):
    for source, target in PICTURES.items():
        for file in sorted(ROOT.joinpath(source).glob("*.jpg")):
            files.append(File.generated(config, f"{target}/{file.name}", content=file.read_bytes()))
    return files


def on_page_markdown(markdown, page, **_):
    depth = page.file.src_uri.count("/")
    for source, target in PICTURES.items():
        markdown = markdown.replace(
            f"]({'../' * (depth + 1)}{source}/", f"]({'../' * depth}{target}/"
        )
    return README.sub(f"]({'../' * depth}index.md)", markdown)


def on_page_content(content, **_):
    return FORMULA.sub(_mathml, content)


def _mathml(found):
    display = "block" if found[1] == "div" else "inline"
    return convert(html.unescape(found[2]).strip(), display=display)

"""Writes what follows from other files: locales/en, the tables in web/docs and its copies,
docs/nodes, the papers' values in docs/method/papers.md, workflows/api, and the workflows of
published recipes with their translations and docs/guide/recipes.md.

``python tests/comfyui/write_texts.py`` after a change of a node or of a workflow, in the
environment that set_up.py sets up.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from harness import environment, help_pages, locales, papers, prompts, recipes
from harness.server import Server


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with Server(environment.tree(), base, base / "comfyui.log") as server:
            info = server.object_info()
    for name, content in locales.english(info).items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        locales.FOLDER.joinpath("en", f"{name}.json").write_text(text, encoding="utf-8")
    written = dict(help_pages.pages(info))
    for page, text in written.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    for page in help_pages.MANUAL.glob("*.md"):
        if page not in written:
            page.unlink()  # of a node that there is no longer
    papers.PAGE.write_text(papers.page(info, help_pages.ENGLISH), encoding="utf-8")
    for page, text in list(recipes.files(info)):
        page.write_text(text, encoding="utf-8")
    for name in prompts.NAMES:
        graph = prompts.api_form(prompts.read(name), info)
        text = json.dumps(graph, indent=2, ensure_ascii=False) + "\n"
        prompts.WORKFLOWS.joinpath("api", f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

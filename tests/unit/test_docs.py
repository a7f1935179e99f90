"""README and docs/: short, the quick start word for word, links that lead somewhere, tables as the
rows say.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.joinpath("docs").rglob("*.md")),
]
FROM_NOTHING = (
    "python3 -m venv .venv && .venv/bin/python -m pip install -q nox && .venv/bin/nox -s "
)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def tables():
    """The benchmarks import each other as siblings."""
    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    yield importlib.import_module("tables")
    sys.path.remove(str(ROOT / "tests" / "benchmarks"))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and the manual's builder make them."""
    found = re.findall(
        r"^#+ (.+)$",
        CODE.sub(lambda m: m[0].strip("`") if "\n" not in m[0] else "", read(page)),
        re.MULTILINE,
    )
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", text.lower().strip())) for text in found}


def test_readme_is_short_and_has_the_quick_start():
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) <= 200
    section = text.split("\n## Quick start\n")[1].split("\n## ")[0]
    object_, tests = f'{FROM_NOTHING}object -- "a red mug"\n', f"{FROM_NOTHING}tests\n"
    assert re.findall(r"```sh\n(.*?)```", section, re.DOTALL) == [object_ + tests]
    assert (ROOT / ".ci" / "run").read_text().endswith(tests)


def test_readme_says_at_once_what_was_not_tried():
    head = " ".join(read(ROOT / "README.md").splitlines()[:10])
    assert "No published diffusion weights were ever run with" in head


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in LINK.findall(CODE.sub("", read(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{target} is not there"
        assert not anchor or anchor in anchors(file), (
            f"{target}: no such heading; there are {sorted(anchors(file))}"
        )


def test_every_page_is_in_the_manuals_navigation():
    listed = set(re.findall(r"[\w/-]+\.md", read(ROOT / "mkdocs.yml")))
    there = {
        page.relative_to(ROOT / "docs").as_posix()
        for page in PAGES
        if ROOT / "docs" in page.parents
    }
    assert listed == {page for page in there if not re.match(r"nodes/(?!index)", page)}


def test_tables_are_what_the_committed_rows_say(tables):
    used = set()
    for page in PAGES:
        text = read(page)
        assert tables.filled(text) == text, (
            f"{page.relative_to(ROOT)}: run python tests/benchmarks/tables.py"
        )
        used |= {found[2] for found in tables.BLOCK.finditer(text)}
    assert used == set(tables.TABLES)


def test_a_changed_number_in_a_table_is_put_right(tables):
    page = read(ROOT / "docs" / "results" / "first-run.md")
    wrong = page.replace("| 200 steps | 68 |", "| 200 steps | 9 |")
    assert wrong != page and tables.filled(wrong) == page

"""Writes the tables of docs/ and README that come from tests/benchmarks/results/.

    python tests/benchmarks/tables.py            all of them, in place
    python tests/benchmarks/tables.py NAME ...   prints these

In a page such a table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; what is between
them is replaced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import tables_cost  # noqa: F401  # registers its tables
import tables_devices  # noqa: F401
import tables_farm  # noqa: F401
import tables_models  # noqa: F401
import tables_peers  # noqa: F401
import tables_quality  # noqa: F401
import tables_reliability  # noqa: F401
from table_format import HERE, TABLES

DOCS = HERE.parents[1] / "docs"
BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with its tables made anew. Raises KeyError for one that there is not."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", page)


def main(words: Sequence[str]) -> None:
    for name in words:
        print(TABLES[name]())
    if not words:
        for file in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))):
            page = file.read_text(encoding="utf-8")
            if (new := filled(page)) != page:
                file.write_text(new, encoding="utf-8")
                print(f"wrote {file.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main(sys.argv[1:])

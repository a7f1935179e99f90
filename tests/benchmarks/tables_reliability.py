"""The table of what injected faults have done: tests/reliability/results/."""

from __future__ import annotations

import json
import sys
from typing import Any

from table_format import HERE, grid, table, whole

RELIABILITY = HERE.parent / "reliability"
sys.path.append(str(RELIABILITY))

from faults.report import KINDS, summary  # noqa: E402

RESULT = RELIABILITY / "results" / "campaign.json"
DAMAGED = "damaged "


def _content() -> dict[str, Any]:
    return json.loads(RESULT.read_text(encoding="utf-8"))


def _line(line: dict[str, Any]) -> list[str]:
    times = ("" if line[key] is None else f"{line[key]:.2f}" for key in ("median", "slowest"))
    return [whole(line["trials"]), *(whole(line[kind]) for kind in KINDS), *times]


TITLES = ("Trials", *(kind.capitalize() for kind in KINDS), "Median answer, s", "Slowest, s")


@table
def reliability_faults() -> str:
    """All faults but damaged files."""
    lines = (line for line in summary(_content()) if not line["fault"].startswith(DAMAGED))
    return grid(("Fault", *TITLES), ([line["fault"], *_line(line)] for line in lines))


@table
def reliability_files() -> str:
    """Damaged files by their kind."""
    lines = (line for line in summary(_content()) if line["fault"].startswith(DAMAGED))
    rows = ([line["fault"].removeprefix(DAMAGED), *_line(line)] for line in lines)
    return grid(("Damaged file", *TITLES), rows)


@table
def reliability_endurance() -> str:
    """Memory, threads and open files of one server, run after run."""
    looks = _content().get("endurance", [])
    every = max(1, len(looks) // 8)
    lines = (
        [whole(look[key]) for key in ("run", "resident_mb", "threads", "files")]
        for look in looks[::every]
    )
    return grid(("Run", "Resident, MB", "Threads", "Open files"), lines, texts=0)

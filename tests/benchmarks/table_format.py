"""How the tables of docs/ are written: their registry, their cells and the results they read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import claims
from quality_statistics import Row
from results_files import read

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


AWAITED = (*claims.AWAITED, "peers")
UNMEASURED = "*Not measured yet.*\n"
TABLES: dict[str, Callable[[], str]] = {}


def table(make: Callable[[], str]) -> Callable[[], str]:
    TABLES[make.__name__.replace("_", "-")] = make
    return make


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows(name: str) -> list[Row]:
    """Of an experiment; none of one that no rows are committed of yet."""
    file = RESULTS / f"quality_{name}.json"
    if name in AWAITED and not file.is_file():
        return []
    return read(file)["rows"]


def grid(titles: Sequence[str], lines: Iterable[Sequence[object]], texts: int = 1) -> str:
    """A Markdown table; the first columns are texts, the others numbers, so to the right."""
    head = [f"| {' | '.join(titles)} |", "|" + "---|" * texts + "--:|" * (len(titles) - texts)]
    return "\n".join(head + ["| " + " | ".join(map(str, line)) + " |" for line in lines]) + "\n"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def spread(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def change(value: float, error: float | None, digits: int) -> str:
    sign = "+" if value >= 0 else "-"
    return f"{sign} {abs(value):.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def percent(value: float | None, digits: int = 0) -> str:
    """A share of 0..1; 0 % and 100 % without digits."""
    if value is None:
        return ""
    text = f"{100 * value:.{digits}f}"
    return f"{float(text):g} %" if float(text) in (0, 100) else f"{text} %"


def scores(entry: Row) -> list[str]:
    strict = percent(entry["r_precision_all"])
    return [
        spread(entry["iou"], entry["iou_error"], 3), spread(entry["psnr"], entry["psnr_error"], 1),
        percent(entry["false_alpha"], 1), f"{percent(entry['r_precision'], 1)} ({strict})",
        percent(entry["janus"], 1), whole(entry["evaluations"]),
    ]  # fmt: skip


SCORES = ("IoU", "PSNR, dB", "False alpha", "R-precision (strict)", "Janus", "Denoiser rows")

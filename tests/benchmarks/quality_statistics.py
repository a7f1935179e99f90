"""What many rows of quality.py say together: means, their spread and error, and paired
differences.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

# For each, a mean over the rows that have it. Ratios: 1 is right. Shares: 0..1.
SCORES = (
    "iou", "psnr", "false_alpha", "saturation", "contrast", "edges", "judge_category",
    "judge_color", "judge_view", "janus", "r_precision", "r_precision_all", "consistency",
    "consistency_fresh", "seconds", "seconds_per_step", "evaluations", "evaluations_trained",
    "steps_to_iou80", "seconds_to_iou80", "gaussians",
)  # fmt: skip
SHOWN = (
    "iou", "psnr", "false_alpha", "saturation", "contrast", "edges", "judge_category",
    "r_precision", "r_precision_all", "janus", "consistency", "seconds", "evaluations",
    "steps_to_iou80",
)  # fmt: skip
BASELINE, COMPARED = "sds", ("iou", "psnr")


def groups(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by config and loss."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["config"], row["loss"]), []).append(row)
    return found


def means_by(rows: Iterable[Row], key: str, name: str) -> list[float]:
    """The mean of a score for each value of ``key`` ("caption" or "seed"), rows without the score
    left out.
    """
    found: dict[Any, list[float]] = {}
    for row in rows:
        if row.get(name) is not None:
            found.setdefault(row[key], []).append(row[name])
    return [statistics.fmean(values) for values in found.values()]


def error_of_mean(values: list[float]) -> float | None:
    """Standard error of the mean of independent values; None for fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def paired(
    rows: Iterable[Row], others: Iterable[Row], name: str
) -> tuple[float, float | None, int] | None:
    """Mean difference of a score, rows minus others, its standard error, and the number of captions
    it rests on.

    Over the captions and seeds that both have. Seeds of a caption are averaged first: captions are
    what is drawn independently. None where the two share nothing.
    """
    known = {(r["caption"], r["seed"]): r[name] for r in others if r.get(name) is not None}
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get(name) is not None and (place := (row["caption"], row["seed"])) in known:
            found.setdefault(row["caption"], []).append(row[name] - known[place])
    differences = [statistics.fmean(values) for values in found.values()]
    return (
        (statistics.fmean(differences), error_of_mean(differences), len(differences))
        if differences
        else None
    )


def summary(rows: list[Row]) -> list[Row]:
    """Per config and loss, of every score: its mean; ``_prompts``, the standard deviation of the
    captions' means; ``_seeds``, that of the seeds' means; ``_error``, the standard error of the
    mean, from the captions' means; and ``_truth``, what true renders get. ``against_sds``: the
    paired difference from SDS of the same config, else of the only config that has it.
    """
    by_group = groups(rows)
    bases = [key for key in by_group if key[1] == BASELINE]
    result = []
    for (config, loss), members in by_group.items():
        entry: Row = {
            "config": config,
            "loss": loss,
            "objects": len(members),
            "steps": members[0]["steps"],
        }
        for name in SCORES:
            captions, seeds = (means_by(members, key, name) for key in ("caption", "seed"))
            if captions:
                entry[name] = _rounded(
                    statistics.fmean(r[name] for r in members if r.get(name) is not None)
                )
                entry[f"{name}_prompts"] = (
                    _rounded(statistics.stdev(captions)) if len(captions) > 1 else None
                )
                entry[f"{name}_seeds"] = (
                    _rounded(statistics.stdev(seeds)) if len(seeds) > 1 else None
                )
                entry[f"{name}_error"] = _rounded(error_of_mean(captions))
            if truths := [
                r["truth"][name] for r in members if r.get("truth", {}).get(name) is not None
            ]:
                entry[f"{name}_truth"] = _rounded(statistics.fmean(truths))
        entry["reached_iou80"] = _rounded(
            statistics.fmean(r.get("steps_to_iou80") is not None for r in members)
        )
        entry["diverged"] = sum("diverged" in r for r in members)
        base = (
            (config, BASELINE)
            if (config, BASELINE) in bases
            else bases[0]
            if len(bases) == 1
            else None
        )
        if base and base != (config, loss):
            entry["against_sds"] = _against(members, by_group[base])
        result.append(entry)
    return result


def _against(rows: list[Row], others: list[Row]) -> Row:
    result: Row = {}
    for name in COMPARED:
        if found := paired(rows, others, name):
            result |= {
                name: _rounded(found[0]),
                f"{name}_error": _rounded(found[1]),
                "captions": found[2],
            }
    return result


def _rounded(value: float | None) -> float | None:
    """Five significant digits."""
    return None if value is None else float(f"{value:.5g}")


def table(entries: list[Row]) -> str:
    """The summary's means in columns, and IoU's standard error."""
    columns = ("config", "loss", "objects", "steps", SHOWN[0], "iou_error", *SHOWN[1:])

    def cell(value: Any) -> str:
        return (
            "-"
            if value is None
            else f"{value:.3f}"
            if isinstance(value, float) and value < 1000
            else f"{value}"
        )

    lines = [[*columns]] + [[cell(entry.get(c)) for c in columns] for entry in entries]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) for line in lines
    )

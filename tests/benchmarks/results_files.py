"""Reads what quality.py writes, and shrinks it to what is committed.

    python tests/benchmarks/results_files.py tests/benchmarks/results/quality_losses.json ...
    [--scores iou,psnr]

A committed file has a table for each config and loss instead of an object for each row, six
significant digits, and only the scores that a table, a claim or a test reads: no curves, no summary
(`quality_statistics.summary` makes it). `read` gives rows of either form, so that quality.py and
claims.py go on from a committed file too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quality_statistics import Row, groups

GROUP = ("config", "loss")
KEPT = (
    "caption", "seed", "steps", "fingerprint", "evaluations", "evaluations_trained", "iou", "psnr",
    "false_alpha", "saturation", "contrast", "edges", "consistency", "consistency_fresh",
    "seconds_per_step", "steps_to_iou80", "seconds_to_iou80", "steps_to_iou90", "iou_start",
    "psnr_start", "janus", "r_precision", "r_precision_all", "gaussians", "diverged",
)  # fmt: skip
FACTS = (
    "torch",
    "measured",
    "device",
    "jobs",
    "prior",
    "machine",
    "failures",
    "missing",
    "total_seconds",
)


def read(file: Path) -> dict[str, Any]:
    """What is in the file, "rows" as quality.py writes them. Raises ValueError if there are
    none.
    """
    known = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(known, dict):
        raise ValueError(f"{file} holds no result of quality.py.")
    if "tables" in known:
        known = known | {
            "rows": [row for part in known.pop("tables") for row in _rows(part, known["captions"])]
        }
    if not isinstance(known.get("rows"), list):
        raise ValueError(f"{file} holds no result of quality.py.")
    return known


def _rows(part: dict[str, Any], captions: list[str]) -> list[Row]:
    columns = part["columns"] | {"caption": [captions[i] for i in part["columns"]["caption"]]}
    rows = [
        part["constant"] | dict(zip(columns, values, strict=True))
        for values in zip(*columns.values(), strict=True)
    ]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def compact(result: dict[str, Any], kept: Sequence[str] = KEPT) -> dict[str, Any]:
    """The result in the form of the committed files, of each row what ``kept`` names and its
    caption and seed.
    """
    kept = [
        name for name in KEPT if name in kept or name in ("caption", "seed", "steps", "fingerprint")
    ]
    captions = sorted({row["caption"] for row in result["rows"]})
    tables = []
    for key, rows in groups(result["rows"]).items():
        columns = {
            name: [_short(row.get(name)) for row in rows]
            for name in kept
            if any(row.get(name) is not None for row in rows)
        }
        columns["caption"] = [captions.index(caption) for caption in columns["caption"]]
        same = {
            n: v[0]
            for n, v in columns.items()
            if n not in ("caption", "seed") and all(x == v[0] for x in v)
        }
        constant = dict(zip(GROUP, key, strict=True)) | same
        tables.append(
            {"constant": constant, "columns": {n: v for n, v in columns.items() if n not in same}}
        )
    facts = {name: result[name] for name in FACTS if name in result}
    return facts | {"captions": captions, "tables": tables}


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def text(result: dict[str, Any]) -> str:
    """JSON with a line for each fact and table."""
    lines = [
        f" {json.dumps(name)}: {json.dumps(value)}"
        for name, value in result.items()
        if name != "tables"
    ]
    tables = ",\n  ".join(json.dumps(part, separators=(",", ":")) for part in result["tables"])
    return "{\n" + ",\n".join([*lines, f' "tables": [\n  {tables}\n ]']) + "\n}\n"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--scores", default=",".join(KEPT), help="keep only these, by name")
    options = parser.parse_args(words)
    for file in options.files:
        shrunk = text(compact(read(file), options.scores.split(",")))
        print(f"{file}: {file.stat().st_size:,} to {len(shrunk):,} bytes")
        file.write_text(shrunk, encoding="utf-8")


if __name__ == "__main__":
    main()

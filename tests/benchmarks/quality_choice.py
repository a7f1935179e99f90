"""Chooses the settings of runs that begin from a text, and writes the sweep that measures them.

    python tests/benchmarks/quality_choice.py RESULTS [--sweep sweeps/text_tuning.json]
        [--to sweeps/text.json]

RESULTS is what quality.py wrote of the tuning sweep, on the tuning captions. For each loss the
config with the best mean of IoU + PSNR / `DECIBELS` becomes "text" at 267 steps and "text, 90
steps"; "ball" is there to compare with. Prints what was chosen of what.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from quality_statistics import Row, summary
from results_files import read

HERE = Path(__file__).parent
DECIBELS = 50.0  # that weigh as much as an IoU of 1: a hundredth of IoU is half a decibel


def worth(entry: Row) -> float:
    return float(entry["iou"] + entry["psnr"] / DECIBELS)


def chosen(rows: list[Row], sweep: list[dict[str, Any]]) -> dict[str, str]:
    """The best config's name for each loss, of those that all captions of the loss have."""
    best: dict[str, Row] = {}
    entries = summary(rows)
    names = {config["name"] for config in sweep}
    for entry in sorted(entries, key=worth):
        most = max(other["objects"] for other in entries if other["loss"] == entry["loss"])
        if entry["config"] in names and entry["objects"] == most and not entry["diverged"]:
            best[entry["loss"]] = entry
    return {loss: best[loss]["config"] for loss in sorted(best)}


def measured(choice: dict[str, str], sweep: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sweep that measures the chosen configs, with the settings that each loss reads."""
    settings = {config["name"]: config["set"] for config in sweep}
    configs: list[dict[str, Any]] = [{"name": "ball", "losses": list(choice), "set": {}}]
    for loss, name in choice.items():
        read_by = ("init", "settings", "cameras", "prompts", loss)
        own = {k: v for k, v in settings[name].items() if k.split(".")[0] in read_by}
        configs.append({"name": "text", "losses": [loss], "set": own})
        configs.append({"name": "text, 90 steps", "losses": [loss], "steps": 90, "set": own})
    return configs


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--sweep", type=Path, default=HERE / "sweeps/text_tuning.json")
    parser.add_argument("--to", type=Path, default=HERE / "sweeps/text.json")
    options = parser.parse_args(words)
    rows, sweep = read(options.results)["rows"], json.loads(options.sweep.read_text())
    choice = chosen(rows, sweep)
    for entry in sorted(summary(rows), key=lambda entry: (entry["loss"], -worth(entry))):
        mark = "*" if choice.get(entry["loss"]) == entry["config"] else " "
        numbers = f"{entry['iou']:.4f} {entry['psnr']:.2f} dB of {entry['objects']}"
        print(f"{mark} {entry['loss']} {entry['config']}: {numbers}")
    lines = ",\n ".join(json.dumps(config) for config in measured(choice, sweep))
    options.to.write_text(f"[\n {lines}\n]\n")


if __name__ == "__main__":
    main()

"""The tables of several GPUs: one object on them, and the farm."""

from __future__ import annotations

from typing import Any

from table_format import RESULTS, UNMEASURED, grid, percent, result, table


@table
def devices() -> str:
    """A step on several GPUs against one."""
    lines = [
        [
            row["loss"].upper(),
            row["views"],
            row["gpus"],
            f"{row['step_ms']:.1f}",
            f"{row['ratio']:.2f}",
            percent(row["efficiency"]),
        ]
        for row in result("devices")["rows"]
    ]
    return grid(("Loss", "Views", "GPUs", "ms a step", "Times one GPU", "Efficiency"), lines)


@table
def devices_gradients() -> str:
    """How near the gradients of several GPUs are to one's."""

    def share(differences: dict[str, float]) -> str:
        return f"{differences['all']:.1e}"

    lines = [
        [
            f"{row['loss'].upper()}, {row['views']} views",
            share(row["several_from_one"]),
            share(row["one_from_its_split"]),
            "yes" if row["several_same_bits"] else "no",
            "yes" if row["one_same_bits"] else "no",
        ]
        for row in result("devices")["gradients"]
    ]
    return grid(
        (
            "Step",
            "several from one",
            "one from its own split batch",
            "several: same bits twice",
            "one: same bits twice",
        ),
        lines,
    )


@table
def farm_gpus() -> str:
    """Objects an hour by engine and number of workers."""
    if not (RESULTS / "farm_gpus.json").is_file():
        return UNMEASURED
    lines = [_farm(row) for row in result("farm_gpus")["rows"] if row.get("objects_an_hour")]
    titles = (
        "Engine", "Workers from", "GPUs", "Workers a GPU", "MPS", "Objects an hour",
        "GPU-seconds an object", "Seconds an object", "GPU in use",
    )  # fmt: skip
    return grid(titles, lines, 2)


def _farm(row: dict[str, Any]) -> list[object]:
    return [
        row["engine"],
        {"ray": "Ray", "processes": "processes"}[row["runner"]],
        row["gpus"],
        row["per_gpu"] or f"{row['workers'] // row['gpus']} (found)",
        "on" if row["mps"] else "off",
        f"{row['objects_an_hour']:,}",
        f"{row['gpu_seconds']:.2f}",
        f"{row['seconds_an_object']:.1f}",
        "" if row["gpu_use_percent"] is None else f"{row['gpu_use_percent']:.0f} %",
    ]

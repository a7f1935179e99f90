"""The table of the farm's simulation."""

from __future__ import annotations

from table_format import grid, result, table


@table
def farm_simulation() -> str:
    """What the driver of so many GPUs costs."""
    row = result("farm_simulation")
    lines = [
        ["slots (workers)", f"{row['gpus'] * row['per_gpu']:,}"],
        ["seconds of an object in its slot", f"{row['object_seconds']:g}"],
        ["objects a second that came back", f"{row['objects_per_second']:.0f}"],
        [
            "what slots waited for the driver, share of their work",
            f"{100 * row['overhead']:.2f} %",
        ],
        [
            "the driver's own time, ms of one core an object",
            f"{row['driver_cpu_ms_per_object']:.2f}",
        ],
        ["the driver's memory at most, MB", f"{row['driver_peak_mb']:,}"],
        ["manifest, MB", f"{row['manifest_mb']:.0f}"],
        ["to find all finished in the next call, seconds", f"{row['resume_seconds']:.1f}"],
    ]
    return grid((f"{row['objects']:,} objects, {row['gpus']} GPUs", ""), lines)

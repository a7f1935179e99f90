"""The table of the farm's simulation."""

from __future__ import annotations

from table_format import grid, result, table


@table
def farm_simulation() -> str:
    """What the driver of so many GPUs costs."""
    rows = [result("farm_simulation"), result("farm_simulation_25000")]
    figures = {
        "GPUs": lambda row: f"{row['gpus']:,}",
        "slots (workers)": lambda row: f"{row['gpus'] * row['per_gpu']:,}",
        "objects a second that came back": lambda row: f"{row['objects_per_second']:.0f}",
        "what slots waited for the driver, share of their work": (
            lambda row: f"{100 * row['overhead']:.2f} %"
        ),
        "the driver's own time, ms of one core an object": (
            lambda row: f"{row['driver_cpu_ms_per_object']:.2f}"
        ),
        "the driver's memory at most, MB": lambda row: f"{row['driver_peak_mb']:,}",
        "manifest, MB": lambda row: f"{row['manifest_mb']:.0f}",
        "to find all finished in the next call, seconds": (
            lambda row: f"{row['resume_seconds']:.1f}"
        ),
    }
    lines = [[name, *(figure(row) for row in rows)] for name, figure in figures.items()]
    return grid(("", *(f"{row['objects']:,} objects" for row in rows)), lines)

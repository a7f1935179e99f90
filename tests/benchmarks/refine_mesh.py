"""Does Refine Mesh improve the meshes of distilled objects? Prints a table and one JSON object
last.

    python tests/benchmarks/refine_mesh.py --device cuda --prompts 16 --jobs 16 --work FOLDER \\
        --sweep tests/benchmarks/sweeps/refine_mesh.json --json refine.json --sheet refine.png

Every object is distilled from a held-out caption as quality.py does it (400 steps of VDM), meshed
as Export Mesh does it, then refined: the geometry stage moves the vertices, the texture stage the
colours. Each stage is measured against the true toy: chamfer distance, signed bias and normals as
in `refine_mesh_run.distances`; IoU and PSNR over 24 views. FOLDER keeps the distilled clouds; with
the same --json file a run goes on where the last one stopped. ``--set`` keys are those of
`refine_mesh_plan.build`; a sweep file is a list of {"name": str, "set": {key: value}}.

Needs scikit-image, scipy and trimesh, but no optional package.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import arguments
import torch
from quality import outcomes, write
from quality_statistics import paired
from refine_mesh_plan import STAGES, Task, distillations, tasks_of
from refine_mesh_run import MEASURED, Bench

COLUMNS = ("truth", "cloud", *STAGES)
FORMS = {"iou": "{:.4f}", "psnr": "{:.2f}", "normals": "{:.4f}"}


def stage_rows(rows: list[dict[str, Any]], config: str, stage: str) -> list[dict[str, Any]]:
    """What was measured after a stage, with the caption and the seed it belongs to."""
    return [
        {"caption": r["caption"], "seed": r["seed"], **r[stage]}
        for r in rows
        if r["config"] == config
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per config: the mean of each measure after the extraction, and the paired differences that
    the stages make.
    """
    result = []
    for config in dict.fromkeys(r["config"] for r in rows):
        start = stage_rows(rows, config, "start")
        entry: dict[str, Any] = {"config": config, "objects": len(start)}
        for stage in STAGES:
            seconds = [r[f"seconds_{stage}"] for r in rows if r["config"] == config]
            entry[f"seconds_{stage}"] = round(sum(seconds) / len(seconds), 2)
        for name in MEASURED:
            values = [r[name] for r in start if r.get(name) is not None]
            entry[name] = round(sum(values) / len(values), 5) if values else None
            for stage in STAGES[1:]:
                found = paired(stage_rows(rows, config, stage), start, name)
                entry[f"{name}_{stage}"] = (
                    [None if v is None else round(v, 5) for v in found[:2]] if found else None
                )
        result.append(entry)
    return result


def table(entries: list[dict[str, Any]]) -> str:
    """The mean at the start, then for either stage the mean change since and its standard error."""
    lines = []
    for entry in entries:
        lines.append(f"{entry['config']}  ({entry['objects']} objects)")
        for name in MEASURED:
            form = FORMS.get(name, "{:.3f}")
            parts = ["-" if entry[name] is None else form.format(entry[name])]
            for stage in STAGES[1:]:
                change, error = entry[f"{name}_{stage}"] or (None, None)
                sign = "" if change is None or change < 0 else "+"
                known = "-" if change is None else sign + form.format(change)
                parts.append(known + ("" if error is None else f" +- {form.format(error)}"))
            lines.append(f"  {name:11} {parts[0]:>9}   geometry {parts[1]:24} texture {parts[2]}")
    return "\n".join(lines)


def save_sheet(file: Path, tasks: list[Task], strips: dict[str, str], count: int = 12) -> None:
    """A line for each of the first objects of the first config: truth, cloud, and the mesh after
    every stage.
    """
    from PIL import Image, ImageDraw

    shown = [
        task for task in tasks if task.config == tasks[0].config and f"{task.key}|start" in strips
    ][:count]
    side, band = 96, 16
    width = 4 * side + 6
    sheet = Image.new("RGB", (width * len(COLUMNS), band + len(shown) * (side + band)), "white")
    draw = ImageDraw.Draw(sheet)
    for j, column in enumerate(COLUMNS):
        draw.text((j * width + 2, 2), column, "black")
        for i, task in enumerate(shown):
            top = band + i * (side + band)
            key = f"truth|{task.caption.text}" if column == "truth" else f"{task.key}|{column}"
            whole = Image.open(io.BytesIO(base64.b64decode(strips[key])))
            sheet.paste(
                whole.resize((4 * side, side), Image.Resampling.LANCZOS), (j * width, top + band)
            )
            if j == 0:
                draw.text((2, top + 2), task.caption.text, "black")
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    result.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    result.add_argument("--work", type=Path, required=True, help="folder of the distilled clouds")
    result.add_argument("--prompts", type=int, default=16, help="held-out captions")
    result.add_argument("--caption-seed", type=int, default=0)
    result.add_argument("--captions", help='these instead, for example "a red mug;a green car"')
    result.add_argument("--seeds", type=int, default=1)
    result.add_argument("--first-seed", type=int, default=0)
    result.add_argument("--steps", type=int, default=400, help="of the distillation")
    result.add_argument("--geometry-steps", type=int, default=60)
    result.add_argument("--texture-steps", type=int, default=60)
    result.add_argument(
        "--loss", default="second", help="of both stages; see refine_mesh_plan.STAGE_LOSSES"
    )
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    result.add_argument("--sweep", type=Path)
    result.add_argument("--views", type=int, default=24, help="views of IoU and PSNR")
    result.add_argument(
        "--jobs", type=int, default=1, help="processes; they share the device, so seconds grow"
    )
    result.add_argument(
        "--threads", type=int, default=0, help="torch threads per process; 0: chosen"
    )
    result.add_argument("--backend", default="auto", help="of the renders of the distillation")
    result.add_argument(
        "--max-seconds", type=float, default=math.inf, help="no new object is begun after these"
    )
    result.add_argument("--prior", type=Path, default=Path("models/toybox"))
    result.add_argument(
        "--dtype", default="auto", help="of the U-Net; auto: float16 on CUDA, else float32"
    )
    result.add_argument("--vae-dtype", default="float32")
    result.add_argument("--eager", action="store_true", help="no CUDA graphs")
    result.add_argument("--json", type=Path)
    result.add_argument(
        "--sheet", type=Path, help="picture of every stage beside the truth (.png or .jpg)"
    )
    return result


def main(words: list[str] | None = None) -> None:
    known = parser()
    options = known.parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes end too
    began = time.time()
    try:
        tasks = tasks_of(options)
    except ValueError as error:
        known.error(str(error))
    options.bench = Bench
    options.work.mkdir(parents=True, exist_ok=True)
    strips_file = options.json.with_suffix(".strips.json") if options.json else None
    old = (
        json.loads(options.json.read_text())["rows"]
        if options.json and options.json.is_file()
        else []
    )
    strips = json.loads(strips_file.read_text()) if strips_file and strips_file.is_file() else {}
    wanted = {task.key: task.fingerprint for task in tasks}
    rows = {f"{r['config']}|{r['caption']}|{r['seed']}": r for r in old}
    rows = {
        key: row
        for key, row in rows.items()
        if wanted.get(key, row["fingerprint"]) == row["fingerprint"]
    }
    todo = [task for task in tasks if task.key not in rows]
    first = [task for task in distillations(todo) if not (options.work / task.cloud).is_file()]
    cuda = options.device.startswith("cuda")
    facts = {
        "torch": torch.__version__, "device": options.device, "jobs": options.jobs, "prior": tasks[0].prior,
        "machine": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPUs, {platform.machine()}",
        "steps": options.steps, "geometry_steps": options.geometry_steps, "texture_steps": options.texture_steps,
        "loss": options.loss,
    }  # fmt: skip
    failures: list[str] = []

    def state() -> dict[str, Any]:
        return {
            **facts,
            "summary": summary(list(rows.values())),
            "failures": failures,
            "rows": list(rows.values()),
        }

    # all clouds before any mesh, so that no two processes make the same one
    for part in (first, todo):
        for row, more, message in (
            outcomes(options, part, began + options.max_seconds) if part else ()
        ):
            shown = message
            if row is None:
                failures.append(message)
            elif "config" in row:
                rows[message] = row
                strips.update(
                    {key: base64.b64encode(value).decode() for key, value in more.items()}
                )
                shown += "".join(
                    f"  {s}: {row[s]['chamfer']:.2f} % {row[s]['psnr'] or 0:.1f} dB" for s in STAGES
                )
                write(options.json, state())
                write(strips_file, strips)
            print(f"[{time.time() - began:.0f} s] {shown}", file=sys.stderr, flush=True)
    if options.sheet and any(f"{task.key}|start" in strips for task in tasks):
        save_sheet(options.sheet, tasks, strips)
    result = state() | {
        "missing": sum(task.key not in rows for task in tasks),
        "total_seconds": time.time() - began,
    }
    write(options.json, result)
    print(table(result["summary"]))
    print(json.dumps(result))
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()

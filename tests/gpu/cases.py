"""What the server has to do on a GPU: each case a function of the bed that returns its figures, or
raises.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from bed import Bed, Failed, prompts
from ways import (
    KEPT,
    OPTIMIZE,
    SHORTER,
    STEPS,
    by_node,
    folder,
    model,
    optimizing,
    per_step,
    seeded,
)
from wide import control, first_command, recipe, sampler

LOSSES = (
    "SDSLoss", "CDSLoss", "VDMLoss", "PictureLoss", "CSDLoss", "NFSDLoss", "ISMLoss", "SDILoss",
    "SCTDLoss", "VSDLoss", "RFDSLoss", "TraCeLoss",
)  # fmt: skip
HELD = 50  # MiB that may stay with torch after everything has been freed
ANSWERED = 3.0  # seconds in which a cancel ends the run
LITTLE = {"--lowvram", "--novram", "--cpu"}  # flags that leave no memory to graphs
WARM = 8.0  # seconds of a quickstart that is not the server's first, with graphs

Case = Callable[[Bed], dict[str, Any]]


def quickstart(bed: Bed) -> dict[str, Any]:
    """The shipped quickstart, the first time and twice more."""
    asked = [seeded(bed.workflow("quickstart")) for _ in range(3)]
    runs = [bed.timed(prompt) for prompt in asked]
    seconds = [taken for _, taken in runs]
    nodes = by_node(runs[-1][0], asked[-1])
    if min(seconds[1:]) > WARM and not bed.shared and bed.fast:
        raise Failed(f"the quickstart takes {seconds} s, of the last {nodes}")
    return {"first_s": seconds[0], "warm_s": min(seconds[1:]), "nodes": nodes}


def twenty(bed: Bed) -> dict[str, Any]:
    """The quickstart twenty times: nothing grows, and all but the first are quick.

    Main memory is compared after each ten, once the server has been told to free all: while 128 GB
    are free it keeps what earlier prompts gave (its cache under RAM pressure, the default).
    """
    freed = []
    taken, held, used, rss = [], [], [], []
    for _ in range(20):
        taken.append(bed.timed(seeded(bed.workflow("quickstart")))[1])
        held.append(round(bed.reserved()))
        used.append(round(bed.used()))
        rss.append(round(bed.resident()))
        print(
            f"     {taken[-1]} s, held {held[-1]}, used {used[-1]}, rss {rss[-1]} MiB", flush=True
        )
        if len(taken) % 10 == 0:
            freed.append(bed.freed())
    grown = max(held[10:]) - max(held[:10]), 0 if bed.shared else max(used[10:]) - max(used[:10])
    if max(grown) > HELD or freed[1]["rss"] > freed[0]["rss"] + 2 * HELD:
        raise Failed(f"memory grows: reserved {held}, used {used}, rss {rss}, freed {freed}")
    figures = {"median_s": sorted(taken)[10], "seconds": taken, "freed": freed}
    if figures["median_s"] > WARM and not bed.shared and bed.fast:
        raise Failed(f"the quickstart takes {taken} s")
    return figures | {"reserved": held, "used": used, "rss": rss}


def models(bed: Bed) -> dict[str, Any]:
    """The same weights as a folder, a checkpoint and a MODEL: milliseconds of a step, in runs too
    short for graphs and in longer ones."""
    ways = {"folder": folder(bed), "checkpoint": folder(bed, model=bed.toybox_file())}
    ways |= {"model": model(bed), "model_lora": model(bed, lora=True)}
    found: dict[str, Any] = {}
    wanted = {"folder": {"U-Net", "encoder"}, "model": {"encoder"}}
    for name, way in ways.items():
        for kind, steps in (("plain", SHORTER), ("long", STEPS)):
            if kind == "long" and name not in ("folder", "model"):
                continue
            prompt = optimizing(bed, way, steps)
            before = len(bed.log())
            run, seconds = bed.timed(seeded(prompt))
            figures = found[f"{name}_{kind}"] = {"ms": per_step(run, prompt), "s": seconds}
            if kind == "long":
                figures["graphs"] = sorted(recorded(bed.log()[before:]))
                if not wanted[name] <= set(figures["graphs"]) and bed.fast:
                    raise Failed(f"{name}: graphs of {figures['graphs']} alone")
    for kind in ("plain", "long"):
        found[f"model_{kind}_over_folder_plain"] = round(
            found[f"model_{kind}"]["ms"] / found["folder_plain"]["ms"], 2
        )
    if found["model_plain_over_folder_plain"] > 2.5:
        raise Failed(f"a MODEL's steps take more than 2.5 times the folder's plain ones: {found}")
    return found


def cancel(bed: Bed) -> dict[str, Any]:
    """Cancel between two steps: answered at once, the cloud so far kept, the next run as ever."""
    prompt = seeded(prompts.with_steps(bed.workflow("quickstart"), 20_000))
    (node,) = prompts.of_type(prompt, OPTIMIZE)
    partial = bed.server.output / "distill3d" / "partial"
    before, asked = set(partial.glob("*")), list[float]()

    def stop(run: Any) -> None:
        if not asked and run.progress(node) and run.progress(node)[-1][0] >= 150:
            asked.append(time.monotonic())
            bed.server.interrupt(run.prompt_id)

    run = bed.server.run(prompt, timeout=300, on_event=stop)
    waited = round(time.monotonic() - asked[0], 2)
    kept = {file.suffix for file in set(partial.glob("*")) - before}
    if run.status != "interrupted" or kept != {".ply", ".safetensors"} or waited > ANSWERED:
        raise Failed(f"{run.status} after {waited} s, kept {kept}")
    bed.run(seeded(bed.workflow("quickstart")))
    return {"answered_s": waited}


def free(bed: Bed) -> dict[str, Any]:
    """After /free torch holds no more than before the run, nor the device, in a server that has run
    each once.
    """
    bed.run(seeded(bed.workflow("quickstart")))
    bed.run(seeded(optimizing(bed, model(bed), 20)))
    bed.freed()  # the first gives back what starting up has left
    before = bed.freed()
    held = {}
    for name, prompt in (
        ("quickstart", bed.workflow("quickstart")),
        ("model", optimizing(bed, model(bed), 120)),
        ("low_vram", optimizing(bed, folder(bed, low_vram=True), 20)),
    ):
        bed.run(seeded(prompt))
        during, after = round(bed.reserved(), 1), bed.freed()
        held[name] = {"kept_until_free": during, **after}
        grown = bed.grown(before, after)
        if max(grown.values()) > HELD or after["rss"] > before["rss"] + 2 * HELD:
            raise Failed(f"{name} leaves {grown} MiB, of main memory {after} after {before}")
    return {"before": before, "after": held}


def frames(bed: Bed) -> dict[str, Any]:
    """The viewer's pictures, then Stop and keep: the graph goes on to its files."""
    prompt = seeded(prompts.with_steps(bed.workflow("quickstart"), 20_000))
    (node,) = prompts.of_type(prompt, OPTIMIZE)
    seen, asked = list[int](), list[float]()

    def look(run: Any) -> None:
        progress = run.progress(node)
        if not progress or asked:
            return
        with urllib.request.urlopen(
            f"{bed.server.url}/distill3d/live/{node}?after={len(seen)}", timeout=30
        ) as answer:
            seen.append(len(answer.read()))
        if progress[-1][0] >= 150 and len([size for size in seen if size]) >= 3:
            asked.append(time.monotonic())
            bed.server.post(f"/distill3d/stop/{node}", {})

    run = bed.run(prompt, on_event=look)
    kinds = {file["filename"].rsplit(".")[-1] for file in run.files}
    if not asked or not {"ply", "glb", "webp"} <= kinds:
        raise Failed(f"files: {kinds}, pictures of {seen} bytes, stopped: {bool(asked)}")
    return {"frames": len([size for size in seen if size]), "previews": len(run.previews)}


def queued(bed: Bed) -> dict[str, Any]:
    """Two prompts in the queue at once both end well."""
    start = time.monotonic()
    ids = [bed.server.queue(seeded(bed.workflow("quickstart"))) for _ in range(2)]
    while time.monotonic() < start + 120:
        ends = [bed.server.history(id).get("status", {}).get("status_str") for id in ids]
        if all(ends):
            break
        time.sleep(0.2)
    if ends != ["success", "success"]:
        raise Failed(f"{ends}")
    return {"s": round(time.monotonic() - start, 2)}


def losses(bed: Bed) -> dict[str, Any]:
    """Every loss, 110 steps each (with graphs), from the folder: milliseconds of a step."""
    found = {}
    for kind in LOSSES:
        prompt = optimizing(bed, folder(bed), 110)
        (id,) = prompts.of_type(prompt, "Distill3D_CDSLoss")
        prompt[id] = bed.node(kind)
        try:
            run, _ = bed.timed(seeded(prompt))
            found[kind] = per_step(run, prompt)
        except Failed as error:
            if kind != "VSDLoss" or "peft" not in str(error):  # which is an extra
                raise
            found[kind] = "without peft"
    return found


def priors(bed: Bed) -> dict[str, Any]:
    """Folder, one network at a time, a few pictures at once, a LoRA: each to its end."""
    ways = {
        "low_vram": (folder(bed, low_vram=True), {}),
        "micro_batch": (folder(bed), {"micro_batch": 1}),
        "model_micro_batch": (model(bed), {"micro_batch": 1}),
        "folder_lora": (folder(bed, lora=bed.lora()), {}),
        "checkpoint_lora": (folder(bed, model=bed.toybox_file(), lora=bed.lora()), {}),
        "fp32": (folder(bed, precision="fp32"), {}),
        "bf16": (folder(bed, precision="bf16"), {}),
    }
    return {
        name: bed.timed(seeded(optimizing(bed, way, 40, **more)))[1]
        for name, (way, more) in ways.items()
    }


def resume(bed: Bed) -> dict[str, Any]:
    """Save with training, load, go on."""
    return {"s": bed.timed(seeded(bed.workflow("resume")))[1]}


def refine_mesh(bed: Bed) -> dict[str, Any]:
    """A mesh of the quickstart's cloud, refined by the prior."""
    prompt = bed.plain_quickstart()
    ids = {
        kind: prompts.of_type(prompt, f"Distill3D_{kind}")[0]
        for kind in (*KEPT, "LoadDiffusionPrior", "ExportMesh")
    }
    links = {
        "prior": [ids["LoadDiffusionPrior"], 0],
        "prompts": [ids["ViewPrompts"], 0],
        "cameras": [ids["OrbitCameras"], 0],
        "loss": ["sds", 0],
        "mesh": [ids["ExportMesh"], 1],
    }
    prompt |= {"sds": bed.node("SDSLoss"), "refine": bed.node("RefineMesh", **links, steps=120)}
    run, seconds = bed.timed(seeded(prompt))
    if not [file for file in run.files if file["node"] == "refine"]:
        raise Failed("no refined mesh")
    return {"s": seconds}


def memory(bed: Bed) -> dict[str, Any]:
    """Out of memory in a step: an error that says so, and the server works on."""
    huge = prompts.set_values(bed.plain_quickstart(), OPTIMIZE, views=64, image_size=2048)
    run = bed.server.run(seeded(huge), timeout=200)
    told = run.error.splitlines()[0] if run.error else ""
    if run.status != "error" or not any(words in told for words in ("is used up", "GB are free")):
        raise Failed(f"64 views of 2048 pixels ended as {run.status}: {told[:300]}")
    _, seconds = bed.timed(seeded(bed.workflow("quickstart")))
    if (left := bed.freed()["reserved"]) > 2 * HELD:
        raise Failed(f"{left} MiB stay")
    return {"error": run.error.splitlines()[0][:200], "next_s": seconds}


def model_runs(bed: Bed) -> dict[str, Any]:
    """A MODEL, with and without a LoRA, some steps each."""
    ways = {"model": model(bed), "model_lora": model(bed, lora=True)}
    return {name: bed.timed(seeded(optimizing(bed, way, 40)))[1] for name, way in ways.items()}


def recorded(log: str) -> set[str]:
    """The networks of which the log says that they have run in graphs."""
    return {
        line.split(" has run in CUDA graphs")[0].split("The ")[-1]
        for line in log.splitlines()
        if "has run in CUDA graphs" in line
    }


def graphs(bed: Bed) -> dict[str, Any]:
    """The log says that graphs were recorded, or why not; and none failed."""
    log = bed.log()
    wrong = [
        line
        for line in log.splitlines()
        if any(w in line for w in ("cannot be recorded", "Not enough memory", "graphs are off"))
        or ("fused kernels" in line and "going on with" in line)
    ]
    found = recorded(log)
    wanted = set() if LITTLE & {*bed.flags} else {"U-Net", "encoder"}
    if wrong or "uncaptured free" in log or not wanted <= found:
        raise Failed(f"{found} recorded; {wrong or 'nothing else told'}")
    told = {
        line.split("CUDA graphs", 1)[1][:120] for line in log.splitlines() if "CUDA graphs" in line
    }
    return {"recorded": sorted(found), "told": sorted(told)}


def shipped(name: str) -> Case:
    """That workflow at its real size."""
    return lambda bed: {"s": bed.timed(seeded(bed.workflow(name)), 580)[1]}


SHORT: dict[str, Case] = {
    "quickstart": quickstart,
    "models": models,
    "cancel": cancel,
    "free": free,
    "graphs": graphs,
}
FLAGS: dict[str, Case] = {  # for each of ComfyUI's flags
    "quickstart": quickstart,
    "model_runs": model_runs,
    "cancel": cancel,
    "free": free,
    "graphs": graphs,
}
WHOLE: dict[str, Case] = {
    **SHORT,
    "frames": frames,
    "model_runs": model_runs,
    "queued": queued,
    "losses": losses,
    "priors": priors,
    "refine_mesh": refine_mesh,
    "memory": memory,
    "sampler": sampler,
    **{name: shipped(name) for name in prompts.EMBEDDED if name != "quickstart"},
    "control": control,
    **{name: partial(recipe, name=name) for name in prompts.RECIPES},
    "first_command": first_command,
    "twenty": twenty,
}


def told(figures: dict[str, Any]) -> str:
    return json.dumps(figures, separators=(",", ":"))

"""Tables of time, memory and bytes: steps, rasterizers, models on a server, files, meshes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from table_format import HERE, change, grid, percent, result, table, whole

FAMILIES = {
    ("sd21", "whole"): "Stable Diffusion 2.1", ("sd21", "low_vram"): "the same with `low_vram`",
    ("sd15", "comfyui"): "Stable Diffusion 1.5", ("sdxl", "comfyui"): "SDXL",
    ("sd3", "comfyui"): "Stable Diffusion 3-medium",
}  # fmt: skip


@table
def gpu_server() -> str:
    """Every case that was run in a ComfyUI server on a GPU, by the server's flags."""
    lines = []
    for file in sorted((HERE.parent / "gpu" / "results").glob("*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            server = row["server"]
            flags = server["flags"] if server["flags"] == "default" else f"`{server['flags']}`"
            device = server["device"].removeprefix("cuda:0 ").split(" : ")[0]
            outcome = "passed" if row["ok"] else "**failed**"
            figures = row["figures"]
            warm = figures.get("warm_s", figures.get("median_s", ""))
            taken = f"{row['seconds']:.0f}"
            lines.append([flags, row["case"], outcome, taken, warm, device, server["pack"]])
    titles = ("Flags", "Case", "Outcome", "Seconds", "Warm, s", "Device", "Commit")
    return grid(titles, lines)


@table
def gpu_models() -> str:
    """Milliseconds of a step of the same weights by the way they were loaded."""
    titles = {
        "folder": "folder",
        "checkpoint": "checkpoint",
        "model": "MODEL",
        "model_lora": "MODEL with a LoRA",
    }
    lines = []
    for file in sorted((HERE.parent / "gpu" / "results").glob("*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            if row["case"] == "models" and row["ok"]:
                found = row["figures"]
                for name, title in titles.items():
                    times = [
                        found.get(f"{name}_{kind}", {}).get("ms", "") for kind in ("plain", "long")
                    ]
                    lines.append([row["server"]["flags"], title, *times])
    return grid(("Flags", "Loaded as", "38 steps", "200 steps"), lines)


@table
def first_run() -> str:
    found = result("first_run")["seconds"]
    parts = {
        "everything": found["wall"],
        "environment, PyTorch, ComfyUI, packages": found["venv_and_nox"] + found["setup"],
        "ComfyUI's start and the prior's loading": found["server_start"] + found["load"],
        "200 steps": found["optimize"],
        "files, measuring against the truth": found["export"] + found["measure"],
    }
    return grid(("", "Seconds"), ([name, f"{seconds:.0f}"] for name, seconds in parts.items()))


@table
def step() -> str:
    cases = result("step")["cases"]
    lines = [
        [f"step, {case['loss'].upper()}", f"{case['naive']['step_ms']:.1f}", f"{case['ours']['step_ms']:.1f}",
         f"{case['speedup']:.2f}", ""]
        for case in cases
    ]  # fmt: skip
    naive, ours = cases[0]["naive"], cases[0]["ours"]
    names = {
        "encoder": "encoder, forward and backward",
        "unet": "guided U-Net, 8 rows",
        "render": "splats, both passes",
    }
    for key, name in names.items():
        a, b = naive["parts_ms"][key], ours["parts_ms"][key]
        shares = (
            f"{naive['share'][key]:.2f}, now {ours['share'][key]:.2f}"
            if key in ours["share"]
            else ""
        )
        work = f" ({cases[0]['tflop'][key]:.1f} TFLOP)" if key in cases[0]["tflop"] else ""
        lines.append([name + work, f"{a:.1f}", f"{b:.1f}", f"{a / b:.1f}", shares])
    return grid(("ms", "naive loop", "the pack", "ratio", "share of the matrix ceiling"), lines)


@table
def step_growth() -> str:
    lines = [
        [f"{case['views']} views, {whole(case['gaussians'])} Gaussians", f"{case['naive']['step_ms']:.1f}",
         f"{case['ours']['step_ms']:.1f}", f"{case['speedup']:.2f}"]
        for case in sorted(result("step_growth")["cases"], key=lambda case: (case["gaussians"], case["views"]))
    ]  # fmt: skip
    return grid(("SDS, ms a step", "naive loop", "the pack", "ratio"), lines)


@table
def step_memory() -> str:
    whole_batch, one = result("step")["cases"][0], result("step_memory")["cases"][0]
    kinds = (
        ("naive loop", whole_batch["naive"]), ("the pack", whole_batch["ours"]),
        ("the pack, `micro_batch` 1", one["ours"]),
    )  # fmt: skip
    lines = [
        [
            name,
            f"{k['memory']['allocated_gb']:.1f}",
            f"{k['memory']['reserved_gb']:.1f}",
            f"{k['step_ms']:.0f}",
        ]
        for name, k in kinds
    ]
    return grid(("A step of SDS", "GB of tensors", "GB held by PyTorch", "ms"), lines)


@table
def families() -> str:
    found = {
        (r["family"], r["way"], r["views"], r["size"], r["micro_batch"]): r
        for r in result("families")["rows"]
    }
    cases = {
        (4, 512, 0): "4 views of 512", (4, 512, 1): "4 views, `micro_batch` 1", (1, 512, 1): "1 view of 512",
        (1, 1024, 1): "1 view of 1024",
    }  # fmt: skip
    lines = [
        [
            name,
            *(
                f"{found[key + case]['step_ms']:.0f}, {found[key + case]['allocated_gb']:.1f}"
                for case in cases
            ),
        ]
        for key, name in FAMILIES.items()
    ]
    return grid(("a step: ms, GB", *cases.values()), lines)


@table
def recipes() -> str:
    lines = []
    for name in ("dreammapping", "consistent3d"):
        found = result(f"recipes_{name}")["recipes"][name]
        for place, stage in enumerate(found["stages"], 1):
            count = whole(stage["gaussians"])
            what = f"`{name}`, stage {place}: {stage['loss']}"
            lines.append(
                [what, whole(stage["steps"]), stage["views"], count, f"{stage['whole']:.0f}"]
            )
    return grid(("Run", "Steps", "Views", "Gaussians at most", "Seconds"), lines)


@table
def rasterize() -> str:
    lines = []
    for case, backends in result("rasterize")["cases"].items():
        _, count, size = case.split("x")
        times = [
            f"{backends[b]['min_ms']:,.1f}" if b in backends else ""
            for b in ("reference", "torch", "numba")
        ]
        ratio = f"{backends['torch']['min_ms'] / backends['numba']['min_ms']:.1f}"
        lines.append([f"{whole(int(count))}, {size} px", *times, ratio])
    return grid(
        ("Gaussians, picture", "reference, ms", "torch, ms", "numba, ms", "torch / numba"), lines
    )


@table
def rasterize_cuda() -> str:
    lines = []
    for name in ("rasterize_cuda_128", "rasterize_cuda"):
        found = result(name)
        for count, backends in found["cases"].items():
            times = [
                f"{backends[b]['total_ms']:.2f}" if b in backends else ""
                for b in ("torch", "gsplat", "triton")
            ]
            ratio = f"{backends['triton']['total_ms'] / backends['gsplat']['total_ms']:.2f}"
            memory = f"{backends['gsplat']['peak_mb']:,.0f}, {backends['triton']['peak_mb']:,.0f}"
            lines.append([f"{whole(int(count))}, {found['size']} px", *times, ratio, memory])
    titles = ("Gaussians, picture", "torch, ms", "gsplat, ms", "triton, ms", "triton / gsplat")
    return grid((*titles, "MB: gsplat, triton"), lines)


@table
def files() -> str:
    lines = [
        [name, whole(f["bytes"] / 1e6), f"{f['read_ms']:.0f}", f"{f['load_ms']:.0f}", f"{f['ratio']:.1f}",
         f"{f['cold_ratio']:.1f}", f"{f['plain_ratio']:.1f}"]
        for name, f in result("files")["formats"].items()
    ]  # fmt: skip
    return grid(
        ("Format", "MB", "bytes alone, ms", "load, ms", "load / bytes", "cold", "plain"), lines
    )


@table
def meshes() -> str:
    names = ("chamfer_percent", "normals", "psnr", "psnr_object", "seconds")
    objects = result("mesh")["objects"]

    def values(found: Sequence[dict[str, Any]]) -> Iterator[str]:
        for name, digits in zip(names, (2, 3, 1, 1, 0), strict=True):
            yield f"{statistics.fmean(o[name] for o in found):.{digits}f}"

    lines = [[n, *values([o]), "yes" if o["watertight"] else "no"] for n, o in objects.items()]
    lines.append(["**mean**", *values(list(objects.values())), ""])
    titles = (
        "Toy",
        "chamfer, %",
        "normals, cosine",
        "PSNR, dB",
        "PSNR on the object, dB",
        "seconds",
        "watertight",
    )
    return grid(titles, lines)


@table
def refine_mesh() -> str:
    measures = (("chamfer", 2), ("bias", 2), ("normals", 3), ("iou", 3), ("psnr", 2))
    lines = []
    for entry in result("refine_mesh")["summary"]:
        start = [f"{entry[name]:.{digits}f}" for name, digits in measures]
        lines.append([f"{entry['config']}: as exported", entry["objects"], *start])
        for part, text in (
            ("geometry", "after the vertices"),
            ("texture", "after the colours too"),
        ):
            changed = [change(*entry[f"{name}_{part}"], digits) for name, digits in measures]
            lines.append([text, "", *changed])
    titles = (
        "Setting",
        "Objects",
        "chamfer, %",
        "signed distance, %",
        "normals, cosine",
        "IoU",
        "PSNR, dB",
    )
    return grid(titles, lines)


@table
def refine_splat() -> str:
    lines = []
    for name in ("painted", "grey_back"):
        damage = {"painted": "painted another colour", "grey_back": "back half grey"}[name]
        for row in result(f"refine_splat_{name}")["rows"]:
            states = [
                f"{row[s]['iou']:.3f}, {row[s]['psnr']:.1f} dB"
                for s in ("before", "after", "undamaged")
            ]
            lines.append([damage, row["caption"], *states])
    return grid(("Damage", "Prompt", "Before", "After", "Without damage"), lines, texts=2)


@table
def pictures() -> str:
    """PSNR and IoU of each config over views that no picture shows, and the gain on words alone."""
    lines = []
    known = result("pictures")
    for config, entry in known["summary"].items():
        gain = "" if config == "caption" else f"{entry['psnr_gain']:+.2f}"
        lines.append(
            (config, entry["objects"], f"{entry['psnr']:.2f}", gain, f"{entry['iou']:.3f}",
             percent(entry["r_precision_all"]))
        )  # fmt: skip
    titles = ("Given", "Objects", "PSNR, dB", "Gain, dB", "IoU", "Strict R-precision")
    where = f"{known['machine']}, {known['loss'].upper()}, {known['steps']} steps:"
    return f"{where}\n\n{grid(titles, lines)}"


@table
def restyle() -> str:
    """PSNR over all sides of meshes in wrong colours, as they become right."""
    lines = [
        (row["caption"], *(f"{row[f'psnr_{n}']:.1f}" for n in ("before", "projected", "after")))
        for row in result("restyle")["rows"]
    ]
    return grid(("Caption", "Wrong colours, dB", "Projected, dB", "Refined, dB"), lines)

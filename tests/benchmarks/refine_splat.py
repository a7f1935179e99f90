"""Refines damaged true splats towards their captions; prints a line per run and one JSON object
last.

    python tests/benchmarks/refine_splat.py --device cpu --steps 80 --json F --sheet F.png

A toy's exact surface becomes a splat and is damaged: painted in another colour, its back left grey
as one that no picture showed, or robbed of its back. `optimize` then distils the caption into it,
at a strength and held to an anchor as the Optimize node does it. IoU and PSNR against the truth
over 24 views, before and after, and of the splat without damage. ``--set`` keys are dotted: loss.*,
settings.*.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from quality import write
from quality_plan import assignments, changed

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.evaluate.metrics import BACKGROUND, compare, ring_of_views
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.densify import Densify
from distill3d.kernels.init.surface import from_mesh
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.anchor import Anchor, gentle
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings
from distill3d.kernels.toybox.captions import COLORS, Caption, parse
from distill3d.kernels.toybox.meshes import mesh, mesh_colors
from distill3d.kernels.toybox.render import lambert
from distill3d.kernels.toybox.shapes import shape

CAPTIONS = ("a blue mug", "a green chair", "a yellow car", "a pink teapot")
SHOWN = (0, 6, 12, 18)  # of the measured cameras
LOSS = SDS(guidance=2.5, weighting="sigma/alpha", t_min=50, t_max_end=800)
SETTINGS = OptimizeSettings(preview_every=0, densify=None, lambda_gamut=20.0)
GROWTH = Densify(every=15, start=0.1, stop=0.7, grow_share=0.2, count_max=4_000)
# What each damage wants: how far the noise may go, and how much of the damaged splat's silhouettes
# and colours stays.
PLANS: dict[str, dict[str, float]] = {
    "painted": {
        "strength": 1.0,
        "alpha": 20_000.0,
        "color": 0.0,
        "lr_means": 0.0,
        "lr_colors": 0.12,
    },
    "grey back": {
        "strength": 1.0,
        "alpha": 20_000.0,
        "color": 0.0,
        "lr_means": 0.0,
        "lr_colors": 0.12,
    },
    "no back": {
        "strength": 0.8,
        "alpha": 0.0,
        "color": 2_000.0,
        "lr_means": 0.01,
        "lr_colors": 0.05,
    },
}


def true_splat(caption: Caption, count: int) -> Gaussians:
    """The toy's surface in its colours and the light of the true pictures."""
    vertices, faces = mesh(caption.category, 96)
    colors = (
        mesh_colors(caption, vertices) * lambert(shape(caption.category).normals(vertices))[:, None]
    )
    generator = torch.Generator().manual_seed(0)
    return from_mesh(
        [Mesh(vertices, faces, colors)], count, generator, size=None, opacity_logit=2.0
    )


def damaged(caption: Caption, kind: str, count: int) -> Gaussians:
    if kind == "painted":
        names = list(COLORS)
        other = names[(names.index(str(caption.color)) + 3) % len(names)]
        return true_splat(replace(caption, color=other), count)
    cloud = true_splat(caption, count)
    kept = cloud.means[:, 2] > -0.02  # the front faces +Z
    if kind == "grey back":
        return replace(cloud, sh=cloud.sh * kept[:, None, None])
    return cloud.map(lambda value: value[kept])


def save_sheet(file: Path, rows: list[tuple[str, list[torch.Tensor]]]) -> None:
    """A row per run: the damaged splat, what it became."""
    from PIL import Image, ImageDraw

    size, band = rows[0][1][0].shape[1], 14
    sheet = Image.new("RGB", (size * len(SHOWN) * 2 + 8, (size + band) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (text, shown) in enumerate(rows):
        draw.text((4, i * (size + band) + 1), text, "black")
        for j, pictures in enumerate(shown):
            strip = (torch.cat(list(pictures), 1).clamp(0, 1) * 255).round().byte().cpu().numpy()
            sheet.paste(
                Image.fromarray(strip), (j * (size * len(SHOWN) + 8), i * (size + band) + band)
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--captions", default=";".join(CAPTIONS), help="divided by semicolons")
    parser.add_argument("--damage", default=",".join(PLANS), help="painted,grey back,no back")
    parser.add_argument("--strength", type=float, help="instead of each damage's own")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--count", type=int, default=3000, help="Gaussians of a true splat")
    parser.add_argument("--size", type=int, default=96, help="pixels of the training renders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--prior", type=Path, default=Path("models/toybox"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(arguments)
    try:
        captions = [parse(text) for text in options.captions.split(";") if text.strip()]
        setup: Any = {
            "loss": LOSS,
            "settings": replace(
                SETTINGS, views=options.views, image_size=options.size, seed=options.seed
            ),
        }
        for key, value in assignments(options.set).items():
            part, _, name = key.partition(".")
            setup[part] = changed(setup[part], name, value, key)
        kinds = {kind: PLANS[kind] for kind in options.damage.split(",")}
    except (KeyError, ValueError) as error:
        parser.error(str(error))
    prior = load_diffusers(options.prior, options.device)
    rows, shown = [], []
    for kind, plan in kinds.items():
        strength = plan["strength"] if options.strength is None else options.strength
        for caption in captions:
            start = damaged(caption, kind, options.count)
            anchor = Anchor(start, color=plan["color"], alpha=plan["alpha"])
            growth = GROWTH if kind == "no back" else None
            settings = replace(
                setup["settings"],
                densify=growth,
                lr_means=plan["lr_means"],
                lr_colors=plan["lr_colors"],
            )
            loss, prompts = gentle(setup["loss"], strength), view_prompts(prior, caption.text)
            began = time.perf_counter()
            cloud = optimize(
                start, loss, prior, prompts, OrbitSampler(), options.steps, settings, anchor=anchor
            )
            seconds = time.perf_counter() - began
            states = {
                "before": start,
                "after": cloud,
                "undamaged": true_splat(caption, options.count),
            }
            scores = {name: asdict(compare(state, caption)) for name, state in states.items()}
            rows.append(
                {
                    "caption": caption.text,
                    "damage": kind,
                    "strength": strength,
                    "seconds": seconds,
                    **scores,
                }
            )
            text = f"{caption.text}, {kind}: " + ", ".join(
                f"{name} IoU {score['iou']:.3f} PSNR {score['psnr']:.1f}"
                for name, score in scores.items()
            )
            print(text, f"{seconds:.0f} s", file=sys.stderr, flush=True)
            with torch.no_grad():
                cameras = ring_of_views()[list(SHOWN)]
                shown.append(
                    (text, [render(state, cameras, BACKGROUND).color for state in (start, cloud)])
                )
            if options.sheet:
                save_sheet(options.sheet, shown)
    result = {
        "torch": torch.__version__, "device": options.device, "machine": f"{os.cpu_count()} CPUs",
        "loss": repr(setup["loss"]), "settings": repr(setup["settings"]), "plans": kinds, "steps": options.steps,
        "views": options.views, "count": options.count, "seed": options.seed,
        "mean": {
            kind: {
                f"{measure}_{state}": round(statistics.fmean(r[state][measure] for r in rows if r["damage"] == kind), 3)
                for measure in ("iou", "psnr") for state in ("before", "after", "undamaged")
            } for kind in kinds
        },
        "rows": rows,
    }  # fmt: skip
    write(options.json, json.loads(json.dumps(result), parse_constant=lambda _: math.nan))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Restyles true meshes in wrong colours by one true front picture and the caption; prints a line
per object and one JSON object last.

    python tests/benchmarks/restyle.py --device cpu --objects 4 --json F --sheet F.png

A held-out toy's exact surface in the colours of another caption gets the front picture's colours
where that sees it and the nearest of them elsewhere (`project_onto_mesh`), then `refine_mesh`
paints the rest with the picture beside the loss. PSNR over the 24 views of the ring: before,
projected, and after. ``--set`` keys are dotted: loss.*, settings.*, references.*.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import arguments
import torch
from pictures_toys import Toy, pictures, toy_mesh
from quality import write
from quality_plan import assignments, captions_of, changed
from strips import save_sheet

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.evaluate.metrics import BACKGROUND, psnr, ring_of_views
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.meshes.cleanup import weld
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.project import project_onto_mesh
from distill3d.kernels.meshes.rasterize import render_mesh
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.references import References
from distill3d.kernels.run.refine import refine_mesh
from distill3d.kernels.run.settings import RefineSettings
from distill3d.kernels.toybox.captions import COLORS, Caption
from distill3d.kernels.toybox.meshes import mesh, mesh_colors
from distill3d.kernels.toybox.render import lambert
from distill3d.kernels.toybox.shapes import shape

RESOLUTION, SIZE, GIVEN = 128, 128, 256
SHOWN = (0, 5, 10, 15, 20)
LOSS = SDS(guidance=2.5, weighting="sigma/alpha", t_min=50, t_max_end=800)
SETTINGS = RefineSettings(preview_every=0, views=2, lr_vertices=0.0, lr_colors=0.03)


def in_colors_of(caption: Caption) -> Mesh:
    """The toy's surface in the caption's colours, lit as the toybox's pictures are."""
    vertices, faces = mesh(caption.category, RESOLUTION)
    light = lambert(shape(caption.category).normals(vertices))
    return weld(Mesh(vertices, faces, mesh_colors(caption, vertices) * light[:, None]))


def wrong(caption: Caption) -> Caption:
    names = [name for name in COLORS if name != caption.second]
    other = names[(names.index(str(caption.color)) + 3) % len(names)]
    return Caption(caption.category, other)


def seen(surface: Mesh, cameras: Any) -> torch.Tensor:
    with torch.no_grad():
        return render_mesh(surface, cameras, BACKGROUND).color


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", type=arguments.device, default="cpu")
    parser.add_argument("--objects", type=arguments.whole(1), default=4)
    parser.add_argument("--tuning", action="store_true", help="captions to choose settings on")
    parser.add_argument("--steps", type=arguments.whole(1), default=80)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--prior", type=Path, default=Path("models/toybox"))
    parser.add_argument("--max-seconds", type=float, default=float("inf"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(words)
    front = orbit(torch.zeros(1), 0.0, 2.0, 40.0, GIVEN)
    setup: dict[str, Any] = {
        "loss": LOSS,
        "settings": SETTINGS,
        "references": References(torch.zeros(1, GIVEN, GIVEN, 3), front),
    }
    try:
        for key, value in assignments(options.set).items():
            part, _, name = key.partition(".")
            setup[part] = changed(setup[part], name, value, key)
        captions = captions_of(
            argparse.Namespace(
                captions=None, caption_seed=7 if options.tuning else 0, prompts=options.objects
            )
        )
    except (KeyError, ValueError) as error:
        parser.error(str(error))
    prior = load_diffusers(options.prior, options.device)
    ring, began = ring_of_views(24, SIZE), time.time()
    rows, lines = [], []
    for caption in captions:
        if time.time() - began > options.max_seconds:
            break
        toy = Toy(caption, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), None, 0.0)
        truth = pictures(toy, ring, BACKGROUND).color
        given = pictures(toy, front, 0.0)
        colors = (given.color / given.alpha.clamp_min(1e-4)).clamp(0, 1)
        references = replace(setup["references"], images=colors, masks=given.alpha)
        start = in_colors_of(wrong(caption))
        projected, share = project_onto_mesh(start, colors, given.alpha, front, "nearest")
        clock = time.perf_counter()
        after = refine_mesh(
            projected, setup["loss"], prior, view_prompts(prior, caption.text), OrbitSampler(),
            options.steps, setup["settings"], references=references,
        )  # fmt: skip
        views = {
            name: seen(value, ring)
            for name, value in {
                "before": start, "projected": projected, "after": replace(after, training=None),
                "ceiling": replace(start, colors=in_colors_of(caption).colors),
            }.items()
        }  # fmt: skip
        row = {"caption": caption.text, "seen": float((share > 0.5).float().mean()),
               "seconds": time.perf_counter() - clock}  # fmt: skip
        rows.append(row | {f"psnr_{name}": psnr(value, truth) for name, value in views.items()})
        text = ", ".join(f"{n} {rows[-1][f'psnr_{n}']:.1f}" for n in views)
        print(
            f"{caption.text}: PSNR {text} dB, {row['seconds']:.0f} s", file=sys.stderr, flush=True
        )
        views["truth"] = truth
        lines += [(f"{caption.text}: {n}", v[list(SHOWN)]) for n, v in views.items()]
        result = {
            "torch": torch.__version__, "device": options.device,
            "machine": f"{os.cpu_count()} CPUs", "steps": options.steps,
            "loss": repr(setup["loss"]), "settings": repr(setup["settings"]), "rows": rows,
            "mean": {n: round(sum(r[f"psnr_{n}"] for r in rows) / len(rows), 3)
                     for n in ("before", "projected", "after", "ceiling")},
        }  # fmt: skip
        write(options.json, result)
        if options.sheet:
            save_sheet(options.sheet, lines)
    toy_mesh.cache_clear()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

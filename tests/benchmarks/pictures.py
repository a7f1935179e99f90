"""Distils held-out toys from pictures and words; prints a line per object and one JSON object last.

    python tests/benchmarks/pictures.py --device cuda --objects 32 --json F --sheet F.png
    python tests/benchmarks/pictures.py --tuning --objects 4 --preset quick --set color=10000

Each object is a held-out caption's toy with proportions, a pattern's phase and colours of its own
(`pictures_toys`), so that a true picture says more than the words. PSNR and IoU are over the views
of the ring that no config was given: 20 of 24. A call with the same file goes on where the last one
stopped; a row is done again only if its settings or the prior's weights have changed since.
``--set`` keys are fields of `References`; bounds.angle and so on of its bounds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import arguments
import torch
from pictures_toys import Toy, busy_background, drawn, pictures
from quality import write
from quality_plan import Setup, assignments, build, captions_of, changed, configured, weights_of
from quality_statistics import paired
from strips import save_sheet

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.evaluate.judgement import judge_cameras, judgement
from distill3d.kernels.evaluate.metrics import BACKGROUND, ring_of_views, score
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.aligned import Bounds, motion
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.references import References
from distill3d.kernels.toybox.data import FOV_Y
from distill3d.kernels.toybox.models import load_judge

MEASURES = 2  # raised when the toys or what a row holds change
SIZE = 128
RESOLUTION = 256  # pixels of the given pictures
SIDES = {"front": 0.0, "left": 90.0, "back": 180.0, "right": -90.0}
GIVEN = [0, 6, 12, 18]  # of the ring: at elevation 0, where the sides are
SHOWN = (3, 9, 15, 21)  # of the ring, on the sheet
BOUNDS = Bounds(angle=15.0, distance=0.4)
PRESETS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "standard": ("vdm", 267, {}),
    "quick": ("cds", 200, configured("quickstart", "standard from a ball")),
    "draft": ("cds", 110, configured("quickstart", "draft from a ball")),
}


@dataclass(frozen=True)
class Config:
    """What a run is given.

    Args:
        sides: of the pictures
        generic: the caption names the object alone, without its colours
        wrong: the cameras are said to be 10 degrees and 20 % from where they were
        busy: the pictures have a busy background and no mask
        refined: the cameras are refined
    """

    sides: tuple[str, ...] = ()
    generic: bool = False
    wrong: bool = False
    busy: bool = False
    refined: bool = False


CONFIGS = {
    "caption": Config(),
    "front": Config(("front",)),
    "front and back": Config(("front", "back")),
    "four sides": Config(tuple(SIDES)),
    "front, generic caption": Config(("front",), generic=True),
    "wrong camera": Config(("front",), wrong=True),
    "wrong camera, refined": Config(("front",), wrong=True, refined=True),
    "right camera, refined": Config(("front",), refined=True),
    "busy background": Config(("front",), busy=True),
}


def given(toy: Toy, config: Config, seed: int, base: References) -> References | None:
    """The pictures of a config, with the cameras that are claimed."""
    if not config.sides:
        return None
    azimuths = torch.tensor([SIDES[side] for side in config.sides])
    claimed = orbit(azimuths, 0.0, 2.0, FOV_Y, RESOLUTION)
    # 10 degrees to the side and 20 % closer than it is said to be
    taken = orbit(azimuths + 10, 0.0, 1.6, FOV_Y, RESOLUTION) if config.wrong else claimed
    seen = pictures(toy, taken, 0.0)
    colors, masks = seen.color, seen.alpha
    if config.busy:
        return replace(
            base, images=colors + (1 - masks) * busy_background(RESOLUTION, seed), masks=None,
            cameras=claimed,
        )  # fmt: skip
    colors = colors / masks.clamp_min(1e-4)
    bounds = BOUNDS if config.refined else base.bounds
    return replace(base, images=colors.clamp(0, 1), masks=masks, cameras=claimed, bounds=bounds)


class Bench:
    """The prior and the judge, and each toy's truth."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.prior = load_diffusers(options.prior, self.device)
        self.judge = load_judge(options.judge, self.device)
        ring = ring_of_views(24, SIZE)
        self.novel = ring[[i for i in range(24) if i not in GIVEN]].to(self.device)
        self.shown = ring[list(SHOWN)].to(self.device)
        self.judged = judge_cameras(SIZE).to(self.device)

    def run(
        self, toy: Toy, config: Config, setup: Setup, references: References, seed: int
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """One object's row, and its strip for the sheet."""
        caption = toy.caption
        told = replace(caption, color=None, finish="plain", second=None)
        prompts = view_prompts(self.prior, (told if config.generic else caption).text)
        start = random_ball(**asdict(setup.init), generator=torch.Generator().manual_seed(seed)).to(
            self.device
        )
        own = given(toy, config, seed, references)
        began = time.perf_counter()
        result = optimize(
            start, setup.loss, self.prior, prompts, setup.cameras, setup.steps,
            replace(setup.settings, seed=seed), references=own,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        row: dict[str, Any] = {"seconds": seconds, "gaussians": len(result)}
        if own is not None and config.refined:
            row["camera"] = found(own, result)
        with torch.no_grad():
            views = render(result, self.novel, BACKGROUND, depth=False)
            scores = asdict(score(views, pictures(toy, self.novel, BACKGROUND)))
            row |= {name: scores[name] for name in ("iou", "psnr")}
            images = render(result, self.judged, BACKGROUND, depth=False).color.clamp(0, 1)
            told_of = judgement(self.judge, images.permute(0, 3, 1, 2), caption)
            row |= {name: asdict(told_of)[name] for name in ("r_precision", "r_precision_all")}
            strip = render(result, self.shown, BACKGROUND, depth=False).color
        return row, strip.cpu()


def found(own: References, result: Gaussians) -> dict[str, float]:
    """By how much the first camera was moved: degrees, and share of the distance."""
    raw = result.training.references["offsets"].cpu()
    offsets = own.bounds.offsets(raw)
    azimuth, elevation, distance, _ = offsets[0].tolist()
    assert bool(torch.isfinite(motion(own.cameras, offsets)[0]).all())
    degrees = 180 / torch.pi
    return {
        "azimuth": azimuth * degrees, "elevation": elevation * degrees,
        "distance": float(torch.tensor(distance).exp()),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of each config, and of its paired differences from the caption alone."""
    by_config: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_config.setdefault(row["config"], []).append(row)
    result = {}
    for config, members in by_config.items():
        entry: dict[str, Any] = {"objects": len(members)}
        for name in ("psnr", "iou", "r_precision", "r_precision_all", "seconds"):
            entry[name] = round(sum(r[name] for r in members) / len(members), 4)
        for name in ("psnr", "iou"):
            if against := paired(members, by_config.get("caption", []), name):
                entry[f"{name}_gain"] = round(against[0], 4)
        result[config] = entry
    return result


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--objects", type=arguments.whole(1), default=32)
    parser.add_argument("--skip", type=arguments.whole(0), default=0, help="captions passed over")
    parser.add_argument("--tuning", action="store_true", help="captions to choose settings on")
    parser.add_argument("--configs", default=";".join(CONFIGS), help="divided by semicolons")
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    parser.add_argument("--steps", type=arguments.whole(1), help="instead of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=float("inf"))
    parser.add_argument("--prior", type=Path, default=Path("models/toybox"))
    parser.add_argument("--judge", type=Path, default=Path("models/judge"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    began = time.time()
    loss, steps, changes = PRESETS[options.preset]
    try:
        setup = build(loss, options.steps or steps, "auto", changes)
        base = References(torch.zeros(1, 1, 1, 3), ring_of_views(1, 1))
        for key, value in assignments(options.set).items():
            base = changed(base, key, value, key)
        chosen = {name: CONFIGS[name] for name in options.configs.split(";")}
        captions = captions_of(
            argparse.Namespace(
                captions=None,
                caption_seed=7 if options.tuning else 0,
                prompts=options.objects + options.skip,
            )
        )[options.skip :]
        prior = weights_of(options)
    except (KeyError, ValueError) as error:
        parser.error(str(error))
    weights = [
        getattr(base, n) for n in ("color", "silhouette", "structure", "fade", "spare", "palette")
    ]
    told = f"{setup!r} {prior} {weights} {BOUNDS} {MEASURES}"
    stamp = hashlib.sha256(told.encode()).hexdigest()[:12]
    rows: list[dict[str, Any]] = []
    if options.json and options.json.is_file():
        known = json.loads(options.json.read_text(encoding="utf-8"))["rows"]
        rows = [row for row in known if row["fingerprint"] == stamp]
    done = {(row["config"], row["caption"]) for row in rows}
    bench, lines, missing = None, [], 0

    def state() -> dict[str, Any]:
        gpu = "cuda" in options.device
        return {
            "torch": torch.__version__, "device": options.device,
            "machine": torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPUs",
            "preset": options.preset, "loss": loss, "steps": setup.steps, "weights": weights,
            "captions": "tuning" if options.tuning else "held out", "summary": summary(rows),
            "missing": missing, "rows": rows,
        }  # fmt: skip

    for caption in captions:
        toy = drawn(caption, options.seed)
        for name, config in chosen.items():
            if (name, caption.text) in done:
                continue
            if time.time() - began > options.max_seconds:
                missing += 1
                continue
            bench = bench or Bench(options)
            if not any(text == caption.text for text, _ in lines):
                truth = pictures(toy, bench.shown, BACKGROUND)
                lines.append((caption.text, truth.color.cpu()))
            row, strip = bench.run(toy, config, setup, base, options.seed)
            row = {"config": name, "caption": caption.text, "seed": options.seed,
                   "steps": setup.steps, "fingerprint": stamp} | row  # fmt: skip
            rows.append(row)
            text = f"{name}: PSNR {row['psnr']:.2f} IoU {row['iou']:.3f}"
            print(f"[{time.time() - began:.0f} s] {caption.text}, {text}", row.get("camera", ""),
                  file=sys.stderr, flush=True)  # fmt: skip
            lines.append((text, strip))
            write(options.json, state())
            if options.sheet:
                save_sheet(options.sheet, lines)
    write(options.json, state())
    for name, entry in state()["summary"].items():
        print(name, entry)
    print(json.dumps(state()))


if __name__ == "__main__":
    main()

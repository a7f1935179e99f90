"""Train the embedded prior and its judge: ``python -m distill3d.kernels.toybox.train --work DIR``.

Stages, each resumable from its checkpoint in DIR: ``autoencoder``, ``denoiser`` (with the text
encoder), ``judge``; then ``export`` writes the pipeline folder and the judge. Everything is drawn
from ``--seed``. With ``--scenes SHARE`` autoencoder and denoiser see scenes besides objects; the
judge never does.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .data import Atlas, CaptionTable, draw, render_atlas
from .models import (
    Judge,
    autoencoder,
    denoiser,
    load_judge,
    load_pipeline,
    save_pipeline,
    scheduler,
    text_encoder,
    tokenize,
    write_tokenizer,
)
from .scene_captions import SCENE_WORDS
from .scene_data import SceneAtlas, SceneTable, draw_scenes, render_scene_atlas, scene_said
from .training_losses import autoencoder_loss, denoiser_loss, drop_words, judge_loss
from .training_stage import Run, loop


@dataclass
class Scenes:
    """What training on scenes takes besides the objects: a share of every batch."""

    atlas: SceneAtlas
    table: SceneTable
    share: float

    def count(self, batch: int) -> int:
        return round(batch * self.share)


def train(arguments: argparse.Namespace) -> None:
    """Train autoencoder, denoiser and judge, or go on with what lies in --work, and write them."""
    work, device = Path(arguments.work), arguments.device
    work.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        torch.backends.cudnn.benchmark
    ) = True
    if not 0 <= arguments.scenes < 1:
        raise ValueError(
            f"--scenes is {arguments.scenes}; give the share of a batch that shows scenes, 0 to"
            " below 1."
        )
    tokenizer = write_tokenizer(work / "tokenizer", SCENE_WORDS if arguments.scenes else ())
    torch.manual_seed(arguments.seed)  # initial weights
    vae = autoencoder().to(device, memory_format=torch.channels_last)
    unet, text = (
        denoiser().to(device, memory_format=torch.channels_last),
        text_encoder(len(tokenizer)).to(device),
    )
    judge: Any = Judge()  # torch's annotations of Module.to know no memory format
    judge.to(device, memory_format=torch.channels_last)
    a = arguments
    if a.base:
        load_pipeline(Path(a.base), vae, unet, text, tokenizer)
    if a.judge_base:
        judge.load_state_dict(load_judge(a.judge_base, device).state_dict())
    if a.decoder_only:  # latents stay what they are
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)
    stages = (
        Run(
            "autoencoder",
            {"vae": vae},
            a.autoencoder_steps,
            a.autoencoder_rate,
            work,
            seconds=a.autoencoder_seconds,
        ),
        Run("judge", {"judge": judge}, a.judge_steps, 1e-3, work),
        Run(
            "denoiser",
            {"unet": unet, "text": text},
            a.steps,
            a.rate,
            work,
            0.9995,
            seconds=a.seconds,
        ),
    )
    runs = {run.name: run for run in stages}
    began, atlas = time.monotonic(), render_atlas(arguments.views, arguments.seed, device)
    print(f"rendered {len(atlas.category)} views in {time.monotonic() - began:.1f} s", flush=True)
    generator = torch.Generator(device).manual_seed(
        arguments.seed + 1 + sum(r.step for r in runs.values())
    )
    table = CaptionTable(lambda texts: tokenize(tokenizer, texts), device)
    half = torch.autocast(torch.device(device).type, torch.bfloat16)
    scenes = _scenes(arguments, tokenizer)

    def train_autoencoder() -> Tensor:
        count = scenes.count(a.autoencoder_batch) if scenes else 0
        images = draw(atlas, a.autoencoder_batch - count, generator, table.allowed).images
        if scenes and count:
            images = torch.cat(
                [images, draw_scenes(scenes.atlas, count, generator, scenes.table).images]
            )
        with half:
            return autoencoder_loss(vae, images)

    def train_judge() -> Tensor:
        with half:
            return judge_loss(judge, draw(atlas, arguments.judge_batch, generator), generator)

    for name, step in (("autoencoder", train_autoencoder), ("judge", train_judge)):
        if name in arguments.stages:
            began = time.monotonic()
            for _ in loop(runs[name], step, arguments.max_seconds):
                pass
            print(f"{name}: {runs[name].step} steps, {time.monotonic() - began:.1f} s", flush=True)
    if "denoiser" in arguments.stages:
        runs["autoencoder"].use_average()
        vae.eval().requires_grad_(False)
        _train_denoiser(
            arguments, runs["denoiser"], vae, unet, text, atlas, table, scenes, generator, half
        )
    if "export" in arguments.stages:
        export(arguments, runs, vae, unet, text, tokenizer, judge, atlas, generator)


def _scenes(arguments: argparse.Namespace, tokenizer: Any) -> Scenes | None:
    if not arguments.scenes:
        return None
    began = time.monotonic()
    atlas = render_scene_atlas(arguments.scene_cameras, arguments.seed + 1000, arguments.device)
    print(
        f"rendered scenes from {len(atlas.side)} cameras in {time.monotonic() - began:.1f} s",
        flush=True,
    )
    table = SceneTable(lambda texts: tokenize(tokenizer, texts), arguments.device)
    return Scenes(atlas, table, arguments.scenes)


class Pool:
    """Encoded pictures with what their captions say. Part of it is renewed at every step, so that a
    picture is met a few times, each time with another noise, and encoding costs little."""

    def __init__(self, size: int, fresh: Callable[[int], tuple[Tensor, ...]]) -> None:
        self.fresh, self.next, self.rows = fresh, 0, list[Tensor]()
        for start in range(0, size, 256):
            parts = fresh(min(256, size - start))
            self.rows = self.rows or [
                torch.empty(size, *p.shape[1:], dtype=p.dtype, device=p.device) for p in parts
            ]
            self._put(start, parts)
        self.size = size

    def _put(self, start: int, parts: tuple[Tensor, ...]) -> None:
        for kept, part in zip(self.rows, parts, strict=True):
            kept[start : start + len(part)] = part

    def draw(self, count: int, renewed: int, generator: torch.Generator) -> list[Tensor]:
        self._put(self.next, self.fresh(renewed))
        self.next = (
            min(self.next + renewed, self.size - renewed) if self.next + renewed < self.size else 0
        )
        index = torch.randint(self.size, (count,), generator=generator, device=self.rows[0].device)
        return [r[index] for r in self.rows]


def _train_denoiser(
    arguments: argparse.Namespace, run: Run, vae: Any, unet: Any, text: Any, atlas: Atlas, table: CaptionTable,
    scenes: Scenes | None, generator: torch.Generator, half: Any,
) -> None:  # fmt: skip
    alphas = scheduler().alphas_cumprod.to(arguments.device)
    scale = latent_scale(vae, atlas, generator)
    net = torch.compile(unet) if arguments.compile else unet

    def encoded(images: Tensor) -> Tensor:
        with half:
            x = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
            mean: Tensor = vae.encode(x).latent_dist.mean
            return (mean.float() * scale).half()

    @torch.no_grad()
    def fresh(count: int) -> tuple[Tensor, ...]:
        batch = draw(atlas, count, generator, table.allowed)
        words = batch.category, batch.color, batch.finish, batch.second, batch.view_said, batch.side
        return encoded(batch.images), *words

    @torch.no_grad()
    def fresh_scenes(count: int) -> tuple[Tensor, ...]:
        assert scenes is not None
        batch = draw_scenes(scenes.atlas, count, generator, scenes.table)
        return encoded(batch.images), *batch.words

    began = time.monotonic()
    many = scenes.count(arguments.batch) if scenes else 0
    pooled = scenes.count(arguments.pool) if scenes else 0
    pool = Pool(arguments.pool - pooled, fresh)
    scene_pool = Pool(pooled, fresh_scenes) if scenes else None
    print(
        f"encoded {arguments.pool} pictures in {time.monotonic() - began:.1f} s, scale {scale:.4f}",
        flush=True,
    )

    def step() -> Tensor:
        objects = arguments.batch - many
        latents, *words = pool.draw(objects, max(objects // 8, 1), generator)
        ids = table.rows(*drop_words(words, generator))
        if scenes and scene_pool:
            more, *words = scene_pool.draw(many, max(many // 8, 1), generator)
            ids = torch.cat([ids, scenes.table.rows(*scene_said(words, generator))])
            # Mixed, as the noise levels rise along the batch.
            order = torch.randperm(arguments.batch, generator=generator, device=ids.device)
            latents, ids = torch.cat([latents, more])[order], ids[order]
        with half:
            return denoiser_loss(net, text, latents.float(), ids, alphas, generator)

    began, first = time.monotonic(), run.step
    for done in loop(run, step, arguments.max_seconds):
        if done - first in (50, 250, 1000):
            print(f"{done - first} steps: {time.monotonic() - began:.1f} s", flush=True)
    print(
        f"denoiser: {run.step} steps, {time.monotonic() - began:.1f} s, loss {run.losses[-1:]}",
        flush=True,
    )


@torch.no_grad()
def latent_scale(vae: Any, atlas: Atlas, generator: torch.Generator) -> float:
    """One over the standard deviation of the latents of true renders; fixed by the first 2,048 of a
    fresh stream.
    """
    fixed = torch.Generator(generator.device).manual_seed(7)
    parts = [
        vae.encode(draw(atlas, 256, fixed).images * 2 - 1).latent_dist.mean.float()
        for _ in range(8)
    ]
    return float(1 / torch.cat(parts).std())


def export(
    arguments: argparse.Namespace, runs: dict[str, Run], vae: Any, unet: Any, text: Any, tokenizer: Any, judge: Judge,
    atlas: Atlas, generator: torch.Generator,
) -> None:  # fmt: skip
    """The pipeline folder, the judge, the loss curves (picture and numbers) from the averaged
    weights.
    """
    for run in runs.values():
        run.use_average()
    vae.register_to_config(scaling_factor=latent_scale(vae, atlas, generator))
    save_pipeline(Path(arguments.out), vae, unet, text, tokenizer, scenes=arguments.scenes > 0)
    judge_folder = Path(arguments.judge_out)
    judge_folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in judge.state_dict().items()},
        judge_folder / "judge.safetensors",
    )
    facts = {name: {"steps": run.step, "rate": run.rate} for name, run in runs.items()}
    before = Path(arguments.base or "", "training.json")
    earlier = json.loads(before.read_text()) if arguments.base and before.is_file() else None
    old = earlier["losses_per_50_steps"] if earlier else {}
    curves = {
        name: [*old.get(name, ()), *(round(x, 5) for x in run.losses)] for name, run in runs.items()
    }
    record = {
        "runs": facts, "batch": arguments.batch, "views": arguments.views, "seed": arguments.seed,
        "losses_per_50_steps": curves, "went_on_from": earlier["runs"] if earlier else None,
    }  # fmt: skip
    if arguments.scenes:
        record |= {"scenes": arguments.scenes, "scene_cameras": arguments.scene_cameras}
    (Path(arguments.out) / "training.json").write_text(json.dumps(record) + "\n")
    plot_losses(curves, Path(arguments.out) / "loss.png")


def plot_losses(curves: dict[str, list[float]], file: Path) -> None:
    """Draw a curve per network into a picture file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3))
    for axis, (name, values) in zip(axes, curves.items(), strict=True):
        axis.plot([50 * (i + 1) for i in range(len(values))], values, linewidth=1)
        axis.set(title=name, xlabel="step", yscale="log")
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Train with the arguments of a command line; those of the process by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", required=True, help="checkpoint folder; a run resumes from what it finds there"
    )
    parser.add_argument("--out", default="models/toybox", help="pipeline folder to write")
    parser.add_argument("--judge-out", default="models/judge", help="folder of the judge to write")
    parser.add_argument(
        "--from", dest="base", help="pipeline folder to go on from, words new to it included"
    )
    parser.add_argument("--judge-from", dest="judge_base", help="judge folder to go on from")
    parser.add_argument(
        "--stages", default="autoencoder,judge,denoiser,export", type=lambda s: s.split(",")
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument(
        "--views", default=1024, type=int, help="camera views rendered per category"
    )
    parser.add_argument("--steps", default=20000, type=int, help="denoiser steps")
    parser.add_argument("--batch", default=512, type=int, help="denoiser batch")
    parser.add_argument("--rate", default=8e-4, type=float, help="denoiser peak learning rate")
    parser.add_argument(
        "--seconds", default=0, type=float, help="length of the denoiser's schedule by the clock"
    )
    parser.add_argument(
        "--pool", default=131072, type=int, help="encoded pictures that batches are drawn from"
    )
    parser.add_argument("--autoencoder-steps", default=4000, type=int)
    parser.add_argument(
        "--autoencoder-seconds", default=0, type=float, help="likewise for the autoencoder"
    )
    parser.add_argument("--autoencoder-batch", default=64, type=int)
    parser.add_argument(
        "--autoencoder-rate", default=1e-3, type=float, help="autoencoder's peak learning rate"
    )
    parser.add_argument(
        "--decoder-only", action="store_true", help="the autoencoder's encoder stays as it is"
    )
    parser.add_argument(
        "--scenes", default=0.0, type=float, help="share of each batch that shows scenes; 0: none"
    )
    parser.add_argument(
        "--scene-cameras", default=768, type=int, help="cameras that scenes are rendered from"
    )
    parser.add_argument("--judge-steps", default=4000, type=int)
    parser.add_argument("--judge-batch", default=512, type=int)
    parser.add_argument(
        "--max-seconds", default=math.inf, type=float, help="stop each stage then, resumable"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the denoiser")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()

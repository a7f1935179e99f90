"""Train the text-to-points model: ``python -m distill3d.kernels.toybox.train_points --work DIR``.

It sees points of the toys' surfaces under captions that are not held out. Resumable from its
checkpoint in DIR; everything is drawn from ``--seed``. The model is written at the end of every
call.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..meshes.mesh import Mesh
from ..meshes.sample import sample
from .captions import CATEGORIES, COLORS, FINISHES, Caption, all_captions, held_out
from .meshes import mesh
from .point_model import NOISE, PointModel, word_ids
from .render import lambert, patterns
from .roles import ACCENTS, MAIN, ROLES
from .shapes import shape
from .training_stage import Run, loop

FILE = "points.safetensors"
PLAIN_SHARE, UNSAID_SHARE = 0.4, 0.04  # of the captions; the others have patterns, and colours


@dataclass(frozen=True)
class Surfaces:
    """Points spread evenly over every toy's surface, C categories by M points.

    Args:
        points: [C,M,3] world units
        light: [C,M] on them, 0..1
        inside: [C,M,4] bool: of the pattern's colour, per finish; never for parts of their own
            colour
        fixed: [C,M,3] sRGB 0..1 of such parts, 0 elsewhere
        main: [C,M] bool: the parts that a caption colours
    """

    points: Tensor
    light: Tensor
    inside: Tensor
    fixed: Tensor
    main: Tensor


def surfaces(count: int, seed: int, device: torch.device | str) -> Surfaces:
    """``count`` points of each category."""
    generator, rows = torch.Generator().manual_seed(seed), []
    palette = torch.tensor([(0.0, 0.0, 0.0) if r == MAIN else ACCENTS[r] for r in ROLES])
    for category in CATEGORIES:
        vertices, faces = mesh(category)
        spread = sample([Mesh(vertices, faces, torch.zeros_like(vertices))], count, generator)
        role = shape(category).roles(spread.points)
        main = role == ROLES.index(MAIN)
        inside = torch.cat([torch.zeros_like(main)[:, None], patterns(spread.points)], 1)
        light = lambert(shape(category).normals(spread.points))
        rows.append((spread.points, light, inside & main[:, None], palette[role], main))
    return Surfaces(*(torch.stack(parts).to(device) for parts in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Captions:
    """The captions that training sees, as indices [K] and words [K,LONGEST]."""

    words: Tensor
    category: Tensor
    color: Tensor
    finish: Tensor
    second: Tensor
    kinds: tuple[Tensor, Tensor, Tensor]  # rows that are plain, have a pattern, name no colour


def training_captions(device: torch.device | str) -> Captions:
    """All but the held-out ones, and those that name no colour, which are gray."""
    known = [caption for caption in all_captions() if not held_out(caption)]
    known += [Caption(category, None) for category in CATEGORIES]
    known += [
        Caption(category, None, finish, second)
        for category in CATEGORIES
        for finish in FINISHES[1:]
        for second in COLORS
        if second != "gray"
    ]
    names = list(COLORS)
    unsaid = torch.tensor([caption.color is None for caption in known])
    plain = torch.tensor([caption.second is None for caption in known])
    kinds = [
        torch.nonzero(rows)[:, 0].to(device) for rows in (plain & ~unsaid, ~plain & ~unsaid, unsaid)
    ]
    first, second = ([c.color or "gray" for c in known], [c.second or "red" for c in known])
    return Captions(
        words=word_ids(known).to(device),
        category=torch.tensor([CATEGORIES.index(c.category) for c in known]).to(device),
        color=torch.tensor([names.index(color) for color in first]).to(device),
        finish=torch.tensor([FINISHES.index(c.finish) for c in known]).to(device),
        second=torch.tensor([names.index(color) for color in second]).to(device),
        kinds=(kinds[0], kinds[1], kinds[2]),
    )


def draw_captions(captions: Captions, count: int, generator: torch.Generator) -> Tensor:
    """Rows [count] of the captions, each kind in its share."""

    def some(share: float, rows: Tensor) -> Tensor:
        number = max(1, round(count * share))
        at = torch.randint(len(rows), (number,), generator=generator, device=rows.device)
        return rows[at]

    plain, patterned, unsaid = captions.kinds
    few = [some(UNSAID_SHARE, unsaid), some(PLAIN_SHARE, plain), some(1.0, patterned)]
    return torch.cat(few)[:count]


def points_loss(
    model: PointModel, toys: Surfaces, captions: Captions, rows: Tensor, points: int,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Squared errors of the flow's velocity and of the colours, ``points`` per caption."""
    device, category = rows.device, captions.category[rows][:, None]
    size = (len(rows), points)
    at = torch.randint(toys.points.shape[1], size, generator=generator, device=device)
    ends = toys.points[category, at]
    starts = NOISE * torch.randn(*size, 3, generator=generator, device=device)
    # Most of the surface is decided near its end.
    times = 1 - torch.rand(size, generator=generator, device=device) ** 2
    code = model.read(captions.words[rows])
    between = torch.lerp(starts, ends, times[..., None])
    flow = (model.velocity(between, times, code) - (ends - starts)).square().mean()
    palette = torch.tensor(list(COLORS.values()), device=device)
    first, second = palette[captions.color[rows]], palette[captions.second[rows]]
    inside = toys.inside[category, at, captions.finish[rows][:, None]]
    said = torch.where(inside[..., None], second[:, None], first[:, None])
    albedo = torch.where(toys.main[category, at][..., None], said, toys.fixed[category, at])
    wanted = toys.light[category, at][..., None] * albedo
    painted = (model.paint(ends, code) - wanted).square().mean()
    return flow + painted


def begin_from(model: PointModel, folder: Path) -> None:
    """Put the weights of ``folder`` into the model, but those that it has in another shape."""
    own = model.state_dict()
    known = load_file(folder / FILE)
    fitting = {n: w.float() for n, w in known.items() if n in own and w.shape == own[n].shape}
    model.load_state_dict(own | fitting)


def train(arguments: argparse.Namespace) -> None:
    """Train, or go on with what lies in --work, and write the model into --out."""
    work, out, device = Path(arguments.work), Path(arguments.out), arguments.device
    work.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(arguments.seed)  # initial weights
    model = PointModel().to(device)
    if arguments.base:
        begin_from(model, Path(arguments.base))
    if arguments.painter_only:
        for part in (model.words, model.reader, model.flow):
            part.requires_grad_(False)
    run = Run("points", {"model": model}, arguments.steps, arguments.rate, work)
    began = time.monotonic()
    toys = surfaces(arguments.surface_points, arguments.seed, device)
    captions = training_captions(device)
    print(f"points of {len(CATEGORIES)} toys in {time.monotonic() - began:.1f} s", flush=True)
    generator = torch.Generator(device).manual_seed(arguments.seed + 1 + run.step)

    def step() -> Tensor:
        rows = draw_captions(captions, arguments.batch, generator)
        return points_loss(model, toys, captions, rows, arguments.points, generator)

    began, first = time.monotonic(), run.step
    for _ in loop(run, step, arguments.max_seconds):
        pass
    seconds = time.monotonic() - began
    print(f"{run.step} steps, {seconds:.1f} s, loss {run.losses[-1:]}", flush=True)
    run.use_average()
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous().cpu() for name, value in model.state_dict().items()}
    save_file(weights, out / FILE)
    record = {
        "steps": run.step, "of": arguments.steps, "rate": run.rate, "batch": arguments.batch,
        "points": arguments.points, "seed": arguments.seed,
        "steps_per_second": round((run.step - first) / seconds, 2),
        "losses_per_50_steps": [round(x, 5) for x in run.losses],
    }  # fmt: skip
    (out / "training.json").write_text(json.dumps(record) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Train with the arguments of a command line; those of the process by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", required=True, help="checkpoint folder; a run resumes from what it finds there"
    )
    parser.add_argument("--out", default="models/text_to_points", help="folder to write")
    parser.add_argument("--from", dest="base", help="folder of a model to go on from")
    parser.add_argument(
        "--painter-only", action="store_true", help="where the points lie stays as it is"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--steps", default=20000, type=int)
    parser.add_argument("--batch", default=64, type=int, help="captions of a step")
    parser.add_argument("--points", default=256, type=int, help="points of each of them")
    parser.add_argument("--rate", default=2e-3, type=float, help="peak learning rate")
    parser.add_argument(
        "--surface-points", default=40000, type=int, help="of each toy, which steps draw from"
    )
    parser.add_argument("--max-seconds", default=math.inf, type=float, help="stop then, resumable")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()

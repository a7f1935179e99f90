"""Times a step of the authors' own guidance code and one of the pack's loop, in turn in the same
run: the same renderer, Gaussians, number of views and network shapes, random weights.

    python tests/benchmarks/peers.py --consistent3d DIR --threestudio DIR --luciddreamer DIR
        [--device cuda] [--json FILE]

The clones are the user's; rows whose clone is not named are left out, and with --json rows that the
file has. Prints one JSON object last. Theirs is a plain loop around their unchanged functions:
batched render, their encoder call, guidance, backward, torch's Adam; their networks are in float16,
as theirs are, as diffusers loads them, with torch's attention where LucidDreamer asks for
xformers'. Ours is `optimize` with the settings that make it the same loss. ``ms``: per step, the
mean of the blocks, which take turns; ``blocks_ms``: each block's, by the clock, the device waited
for at both ends. ISM's work depends on the step it draws: the row counts what comes on average.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import arguments
import torch
from peers_guidance import FUNCTIONS, MAKERS, PEERS, PUBLISHED, Guidance, Networks
from step import save
from step_bench import PROMPT, Bench
from step_naive import pictures, trainable
from step_priors import KINDS

import officials  # isort: skip  # tests/parity, which peers_guidance finds

from distill3d.kernels.cameras.pinhole import Cameras
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.prompts import ViewPrompts, view_prompts
from distill3d.kernels.rasterizers.rasterize import BACKENDS, choose
from distill3d.kernels.run.optimize import optimize

REPOSITORIES = {
    "threestudio": "threestudio-project/threestudio",
    "consistent3d": "sail-sg/Consistent3D",
    "luciddreamer": "EnVision-Research/LucidDreamer",
}
SCHEDULE = 5000  # steps, of which these are the first


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    views: int
    settings: Any


LATE = replace(PUBLISHED["ism"], t_max_start=500, gap_start=80)
ROWS = (
    Row("CDS, 4 views", "cds", 4, PUBLISHED["cds"]),
    Row("CDS, 8 views", "cds", 8, PUBLISHED["cds"]),
    Row("SDS, 4 views", "sds", 4, PUBLISHED["sds"]),
    Row("ISM, 4 views, first steps", "ism", 4, PUBLISHED["ism"]),
    Row("ISM, 4 views, after its first 30 %", "ism", 4, LATE),
)


class PeerLoop:
    """Their guidance in a plain loop. One step per call."""

    def __init__(
        self, guidance: Guidance, cloud: Gaussians, prompts: ViewPrompts, views: int, backend: str
    ) -> None:
        self.guidance, self.backend = guidance, backend
        self.params, self.optimizer = trainable(cloud)
        self.text, self.null = (
            row.embeddings.expand(views, -1, -1) for row in (prompts.base, prompts.null)
        )

    def step(self, cameras: Cameras) -> None:
        seen = pictures(self.params, cameras, self.backend)
        self.guidance(seen, self.text, self.null, 0).backward()
        for value in self.params.values():  # random weights in float16 may overflow
            torch.nan_to_num_(value.grad, 0, 0, 0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def waited(bench: Bench) -> float:
    """Now, in milliseconds, with nothing left to do."""
    if bench.cuda:
        torch.cuda.synchronize()
    return 1e3 * time.perf_counter()


def theirs(bench: Bench, loop: PeerLoop, views: int, generator: torch.Generator) -> float:
    """Milliseconds a step of one block."""
    for step in range(bench.warm + bench.repeats):
        if step == bench.warm:
            began = waited(bench)
        loop.step(bench.sampler.sample(views, bench.size, generator).to(bench.device))
    return (waited(bench) - began) / bench.repeats


def ours(bench: Bench, prior: DiffusersPrior, row: Row, cloud: Gaussians) -> float:
    """Milliseconds a step of one block."""
    steps, marks = bench.warm + bench.repeats, list[float]()
    settings = replace(bench.settings(row.views, len(cloud)), schedule_steps=SCHEDULE)

    def mark(progress: Any) -> None:
        if progress.step in (bench.warm, steps):
            marks.append(waited(bench))

    optimize(
        cloud,
        row.settings,
        prior,
        view_prompts(prior, PROMPT),
        bench.sampler,
        steps,
        settings,
        mark,
    )
    return (marks[1] - marks[0]) / bench.repeats


def measured(
    bench: Bench, prior: DiffusersPrior, row: Row, folder: Path, networks: Networks, options: Any
) -> dict[str, Any]:
    cloud, seeded = bench.cloud(options.gaussians), torch.Generator().manual_seed(0)
    noise = torch.randn(4, 64, 64, device=bench.device)
    guidance = MAKERS[row.kind](row.settings, folder, networks, noise, 0, SCHEDULE)
    loop = PeerLoop(guidance, cloud, view_prompts(prior, PROMPT), row.views, bench.backend)
    blocks: dict[str, list[float]] = {"theirs": [], "ours": []}
    acts: dict[str, Callable[[], float]] = {
        "theirs": lambda: theirs(bench, loop, row.views, seeded),
        "ours": lambda: ours(bench, prior, row, cloud),
    }
    for _ in range(options.rounds):
        for side, act in acts.items():
            blocks[side].append(act())
    ms = {side: round(statistics.fmean(values), 2) for side, values in blocks.items()}
    peer = PEERS[row.kind]
    return {
        "row": row.name,
        "loss": row.kind,
        "views": row.views,
        "ms": ms,
        "ratio": round(ms["theirs"] / ms["ours"], 2),
        "blocks_ms": {
            side: [round(value, 2) for value in values] for side, values in blocks.items()
        },
        "repository": REPOSITORIES[peer],
        "commit": officials.commit(folder),
        "function": FUNCTIONS[row.kind],
        "settings": repr(row.settings),
    }


def run(options: argparse.Namespace, clones: dict[str, Path]) -> dict[str, Any]:
    known = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    rows = {row["row"]: row for row in known.get("rows", [])}
    todo = [row for row in ROWS if PEERS[row.kind] in clones and row.name not in rows]
    bench = Bench(options)
    facts = {
        "device": torch.cuda.get_device_name() if bench.cuda else "CPU",
        "torch": torch.__version__,
        "prior": options.prior,
        "image_size": bench.size,
        "gaussians": options.gaussians,
        "renderer": choose(bench.device) if bench.backend == "auto" else bench.backend,
    }
    for name, value in facts.items():
        if known and known.get(name) != value:
            raise ValueError(
                f"--json {options.json} has rows of {name} {known.get(name)!r}, not {value!r}. Give"
                " another file."
            )
    # copies: the pack lays the U-Net's weights out in its own way
    dtype = torch.float16 if bench.cuda else torch.float32
    unet, vae = (
        torch.nn.Module.to(copy.deepcopy(bench.modules[name]), dtype) for name in ("unet", "vae")
    )
    prior = bench.ours()
    networks = Networks(unet, vae, prior.schedule.alphas_cumprod.to(bench.device), dtype)
    result = facts | {"rows": list(rows.values())}
    with prior.running(True):  # the graphs of one row serve its blocks
        for row in todo:
            torch.manual_seed(0)
            folder = clones[PEERS[row.kind]]
            found = measured(bench, prior, row, folder, networks, options)
            print(f"{row.name}: {found['ms']}, {found['ratio']} times", flush=True)
            result["rows"].append(found)
            save(options.json, result)
    return result


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for peer in REPOSITORIES:
        parser.add_argument(f"--{peer}", type=Path, metavar="DIR", help="a clone of the authors'")
    parser.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--prior", choices=KINDS, default="sd21-shapes")
    parser.add_argument("--gaussians", type=arguments.whole(1), default=50_000)
    parser.add_argument("--rounds", type=arguments.whole(1), default=3, help="blocks of each side")
    parser.add_argument("--repeats", type=arguments.whole(1), default=16, help="steps of a block")
    parser.add_argument("--warm", type=arguments.whole(1), default=6, help="steps before them")
    parser.add_argument("--render-backend", default="auto", choices=BACKENDS)
    parser.add_argument(
        "--vae-dtype", default="bfloat16", choices=("bfloat16", "float16"), help="ours, on a GPU"
    )
    parser.add_argument("--json", type=arguments.file, help="written after every row")
    options = parser.parse_args(words)
    options.micro_batch, options.profile = 0, False  # of step.py's bench
    clones = {
        peer: folder.resolve()
        for peer in REPOSITORIES
        if (folder := getattr(options, peer)) is not None
    }
    if not clones:
        parser.error("name at least one clone.")
    try:
        result = run(options, clones)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

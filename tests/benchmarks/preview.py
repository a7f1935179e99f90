"""What a viewer costs the loop: a step's time with one attached and without, in turns within one
run.

``python tests/benchmarks/preview.py [--device cuda] [--gaussians 4000,50000] [--steps N] [--block
N] [--json FILE]`` runs the quickstart in a real ComfyUI. A websocket client follows it, and in
every other block of steps does what the page does: asks for a picture, takes it, and asks for the
next. Prints one JSON object last; per number of Gaussians

* ``without_ms``, ``with_ms``: median over the blocks of a step's mean time,
* ``overhead``: median over neighbouring blocks of with / without - 1, with ``low`` and ``high``,
  the 95 % interval of that median (bootstrap), in which a busy machine shows,
* ``packing_share``: of the watched blocks' time, what the loop spent on pictures by its own clock,
* ``pictures`` taken and their mean ``bytes``.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "comfyui"))

from harness import environment, prompts  # noqa: E402
from harness.server import Server  # noqa: E402

from distill3d.kernels.files.compact import unpack  # noqa: E402

WARM_UP = 6  # steps
TARGET = 0.03


@dataclass
class Watched:
    """``times``: seconds at which steps ended, by step. ``pictures``: sizes, bytes. ``last``: what
    the node left.
    """

    times: dict[int, float] = field(default_factory=dict)
    pictures: list[int] = field(default_factory=list)
    last: dict = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--gaussians", default="4000,50000", help="comma-separated")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--block", type=int, default=8, help="steps between attaching and detaching the viewer"
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.gaussians.split(",")]

    with tempfile.TemporaryDirectory(prefix="distill3d-preview-") as folder:
        base = Path(folder)
        with Server(
            environment.tree(), base / "base", base / "log", cpu=arguments.device == "cpu"
        ) as server:
            info = server.object_info()
            load = os.getloadavg()[0]
            results = {
                count: measured(server, info, count, arguments.steps, arguments.block)
                for count in counts
            }
    result = {
        "results": results,
        "target": TARGET,
        "within": all(entry["high"] <= TARGET for entry in results.values()),
        "machine": {"device": arguments.device, "cores": os.cpu_count(), "load": round(load, 2),
                    "python": platform.python_version()},
        "steps": arguments.steps,
        "block": arguments.block,
        "commit": git("rev-parse", "HEAD"),
        "uncommitted": bool(git("status", "--porcelain")),
    }  # fmt: skip
    text = json.dumps(result)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)
    return 0


def measured(server: Server, info: dict, count: int, steps: int, block: int) -> dict:
    prompt = prompts.api_form(prompts.read("quickstart"), info)
    # No pictures of ComfyUI's own, no autosave: the blocks differ in the viewer alone.
    held = {"max_gaussians": max(count, 20_000), "preview_every": 0, "autosave_every": 0}
    prompt = prompts.set_values(prompt, "Distill3D_Optimize", steps=steps)
    prompt = prompts.with_settings(prompt, info, **held)
    prompt = prompts.set_values(prompt, "Distill3D_InitText", count=count)
    (node,) = prompts.of_type(prompt, "Distill3D_Optimize")
    needed = {node} | {
        link[0] for link in prompt[node]["inputs"].values() if isinstance(link, list)
    }
    prompt = {id: prompt[id] for id in needed}
    prompt["show"] = {"class_type": "PreviewImage", "inputs": {"images": [node, 1]}}
    return evaluated(asyncio.run(watched(server, prompt, node, block)), block)


def attached(step: int, block: int) -> bool:
    """Whether the viewer watches the steps after this one."""
    return step >= WARM_UP and (step - WARM_UP) // block % 2 == 1


async def watched(server: Server, prompt: dict, node: str, block: int) -> Watched:
    seen, client = Watched(), str(uuid.uuid4())
    watch, frame = asyncio.Event(), asyncio.Event()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/ws?clientId={client}", max_msg_size=0) as socket,
    ):
        viewer = asyncio.create_task(
            view(session, f"{server.url}/distill3d/live/{node}", seen, watch, frame)
        )
        server.queue(prompt, client)
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event.get("data", {})
            if kind == "progress" and data["node"] == node:
                seen.times[data["value"]] = time.perf_counter()
                watch.set() if attached(data["value"], block) else watch.clear()
            elif kind == "distill3d.frame":
                frame.set()
            elif kind == "executed" and data["node"] == node:
                seen.last = data["output"]["distill3d"][0]
            elif kind in ("execution_error", "execution_interrupted"):
                raise RuntimeError(f"the run ended: {data}")
            elif kind == "executing" and data.get("node") is None:
                break
        viewer.cancel()
    seen.last = unpack(server.view(seen.last))[1]
    return seen


async def view(
    session: aiohttp.ClientSession,
    url: str,
    seen: Watched,
    watch: asyncio.Event,
    frame: asyncio.Event,
):
    """Asks like web/distill3d.js: one request at a time, the next when a picture was taken or is
    there.
    """
    step = 0
    while True:
        await watch.wait()
        frame.clear()
        async with session.get(url, params={"after": step}) as answer:
            body = await answer.read()
        if answer.status == 200:
            seen.pictures.append(len(body))
            step = unpack(body)[1]["step"]
        else:
            await frame.wait()


def evaluated(seen: Watched, block: int) -> dict:
    means: list[tuple[bool, float, float]] = []  # attached, mean seconds of a step, seconds in all
    first = WARM_UP
    while first + block <= max(seen.times):
        # From the end of a block's first step on: that one may still meet what the last block asked
        # for.
        within = sorted(step for step in seen.times if first < step <= first + block)
        if len(within) > 1:
            span = seen.times[within[-1]] - seen.times[within[0]]
            means.append((attached(first, block), span / (within[-1] - within[0]), span))
        first += block
    ratios = np.array(
        [b[1] / a[1] if b[0] else a[1] / b[1] for a, b in itertools.pairwise(means) if a[0] != b[0]]
    )
    draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975)) - 1
    on = [mean for attached, mean, _ in means if attached]
    off = [mean for attached, mean, _ in means if not attached]
    return {
        "without_ms": round(1000 * statistics.median(off), 1),
        "with_ms": round(1000 * statistics.median(on), 1),
        "overhead": round(float(np.median(ratios)) - 1, 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "packing_share": round(seen.last["packing_seconds"] / (sum(on) * block), 4),
        "pictures": len(seen.pictures),
        "bytes": round(statistics.mean(seen.pictures)),
        "blocks": len(means),
    }


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())

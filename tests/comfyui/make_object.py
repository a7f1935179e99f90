"""An object from a prompt: starts ComfyUI, queues the workflow quickstart, fetches the files,
measures them.

``python tests/comfyui/make_object.py "a red mug" [--steps N] [--seed N] [--workflow FILE] [--output
FOLDER]`` in the environment that set_up.py sets up; ``nox -s object`` does both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from harness import environment, prompts
from harness.environment import HOME, ROOT

KINDS = {".ply": "object.ply", ".glb": "object.glb", ".webp": "turntable.webp"}
WRITTEN = (
    *KINDS.values(),
    "turntable.png",
    "metrics.json",
    "comfyui.log",
    "partial.ply",
    "partial.safetensors",
)
OPTIMIZE, PRESET = "Distill3D_Optimize", "Distill3D_QualityPreset"


def main() -> int:
    arguments = parse_arguments()
    captions = load_captions()
    try:
        caption = captions.parse(arguments.prompt)
    except ValueError as error:
        print(f"Cannot make that: {error}", file=sys.stderr)
        return 2
    if arguments.check:
        return 0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else nobody would stop the server
    folder = arguments.output or ROOT / "output" / slug(caption.text)
    folder.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:  # an earlier object of the same prompt
        folder.joinpath(name).unlink(missing_ok=True)
    seconds = setup_seconds()
    try:
        report = make(caption, folder, arguments, seconds)
    except KeyboardInterrupt:
        kept = sorted(file.name for file in folder.iterdir())
        print(f"\nInterrupted. In {shown(folder)}: {', '.join(kept)}", file=sys.stderr)
        return 130
    except Failure as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    folder.joinpath("metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    print(summary(report, folder))
    return 0


class Failure(Exception):
    """What went wrong, for the person at the terminal."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="nox -s object --", description="Make a 3D object from a prompt.", allow_abbrev=False
    )
    parser.add_argument(
        "prompt", nargs="*", help='one caption of the toybox, in quotes: "a red mug"'
    )
    parser.add_argument("--steps", type=int, help="optimization steps (default: the workflow's)")
    parser.add_argument("--seed", type=int, help="seed of the run (default: the workflow's)")
    parser.add_argument(
        "--workflow", type=Path, help="a variation of the workflow quickstart, as ComfyUI saves it"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the files (default: output/ and the prompt)"
    )
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if len(arguments.prompt) != 1:
        given = " ".join(arguments.prompt)
        parser.error(f'one prompt is needed, in quotes: -- "{given or "a red mug"}"')
    if arguments.steps is not None and arguments.steps < 1:
        parser.error(f"--steps {arguments.steps}: at least 1.")
    if arguments.workflow is not None and not arguments.workflow.is_file():
        parser.error(f"--workflow {arguments.workflow}: there is no such file.")
    if arguments.seed is not None and arguments.seed < 0:
        parser.error(f"--seed {arguments.seed}: 0 or more.")
    arguments.prompt = arguments.prompt[0]
    return arguments


def load_captions():
    """The toybox's captions, straight from their file: a wrong prompt is told before anything is
    installed.
    """
    spec = importlib.util.spec_from_file_location(
        "toybox_captions", ROOT / "kernels" / "toybox" / "captions.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def shown(path: Path) -> Path:
    """The path as seen from the clone, where it is inside."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def setup_seconds() -> float:
    """What the set-up just before this took."""
    try:
        return json.loads(HOME.joinpath("setup-seconds.json").read_text())["total"]
    except (OSError, ValueError, KeyError):
        return 0.0


def make(caption, folder: Path, arguments: argparse.Namespace, setup: float) -> dict:
    """Makes the object and returns its report: seconds per phase, steps, measures against the
    truth.
    """
    from harness.server import PromptRefused, Server, ServerError

    clock = Clock(setup=setup)
    server = Server(
        environment.tree(), HOME / "base", folder / "comfyui.log", cpu=not environment.has_cuda()
    )
    try:
        with clock("server_start"), say("Starting ComfyUI"):
            server.start()
        print(f"Working on {working_on(server)}", flush=True)
        prompt = quickstart(server.object_info(), caption.text, arguments)
        run = follow(server, prompt, clock)
        for suffix, name in KINDS.items():
            if run.status == "success" or any(
                file["filename"].endswith(suffix) for file in run.files
            ):
                folder.joinpath(name).write_bytes(server.fetch(run, suffix))
        if run.status != "success":
            reason = run.error.splitlines()[0] if run.error else run.status
            raise Failure(f"ComfyUI could not make it. {reason}\nWhole log: {shown(server.log)}")
    except KeyboardInterrupt:
        keep_partial(server, folder)
        raise
    except (ServerError, PromptRefused, ValueError) as error:
        raise Failure(str(error)) from error
    finally:
        server.stop()

    with clock("measure"), say("Measuring against the true shape"):
        contact_strip(folder / "turntable.webp", folder / "turntable.png")
        measures = measure(folder / "object.ply", caption.text)
    steps = sum(run.progress(id)[-1][1] for id in prompts.of_type(prompt, OPTIMIZE))
    return {
        "prompt": caption.text,
        "quality": quality(prompt, run)
        + (f", with {steps} steps as asked" if arguments.steps else ""),
        "steps": steps,
        "seconds": clock.report(),
        **measures,
    }


def working_on(server) -> str:
    """The device, in ComfyUI's words without the allocator's."""
    name = server.get("/system_stats")["devices"][0]["name"]
    return (
        "the CPU: no GPU that PyTorch can use"
        if name == "cpu"
        else f"the GPU: {name.split(' : ')[0]}"
    )


def quality(prompt: dict, run) -> str:
    """What Quality Preset chose; empty where the workflow has none."""
    texts = [
        run.history.get("outputs", {}).get(id, {}).get("text", [""])[0]
        for id in prompts.of_type(prompt, PRESET)
    ]
    return texts[0] if texts else ""


def quickstart(object_info: dict, text: str, arguments: argparse.Namespace) -> dict:
    file = arguments.workflow or prompts.file_of("quickstart")
    prompt = prompts.api_form(json.loads(file.read_text(encoding="utf-8")), object_info)
    prompt = prompts.set_values(prompt, "Distill3D_ViewPrompts", prompt=text)
    if arguments.steps is not None:
        prompt = prompts.with_steps(prompt, arguments.steps)
    if arguments.seed is not None:
        prompt = prompts.with_seed(prompt, arguments.seed)
    return prompt


def follow(server, prompt: dict, clock: Clock):
    """Runs the prompt with a progress bar over the Optimize nodes' steps; books load, optimize and
    export.
    """
    from tqdm import tqdm

    optimizers = prompts.of_type(prompt, OPTIMIZE)
    terminal = sys.stderr.isatty()
    bar = tqdm(
        desc="Optimizing", unit="step", dynamic_ncols=terminal, mininterval=0.5 if terminal else 5
    )
    told: dict[str, tuple[int, int]] = {}  # of each Optimize its steps so far, and in all
    seen = 0

    def on_event(run) -> None:
        nonlocal seen
        for _, message in run.events[seen:]:
            data = message["data"]
            if (
                message["type"] == "progress"
                and data["node"] in optimizers
                and data["prompt_id"] == run.prompt_id
            ):
                told[data["node"]] = int(data["value"]), int(data["max"])
                values, totals = zip(*told.values(), strict=True)
                bar.total = sum(totals)
                bar.update(sum(values) - bar.n)
        seen = len(run.events)

    with bar:
        run = server.run(prompt, timeout=24 * 3600, on_event=on_event)
    order = [(seconds, m["data"]["node"]) for seconds, m in run.events if m["type"] == "executing"]
    began = next((seconds for seconds, node in order if node in optimizers), order[-1][0])
    last = max((index for index, (_, node) in enumerate(order) if node in optimizers), default=None)
    ended = order[last + 1][0] if last is not None and last + 1 < len(order) else order[-1][0]
    clock.seconds |= {"load": began, "optimize": ended - began, "export": order[-1][0] - ended}
    return run


def keep_partial(server, folder: Path) -> None:
    """After Ctrl-C: lets the optimizer save the cloud so far and brings it here."""
    partial = server.output / "distill3d" / "partial"
    before = set(partial.glob("*")) if partial.is_dir() else set()
    print("\nStopping; a second Ctrl-C stops without saving.", file=sys.stderr)
    try:
        server.interrupt()
        end = time.monotonic() + 30
        while time.monotonic() < end and server.get("/queue")["queue_running"]:
            time.sleep(0.2)
    except OSError:
        return  # it had not started, or is gone already
    for file in set(partial.glob("*")) - before:
        shutil.copy2(file, folder / f"partial{file.suffix}")


def contact_strip(animation: Path, strip: Path, count: int = 8) -> None:
    """Evenly spaced pictures of the animation side by side."""
    from PIL import Image

    with Image.open(animation) as frames:
        indices = [index * frames.n_frames // count for index in range(count)]
        sheet = Image.new("RGB", (frames.width * count, frames.height))
        for place, index in enumerate(indices):
            frames.seek(index)
            sheet.paste(frames.convert("RGB"), (place * frames.width, 0))
    sheet.save(strip)


def measure(ply: Path, text: str) -> dict:
    """The measures of the saved cloud against the toy that the caption names; None where one has no
    meaning.
    """
    from distill3d.kernels.evaluate.metrics import compare
    from distill3d.kernels.files.ply import load_ply
    from distill3d.kernels.toybox.captions import parse

    score = asdict(compare(load_ply(ply), parse(text)))
    return {
        name: round(value, 4) if math.isfinite(value) else None for name, value in score.items()
    }


class Clock:
    """Seconds per phase; total from the set-up's beginning."""

    def __init__(self, **before: float):
        self.seconds = dict(before)
        self.start = time.monotonic()

    @contextmanager
    def __call__(self, phase: str):
        start = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - start

    def report(self) -> dict[str, float]:
        total = self.seconds.get("setup", 0.0) + time.monotonic() - self.start
        return {
            phase: round(value, 1) for phase, value in (self.seconds | {"total": total}).items()
        }


@contextmanager
def say(text: str):
    print(f"{text} ... ", end="", flush=True)
    start = time.monotonic()
    yield
    print(f"{time.monotonic() - start:.0f} s", flush=True)


def summary(report: dict, folder: Path) -> str:
    others = ("prompt", "quality", "steps", "seconds")
    measures = {
        name: value for name, value in report.items() if name not in others and value is not None
    }
    lines = [
        "",
        *([f"Quality {report['quality']}."] if report["quality"] else []),
        f"{report['prompt']}: {report['steps']} steps, {report['seconds']['total']:.0f} s in all, "
        + ", ".join(f"{name} {value:g}" for name, value in measures.items()),
        *(f"  {shown(file)}" for file in sorted(folder.iterdir())),
        (
            "Open turntable.webp in a browser, object.glb in any 3D program, object.ply in a splat"
            " viewer."
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

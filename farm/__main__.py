"""``python -m distill3d.farm JOBS --graph GRAPH --out FOLDER``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from .errors import FarmError
from .worker import leave_root

USAGE = 2  # exit code of a wrong call


def main(words: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = _parser().parse_args(words)
    leave_root()
    # here: the help needs none of it
    from .run import Settings, farm

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return farm(Settings(**vars(given)))
    except FarmError as error:
        print(error, file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m distill3d.farm",
        description="Make an object of each job of a list, on all cores or GPUs that there are."
        " Killed or interrupted, the same command goes on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "jobs",
        metavar="JOBS",
        type=Path,
        help="a text file, a prompt a line; or .csv or .jsonl, whose columns set inputs: prompt,"
        ' seed, "Node title.input", and name for the files',
    )
    parser.add_argument(
        "--graph",
        required=True,
        help="a workflow in API form (Workflow > Export (API)), or the name of a shipped one:"
        " quickstart",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="where objects and manifest go: a folder, or an address of fsspec's such as s3://...",
    )
    parser.add_argument(
        "--address",
        default="local",
        help="of a Ray cluster: auto, HOST:PORT or ray://HOST:10001; local (the default): this"
        " machine alone, all set up by this call",
    )
    parser.add_argument(
        "--engine",
        choices=("comfyui", "python", "stub"),
        metavar="{comfyui,python}",
        default="comfyui",
        help="comfyui (the default): a headless ComfyUI in each worker; python: the kernels without"
        " it, for graphs of this pack's nodes",
    )
    parser.add_argument(
        "--comfyui", type=Path, metavar="FOLDER", help="ComfyUI's folder, where main.py is"
    )
    parser.add_argument(
        "--comfyui-flags",
        type=_words,
        default="",
        dest="flags",
        metavar="FLAGS",
        help='more flags of ComfyUI\'s: "--lowvram"',
    )
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="for --engine python: where the graph's diffusers folders are",
    )
    parser.add_argument(
        "--workers",
        type=_count,
        default=0,
        metavar="N",
        help="workers on the CPU, and no GPU is used; default: the GPUs, or a worker a core",
    )
    parser.add_argument(
        "--per-gpu",
        type=_count,
        default=0,
        metavar="N",
        help="workers on each GPU; default: found by measuring memory and speed",
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        default=1,
        metavar="N",
        help="of each worker on the CPU; with 1 (the default) an object has the"
        " same bits on any number of workers",
    )
    parser.add_argument(
        "--hung",
        type=_minutes,
        default="30",
        metavar="MINUTES",
        help="without an autosave or a line in its log after which a ComfyUI is ended and its"
        " object goes on in a new one; default: 30",
    )
    parser.add_argument(
        "--scratch", metavar="FOLDER", help="for files on their way; default: the system's own"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check every job against the graph and start nothing"
    )
    parser.add_argument(
        "--retry", action="store_true", help="also make what was set aside by earlier calls"
    )
    parser.add_argument(
        "--dashboard", action="store_true", help="with Ray's own page, on 127.0.0.1:8265"
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}: 0 or more")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: 1 or more")
    return value


def _minutes(text: str) -> float:
    """In seconds."""
    return 60.0 * _positive(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


if __name__ == "__main__":
    sys.exit(main())

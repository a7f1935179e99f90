"""``python -m distill3d.gallery --checkpoint MODEL --out FOLDER``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from ..farm.errors import FarmError

USAGE, STOPPED, INCOMPLETE = 2, 130, 1  # exit codes


def main(words: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = _parser().parse_args(words)
    from .make import Settings, gallery  # here: the help needs none of it

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings(
        checkpoint=given.checkpoint,
        recipe=given.recipe,
        out=given.out,
        prompts=given.prompts,
        limit=given.limit,
        steps=given.steps,
        size=given.size,
        seed=given.seed,
        comfyui=given.comfyui,
        clip=given.clip,
        image_reward=given.image_reward,
    )
    try:
        failed = gallery(settings)
    except (FarmError, ValueError) as error:
        print(error, file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return STOPPED
    return INCOMPLETE if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m distill3d.gallery",
        description="Make the published prompts of DreamMapping and Consistent3D with a model of"
        " yours: turntables, splats, times, memory and scores on one page of HTML. Stopped, the"
        " same command goes on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="MODEL",
        help="a folder in diffusers format; with --comfyui also a .safetensors file; toybox: the"
        " embedded prior",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FOLDER", help="where page and objects go"
    )
    parser.add_argument(
        "--recipe",
        default="",
        metavar="GRAPH",
        help="a workflow in API form, or the name of a shipped one; default: dreammapping_sd, of"
        " the embedded prior quickstart",
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="these instead, a prompt a line"
    )
    parser.add_argument("--limit", type=_count, default=0, metavar="N", help="the first N prompts")
    parser.add_argument(
        "--steps", type=_count, default=0, metavar="N", help="of every stage, for a trial"
    )
    parser.add_argument(
        "--size", type=_count, default=0, metavar="PIXELS", help="of the training renders"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every object")
    parser.add_argument(
        "--comfyui",
        type=Path,
        metavar="FOLDER",
        help="make the objects in a ComfyUI, which any recipe and checkpoint files need",
    )
    parser.add_argument(
        "--clip", type=Path, metavar="FOLDER", help="CLIP in transformers format: CLIP score"
    )
    parser.add_argument(
        "--image-reward",
        type=Path,
        metavar="FILE",
        help="ImageReward.pt, whose package is image-reward: its score",
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())

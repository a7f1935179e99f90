"""Writes a checkpoint of Stable Diffusion 2's true sizes with random weights, 2.6 GB.

    python tests/gpu/large_file.py COMFYUI FILE

A process of its own: in a server with dynamic VRAM, networks have no weights before a file is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

TRUE_WIDTHS = [1, 2, 4, 4]


def main(tree: str, file: str) -> None:
    sys.path[:0] = [tree, str(Path(__file__).resolve().parents[1] / "comfyui" / "probe")]
    from comfy.cli_args import args

    args.cpu = True
    import comfy.sd

    import models

    models.WHOLE["sd20"]["channel_mult"] = TRUE_WIDTHS
    denoiser, clip, vae = models.made("sd20v", 4, 4, whole=True, colors="")
    part = Path(file).with_suffix(".part")
    comfy.sd.save_checkpoint(str(part), denoiser, clip, vae)
    part.rename(file)


if __name__ == "__main__":
    main(*sys.argv[1:])

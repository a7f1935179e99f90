"""Makes the files beside it anew: what PlayCanvas' splat-transform reads in our files, and what it
writes itself.

    npm install --no-save @playcanvas/splat-transform && .venv/bin/python
    tests/unit/splat_transform/make.py

Made with splat-transform 2.7.1 (MIT), which uses Adobe's build of Niantic's own SPZ library.
`test_splat_transform.py` holds our readers and writers against them.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import torch

from distill3d.kernels.files.formats import FORMATS
from distill3d.kernels.gaussians.cloud import Gaussians

HERE = Path(__file__).resolve().parent
PROGRAM = HERE.parents[2] / "node_modules" / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
# of those it reads, the ones where something could be misunderstood
OURS = ("compressed ply", "splat", "spz")
THEIRS = ("compressed.ply", "spz", "glb")


def cloud() -> Gaussians:
    """Forty long, thin, half transparent Gaussians of all colours, without any symmetry; the same
    on every machine.
    """
    steps = torch.arange(40 * 59, dtype=torch.float64).reshape(40, 59)
    # 0..1, of ten bits
    value = (torch.frac(0.5 + steps * 0.6180339887498949) * 1024).round().float() / 1024
    sh = torch.cat([(value[:, 11:14] - 0.5) * 2.5, (value[:, 14:59] - 0.5) * 0.75], 1)
    return Gaussians(
        means=value[:, 0:3] * torch.tensor([1.0, 2.0, 0.5]) - torch.tensor([0.25, 0.5, 0.375]),
        log_scales=value[:, 3:6] + torch.tensor([-1.5, -3.0, -4.5]),
        quats=torch.nn.functional.normalize(value[:, 6:10] - 0.5, dim=-1),
        opacity_logits=value[:, 10] * 6 - 3,
        sh=sh.reshape(40, 16, 3),
    )


def convert(source: Path, target: Path) -> None:
    """Let splat-transform convert a file; the kinds are told by the names."""
    node = shutil.which("node")
    assert node and PROGRAM.is_file(), f"needs node and {PROGRAM}"
    subprocess.run(
        [node, str(PROGRAM), "-q", "-w", str(source), str(target)], check=True, capture_output=True
    )


def main() -> None:
    ply = HERE / "ours.ply"
    FORMATS["ply"].save(cloud(), ply)
    for suffix in THEIRS:
        convert(ply, HERE / f"theirs.{suffix}")
    ply.unlink()
    for format in OURS:
        path = HERE / f"ours.{FORMATS[format].extension}"
        FORMATS[format].save(cloud(), path)
        convert(path, HERE / f"{path.name}.as_read.ply")


if __name__ == "__main__":
    main()

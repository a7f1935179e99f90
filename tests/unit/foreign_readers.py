"""Other people's readers of splat files, each as a function from a file to a cloud of ours; and the
table of what they make of ours, docs/results/formats.md.

    npm install --no-save @playcanvas/splat-transform@3.7.0   (in the repository's root)
    .venv/bin/python tests/unit/foreign_readers.py            (writes the table)

Every picture is ours: the reader's numbers, written by itself as a plain PLY or handed over as
arrays, are drawn by our renderer and compared with the cloud that was saved.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from distill3d.kernels.cameras.pinhole import turntable
from distill3d.kernels.files.formats import FORMATS, load_gaussians
from distill3d.kernels.files.frame import from_file_frame, mirrored
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.rasterize import render

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "node_modules" / "@playcanvas" / "splat-transform"
PAGE = ROOT / "docs" / "results" / "formats.md"
MARK = "<!-- table foreign readers -->", "<!-- end -->"


def cloud(degree: int = 3, count: int = 120) -> Gaussians:
    """Large, thin, half transparent Gaussians of all colours that no turn brings onto themselves."""
    g = torch.Generator().manual_seed(0)
    size = torch.tensor([1.0] + [0.25] * ((degree + 1) ** 2 - 1))[:, None]
    return Gaussians(
        means=torch.rand(count, 3, generator=g) ** torch.tensor([2.0, 0.5, 0.7]) - 0.5,
        log_scales=torch.tensor([0.12, 0.05, 0.02]).log()
        + 0.2 * torch.randn(count, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        opacity_logits=torch.randn(count, generator=g),
        sh=(torch.randn(count, (degree + 1) ** 2, 3, generator=g) * size).clamp(-0.9, 0.9),
    )


def splat_transform(path: Path) -> Gaussians:
    """PlayCanvas' own tool."""
    target = path.with_name("read.ply")
    command = [shutil.which("node"), PACKAGE / "bin" / "cli.mjs", "-q", "-w", "-g", "cpu"]
    subprocess.run([*map(str, [*command, path, target])], check=True, capture_output=True)
    return load_gaussians(target)


def gaussforge(path: Path) -> Gaussians:
    import gaussforge

    kind = "compressed.ply" if path.name.endswith(".compressed.ply") else path.suffix[1:]
    told = gaussforge.GaussForge().convert(path.read_bytes(), kind, "ply")
    assert "error" not in told, told
    target = path.with_name("read.ply")
    target.write_bytes(told["data"])
    return load_gaussians(target)


def gsply(path: Path) -> Gaussians:
    import gsply

    data = gsply.read_spz(path) if path.suffix == ".spz" else gsply.plyread(path)
    parts = (torch.as_tensor(np.ascontiguousarray(value)) for value in (
        data.means, data.scales, data.quats, data.opacities, data.sh0, data.shN
    ))  # fmt: skip
    means, scales, quats, opacities, sh0, rest = parts
    sh = torch.cat([sh0[:, None], rest.reshape(len(means), -1, 3)], 1)
    return from_file_frame(Gaussians(means, scales, quats, opacities.flatten(), sh))


def usd_core(path: Path) -> Gaussians:
    """By the schema's own accessors."""
    from pxr import Usd, UsdVol

    stage = Usd.Stage.Open(str(path))
    (prim,) = (p for p in stage.Traverse() if p.IsA(UsdVol.ParticleField3DGaussianSplat))
    field = UsdVol.ParticleField3DGaussianSplat(prim)
    quats = [[q.GetReal(), *q.GetImaginary()] for q in field.GetOrientationsAttr().Get()]
    sh = np.array(field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get(), np.float32)
    means = np.array(field.GetPositionsAttr().Get(), np.float32)
    return Gaussians(
        torch.from_numpy(means),
        torch.from_numpy(np.array(field.GetScalesAttr().Get(), np.float32)).log(),
        torch.tensor(quats, dtype=torch.float32),
        torch.from_numpy(np.array(field.GetOpacitiesAttr().Get(), np.float32)).logit(),
        torch.from_numpy(sh.reshape(len(means), -1, 3)),
    )


READERS: dict[str, tuple[Callable[[Path], Gaussians], tuple[str, ...]]] = {
    "splat-transform": (
        splat_transform,
        ("ply", "compressed ply", "splat", "spz", "spz 2", "spz 4", "sog", "sog folder"),
    ),
    "gaussforge": (
        gaussforge,
        ("ply", "compressed ply", "splat", "spz", "spz 2", "spz 4", "sog"),
    ),
    "gsply": (gsply, ("ply", "compressed ply", "spz", "spz 2", "spz 4")),
    "usd-core": (usd_core, ("usdz", "usdc", "usda")),
}


def version_of(reader: str) -> str:
    """Of the installed one; raises where it is not there."""
    if reader == "splat-transform":
        return str(json.loads((PACKAGE / "package.json").read_text())["version"])
    return version(reader)


def decibels(one: Gaussians, two: Gaussians) -> float:
    """PSNR of pictures from four sides."""
    with torch.no_grad():
        cameras = turntable(4, size=64, elevation=20.0)
        pictures = [render(c, cameras, 0.5).color.clamp(0, 1) for c in (one, two)]
    return -10 * float((pictures[0] - pictures[1]).square().mean().clamp_min(1e-9).log10())


def compared(reader: str, format: str, folder: Path) -> dict[str, float | bool]:
    """How the reader's cloud looks beside ours: ``psnr`` dB, with ``harmonics`` or without, and
    whether no turn of it would look better.
    """
    kept = cloud(0 if format == "splat" else 3)
    path = folder / f"a.{FORMATS[format].extension}"
    FORMATS[format].save(kept, path)
    theirs = READERS[reader][0](path)
    found = decibels(kept, theirs)
    turns = ((1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    turned = max(decibels(kept, mirrored(theirs, *signs)) for signs in turns)
    harmonics = theirs.sh_degree == kept.sh_degree and format != "splat"
    return {"psnr": found, "upright": found > turned, "harmonics": harmonics}


def table(readers: list[str], folder: Path) -> str:
    names = [f"{reader} {version_of(reader)}" for reader in readers]
    lines = [f"| Format | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for format in FORMATS:
        cells = []
        for reader in readers:
            if format not in READERS[reader][1]:
                cells.append("")
                continue
            told = compared(reader, format, folder)
            worse = "" if told["upright"] else " (turned)"
            worse += "" if told["harmonics"] or format == "splat" else " (no harmonics)"
            cells.append(f"{min(told['psnr'], 90):.0f}{worse}")
        if any(cells):
            lines.append(f"| {format} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    text = PAGE.read_text("utf-8")
    before, after = text.partition(MARK[0])[0], text.partition(MARK[1])[2]
    with tempfile.TemporaryDirectory() as folder:
        made = table(list(READERS), Path(folder))
    PAGE.write_text(f"{before}{MARK[0]}\n\n{made}\n\n{MARK[1]}{after}", "utf-8")


if __name__ == "__main__":
    main()

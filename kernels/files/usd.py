"""What splats and meshes share of OpenUSD: the package, stages in memory, files that appear whole.

The package usd-core (26.3 or later) does the work. Files say that Y is up and a unit is a metre.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .atomic import atomic_write

SUFFIXES = (".usda", ".usdc", ".usdz")
DATE = 473_385_600  # seconds, 1985: the same content gives the same archive
NEEDED = "OpenUSD needs the package usd-core, 26.3 or later: python -m pip install 'usd-core>=26.3'"


def usd(name: str) -> Any:
    """The package pxr with what is used of it. Raises ValueError naming the cure where it is
    missing.
    """
    try:
        import pxr
        from pxr import Sdf, Usd, UsdGeom, UsdShade, UsdVol  # noqa: F401

        assert hasattr(UsdVol, "ParticleField3DGaussianSplat")
    except (ImportError, AssertionError):
        raise ValueError(f"{name}: {NEEDED}. Or use another format.") from None
    return pxr


def new_stage(pxr: Any, root: str) -> Any:
    """An empty stage in memory, Y up, a unit a metre, its default prim an Xform of that name."""
    stage = pxr.Usd.Stage.CreateInMemory()
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
    pxr.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetMetadata("comment", "Distill3D")
    stage.SetDefaultPrim(pxr.UsdGeom.Xform.Define(stage, f"/{root}").GetPrim())
    return stage


def write_stage(
    pxr: Any, stage: Any, path: str | os.PathLike[str], beside: Mapping[str, bytes] | None = None
) -> None:
    """Write it in the kind of the path's suffix; atomic. A .usdz takes the files ``beside`` along.

    Raises ValueError for another suffix or a missing folder, OSError if the disk refuses.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}; choose one of them.")
    with atomic_write(path) as file, tempfile.TemporaryDirectory() as folder:
        try:
            layer = Path(folder) / ("scene.usdc" if suffix == ".usdz" else f"scene{suffix}")
            whole = layer
            done = bool(stage.GetRootLayer().Export(str(layer)))
            if suffix == ".usdz":
                whole = Path(folder) / "whole.usdz"
                # it moved from Usd to Sdf
                writer = getattr(pxr.Sdf, "ZipFileWriter", None) or pxr.Usd.ZipFileWriter
                writer = writer.CreateNew(str(whole))
                os.utime(layer, (DATE, DATE))
                writer.AddFile(str(layer), "scene.usdc")  # the first is the scene
                for name, data in (beside or {}).items():
                    (Path(folder) / name).write_bytes(data)
                    os.utime(Path(folder) / name, (DATE, DATE))
                    writer.AddFile(str(Path(folder) / name), name)
                done = bool(writer.Save()) and done
        except pxr.Tf.ErrorException as error:
            raise OSError(f"{path} could not be written: {error}") from None
        if not done:
            raise OSError(f"{path} could not be written; is the disk full?")
        with open(whole, "rb") as source:
            while piece := source.read(1 << 20):
                file.write(piece)


@contextmanager
def opened(pxr: Any, path: str | os.PathLike[str]) -> Iterator[Any]:
    """The file as a stage; what the package raises in the block for damaged files becomes a
    ValueError naming the file. Raises it too for a file that names others, which could lie anywhere.
    """
    name = Path(path).name
    damaged = ValueError(f"{name} is no USD, or a damaged one. Copy or export the file again.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            layer = pxr.Sdf.Layer.OpenAsAnonymous(str(_scene(Path(path), Path(folder), damaged)))
            others = layer.GetCompositionAssetDependencies() if layer else []
            if others:
                raise ValueError(
                    f"{name} takes {str(others[0])[:80]!r} in, which is not read. Flatten it first"
                    " (usdcat --flatten)."
                )
            stage = layer and pxr.Usd.Stage.Open(layer)
            if not stage:
                raise damaged
            yield stage
        except (pxr.Tf.ErrorException, UnicodeDecodeError):
            raise damaged from None
        except RuntimeError as error:
            if "C++ exception" not in str(error):  # what the package does not translate
                raise
            raise damaged from None


def _scene(path: Path, folder: Path, damaged: ValueError) -> Path:
    """The file, or the scene of a .usdz, which is its first: taken out here, because the package's
    own reader ends the process for some damaged archives.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return path
        try:
            with zipfile.ZipFile(file) as archive:
                info = archive.infolist()[0]
                kind = Path(info.filename).suffix.lower()
                stored = info.compress_type == zipfile.ZIP_STORED
                if kind not in (".usd", *SUFFIXES[:2]) or not stored:
                    raise damaged
                scene = folder / f"scene{kind}"
                with archive.open(info) as source, open(scene, "xb") as target:
                    shutil.copyfileobj(source, target)
                return scene
        except (zipfile.BadZipFile, IndexError, OSError, EOFError, RuntimeError, ValueError):
            raise damaged from None

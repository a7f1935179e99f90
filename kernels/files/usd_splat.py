"""Gaussian clouds as OpenUSD's ParticleField3DGaussianSplat (usdVol, since 26.3): .usda, .usdc and
.usdz.

positions, orientations (quaternions, real part first), scales and opacities linear, all harmonics
of a Gaussian one after the other, degree and extent. Y up as our world, everything float32, nothing
lost. A file that says Z up is turned; transforms of its nodes are applied.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..gaussians.cloud import Gaussians
from .assembly import Array, Rows, arrays, assemble
from .frame import placed
from .usd import new_stage, opened, usd, write_stage

SPLAT = "ParticleField3DGaussianSplat"
REACH = 3.0  # standard deviations that the extent counts
# what is up in the file, to Y
Z_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


def save_usd(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as OpenUSD in the kind of the path's suffix; atomic.

    Raises ValueError if the cloud is empty or holds NaNs, the folder does not exist or usd-core is
    missing; OSError if the disk refuses.
    """
    pxr = usd("gaussians")
    cloud = arrays(gaussians, turned=False)
    stage = new_stage(pxr, "Object")
    field = pxr.UsdVol.ParticleField3DGaussianSplat.Define(stage, "/Object/Splat")
    scales = np.exp(cloud["log_scales"])
    far = REACH * scales.max(1, keepdims=True)
    box = np.stack([(cloud["means"] - far).min(0), (cloud["means"] + far).max(0)])
    vectors = pxr.Vt.Vec3fArray.FromNumpy
    field.CreateExtentAttr(vectors(box))
    field.CreatePositionsAttr(vectors(cloud["means"]))
    field.CreateScalesAttr(vectors(scales))
    # in memory the real part comes last
    turns = np.ascontiguousarray(cloud["quats"][:, [1, 2, 3, 0]])
    field.CreateOrientationsAttr(pxr.Vt.QuatfArray.FromBuffer(turns))
    opacities = torch.from_numpy(cloud["opacity_logits"]).sigmoid().numpy()
    field.CreateOpacitiesAttr(pxr.Vt.FloatArray.FromNumpy(opacities))
    field.CreateRadianceSphericalHarmonicsDegreeAttr(gaussians.sh_degree)
    harmonics = field.CreateRadianceSphericalHarmonicsCoefficientsAttr()
    harmonics.Set(vectors(np.ascontiguousarray(cloud["sh"].reshape(-1, 3))))
    harmonics.SetMetadata("elementSize", cloud["sh"].shape[1])
    harmonics.SetMetadata("interpolation", "vertex")
    write_stage(pxr, stage, path)


def load_usd(path: str | os.PathLike[str], as_it_stands: bool = False) -> Gaussians:
    """Read all splats of a USD file, where its nodes place them; SH degree 0 to 3, the greatest of
    its splats'. ``as_it_stands``: not turned, whichever axis the file says is up.

    Raises ValueError saying what is wrong with the file and what to do: no splat in it, other files
    named, damaged, placed askew, or usd-core missing.
    """
    name = Path(path).name
    pxr = usd(name)
    with opened(pxr, path) as stage:
        clouds = _clouds(pxr, stage, name, as_it_stands)
    if len(clouds) == 1:
        return clouds[0]
    terms = max(cloud.sh.shape[1] for cloud in clouds)
    whole = [cloud.tensors() for cloud in clouds]
    for part in whole:
        missing = terms - part["sh"].shape[1]
        part["sh"] = torch.nn.functional.pad(part["sh"], (0, 0, 0, missing))
    return Gaussians(**{key: torch.cat([part[key] for part in whole]) for key in whole[0]})


def _clouds(pxr: Any, stage: Any, name: str, as_it_stands: bool) -> list[Gaussians]:
    lies = pxr.UsdGeom.GetStageUpAxis(stage) == pxr.UsdGeom.Tokens.z
    up = Z_UP if lies and not as_it_stands else np.eye(4)
    prims = [prim for prim in stage.Traverse() if prim.GetTypeName() == SPLAT]
    if not prims:
        raise ValueError(
            f"{name} holds no Gaussian splats ({SPLAT}); it may be a mesh. Choose a splat."
        )
    places = pxr.UsdGeom.XformCache()
    return [
        placed(_cloud(prim, name), up @ np.array(places.GetLocalToWorldTransform(prim)).T, name)
        for prim in prims
    ]


def _cloud(prim: Any, name: str) -> Gaussians:
    def values(key: str, width: int) -> Array:
        """[n,width] float32, of the attribute or of its half-precision twin."""
        for attribute in (prim.GetAttribute(key), prim.GetAttribute(f"{key}h")):
            found = attribute.Get() if attribute else None
            if found is None and attribute and attribute.GetNumTimeSamples():
                found = attribute.Get(attribute.GetTimeSamples()[0])
            if found is not None and len(found):
                flat = np.asarray(found, np.float32).reshape(len(found), -1)
                if flat.shape[1] == width:
                    return flat
        raise ValueError(f"{name} is no whole splat: {key} is missing or empty. Export it again.")

    means = values("positions", 3)
    count = len(means)
    degree = prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get()
    sh = values("radiance:sphericalHarmonicsCoefficients", 3)
    if not isinstance(degree, int) or not 0 <= degree <= 4 or len(sh) != count * (degree + 1) ** 2:
        raise ValueError(
            f"{name} holds {len(sh)} harmonics for {count} Gaussians of degree {degree};"
            " (degree + 1)² each are needed. Export it again."
        )
    sh = sh.reshape(count, -1, 3)[:, :16]
    scales, opacities = values("scales", 3), values("opacities", 1)[:, 0]
    quats = values("orientations", 4)[:, [3, 0, 1, 2]]
    lengths = {"scales": len(scales), "opacities": len(opacities), "orientations": len(quats)}
    for key, length in lengths.items():
        if length != count:
            raise ValueError(f"{name} holds {length} {key} for {count} positions. Export it again.")

    def decode(start: int, stop: int) -> Rows:
        part = slice(start, stop)
        return Rows(
            means=means[part],
            quats=quats[part],
            dc=sh[part, 0],
            rest=sh[part, 1:] if degree else None,
            scales=scales[part],
            opacities=opacities[part],
        )

    return assemble(count, sh.shape[1], decode, name, turned=False)

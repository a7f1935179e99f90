"""The turn between our world (Y up, front +Z) and the frame of splat files (COLMAP and 3DGS: Y
down, front -Z).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..gaussians.cloud import Gaussians
from ..gaussians.sh import sh_basis
from ..meshes.placing import fitting, upright

# Both frames are right-handed, so the turn is half a revolution about X: (x, y, z) -> (x, -y, -z),
# its own inverse. Every real spherical harmonic is even or odd along each axis, so mirroring only
# changes signs. These are the axes that each is odd in; order as in 3DGS, degrees 0 to 3.
SH_ODD = ("", "y", "z", "x", "xy", "yz", "", "xz", "", "y", "xyz", "y", "z", "x", "z", "x")
# what the turn does
SH_SIGNS = tuple((-1) ** (term.count("y") + term.count("z")) for term in SH_ODD)
FAINT = 0.05  # opacity; what is fainter does not count for a cloud's size


def to_file_frame(gaussians: Gaussians) -> Gaussians:
    """The cloud as splat files and ComfyUI's SPLAT hold it; the training state is dropped."""
    w, x, y, z = gaussians.quats.unbind(-1)
    return _turned(gaussians, torch.stack([-x, w, -z, y], -1))  # the quaternion i times q


def from_file_frame(gaussians: Gaussians) -> Gaussians:
    """The inverse of `to_file_frame`, exact to the bit."""
    w, x, y, z = gaussians.quats.unbind(-1)
    return _turned(gaussians, torch.stack([x, -w, z, -y], -1))  # -i times q


def _turned(gaussians: Gaussians, quats: Tensor) -> Gaussians:
    signs = torch.tensor([1, -1, -1])
    return replace(
        gaussians,
        means=gaussians.means * signs.to(gaussians.means),
        quats=quats,
        sh=_flipped(gaussians.sh, *signs.tolist()),
        training=None,
    )


def _flipped(sh: Tensor, x: int, y: int, z: int) -> Tensor:
    """Coefficients [N,K,3] after those axes whose sign is -1 were turned round."""
    odd = {"x": x, "y": y, "z": z}
    signs = torch.tensor([math.prod(odd[axis] for axis in term) for term in SH_ODD[: sh.shape[1]]])
    return sh * signs.to(sh)[:, None]


def mirrored(gaussians: Gaussians, x: int, y: int, z: int) -> Gaussians:
    """The cloud with those axes turned round whose sign is -1; the other hand is no matter to an
    ellipsoid.
    """
    return replace(
        gaussians,
        means=gaussians.means * torch.tensor([x, y, z]).to(gaussians.means),
        # of S R S
        quats=gaussians.quats * torch.tensor([1, y * z, x * z, x * y]).to(gaussians.quats),
        sh=_flipped(gaussians.sh, x, y, z),
        training=None,
    )


def placed(gaussians: Gaussians, matrix: np.ndarray, name: str = "gaussians") -> Gaussians:
    """The cloud moved by ``matrix`` [4,4]: a rotation, one scale for all axes and a shift;
    harmonics turn along.

    Raises ValueError for matrices that shear, mirror or stretch, which Gaussians and harmonics
    cannot follow.
    """
    if np.array_equal(matrix, np.eye(4)):
        return gaussians
    linear = matrix[:3, :3]
    with np.errstate(all="ignore"):
        size = float(np.cbrt(np.linalg.det(linear)))
        turn = linear / size
        sound = (
            1e-9 < size < 1e9
            and np.allclose(turn @ turn.T, np.eye(3), atol=1e-4)
            and abs(matrix[:3, 3]).max() < 1e9
        )
    if not sound:
        raise ValueError(
            f"{name} is placed by a matrix that stretches, shears or mirrors; Gaussians only follow"
            " rotations and even scales. Apply the transform before exporting."
        )
    rotation = torch.from_numpy(turn)
    harmonics = _harmonic_rotation(rotation, gaussians.sh_degree).to(gaussians.sh)
    quats = _product(_quaternion(turn).to(gaussians.quats), gaussians.quats)
    moved = replace(
        gaussians,
        means=(gaussians.means.double() @ rotation.T * size + torch.from_numpy(matrix[:3, 3])).to(
            gaussians.means
        ),
        log_scales=gaussians.log_scales + float(np.log(size)),
        quats=quats,
        sh=torch.einsum("jk,nkc->njc", harmonics, gaussians.sh),
        training=None,
    )
    return moved.check(name)


def settled(gaussians: Gaussians, size: float | None = None, turn: float = 0.0) -> Gaussians:
    """The cloud turned about Y by ``turn`` degrees of azimuth; with a ``size`` also moved and
    scaled, so that the longest side of the box around the middles of all that can be seen is that
    many world units around the origin.

    Training state and anchors are dropped, unless there is nothing to do.
    """
    matrix = np.eye(4)
    if turn:
        matrix[:3, :3] = upright(torch.eye(3, dtype=torch.float64), turn=turn).T.numpy()
    if size is not None:
        visible = gaussians.opacities > min(FAINT, 0.5 * float(gaussians.opacities.max()))
        turned = gaussians.means[visible].double().cpu() @ torch.from_numpy(matrix[:3, :3]).T
        middle, factor = fitting(turned, size)
        matrix[:3, :3] *= factor
        matrix[:3, 3] = -factor * middle.numpy()
    return placed(gaussians, matrix)


def _harmonic_rotation(rotation: Tensor, degree: int) -> Tensor:
    """[K,K] float64: coefficients in the turned frame from those before; solved for over many
    directions.
    """
    directions = torch.nn.functional.normalize(
        torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).double(), dim=1
    )
    # The colour towards R d afterwards is that towards d before: Y(R d) new = Y(d) old.
    before, after = sh_basis(directions, degree), sh_basis(directions @ rotation.T, degree)
    solution: Tensor = torch.linalg.lstsq(after, before).solution
    return solution


def _quaternion(turn: np.ndarray) -> Tensor:
    """wxyz of a rotation matrix: the eigenvector of Bar-Itzhack's symmetric matrix, sound for every
    angle.
    """
    (a, b, c), (d, e, f), (g, h, i) = turn.tolist()
    matrix = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    return torch.from_numpy(np.linalg.eigh(matrix)[1][:, -1].copy())


def _product(p: Tensor, q: Tensor) -> Tensor:
    """Quaternions p [4] times q [N,4]: first q, then p."""
    (w, x, y, z), (s, i, j, k) = p.unbind(-1), q.unbind(-1)
    parts = [w * s - x * i - y * j - z * k, w * i + x * s + y * k - z * j]
    parts += [w * j - x * k + y * s + z * i, w * k + x * j - y * i + z * s]
    return torch.stack(parts, -1)

"""ComfyUI's LOAD3D_CAMERA, of which a list is several views, as our cameras and back.

Its world is ours (right-handed, Y up); a camera looks down its own -Z with Y up (three.js). A
dictionary has position and target, xyz each, zoom and cameraType, and may have quaternion (xyzw,
the camera's rotation in the world) and fov, vertical in degrees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .pinhole import Cameras, checked_size, orbit

FOV = 35.0  # degrees, where a camera does not say; ComfyUI's own
LIMIT = 10_000  # cameras
Infos = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def from_load3d(infos: Infos, size: int | tuple[int, int]) -> Cameras:
    """The cameras [V] of one dictionary or a list of them, pictures of ``size`` pixels.

    Without a quaternion a camera looks at its target, upright. Angles and distances are those from
    the target. Raises ValueError naming the camera and what is wrong with it.
    """
    listed = [infos] if isinstance(infos, Mapping) else list(infos)
    if not 0 < len(listed) <= LIMIT:
        raise ValueError(f"cameras holds {len(listed)} cameras; 1 to {LIMIT} are read.")
    width, height = checked_size(size)
    viewmats, intrinsics, angles = [], [], []
    for number, info in enumerate(listed):
        name = f"cameras[{number}]"
        if not isinstance(info, Mapping):
            raise ValueError(f"{name} is {type(info).__name__}; a LOAD3D_CAMERA is needed.")
        if str(info.get("cameraType", "perspective")).lower().startswith("ortho"):
            raise ValueError(f"{name} is orthographic, which is not rendered; choose perspective.")
        place, target = (_vector(info, key, "xyz", name) for key in ("position", "target"))
        away = place - target
        distance = float(away.norm())
        if info.get("quaternion"):
            axes = _axes(_vector(info, "quaternion", "xyzw", name), name)
        elif distance > 1e-9:
            axes = _upright(away / distance)
        else:
            raise ValueError(
                f"{name} stands at its target and has no quaternion; move one of them."
            )
        if distance <= 1e-9:
            away, distance = axes[:, 2], 1.0
        world_to_camera = torch.eye(4, dtype=torch.float64)
        world_to_camera[:3, :3] = (axes * torch.tensor([1.0, -1, -1])).T
        world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ place
        fov, zoom = _number(info, "fov", FOV, name), _number(info, "zoom", 1.0, name)
        if not (1 <= fov <= 170 and 1e-3 <= zoom <= 1e3):
            raise ValueError(f"{name} has fov {fov:g} and zoom {zoom:g}; 1..170 and 0.001..1000.")
        focal = 0.5 * height * zoom / math.tan(0.5 * math.radians(fov))
        viewmats.append(world_to_camera)
        intrinsics.append([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        x, y, z = (away / distance).tolist()
        up = math.degrees(math.asin(max(-1.0, min(1.0, y))))
        angles.append((math.degrees(math.atan2(x, z)), up, distance))
    azimuths, elevations, distances = torch.tensor(angles).T.contiguous()
    return Cameras(
        torch.stack(viewmats).float(), torch.tensor(intrinsics), width, height,
        azimuths, elevations, distances,
    )  # fmt: skip


def to_load3d(cameras: Cameras) -> list[dict[str, Any]]:
    """A dictionary for each camera; the target lies ahead of it, at its distance."""
    axes = cameras.viewmats[:, :3, :3].transpose(1, 2).double().cpu()
    places = cameras.positions.double().cpu()
    targets = places + axes[:, :, 2] * cameras.distances.double().cpu()[:, None]
    focals = cameras.intrinsics[:, 1, 1].double().cpu()
    fovs = torch.rad2deg(2 * torch.atan(0.5 * cameras.height / focals))
    quats = _quaternions(axes * torch.tensor([1.0, -1, -1]))
    return [
        {
            "position": dict(zip("xyz", place.tolist(), strict=True)),
            "target": dict(zip("xyz", target.tolist(), strict=True)),
            "zoom": 1.0,
            "cameraType": "perspective",
            "quaternion": dict(zip("xyzw", quat.tolist(), strict=True)),
            "fov": float(fov),
            "aspect": cameras.width / cameras.height,
        }
        for place, target, quat, fov in zip(places, targets, quats, fovs, strict=True)
    ]


@dataclass(frozen=True)
class ListedSampler:
    """Training cameras from a list, every batch a random choice, each once before any comes twice.

    Args:
        infos: LOAD3D_CAMERA dictionaries
    """

    infos: tuple[Any, ...]

    @property
    def usual_look(self) -> tuple[float, float]:
        """Distance, world units, and vertical field of view, degrees, of the one in the middle."""
        cameras = from_load3d(self.infos, 64)
        focal = float(cameras.intrinsics[:, 1, 1].median())
        return float(cameras.distances.median()), math.degrees(2 * math.atan(32 / focal))

    def at(self, step: int) -> ListedSampler:
        """The same at any step."""
        return self

    def check(self, views_per_group: int = 1) -> None:
        """Raises ValueError for cameras that cannot be read, and where views come ``views_per_group``."""
        from_load3d(self.infos, 64)
        if views_per_group > 1:
            raise ValueError(
                f"cameras: this prior needs {views_per_group} views at equal steps around the object, which"
                " a list of cameras does not give. Remove the link to Orbit Cameras' cameras."
            )

    def sample(
        self,
        count: int,
        size: int | tuple[int, int],
        generator: torch.Generator,
        device: torch.device | str | None = None,
        views_per_group: int = 1,
    ) -> Cameras:
        """``count`` of the cameras, at random."""
        self.check(views_per_group)
        device = generator.device if device is None else device
        total = len(self.infos)
        chosen: list[int] = []
        while len(chosen) < count:
            order = torch.rand(total, generator=generator, device=generator.device).argsort()
            chosen += order.tolist()
        return from_load3d([self.infos[i] for i in chosen[:count]], size).to(device)

    def from_angles(
        self, azimuths: Tensor | float, elevations: Tensor | float, size: int | tuple[int, int]
    ) -> Cameras:
        """Cameras at these angles (degrees), at the usual distance and field of view."""
        return orbit(azimuths, elevations, *self.usual_look, size)


def _vector(info: Mapping[str, Any], key: str, axes: str, name: str) -> Tensor:
    given = info.get(key)
    values = [given.get(axis) if isinstance(given, Mapping) else None for axis in axes]
    try:
        found = torch.tensor([float(value) for value in values], dtype=torch.float64)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"{name} has no whole {key} ({', '.join(axes)}).") from None
    if not bool(torch.isfinite(found).all()) or float(found.abs().max()) > 1e6:
        raise ValueError(f"{name}.{key} is {found.tolist()}; numbers within 1e6 are needed.")
    return found


def _number(info: Mapping[str, Any], key: str, default: float, name: str) -> float:
    value = info.get(key) or default
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}.{key} is {value!r}; a number is needed.")
    return float(value)


def _axes(quat: Tensor, name: str) -> Tensor:
    """[3,3] the camera's own axes in the world, as columns."""
    if float(quat.norm()) < 1e-9:
        raise ValueError(f"{name}.quaternion is 0; a rotation is needed.")
    x, y, z, w = (quat / quat.norm()).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def _upright(back: Tensor) -> Tensor:
    """The same for a camera that looks along -``back`` with the world's Y up, Z where that is
    back.
    """
    up = torch.tensor([0.0, 1, 0] if abs(float(back[1])) < 0.999 else [0.0, 0, 1]).double()
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=0)
    return torch.stack([right, torch.linalg.cross(back, right), back], 1)


def _quaternions(axes: Tensor) -> Tensor:
    """[V,4] xyzw of rotations [V,3,3]: of the four ways the one that divides by the largest part."""
    m = axes.reshape(-1, 9)
    a, b, c, d, e, f, g, h, i = m.unbind(1)
    ways = torch.stack(
        [
            torch.stack([1 + a - e - i, b + d, c + g, h - f], 1),
            torch.stack([b + d, 1 - a + e - i, f + h, c - g], 1),
            torch.stack([c + g, f + h, 1 - a - e + i, d - b], 1),
            torch.stack([h - f, c - g, d - b, 1 + a + e + i], 1),
        ],
        1,
    )
    best = ways.diagonal(dim1=1, dim2=2).argmax(1)
    return torch.nn.functional.normalize(ways[torch.arange(len(m)), best], dim=1)

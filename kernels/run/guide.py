"""What the pictures of `References` ask of the renders of one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..devices.streams import send
from .adam import adam
from .aligned import PARTS, moved, traced
from .palette import palette_distance, palette_of
from .references import References, ssim
from .subject import RenderedViews, Subject

CAMERA_RATE = 0.03  # of the free numbers of `Bounds`: end to end of the bounds in about 70 steps
# Shares of the schedule. Words alone make the object that cameras are found by: one made from a
# picture fits its camera however wrong that is.
CAMERAS_FROM = 0.1
PICTURES_FROM, PICTURES_WHOLE = 0.3, 0.4
SLACK = 0.03  # share of the distance by which depths may differ and still be one surface
SOLID = 0.5  # alpha from which a pixel shows a surface


class Guide:
    """The pictures of a run, on its device and at its size. What it learns lies outside, in a
    dictionary that the run's state carries."""

    def __init__(self, references: References, size: int, device: torch.device) -> None:
        self.identity = references.identity
        own = references.square(size)
        masks = None if own.masks is None else own.masks.detach().to(device, torch.float32)
        self.own, self.cameras = own, own.cameras.to(device, torch.float32)
        self.images, self.masks = own.images.detach().to(device, torch.float32), masks
        self.palette = None
        if masks is not None and own.palette > 0:
            self.palette = palette_of(self.images, masks)

    def start(self, carried: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where the cameras are, with moments; as ``carried`` says if it is of as many pictures."""
        names = ("offsets", "first", "second")
        shape = (len(self.own), PARTS)
        if all(name in carried and tuple(carried[name].shape) == shape for name in names):
            return {name: carried[name] for name in names}
        return {name: self.images.new_zeros(shape) for name in names}

    def chosen(self, step: int) -> list[int]:
        """The pictures of a step."""
        count = min(self.own.views, len(self.own))
        return [(step * count + place) % len(self.own) for place in range(count)]

    def look(
        self,
        subject: Subject[Any, Any],
        params: dict[str, Tensor],
        learned: Mapping[str, Tensor],
        step: int,
        share: float,
        generator: torch.Generator,
    ) -> Look:
        """The subject's renders from the cameras of this step's pictures, at ``share`` 0..1 of the
        schedule.
        """
        index = send(torch.tensor(self.chosen(step)), self.images.device)
        cameras, bounds = self.cameras[index], self.own.bounds
        backgrounds = send(torch.rand(len(index), 3, generator=generator), self.images.device)
        raw = learned["offsets"].detach().requires_grad_(bounds.free)
        offsets = bounds.offsets(raw)[index]
        here = moved(cameras, offsets) if bounds.free else cameras
        seen = subject.render(params, here, backgrounds, bounds.free or self.own.spare > 0)
        return Look(self, index, cameras, offsets, here, backgrounds, seen, raw, share)

    def elsewhere(
        self, seen: RenderedViews, backgrounds: Tensor, share: float
    ) -> dict[str, Tensor]:
        """Weighted terms by name of the loss's own views, on ``backgrounds`` [V,3]."""
        if self.palette is None:
            return {}
        weight = self.own.palette * (1 - self.own.fade * share)
        away = palette_distance(seen.color, seen.alpha, backgrounds, self.palette)
        return {"reference_palette": weight * away}

    def learned(
        self,
        before: Mapping[str, Tensor],
        gradient: Tensor | None,
        updates: Tensor,
        accept: Tensor,
        share: float,
    ) -> dict[str, Tensor]:
        """What `start` gave, a step of Adam later, at ``share`` 0..1 of the schedule."""
        if gradient is None:
            return dict(before)
        named = {key: {"offsets": value} for key, value in before.items()}
        params, first, second, _ = adam(
            named["offsets"],
            {"offsets": gradient},
            named["first"],
            named["second"],
            updates,
            {"offsets": CAMERA_RATE * (1 - share) if share >= CAMERAS_FROM else 0.0},
            accept,
        )
        return {
            "offsets": params["offsets"],
            "first": first["offsets"],
            "second": second["offsets"],
        }

    def places(self, learned: Mapping[str, Tensor]) -> Cameras:
        """Where all the pictures' cameras are now."""
        return moved(self.cameras, self.own.bounds.offsets(learned["offsets"]))


class Look:
    """Renders from the cameras of one step's pictures, and what follows from them."""

    def __init__(
        self,
        guide: Guide,
        index: Tensor,
        cameras: Cameras,
        offsets: Tensor,
        here: Cameras,
        backgrounds: Tensor,
        seen: RenderedViews,
        raw: Tensor,
        share: float,
    ) -> None:
        self.guide, self.here, self.seen, self.raw, self.share = guide, here, seen, raw, share
        self.backgrounds = backgrounds[:, None, None]
        self.images = guide.images[index]
        self.masks = None if guide.masks is None else guide.masks[index]
        layers = torch.cat([seen.color, seen.alpha], -1)
        if guide.own.bounds.free:
            ahead = 1 - (share - PICTURES_FROM) / (PICTURES_WHOLE - PICTURES_FROM)
            own = spared(layers, min(max(ahead, 0.0), 1.0))
            layers = traced(own, seen.alpha, seen.depth, cameras, offsets)
        self.color, self.alpha = layers[..., :3], layers[..., 3:]

    def terms(self) -> dict[str, Tensor]:
        """Weighted terms by name, scalars."""
        own = self.guide.own
        # as if all pictures were seen in every step
        weight = len(own) * (1 - own.fade * self.share)
        color, target = self.color, self._target()
        terms = {}
        if own.color:
            terms["reference_color"] = weight * own.color * (color - target).square().mean()
        if own.silhouette and self.masks is not None:
            outline = (self.alpha - self.masks).square().mean()
            terms["reference_silhouette"] = weight * own.silhouette * outline
        if own.structure:
            pair = (value.permute(0, 3, 1, 2) for value in (color, target))
            likeness = ssim()(*pair, data_range=1.0, size_average=True)
            terms["reference_structure"] = weight * own.structure * (1 - likeness)
        return terms

    def _target(self) -> Tensor:
        """The pictures on the renders' backgrounds, cut out by the masks or the renders' alpha."""
        alpha = self.seen.alpha.detach() if self.masks is None else self.masks
        return self.images * alpha + self.backgrounds * (1 - alpha)

    @torch.no_grad()
    def sees(self, points: Tensor) -> Tensor:
        """How much the pictures see of points [N,3] of the subject's surface, 0..1 [N]: of one that
        lies where their renders show a surface, inside the outline, as far as that faces them."""
        most = points.new_zeros(len(points))
        depth = torch.where(self.seen.alpha > SOLID, self.seen.depth, 0.0)[..., 0]
        facing = _facing(self.seen.depth[..., 0], self.here)
        outline = self.seen.alpha if self.masks is None else self.masks
        for place in range(len(self.here)):
            view = self.here.viewmats[place].to(points)
            x, y, z = (points @ view[:3, :3].T + view[:3, 3]).unbind(-1)
            z = z.clamp_min(1e-6)
            k = self.here.intrinsics[place].to(points)
            across = 2 * (x / z * k[0, 0] + k[0, 2]) / self.here.width - 1
            down = 2 * (y / z * k[1, 1] + k[1, 2]) / self.here.height - 1
            layers = torch.stack([depth[place], facing[place], outline[place, ..., 0]])
            near, cosine, inside = torch.nn.functional.grid_sample(
                layers[None], torch.stack([across, down], -1)[None, None], "nearest",
                align_corners=False,
            )[0, :, 0]  # fmt: skip
            # a pixel of a slope holds depths that differ by this
            within = near / k[0, 0] * (1 / cosine.square().clamp_min(1e-4) - 1).clamp_min(0).sqrt()
            visible = (z < near * (1 + SLACK) + within) & (near > 0)
            most = torch.maximum(most, visible * cosine * inside)
        return most

    def spare(self, subject: Subject[Any, Any], params: dict[str, Tensor]) -> dict[str, Tensor]:
        """The subject's ``params`` as the prior may move them: its say about colours is less where
        a picture sees them. The shape is for both to find: in a picture depth does not show."""
        share = self.guide.own.spare
        if not share:
            return params
        name, points = subject.painted(params)
        paint = params[name]
        seen = share * self.sees(points.detach())
        shape = (*paint.shape[:-1], 1) if seen.numel() == paint.shape[:-1].numel() else (-1, 1, 1)
        return {**params, name: spared(paint, seen.view(shape))}


def spared(value: Tensor, share: Tensor | float) -> Tensor:
    """``value`` as it is, of whose gradient ``share`` 0..1 is withheld."""
    return value + share * (value.detach() - value)


def _facing(depth: Tensor, cameras: Cameras) -> Tensor:
    """The cosine [V,H,W] between each pixel's line of sight and its surface, from the slope of the
    depth; low beside edges."""
    padded = torch.nn.functional.pad(depth[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    focal = cameras.intrinsics[:, 0, 0, None, None].to(depth)
    slope = torch.hypot(across, down) * focal / depth.clamp_min(1e-6)
    return 1 / (1 + slope.square()).sqrt()

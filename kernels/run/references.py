"""Pictures of the object, each from its own camera, that a run's renders are held to beside the
prior: what they show wins where they see, words elsewhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cameras.pinhole import Cameras
from .aligned import Bounds

SAME_PLACE, SAME_LOOK = 0.02, 0.02  # shares of the distance and of the focal length
LEAST, MOST = 5e-4, 0.995  # share of the picture that an object may cover


@dataclass(frozen=True)
class References:
    """R pictures with their cameras and what they weigh.

    The weights are those of means over a picture's pixels, summed over the pictures.

    Args:
        images: [R,H,W,3] sRGB 0..1
        cameras: [R], of W x H pixels
        masks: [R,H,W,1] 0..1, 1 where the object is; None: not known: the run's own outline is
            taken in its place, and neither silhouette nor palette says anything
        color: weight of the squared difference of the pictures, 0..1, on random backgrounds
        silhouette: of the squared difference of the masks
        structure: of 1 - SSIM of the pictures (Wang et al. 2004)
        palette: of the squared distance of the loss's own views from the pictures' colours
        fade: share, 0..1, of these weights that is lost by the end of the schedule
        spare: share, 0..1, of the prior's say that is withheld where a picture sees the surface
        bounds: how far the cameras may move
        views: pictures in a step, in turn where there are more
    """

    images: Tensor
    cameras: Cameras
    masks: Tensor | None = None
    color: float = 60_000.0
    silhouette: float = 60_000.0
    structure: float = 0.0
    fade: float = 0.0
    spare: float = 1.0
    bounds: Bounds = field(default_factory=Bounds)
    views: int = 4
    palette: float = 40_000.0

    def __len__(self) -> int:
        return len(self.images)

    def check(self) -> References:
        """Return self, or raise ValueError saying which picture, what is wrong and what helps."""
        shape = tuple(self.images.shape)
        if self.images.dim() != 4 or shape[-1] != 3 or not len(self):
            raise ValueError(f"images have shape {shape}, expected (R, H, W, 3), R of 1 or more.")
        if len(self.cameras) != len(self):
            raise ValueError(
                f"There are {len(self)} pictures and {len(self.cameras)} cameras; give one camera"
                " to each picture."
            )
        size = (self.cameras.height, self.cameras.width)
        if size != shape[1:3]:
            raise ValueError(f"images are {shape[2]} x {shape[1]}, their cameras' {size[::-1]}.")
        if self.masks is not None and tuple(self.masks.shape) != (*shape[:3], 1):
            mask = tuple(self.masks.shape)
            raise ValueError(
                f"The masks are {mask[2]} x {mask[1]} pixels, {mask[0]} of them, and the pictures"
                f" {shape[2]} x {shape[1]}, {shape[0]} of them. Give masks of the pictures' number"
                " and size."
            )
        if self.cameras.outward is not None:
            raise ValueError("The cameras look out of a scene; pictures are of an object.")
        for number, image in enumerate(self.images, 1):
            if not bool(torch.isfinite(image).all()):
                raise ValueError(f"Picture {number} holds numbers that are NaN or infinite.")
        self._check_masks()
        self._check_cameras()
        self._check_numbers()
        return self

    def _check_masks(self) -> None:
        for number, mask in enumerate(() if self.masks is None else self.masks, 1):
            share = float((mask > 0.5).float().mean())
            if share < LEAST:
                raise ValueError(
                    f"Picture {number} has no object in its mask ({share:.2%} of it is covered)."
                    " Give a mask that is 1 on the object (mask_marks says what it marks), or a"
                    " picture whose object differs from its background."
                )
            if share > MOST:
                raise ValueError(
                    f"Picture {number} is all object ({share:.1%} of it is covered), so its"
                    " outline says nothing. Give a mask, a picture with some background around the"
                    " object, or set background to busy."
                )

    def _check_cameras(self) -> None:
        places, ways = self.cameras.positions, self.cameras.viewmats[:, 2, :3]
        focals = self.cameras.intrinsics[:, 1, 1]
        for one in range(len(self)):
            for other in range(one):
                away = float((places[one] - places[other]).norm() / self.cameras.distances[one])
                turn = float((ways[one] - ways[other]).norm())
                zoom = abs(math.log(float(focals[one] / focals[other])))
                if max(away, turn) < SAME_PLACE and zoom < SAME_LOOK:
                    azimuth, elevation = self.cameras.azimuths[one], self.cameras.elevations[one]
                    raise ValueError(
                        f"Pictures {other + 1} and {one + 1} claim one camera, azimuth"
                        f" {azimuth:.0f}, elevation {elevation:.0f}. Name another view for one of"
                        " them, or leave it out."
                    )

    def _check_numbers(self) -> None:
        for name in ("color", "silhouette", "structure", "palette"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"lambda_{name} is {value}; give a finite number of 0 or more.")
        if not max(self.color, self.silhouette, self.structure) > 0:
            raise ValueError(
                "lambda_color, lambda_silhouette and lambda_structure are all 0, so the pictures"
                " would say nothing. Raise one, or remove the link to references."
            )
        for name in ("fade", "spare"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a share of 0..1.")
        if isinstance(self.views, bool) or self.views < 1:
            raise ValueError(f"views is {self.views}; give a whole number of 1 or more.")
        self.bounds.check()
        if self.structure > 0:
            ssim()

    @property
    def identity(self) -> str:
        """A few letters by which other pictures, cameras or weights are told apart."""
        parts = [self.images, self.cameras.viewmats, self.cameras.intrinsics]
        parts += [] if self.masks is None else [self.masks]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.detach().to("cpu", torch.float32).numpy().tobytes())
        weights = (self.color, self.silhouette, self.structure, self.fade, self.spare)
        digest.update(repr((weights, self.palette, self.bounds, self.views)).encode())
        return f"{len(self)} pictures {digest.hexdigest()[:8]}"

    def square(self, size: int) -> References:
        """The same at ``size`` x ``size`` pixels: with empty margins where they are not square, so
        that no camera turns."""
        height, width = self.images.shape[1:3]
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        margins = (0, 0, left, side - width - left, top, side - height - top)

        def fit(value: Tensor) -> Tensor:
            whole = F.pad(value, margins).permute(0, 3, 1, 2)
            sized = F.interpolate(
                whole, (size, size), mode="bilinear", antialias=True, align_corners=False
            )
            return sized.permute(0, 2, 3, 1).contiguous()

        intrinsics = self.cameras.intrinsics.clone()
        intrinsics[:, 0, 2] += left
        intrinsics[:, 1, 2] += top
        cameras = replace(self.cameras, intrinsics=intrinsics, width=side, height=side).resize(size)
        if self.masks is None:
            return replace(self, images=fit(self.images), cameras=cameras)
        # Colours times masks: what lies beside the object is not to bleed into it.
        masks, colors = fit(self.masks), fit(self.images * self.masks)
        return replace(self, images=colors / masks.clamp_min(1e-4), masks=masks, cameras=cameras)


def ssim() -> Callable[..., Tensor]:
    """pytorch-msssim's. Raises ValueError where it is not installed."""
    try:
        from pytorch_msssim import ssim as found
    except ImportError:
        raise ValueError(
            "lambda_structure is above 0, which needs the package pytorch-msssim. Install it (pip"
            " install pytorch-msssim), or set lambda_structure to 0."
        ) from None
    return found  # type: ignore[no-any-return]

"""An object's pictures and scores, by weights that the user gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..kernels.cameras.pinhole import orbit
from ..kernels.evaluate.clip import Clip, load_clip
from ..kernels.files.formats import load_gaussians
from ..kernels.rasterizers.rasterize import render

SIZE, VIEWS, SHOWN = 256, 12, (0, 3, 6, 9)  # pixels; around; of them on the sheet: four sides
STRIP = "views.jpg"


@dataclass(frozen=True)
class Scorers:
    """Models that score pictures; None: not given.

    Args:
        clip: CLIP score
        reward: ImageReward's model, by its own package
    """

    clip: Clip | None = None
    reward: Any = None

    @staticmethod
    def load(clip: Path | None, image_reward: Path | None) -> Scorers:
        """Raises ValueError for weights that are not there or cannot be read."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        reward = None
        if image_reward is not None:
            if not image_reward.is_file():
                raise ValueError(
                    f"--image-reward {image_reward} is not there; give ImageReward.pt."
                )
            try:
                import ImageReward
            except ImportError as error:
                raise ValueError(
                    f"--image-reward needs the package image-reward ({error}): pip install"
                    " image-reward."
                ) from error
            reward = ImageReward.load(str(image_reward), device=device)
        found = None if clip is None else load_clip(clip)
        if found is not None:
            found.model.to(device)
        return Scorers(found, reward)

    def missing(self, record: Mapping[str, Any]) -> Scorers | None:
        """Those whose scores a record lacks; None where it lacks none."""
        left = replace(
            self,
            clip=None if "clip_score" in record else self.clip,
            reward=None if "image_reward" in record else self.reward,
        )
        return left if left != Scorers() else None


def figures(
    folder: Path, record: Mapping[str, Any], view: Mapping[str, float], scorers: Scorers
) -> dict[str, Any]:
    """Gaussians, and scores by the models that there are; leaves a strip of four sides in the
    folder. Nothing for an object without a splat."""
    file = folder / "object.ply"
    if not file.is_file():
        return {}
    pictures, count = seen(file, view)
    strip = torch.cat(list(pictures[list(SHOWN)]), 1)
    Image.fromarray((strip * 255).round().byte().numpy()).save(folder / STRIP, quality=90)
    found: dict[str, Any] = {"gaussians": count}
    images = pictures.permute(0, 3, 1, 2)
    if scorers.clip is not None:
        fit = scorers.clip.similarities(images, [record["prompt"]])[:, 0]
        found["clip_score"] = round(100 * float(fit.mean()), 2)
    if scorers.reward is not None:
        frames = [Image.fromarray((p * 255).round().byte().numpy()) for p in pictures]
        with torch.no_grad():
            scores = [float(scorers.reward.score(record["prompt"], frame)) for frame in frames]
        found["image_reward"] = round(sum(scores) / len(scores), 3)
    return found


def seen(file: Path, view: Mapping[str, float]) -> tuple[Tensor, int]:
    """Pictures [12,256,256,3] 0..1 of a splat on white, all around at 15 degrees, and how many
    Gaussians it has."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cloud = load_gaussians(file).to(device)
    around = orbit(
        torch.arange(VIEWS) * (360.0 / VIEWS), 15.0, view["distance"], view["fov_y"], SIZE
    )
    with torch.no_grad():
        parts = [
            render(cloud, around[i : i + 4].to(device), 1.0).color.clamp(0, 1).float().cpu()
            for i in range(0, VIEWS, 4)
        ]
    return torch.cat(parts), len(cloud)

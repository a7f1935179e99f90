"""M_psi: the small learnable map from what the prior imagines, x0, to what the renderer can show,
and its optimizer.

The three designs carry the names in the caption of DreamMapping's Figure 6; everything inside them
is this project's own choice, since neither the paper's text nor its code is public.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import check_choice, check_range, draw_noise, restored

DESIGNS = ("linear", "nonlinear_noise", "nonlinear")
TIME_FEATURES = 64


@dataclass(frozen=True)
class Degradation:
    """Settings of M_psi, latent to latent. It is the identity at the start, whatever the design.

    "nonlinear" (the paper's choice by name): a noise-free residual U-Net, FiLM-conditioned on the
    timestep. "nonlinear_noise": the same with a channel of fresh noise at its input. "linear": per
    timestep bin one 1x1 convolution, which is exact for Gaussian data. It must stay light and lag
    behind: strong enough to reproduce every render it would turn VDM into SDS.

    Args:
        design: linear | nonlinear_noise | nonlinear
        widths: channels per level, each at half the size of the one before
        bins: timestep bins of the linear design
    """

    design: str = "nonlinear"
    widths: tuple[int, ...] = (32, 64)
    bins: int = 20

    def check(self, owner: str) -> None:
        """Raises ValueError naming the setting that is wrong."""
        check_choice(owner, "design", self.design, DESIGNS)
        if not self.widths or any(w < 8 or w % 8 for w in self.widths):
            raise ValueError(
                f"{owner}: widths {self.widths} must be multiples of 8 (group normalisation), one"
                " per level."
            )
        check_range(owner, "bins", self.bins, 1, 1000)

    def initial(
        self, channels: int, generator: torch.Generator, device: torch.device
    ) -> dict[str, Tensor]:
        """Fresh parameters, drawn from ``generator``, for latents of ``channels`` channels."""
        if self.design == "linear":
            shapes = {"matrix": (self.bins, channels, channels), "shift": (self.bins, channels)}
            return {key: torch.zeros(shape, device=device) for key, shape in shapes.items()}
        like = torch.empty((), device=device)
        parameters = {}
        for key, shape in _shapes(channels, self.widths, self.design == "nonlinear_noise").items():
            if key.endswith(".norm"):
                parameters[key] = torch.ones(shape, device=device)
            elif len(shape) == 1 or key == "out.weight" or key.endswith("film.weight"):
                parameters[key] = torch.zeros(shape, device=device)
            else:
                parameters[key] = draw_noise(shape, generator, like) / math.sqrt(
                    math.prod(shape[1:])
                )
        return parameters

    def apply(
        self,
        parameters: Mapping[str, Tensor],
        clean: Tensor,
        t: Tensor,
        steps: int,
        generator: torch.Generator,
    ) -> Tensor:
        """M_psi(clean, t): [B,C,h,w] at steps t [B] of a schedule of ``steps``; only the noisy
        design draws.
        """
        if self.design == "linear":
            place = (t * self.bins).div(steps, rounding_mode="floor")
            change = torch.einsum("bcd,bdhw->bchw", parameters["matrix"][place], clean)
            return clean + change + parameters["shift"][place][:, :, None, None]
        inputs = clean
        if self.design == "nonlinear_noise":
            noise = draw_noise((len(clean), 1, *clean.shape[2:]), generator, clean)
            inputs = torch.cat([clean, noise], 1)
        return clean + _residual(parameters, inputs, t / steps, len(self.widths))


def _shapes(channels: int, widths: tuple[int, ...], noisy: bool) -> dict[str, tuple[int, ...]]:
    hidden = 2 * TIME_FEATURES
    shapes: dict[str, tuple[int, ...]] = {
        "in.weight": (widths[0], channels + noisy, 3, 3),
        "in.bias": (widths[0],),
        "time.weight": (hidden, TIME_FEATURES),
        "time.bias": (hidden,),
    }
    for level, width in enumerate(widths):
        sides = ("down", "up") if level < len(widths) - 1 else ("down",)
        for side in sides:
            block = f"{side}{level}"
            shapes |= {f"{block}.{n}.weight": (width, width, 3, 3) for n in ("first", "second")}
            shapes |= {f"{block}.{n}.bias": (width,) for n in ("first", "second")}
            shapes |= {f"{block}.norm": (width,), f"{block}.film.weight": (2 * width, hidden)}
        if level:
            shapes[f"shrink{level}.weight"] = (width, widths[level - 1], 3, 3)
            shapes[f"grow{level}.weight"] = (widths[level - 1], width, 1, 1)
    return shapes | {
        "out.norm": (widths[0],),
        "out.weight": (channels, widths[0], 3, 3),
        "out.bias": (channels,),
    }


def _residual(p: Mapping[str, Tensor], x: Tensor, time: Tensor, levels: int) -> Tensor:
    """A U-Net with one residual block per level and side, skips added rather than concatenated."""
    octaves = torch.linspace(
        0, math.log(1000), TIME_FEATURES // 2, device=x.device, dtype=x.dtype
    ).exp()
    angles = time.to(x)[:, None] * octaves
    features = torch.cat([angles.sin(), angles.cos()], 1)
    embedding = F.silu(F.linear(features, p["time.weight"], p["time.bias"]))
    x = F.conv2d(x, p["in.weight"], p["in.bias"], padding=1)
    skips = []
    for level in range(levels):
        if level:
            skips.append(x)
            x = F.conv2d(x, p[f"shrink{level}.weight"], stride=2, padding=1)
        x = _block(p, f"down{level}", x, embedding)
    for level in reversed(range(levels - 1)):
        skip = skips.pop()
        x = skip + F.interpolate(F.conv2d(x, p[f"grow{level + 1}.weight"]), size=skip.shape[2:])
        x = _block(p, f"up{level}", x, embedding)
    x = F.silu(F.group_norm(x, 8, p["out.norm"]))
    return F.conv2d(x, p["out.weight"], p["out.bias"], padding=1)


def _block(p: Mapping[str, Tensor], name: str, x: Tensor, embedding: Tensor) -> Tensor:
    scale, shift = F.linear(embedding, p[f"{name}.film.weight"])[:, :, None, None].chunk(2, 1)
    h = F.conv2d(F.silu(x), p[f"{name}.first.weight"], p[f"{name}.first.bias"], padding=1)
    h = F.group_norm(h, 8, p[f"{name}.norm"]) * (1 + scale) + shift
    return x + F.conv2d(F.silu(h), p[f"{name}.second.weight"], p[f"{name}.second.bias"], padding=1)


@dataclass(frozen=True)
class AdamState:
    """Parameters with Adam's moments, as one value: a step returns the next one and changes nothing
    in place.

    Args:
        means: running mean of each gradient
        squares: running mean of each squared gradient
    """

    parameters: Mapping[str, Tensor]
    means: Mapping[str, Tensor]
    squares: Mapping[str, Tensor]
    updates: int = 0

    @staticmethod
    def fresh(parameters: Mapping[str, Tensor]) -> AdamState:
        zeros = {key: torch.zeros_like(value) for key, value in parameters.items()}
        return AdamState(parameters, zeros, zeros)

    @staticmethod
    def restored(
        owner: str,
        name: str,
        state: Mapping[str, Tensor],
        blank: Mapping[str, Tensor],
        device: torch.device,
    ) -> AdamState:
        """What `tensors` gave, for parameters shaped as ``blank``; raises ValueError for a state
        that does not fit.
        """
        like = torch.empty((), device=device)

        def group(kind: str) -> dict[str, Tensor]:
            return {
                k: restored(owner, state, f"{kind}.{k}", tuple(v.shape), like)
                for k, v in blank.items()
            }

        updates = int(restored(owner, state, "updates", (), torch.empty((), dtype=torch.long)))
        with torch.inference_mode(False):
            return AdamState(group(name), group("adam_mean"), group("adam_square"), updates)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """All of it as one flat dict; ``name`` stands before the parameters' own names."""
        groups = {name: self.parameters, "adam_mean": self.means, "adam_square": self.squares}
        flat = {
            f"{group}.{key}": value
            for group, values in groups.items()
            for key, value in values.items()
        }
        return {**flat, "updates": torch.tensor(self.updates)}

    def step(
        self,
        gradients: Mapping[str, Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        decay: float = 0.0,
    ) -> AdamState:
        """One Adam update (Kingma & Ba 2015), with ``decay`` AdamW (Loshchilov & Hutter 2019);
        values of a gradient that are not finite count as 0."""
        updates, shapes = (
            self.updates + 1,
            {key: value.shape for key, value in self.parameters.items()},
        )
        first, second = 1 - betas[0] ** updates, 1 - betas[1] ** updates

        def joined(values: Mapping[str, Tensor]) -> Tensor:
            return torch.cat([values[key].flatten() for key in shapes])

        # all in one vector: a GPU takes as long for each of many small tensors as for them all
        with torch.no_grad():
            gradient = joined(gradients).nan_to_num(0.0, 0.0, 0.0)
            mean = torch.lerp(gradient, joined(self.means), betas[0])
            square = torch.lerp(gradient.square(), joined(self.squares), betas[1])
            shrunk = joined(self.parameters) * (1 - lr * decay)
            value = shrunk - lr / first * mean / ((square / second).sqrt() + eps)
        sizes = [shape.numel() for shape in shapes.values()]
        parameters, means, squares = (
            {
                key: part.view(shapes[key])
                for key, part in zip(shapes, flat.split(sizes), strict=True)
            }
            for flat in (value, mean, square)
        )
        return AdamState(parameters, means, squares, updates)

"""What a run can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..gaussians.densify import Densify
from ..gaussians.mcmc import MCMC
from ..priors.base import Prior
from ..rasterizers.rasterize import check_backend
from ..settings.option import Settings, option
from .learning_rates import LearningRates
from .penalties import Regularizers

BACKGROUNDS = ("auto", "random", "random gray", "gray", "white", "black", "thirds")
JUDGED = ("color", "normal")
PENALTY_FORMS = ("edges", "consistent3d")
NORMAL_AXES = {"right up front": (0, 1, 2), "front right up": (2, 0, 1)}
SEED_MAX = 2**64 - 1
UNTRAINED_GRAYS = (0.3, 0.7)
ONE, AUTO = "one", "auto"  # of devices


@dataclass(frozen=True, kw_only=True)
class ViewSettings(Settings):
    """What the prior is shown.

    background: what the renders are composited on. "auto" is what the prior was trained on, or
    "random" where it does not say; "random gray" one grey per view, uniform in the prior's range
    (0.3..0.7 where it does not say); "random" one colour per view, uniform in the RGB cube; "gray"
    0.5; "thirds" per view white, black or such a random colour (LucidDreamer).

    Args:
        views: cameras per step (LucidDreamer: 4)
        image_size: pixels of the square renders; None: what the prior was trained for
        schedule_steps: length of the whole schedule in steps; 0: ends with this call
        seed: of every random draw; trained with the same seed, a cloud or mesh continues its random
            streams
        sample_posterior: encode with a draw of the encoder's posterior instead of its mean
        judged_size: pixels that the renders are stretched to before the encoder, bilinearly; None:
            not at all; C3D's coarse stage: 512, of renders of 64
        flip_share: share of the steps, 0..1, whose pictures the prior sees mirrored; LucidDreamer:
            0.5
        depth_share: share of the steps, 0..1, whose `disparity` pictures it sees in place of the
            colours; LucidDreamer: 0.2; splats only
        clip_norm_start: greatest norm of each parameter group's gradient at the start; 0: any;
            SegmentDreamer: 2
        clip_norm_end: and once clip_norm_share is over, linear in between; SegmentDreamer: 8
        clip_norm_share: share of the schedule, >0..1; SegmentDreamer: 0.2
    """

    views: int = 4
    image_size: int | None = None
    schedule_steps: int = 0
    seed: int = 0
    background: str = "auto"
    sample_posterior: bool = False
    judged_size: int | None = option(None)
    flip_share: float = option(0.0)
    depth_share: float = option(0.0)
    clip_norm_start: float = option(0.0)
    clip_norm_end: float = option(0.0)
    clip_norm_share: float = option(1.0)


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """How often somebody looks, and what is borne until then.

    Args:
        preview_every: steps between previews; 0: none are due
        max_bad_steps: steps in a row whose loss or gradient may be NaN or infinite before the run
            stops
        check_every: steps between looks at that count, each of which waits for the device
    """

    preview_every: int = 20
    max_bad_steps: int = 20
    check_every: int = 10


@dataclass(frozen=True, kw_only=True)
class RunSettings(WatchSettings, ViewSettings):
    """What every run can be told, of splats or of a mesh.

    Args:
        accelerate: fast networks on CUDA; None: if the run is long enough
        micro_batch: through the prior's networks, to save memory; 0: all views
        devices: that share the views of a step, see `shared_views.chosen`
    """

    # These change no result beyond rounding, and so are no part of what tells two runs apart.
    accelerate: bool | None = field(default=None, repr=False)
    micro_batch: int = field(default=0, repr=False)
    devices: str = field(default=ONE, repr=False)

    @property
    def needs_depth(self) -> bool:
        """Whether the renders' depth is wanted, whatever the prior asks for."""
        return self.depth_share > 0

    def check(self) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure."""
        least = {
            "views": 1,
            "schedule_steps": 0,
            "preview_every": 0,
            "max_bad_steps": 0,
            "check_every": 1,
        }
        least |= {"seed": 0, "image_size": 1, "micro_batch": 0}
        for name, low in least.items():
            if name == "image_size" and self.image_size is None:
                continue
            _check_count(name, getattr(self, name), low)
        if self.judged_size is not None:
            _check_count("judged_size", self.judged_size, 1)
        for name in ("flip_share", "depth_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; give a share of the steps, 0..1."
                )
        for name in ("clip_norm_start", "clip_norm_end"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; give a norm of 0 (any) or more."
                )
        if (self.clip_norm_start == 0) != (self.clip_norm_end == 0):
            raise ValueError(
                f"clip_norm_start {self.clip_norm_start:g} and clip_norm_end"
                f" {self.clip_norm_end:g}: 0 means any norm and cannot be annealed to or from. Set"
                " both to 0 or both above 0."
            )
        if not 0 < self.clip_norm_share <= 1:
            raise ValueError(
                f"clip_norm_share is {self.clip_norm_share}; give a share of the schedule, >0..1."
            )
        if self.seed > SEED_MAX:
            raise ValueError(f"seed is {self.seed}; give a whole number within 0..{SEED_MAX}.")
        named_devices(self.devices)
        if self.background not in BACKGROUNDS:
            raise ValueError(
                f"background is {self.background!r}; choose one of {', '.join(BACKGROUNDS)}."
            )


@dataclass(frozen=True, kw_only=True)
class GrowthSettings:
    """How many Gaussians there may be.

    Args:
        densify: `Densify` by gradients | `MCMC`, resampling with noise | None: the number of
            Gaussians stays
        max_gaussians: densification never goes beyond this, nor beyond its own count_max
    """

    densify: Densify | MCMC | None = field(default_factory=Densify)
    max_gaussians: int = 20_000


# The bases' order is that of the fields, and with it of the text by which benchmarks know what made
# a committed row.
@dataclass(frozen=True, kw_only=True)
class OptimizeSettings(
    RunSettings, WatchSettings, GrowthSettings, ViewSettings, LearningRates, Regularizers
):
    """Settings of `optimize`; the learning rates and the penalties' weights are among them."""

    render_backend: str = "auto"

    @property
    def needs_depth(self) -> bool:
        """Whether the renders' depth is wanted, whatever the prior asks for."""
        return super().needs_depth or self.lambda_tv_depth > 0

    def check(self) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure."""
        LearningRates.check(self)
        Regularizers.check(self)
        RunSettings.check(self)
        _check_count("max_gaussians", self.max_gaussians, 1)
        if self.densify is not None:
            self.densify.check()
        check_backend(self.render_backend)


@dataclass(frozen=True, kw_only=True)
class RefineSettings(RunSettings):
    """Settings of `refine_mesh`. A learning rate of 0 freezes its part: geometry alone, or texture
    alone.

    Args:
        lr_vertices: world units per step at first; falls to a tenth
        lr_colors: of the colours or the texture, sRGB per step at first; falls to a tenth
        smoothness: vertices move together within about its square root in edges (Nicolet et al.
            2021)
        lambda_laplacian: squared distance of vertices from their neighbours' mean, in edges (C3D:
            100, of its own penalty_form)
        lambda_normal: mean 1 - cosine between the normals of neighbouring faces (C3D: 100, of its
            own penalty_form)
        judged: what the prior sees: "color" | "normal", world normals as colours (C3D's geometry
            stage, on black)
        penalty_form: "edges", as above | "consistent3d": mean length of the summed offsets to the
            neighbours, world units, and vertices' normals along edges
        normal_axes: which world axes are red, green and blue: "right up front" | "front right up"
            (C3D)
    """

    lr_vertices: float = 0.001
    lr_colors: float = 0.003
    smoothness: float = 10.0
    lambda_laplacian: float = 0.0
    lambda_normal: float = 0.0
    judged: str = "color"
    penalty_form: str = option("edges")
    normal_axes: str = option("right up front")

    def check(self) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure."""
        RunSettings.check(self)
        limits = {
            "lr_vertices": (0.0, 1.0),
            "lr_colors": (0.0, 1.0),
            "smoothness": (0.0, 1e4),
            "lambda_laplacian": (0.0, 1e9),
            "lambda_normal": (0.0, 1e9),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also catches NaN
                raise ValueError(
                    f"Refine Mesh: {name} is {value}; choose a value within {low:g}..{high:g}."
                )
        if self.lr_vertices == 0 and self.lr_colors == 0:
            raise ValueError(
                "Refine Mesh: lr_vertices and lr_colors are both 0, so nothing would change. Raise"
                " one."
            )
        if self.judged not in JUDGED:
            raise ValueError(
                f"Refine Mesh: judged is {self.judged!r}; choose one of {', '.join(JUDGED)}."
            )
        choices = {"penalty_form": PENALTY_FORMS, "normal_axes": tuple(NORMAL_AXES)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"Refine Mesh: {name} is {getattr(self, name)!r}; choose one of"
                    f" {', '.join(allowed)}."
                )
        if self.depth_share > 0:
            raise ValueError(
                f"Refine Mesh: depth_share is {self.depth_share:g}; only splats' depth is judged."
                " Set it to 0."
            )
        if self.judged == "normal" and self.lr_colors > 0:
            raise ValueError(
                "Refine Mesh: normals say nothing about colours. Set lr_colors to 0 with judged"
                " 'normal'."
            )


def named_devices(text: str) -> list[torch.device]:
    """The devices in `RunSettings.devices`; none in ONE and AUTO. Raises ValueError for what names
    none."""
    if text.strip() in (ONE, AUTO):
        return []
    try:
        return [torch.device(name.strip()) for name in text.split(",")]
    except RuntimeError:
        raise ValueError(
            f"devices is {text!r}; write one (the prior's own), auto (all GPUs of its model), or"
            " names with commas between, such as cuda:0,cuda:1."
        ) from None


def _check_count(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} is {value!r}; give a whole number of {low} or more.")


def background_range(prior: Prior) -> tuple[float, float] | None:
    """The greys a prior was trained on as (low, high): its ``background_range`` if it has one, else
    its background.
    """
    given = getattr(prior, "background_range", None) or prior.background
    if given is None:
        return None
    low, high = (given, given) if isinstance(given, int | float) else given
    if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high <= 1):
        raise ValueError(
            f"Prior {prior.name!r} has background {given}; expected greys within 0..1, low before"
            " high."
        )
    return float(low), float(high)


def draw_backgrounds(
    kind: str, grays: tuple[float, float] | None, views: int, generator: torch.Generator
) -> Tensor:
    """One colour per view [V,3], of a ``kind`` in BACKGROUNDS; ``grays`` as `background_range`
    gives them.
    """
    if kind == "auto":
        kind = "random gray" if grays else "random"
    draws = torch.rand(views, 3, generator=generator)
    if kind == "thirds":
        share = torch.rand(views, 1, generator=generator)
        return torch.where(share < 0.34, 1.0, torch.where(share < 0.67, draws, 0.0))
    if kind == "random gray":
        low, high = grays or UNTRAINED_GRAYS
        return low + (high - low) * draws[:, :1].expand(views, 3)
    if kind == "random":
        return draws
    return torch.full((views, 3), {"gray": 0.5, "white": 1.0, "black": 0.0}[kind])

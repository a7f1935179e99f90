"""Priors that are shown the shape of the renders through a ControlNet (Zhang et al. 2023, arXiv
2302.05543).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from .base import Prior
from .conditioning import Conditioning
from .diffusers.latent_prior import DiffusersPrior, make_ordinary
from .folder import check_folder, check_numbers, read_json
from .hints import SHAPES, hint, shows_shape
from .lora import LoraAdapter
from .noise_schedule import NoiseSchedule
from .view_conditioning import ViewConditionedPrior
from .weights import check_complete, check_finite, read_whole

WEIGHTS, CONFIGS = {"": "diffusion_pytorch_model"}, {"": "config.json"}
SAME = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "cross_attention_dim",
)


@dataclass(frozen=True)
class ControlSettings:
    """What of the renders' shape a control network is shown, and how much it counts.

    Args:
        shape: or "normal": what the network was trained on
        strength: factor on what it adds to the denoiser's features; 0 is the prior without it
        start: share of the schedule, counted from pure noise, from which on it counts
        end: and until which
    """

    shape: str = "depth"
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def check(self) -> ControlSettings:
        """Itself. Raises ValueError naming the setting, its value, what is allowed and the cure."""
        if self.shape not in SHAPES:
            raise ValueError(
                f"Control Prior: shape is {self.shape!r}; choose one of"
                f" {', '.join(map(repr, SHAPES))}."
            )
        if not 0 <= self.strength <= 10:
            raise ValueError(
                f"Control Prior: strength is {self.strength}; choose a value within 0..10."
            )
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"Control Prior: start is {self.start} and end {self.end}; choose shares within"
                " 0..1, start not above end."
            )
        return self

    def encode_views(
        self, cameras: Cameras, alpha: Tensor, depth: Tensor | None, name: str
    ) -> tuple[None, Tensor]:
        """`ViewConditionedPrior.encode_views` of a prior called ``name``: no camera, and the hint picture
        [V,3,H,W].
        """
        if depth is None:
            raise ValueError(
                f"prior {name!r} is shown the renders' {self.shape}, but they came without depth."
            )
        return None, hint(self.shape, cameras, alpha, depth)

    def within(self, t: Tensor, schedule: NoiseSchedule) -> Tensor | None:
        """Which timesteps t [B] lie between start and end, [B] bool; None where every step does."""
        if (self.start, self.end) == (0, 1):
            return None
        last = len(schedule) - 1
        return (t <= (1 - self.start) * last) & (t >= (1 - self.end) * last)


def check_single(prior: Prior) -> None:
    """Raises ValueError for a prior that is told something of the views already: there is one hint
    for each.
    """
    if isinstance(prior, ViewConditionedPrior):
        raise ValueError(
            f"Control Prior: prior {prior.name!r} is told of the views already (a ControlNet,"
            " cameras). Link the prior as it was loaded."
        )


def require_hint(text: Conditioning, name: str) -> Tensor:
    """The hint [B,3,H,W] in a conditioning. Raises ValueError when there is none."""
    if text.hint is None:
        raise ValueError(
            f"predict: prior {name!r} is shown the shape of every view, but the texts come without."
            " Pass them through condition_on_views first."
        )
    return text.hint


def mask_rows(rows: Tensor, features: Tensor) -> Tensor:
    """The features [B,...] of the rows [B] bool, 0 in the others, whatever they hold."""
    return torch.where(rows.view(-1, *[1] * (features.dim() - 1)), features, 0.0)


class ControlledPrior(DiffusersPrior):
    """A `DiffusersPrior` whose U-Net also gets what a ControlNet makes of the renders' shape.

    Networks, tokenizer and remembered texts are those of the prior it was made from, which answers
    as before. All texts are judged by the same hint, the null text's and a negative prompt's too; a
    view that shows nothing solid yet is judged without, for a ControlNet would take it for an empty
    room. Inside `running` the encoder is as fast as ever; the fused U-Net has no place for the
    ControlNet's features, so the plain one runs.
    """

    needs_depth = True

    def __init__(
        self, prior: DiffusersPrior, control: Any, control_settings: ControlSettings
    ) -> None:
        """control: a diffusers ControlNetModel. Raises ValueError for one that does not fit, and
        for bad settings.
        """
        check_single(prior)
        check_control(dict(control.config), prior, "control network")
        vars(self).update(vars(prior))
        self._fast = None
        self.control, self.control_settings = (
            control.eval().requires_grad_(False),
            control_settings.check(),
        )
        control.to(memory_format=torch.channels_last)

    def encode_views(
        self, cameras: Cameras, alpha: Tensor, depth: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """No camera, and the hint picture [V,3,H,W] 0..1. Raises ValueError where the depth was not
        rendered.
        """
        return self.control_settings.encode_views(cameras, alpha, depth, self.name)

    def _extra_inputs(self, text: Conditioning) -> tuple[Tensor, ...]:
        return (require_hint(text, self.name),)

    def _output(self, z: Tensor, timesteps: Tensor, hidden: Tensor, *extra: Tensor) -> Tensor:
        return self.unet(
            z,
            timesteps,
            encoder_hidden_states=hidden,
            **self._features(z, timesteps, hidden, *extra),
        ).sample

    @torch.no_grad()
    def _features(
        self, z: Tensor, timesteps: Tensor, hidden: Tensor, picture: Tensor
    ) -> dict[str, Any]:
        """The ControlNet's features as arguments of the U-Net's call; none where no row is within
        start and end.
        """
        within, counts = (
            self.control_settings.within(timesteps, self.schedule),
            shows_shape(picture),
        )
        if within is not None:
            if not within.any():  # waits for the device, and saves a third of the work
                return {}
            counts = counts & within
        down, middle = self.control(
            z,
            timesteps,
            encoder_hidden_states=hidden,
            controlnet_cond=picture.to(z),
            conditioning_scale=self.control_settings.strength,
            return_dict=False,
        )
        down, middle = [mask_rows(counts, features) for features in down], mask_rows(counts, middle)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    def offload_groups(self) -> dict[str, list[torch.nn.Module]]:
        found = super().offload_groups()
        return found | {"unet": [*found["unet"], self.control]}

    def adapter(self, rank: int) -> LoraAdapter:
        """As `DiffusersPrior.adapter`; the adapted U-Net is shown the same."""

        def extra_inputs(
            z: Tensor, timesteps: Tensor, hidden: Tensor, text: Conditioning
        ) -> dict[str, Any]:
            return self._features(z, timesteps, hidden, require_hint(text, self.name))

        return LoraAdapter(
            self.unet, self.schedule, self.prediction, rank, self._bring, extra_inputs
        )


def load_control(folder: str | Path, prior: DiffusersPrior) -> Any:
    """The ControlNetModel in a diffusers folder (config.json, safetensors weights), of the prior's
    dtype, on the CPU.

    Never uses the network. Raises ValueError naming the folder and what is missing or does not fit
    the prior, before the weights are read.
    """
    folder = Path(folder)
    owner = f"control network folder {folder}"
    variant = check_folder(folder, WEIGHTS, CONFIGS, "control network folder", "A ControlNetModel")[
        ""
    ]
    config = read_json(folder / "config.json")
    with read_whole(owner):
        check_numbers(owner, config)
        check_control(config, prior, owner)
    from diffusers import ControlNetModel  # seconds, which ComfyUI's start should not pay for

    with torch.inference_mode(False):
        with read_whole(owner):
            control, info = ControlNetModel.from_pretrained(
                folder,
                variant=variant,
                torch_dtype=prior.dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
            )
        check_complete(owner, info["missing_keys"])
        check_finite(owner, control)
        make_ordinary(control)
    return control


def check_control(config: dict[str, Any], prior: DiffusersPrior, owner: str) -> None:
    """Raises ValueError unless a ControlNet of this config.json belongs to the prior's U-Net and
    takes RGB hints.
    """
    if (kind := config.get("_class_name", "ControlNetModel")) != "ControlNetModel":
        raise ValueError(
            f"{owner} holds a {kind}; a ControlNetModel of Stable Diffusion 1.x or 2.x is needed."
        )
    unet = prior.unet.config
    for name in SAME:
        found, wanted = config.get(name), unet[name]
        if isinstance(wanted, list | tuple):
            found, wanted = list(found or ()), list(wanted)
        if found != wanted:
            raise ValueError(
                f"{owner}: its {name} is {found}, but that of prior {prior.name!r} is {wanted}:"
                " they are of different kinds. Choose a ControlNet that was made for this prior's"
                " model."
            )
    channels = config.get("conditioning_channels", 3)
    factor = 2 ** (len(config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)) - 1)
    for found, wanted, what in (
        (channels, 3, "channels in a hint, but hints are RGB pictures and have"),
        (
            factor,
            prior.downscale,
            f"pixels of a hint per latent pixel, but prior {prior.name!r} has",
        ),
    ):
        if found != wanted:
            raise ValueError(
                f"{owner} takes {found} {what} {wanted}. Choose a ControlNet made for this prior's"
                " model."
            )

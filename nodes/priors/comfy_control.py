"""ComfyUI's CONTROL_NET in a prior made of its MODEL: shown the renders' shape at every step."""

from __future__ import annotations

import copy
from typing import Any

import comfy.controlnet
import torch
from torch import Tensor

from ...kernels.cameras.pinhole import Cameras
from ...kernels.priors.conditioning import Conditioning
from ...kernels.priors.control import ControlSettings, check_single, mask_rows, require_hint
from ...kernels.priors.hints import shows_shape
from .comfy_prior import ComfyPrior, ManagedComfyPrior
from .comfy_vae import OwnVAE

# Layers that a ControlNet has in common with its model, and that tell the kinds of models apart.
WIDTHS = (
    "input_blocks.0.0.weight", "time_embed.0.weight", "label_emb.0.0.weight",
    "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    "x_embedder.proj.weight", "img_in.weight", "txt_in.weight",
)  # fmt: skip


class ControlledComfyPrior(ComfyPrior):
    """A `ComfyPrior` that also gets what a CONTROL_NET makes of the renders' shape, as ComfyUI's
    samplers give it.

    It shares everything with the prior it was made from, which answers as before. All texts are
    judged by the same hint; views that show nothing solid are judged without.
    """

    needs_depth = True

    def __init__(
        self, prior: ComfyPrior, control_net: Any, control_settings: ControlSettings
    ) -> None:
        """Raises ValueError for a control net of another kind of model, and for bad settings."""
        check_single(prior)
        check_control_net(control_net, prior)
        vars(self).update(vars(prior))
        self.control_settings, self.options = control_settings.check(), {}
        # its range is heeded row by row in `_ByRow`
        self.control = control_net.copy().set_cond_hint(
            None, control_settings.strength, (0.0, 1.0), vae=_HintVAE(self.vae)
        )
        self.extra_models = {"control": [{"control": self.control}]}

    def encode_views(
        self, cameras: Cameras, alpha: Tensor, depth: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """No camera, and the hint picture [V,3,H,W] 0..1. Raises ValueError where the depth was not
        rendered.
        """
        return self.control_settings.encode_views(cameras, alpha, depth, self.name)

    def _cond(self, x: Tensor, text: Conditioning, kind: int) -> dict[str, Any]:
        picture = require_hint(text, self.name)
        # not what it was shown last
        self.control.cond_hint_original, self.control.cond_hint = picture, None
        sampling = self.model.get_model_object("model_sampling")
        settings, limits = self.control_settings, None
        # its own range, of every share, would be compared with the first row's time in every call,
        # for which the host waits for the device
        self.control.timestep_range = None
        if (settings.start, settings.end) != (0, 1):
            limits = tuple(map(sampling.percent_to_sigma, (settings.start, settings.end)))
        return super()._cond(x, text, kind) | {
            "control": _ByRow(self.control, limits, shows_shape(picture))
        }


class _ByRow:
    """A ControlNet whose features count in some rows only; ComfyUI's own goes by the first row's
    time for all.
    """

    def __init__(self, control: Any, limits: tuple[float, ...] | None, rows: Tensor) -> None:
        """limits: the first and the last noise level that it counts at; None: it does at all."""
        self.control, self.limits, self.rows = control, limits, rows

    def get_control(
        self, x: Tensor, t: Tensor, cond: Any, batched_number: int, options: Any
    ) -> Any:
        counts = self.rows
        if self.limits is not None:
            counts = counts & (t <= self.limits[0]) & (t >= self.limits[1])
            if not counts.any():  # waits for the device, and saves a third of the work
                return None
        found = self.control.get_control(x, t, cond, batched_number, options)
        if found is None:
            return None
        return {
            place: [
                None if features is None else mask_rows(counts, features) for features in layers
            ]
            for place, layers in found.items()
        }


class _HintVAE:
    """The prior's encoder, for ControlNets that are shown a latent: ComfyUI's own would have to be
    loaded each time.
    """

    def __init__(self, vae: OwnVAE) -> None:
        self.vae = vae

    def spacial_compression_encode(self) -> int:
        compression: int = self.vae.vae.spacial_compression_encode()
        return compression

    def encode(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels.movedim(-1, 1))


def with_control_net(
    managed: ManagedComfyPrior, control_net: Any, control_settings: ControlSettings
) -> ManagedComfyPrior:
    """Another prior for a socket, on the weights of ``managed``, which stays as it is. Raises
    ValueError for a pair that does not fit."""
    result = copy.copy(managed)  # with its patcher: what is loaded for one is loaded for both
    result.prior = ControlledComfyPrior(managed.prior, control_net, control_settings)
    return result


def check_control_net(control_net: Any, prior: ComfyPrior) -> None:
    """Raises ValueError for a control net whose layers are not as wide as the model's; others' own
    kinds pass.
    """
    cure = f"Choose a ControlNet made for {prior.family.name}."
    if isinstance(control_net, comfy.controlnet.T2IAdapter):
        wanted, takes = prior.family.name == "SDXL", getattr(control_net.t2i_model, "xl", False)
        if takes != wanted or "input_blocks.0.0.weight" not in _shapes(
            prior.model.model.diffusion_model
        ):
            raise ValueError(
                f"control_net is a T2I-Adapter of another kind of model than prior {prior.name!r}."
                f" {cure}"
            )
        return
    network = getattr(control_net, "control_model", None)
    if isinstance(control_net, comfy.controlnet.ControlLora):
        theirs = _product_shapes(control_net.control_weights)
    elif isinstance(network, torch.nn.Module):
        theirs = _shapes(network)
    else:
        return
    own = _shapes(prior.model.model.diffusion_model)
    common = [name for name in WIDTHS if name in theirs]
    for name in common:
        if theirs[name] != own.get(name):
            raise ValueError(
                f"control_net does not fit prior {prior.name!r}: its layer {name} has"
                f" {_size(theirs[name])} weights, that of the model {_size(own.get(name))}. {cure}"
            )
    if not common:
        raise ValueError(
            f"control_net is a {type(network).__name__}, of another kind than prior {prior.name!r}."
            f" {cure}"
        )


def _size(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape))


def _shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in network.named_parameters()}


def _product_shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of a Control-LoRA's layers: of those it holds as the product of two matrices, the
    product's.
    """
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    stems = [name.removesuffix(".up") for name in shapes if name.endswith(".up")]
    return shapes | {
        f"{stem}.weight": (shapes[f"{stem}.up"][0], *shapes[f"{stem}.down"][1:]) for stem in stems
    }

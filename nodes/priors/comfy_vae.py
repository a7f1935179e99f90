"""ComfyUI's VAE as a prior's encoder and decoder: differentiable, and the VAE itself left as it
is.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from typing import Any

import comfy.ops
import torch
from comfy.ldm.models.autoencoder import AutoencodingEngine, DiagonalGaussianRegularizer
from torch import Tensor, nn

from ...kernels.devices.streams import release_memory
from ...kernels.fast import graph_trial
from ...kernels.fast.graphs import GraphedGradient
from ...kernels.priors.diffusers.checkpointing import ChunkedCheckpoint

log = logging.getLogger(__name__)

# What ComfyUI's memory managers leave on a network and its layers.
FOREIGN = (
    "_v",
    "_pin",
    "_prefetch",
    "dynamic_",
    "weight_lowvram",
    "bias_lowvram",
    "prev_comfy_cast_weights",
)
PLAIN = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)


class OwnVAE(nn.Module):
    """The network of a VAE socket run with weights of its own, copies that are ordinary tensors.

    ComfyUI's loaders leave weights that are inference tensors, or live in memory that the next
    model may take; no gradient passes through either. Its weights are all that this module has: to
    move it is to move them.
    """

    micro_batch = 0  # that are encoded together; 0 = all

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        net = plain_twin(vae.first_stage_model)
        self._net = (net,)  # in a tuple, so that the weights are not here twice
        self.posterior = _has_posterior(net)
        self.frames = vae.latent_dim == 3  # pictures are videos of one
        # float16 underflows in the gradient through the encoder
        dtype = torch.float32 if vae.vae_dtype == torch.float16 else vae.vae_dtype
        groups: list[dict[str, Any]] = [
            g for m in net.modules() for g in (m._parameters, m._buffers)
        ]
        found = [(group, name, v) for group in groups for name, v in group.items() if v is not None]
        self._places = [(group, name) for group, name, _ in found]
        with torch.inference_mode(False):
            copies = [value.detach().to("cpu", copy=True) for _, _, value in found]
            frozen = (value.to(dtype) if value.is_floating_point() else value for value in copies)
            self.weights = nn.ParameterList(
                nn.Parameter(value, requires_grad=False) for value in frozen
            )
        self.attach()
        self._graphed: dict[str, GraphedGradient] = {}
        self.fast = False

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.weights[0].dtype
        return dtype

    def attach(self) -> None:
        """Let the network run with the weights as they are now; to be called when they have been
        moved.
        """
        for (group, name), weight in zip(self._places, self.weights, strict=True):
            group[name] = weight

    def accelerate(self) -> bool:
        """Record graphs of the encoder from now on until `settle`; false, and nothing done, where
        that is not known to work: off a CUDA device, and for autoencoders other than Stable
        Diffusion's and their like."""
        starts = (
            not self.fast and self.posterior and self.weights[0].is_cuda and _known(self._net[0])
        )
        if starts:
            graph_trial.begin(self.weights[0].device)
        self.fast = self.fast or starts
        return starts

    def settle(self) -> None:
        """Forget the graphs and give back their memory."""
        self.fast = False
        try:
            for graphed in self._graphed.values():
                graphed.drop()
            release_memory(self.weights[0].device)
        # of the device, whose first error should be the one that is told
        except RuntimeError as error:
            log.warning("The memory of the VAE's CUDA graphs cannot be given back (%s).", error)
        self._graphed.clear()

    @property
    def takes_alpha(self) -> bool:
        """Whether pictures go in with their transparency."""
        return bool(self.vae.output_channels == 4)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The VAE's own latents [B,C,h,w] float32 of images [B,3,H,W] in 0..1; gradients flow to
        the images. One of pictures with alpha takes [B,4,H,W], and [B,3,H,W] as opaque; any other
        leaves alpha out.

        The posterior's mean; with a generator a sample of it, where the VAE has a posterior.
        """
        channels = self.vae.output_channels
        if images.shape[1] < channels:
            images = torch.cat([images, torch.ones_like(images[:, :1])], 1)
        pixels = self.vae.process_input(images[:, :channels]).to(self.weights[0])
        if self.frames:
            pixels = pixels[:, :, None]
        if generator is None or not self.posterior:
            return _still(self._run("encode", pixels).float())
        mean, log_variance = _still(self._run("moments", pixels).float()).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
        # the limits of every KL autoencoder
        return mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in 0..1, float32, of the VAE's own latents."""
        latents = latents.to(self.weights[0])
        images = _still(self._run("decode", latents[:, :, None] if self.frames else latents))
        # which works in place
        output: Tensor = self.vae.process_output(images[:, :3].float().clone())
        return output

    def _run(self, what: str, given: Tensor) -> Tensor:
        run = self._call(what)
        if 0 < self.micro_batch < len(given):
            output: Tensor = ChunkedCheckpoint.apply(given, run, self.micro_batch)
            return output
        return run(given)

    def _call(self, what: str) -> Callable[[Tensor], Tensor]:
        net = self._net[0]

        def run(some: Tensor) -> Tensor:
            return _moments(net, some) if what == "moments" else getattr(net, what)(some)

        if not self.fast or what == "decode":
            return run
        return self._graphed.setdefault(what, GraphedGradient(run))


class PixelVAE:
    """Stands where a VAE does for a model whose latents are the pictures themselves."""

    latent_dim, latent_channels, output_channels = 2, 3, 3
    vae_dtype, patcher = torch.float32, None

    def __init__(self) -> None:
        self.first_stage_model = _Same()

    def spacial_compression_encode(self) -> int:
        return 1

    def process_input(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def process_output(self, images: Tensor) -> Tensor:
        return ((images + 1) / 2).clamp(0, 1)


class _Same(nn.Module):
    """As ComfyUI's own for such models (comfy.pixel_space_convert)."""

    def __init__(self) -> None:
        super().__init__()
        self.pixel_space_vae = nn.Parameter(torch.ones(()), requires_grad=False)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents


def plain_twin(net: Any) -> Any:
    """The same network on the same tensors, in modules of its own that know nothing of ComfyUI's
    memory managers.
    """
    twin = net.__class__.__new__(net.__class__)
    kept = {name: value for name, value in vars(net).items() if not name.startswith(FOREIGN)}
    vars(twin).update(kept)
    for group in ("_parameters", "_buffers"):
        vars(twin)[group] = dict(vars(net)[group])
    vars(twin)["_modules"] = {
        name: part and plain_twin(part) for name, part in net._modules.items()
    }
    for name, value in kept.items():  # methods that other nodes have put on a layer
        if isinstance(value, types.MethodType) and value.__self__ is net:
            vars(twin)[name] = types.MethodType(value.__func__, twin)
    if hasattr(twin, "comfy_cast_weights"):
        twin.comfy_cast_weights, twin.weight_function, twin.bias_function = False, [], []
    if type(net).__module__ == comfy.ops.__name__:
        # ComfyUI's own call asks for interrupts, which must not come while a graph is recorded.
        twin.__class__ = next((kind for kind in PLAIN if isinstance(net, kind)), net.__class__)
    return twin


def _known(net: nn.Module) -> bool:
    """Whether every layer is one whose call does nothing but compute."""
    own = any(type(layer).__module__ == comfy.ops.__name__ for layer in net.modules())
    return not own and not any(
        {"forward", "_conv_forward"} & vars(layer).keys() for layer in net.modules()
    )


def _still(frames: Tensor) -> Tensor:
    """[B,C,h,w] of a video of one picture."""
    return frames[:, :, 0] if frames.dim() == 5 else frames


def _has_posterior(net: nn.Module) -> bool:
    regularized = isinstance(getattr(net, "regularization", None), DiagonalGaussianRegularizer)
    return isinstance(net, AutoencodingEngine) and regularized and getattr(net, "bn", None) is None


def _moments(net: Any, pixels: Tensor) -> Tensor:
    moments: Tensor = net.encoder(pixels)
    if hasattr(net, "quant_conv"):
        moments = net.quant_conv(moments)
    return moments

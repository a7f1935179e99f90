"""ComfyUI's VAE as a prior's encoder and decoder: differentiable, and the VAE itself left as it is."""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.models.autoencoder import AutoencodingEngine, DiagonalGaussianRegularizer
from torch import Tensor, nn
from torch.func import functional_call

from ...kernels.priors.diffusers.checkpointing import Recomputed


class _Call(nn.Module):
    """A method of a network as a module's forward, which is all that functional_call can call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, what: str, *args: Tensor) -> Tensor:
        return _moments(self.net, *args) if what == "moments" else getattr(self.net, what)(*args)


class OwnVAE(nn.Module):
    """The network of a VAE socket run with weights of its own, copies that are ordinary tensors.

    ComfyUI's loaders leave weights that are inference tensors, or live in memory that the next model may take;
    no gradient passes through either. The network is shared with the socket, its weights are not touched.
    """

    pictures_at_once = 0  # that are encoded together; 0 = all

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self._call = (_Call(vae.first_stage_model),)  # in a tuple, so that the socket's weights are not ours
        # float16 underflows in the gradient through the encoder
        dtype = torch.float32 if vae.vae_dtype == torch.float16 else vae.vae_dtype
        state = {**dict(self._call[0].named_parameters()), **dict(self._call[0].named_buffers())}
        self.names = list(state)
        with torch.inference_mode(False):
            copies = [value.detach().to("cpu", copy=True) for value in state.values()]
            frozen = (value.to(dtype) if value.is_floating_point() else value for value in copies)
            self.weights = nn.ParameterList(nn.Parameter(value, requires_grad=False) for value in frozen)

    @property
    def dtype(self) -> torch.dtype:
        return self.weights[0].dtype

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The VAE's own latents [B,C,h,w] float32 of images [B,3,H,W] in 0..1; gradients flow to the images.

        The posterior's mean; with a generator a sample of it, where the VAE has a posterior.
        """
        pixels = self.vae.process_input(images).to(self.weights[0])
        if generator is None or not _has_posterior(self.vae.first_stage_model):
            return self._run("encode", pixels).float()
        mean, log_variance = self._run("moments", pixels).float().chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
        return mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise  # the limits of every KL autoencoder

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in 0..1, float32, of the VAE's own latents."""
        images = self._run("decode", latents.to(self.weights[0])).float()
        return self.vae.process_output(images.clone())  # which works in place

    def _run(self, what: str, given: Tensor) -> Tensor:
        def run(some: Tensor) -> Tensor:
            return functional_call(self._call[0], dict(zip(self.names, self.weights, strict=True)), (what, some))

        if 0 < self.pictures_at_once < len(given):
            return Recomputed.apply(given, run, self.pictures_at_once)
        return run(given)


def _has_posterior(net: nn.Module) -> bool:
    regularized = isinstance(getattr(net, "regularization", None), DiagonalGaussianRegularizer)
    return isinstance(net, AutoencodingEngine) and regularized and getattr(net, "bn", None) is None


def _moments(net: Any, pixels: Tensor) -> Tensor:
    moments = net.encoder(pixels)
    return net.quant_conv(moments) if hasattr(net, "quant_conv") else moments

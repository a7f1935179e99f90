"""A prior whose networks run as CUDA graphs: the same numbers, without the processor's time to launch each kernel."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .diffusers_prior import DiffusersPrior

WARM_UPS = 3  # calls before a capture, in which libraries choose their algorithms and allocate


def capture(prior: DiffusersPrior) -> DiffusersPrior:
    """Let the prior's denoiser and encoder, on a CUDA device, record themselves at the first call of every shape.

    The networks must stay where they are from then on: a graph reads and writes fixed addresses. One encoding has to
    be differentiated before the next one is made, as a step of `optimize` does. Returns the prior it was given.
    Raises ValueError for a prior that is not on a CUDA device.
    """
    if prior.device.type != "cuda":
        raise ValueError(f"capture: prior {prior.name!r} is on {prior.device}; CUDA graphs need a CUDA device.")
    prior.unet = _Denoiser(prior.unet)
    prior.vae = _Autoencoder(prior.vae)
    return prior


class _Denoiser:
    def __init__(self, net: Any) -> None:
        self.net, self.graphs = net, dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.net, memo)  # what others train is a network, not a recording

    def __call__(self, z: Tensor, steps: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        given = [z, steps, encoder_hidden_states]
        key = (z.shape, encoder_hidden_states.shape)
        if key not in self.graphs:
            self.graphs[key] = self._recorded([value.clone() for value in given])
        graph, inputs, output = self.graphs[key]
        for place, value in zip(inputs, given, strict=True):
            place.copy_(value)
        graph.replay()
        result = SimpleNamespace(sample=output.clone())
        for hook in self.net._forward_hooks.values():  # whoever watches the network still sees every call
            hook(self.net, (z, steps), result)
        return result

    @torch.no_grad()
    def _recorded(self, inputs: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        z, steps, text = inputs
        aside = torch.cuda.Stream(z.device)
        aside.wait_stream(torch.cuda.current_stream(z.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self.net(z, steps, encoder_hidden_states=text)
        torch.cuda.current_stream(z.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.net(z, steps, encoder_hidden_states=text).sample
        return graph, inputs, output


class _Moments(nn.Module):
    """The encoder up to its posterior's parameters, as a plain function of the images."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent_dist.parameters


class _Autoencoder:
    def __init__(self, vae: Any) -> None:
        self.vae, self.graphs = vae, dict[torch.Size, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, images: Tensor) -> SimpleNamespace:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        if not (torch.is_grad_enabled() and images.requires_grad):
            return self.vae.encode(images)
        if images.shape not in self.graphs:
            sample = torch.rand_like(images).requires_grad_()
            self.graphs[images.shape] = torch.cuda.make_graphed_callables(_Moments(self.vae), (sample,))
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(self.graphs[images.shape](images).clone()))

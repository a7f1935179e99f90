"""A prior's networks at a GPU's speed: CUDA graphs, which save the processor every single launch, and fused kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...devices.streams import side_stream
from ...fast.encoder import Encoder, misfit
from ...fast.ops import triton_works
from ...fast.unet import fast_unet, unwatched

log = logging.getLogger(__name__)

WARM_UPS = 3  # calls before a capture, in which libraries choose their algorithms and allocate
FAILED = "Prior %r: the fused kernels of its %s fail (%s); going on with plain layers."
NO_GRAPH = "CUDA graphs of the %s cannot be recorded here (%s); it runs without."
NO_ROOM = "Not enough memory for CUDA graphs of the %s, which then runs without; pictures_at_once needs less."
MOST_GRAPHS = 12  # per network; Perp-Neg makes batches of many sizes, and what comes after is called directly


class Accelerated:
    """The two networks of a prior that every step calls. They must stay where they are: a graph reads and writes fixed
    addresses.

    One encoding has to be differentiated before the next one is made, as a step of `optimize` does. Where Triton does
    not work, or an autoencoder is of another build, the networks' own layers run in the graphs.
    """

    def __init__(self, unet: Any, vae: Any, name: str) -> None:
        """Raises ValueError for networks that are not on a CUDA device."""
        device = next(unet.parameters()).device
        if device.type != "cuda":
            raise ValueError(f"capture: prior {name!r} is on {device}; CUDA graphs need a CUDA device.")
        self.watched, self.vae, self.name = unet, vae, name
        self.fused_unet = triton_works()
        reason = misfit(vae)
        self.fused_encoder = self.fused_unet and reason is None
        self.encoder = GraphedGradient(Encoder(vae) if self.fused_encoder else self._plain_moments)
        layers = {True: "fused kernels", False: "plain layers"}
        log.info(
            "Prior %r: CUDA graphs, of %s in the U-Net, of %s in the encoder%s.",
            name,
            layers[self.fused_unet],
            layers[self.fused_encoder],
            f" ({reason})" if reason else "",
        )

    @cached_property
    def denoiser(self) -> Graphed:  # made when first called: a controlled prior calls the U-Net itself
        return Graphed(fast_unet(self.watched), True) if self.fused_unet else Graphed(unwatched(self.watched))

    def _plain_moments(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures.contiguous()).latent_dist.parameters  # see DiffusersPrior

    def moments(self, pictures: Tensor) -> Tensor:
        """Mean and log variance of the posterior, [B,2C,h,w], of pictures [B,3,H,W] in -1..1; differentiable."""
        try:
            return self.encoder(pictures)
        except Exception as error:
            if not self.fused_encoder or isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            log.warning(FAILED, self.name, "encoder", error)
            self.fused_encoder, self.encoder = False, GraphedGradient(self._plain_moments)
            return self.encoder(pictures)

    def output(self, z: Tensor, steps: Tensor, text: Tensor, camera: Tensor | None = None) -> Tensor:
        """What the U-Net puts out for z [B,C,h,w] at steps [B] and text [B,L,D]; without gradient.

        camera [B,K]: for a network that takes a class embedding.
        """
        given = (z, steps, text) if camera is None else (z, steps, text, camera)
        try:
            result = self.denoiser(*given)
        except Exception as error:
            if not self.fused_unet or isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            log.warning(FAILED, self.name, "U-Net", error)
            self.fused_unet, self.denoiser = False, Graphed(unwatched(self.watched))
            result = self.denoiser(*given)
        for hook in self.watched._forward_hooks.values():  # whoever watches the network still sees every call
            hook(self.watched, (z, steps), SimpleNamespace(sample=result))
        return result


class Graphed:
    """A diffusers U-Net as one CUDA graph per batch size, recorded when a size comes for the second time."""

    def __init__(self, net: Any, attention_first: bool = False) -> None:
        self.net, self.pool, self.most = net, torch.cuda.graph_pool_handle(), MOST_GRAPHS
        self.attention_first = attention_first  # cuDNN's, before the others
        self.seen: set[Any] = set()
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    @torch.no_grad()
    def __call__(self, *given: Tensor) -> Tensor:
        """given: z, steps and text, and a camera for a network that takes one."""
        key = tuple((value.shape, value.dtype) for value in given)
        if key not in self.graphs:
            first = key not in self.seen
            self.seen.add(key)
            if not first and len(self.graphs) < self.most:
                try:
                    self.graphs[key] = self._recorded([value.clone() for value in given])
                except RuntimeError as error:
                    self.most = 0
                    warn_of_no_graph("U-Net", error)
        if key not in self.graphs:
            with tuned(self.attention_first):
                return self._direct(*given)
        graph, inputs, output = self.graphs[key]
        for place, value in zip(inputs, given, strict=True):
            place.copy_(value)
        graph.replay()
        return output.clone()  # the graphs share their memory

    def _direct(self, z: Tensor, steps: Tensor, text: Tensor, *camera: Tensor) -> Tensor:
        beside = {"class_labels": camera[0]} if camera else {}
        return self.net(z, steps, encoder_hidden_states=text, return_dict=False, **beside)[0]

    def _recorded(self, inputs: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with tuned(self.attention_first):
            with aside(inputs[0].device):
                for _ in range(WARM_UPS):
                    self._direct(*inputs)
            # of this thread only: another one may use the device for something else meanwhile
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                output = self._direct(*inputs)
        return graph, inputs, output


class GraphedGradient:
    """A function of pictures with its gradient as two CUDA graphs per batch size."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function, self.most = function, MOST_GRAPHS
        self.graphs: dict[torch.Size, _Pair] = {}

    def __call__(self, pictures: Tensor) -> Tensor:
        differentiable = torch.is_grad_enabled() and pictures.requires_grad
        if differentiable and pictures.shape not in self.graphs and len(self.graphs) < self.most:
            try:
                self.graphs[pictures.shape] = _Pair(self.function, pictures)
            except RuntimeError as error:
                self.most = 0
                warn_of_no_graph("encoder", error)
        if differentiable and pictures.shape in self.graphs:
            return _Replay.apply(pictures, self.graphs[pictures.shape])
        with tuned():
            return self.function(pictures)


class _Pair:
    def __init__(self, function: Callable[[Tensor], Tensor], like: Tensor) -> None:
        self.pictures = like.detach().clone().requires_grad_()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.enable_grad(), tuned():
            with aside(like.device):
                for _ in range(WARM_UPS):
                    output = function(self.pictures)
                    torch.autograd.grad(output, self.pictures, torch.ones_like(output))
            del output
            with torch.cuda.graph(self.forward, capture_error_mode="thread_local"):
                output = function(self.pictures)
            self.given = torch.ones_like(output)
            with torch.cuda.graph(self.backward, self.forward.pool(), capture_error_mode="thread_local"):
                (self.gradient,) = torch.autograd.grad(output, self.pictures, self.given)
        self.output = output.detach()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pictures: Tensor, pair: _Pair) -> Tensor:
        ctx.pair = pair
        with torch.no_grad():
            pair.pictures.copy_(pictures)
        pair.forward.replay()
        return pair.output.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.pair.given.copy_(grad)
        ctx.pair.backward.replay()
        return ctx.pair.gradient.clone(), None


def warn_of_no_graph(network: str, error: RuntimeError) -> None:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        log.warning(NO_ROOM, network)
    else:
        log.warning(NO_GRAPH, network, error)


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """On another stream, as captures want their warm-ups."""
    stream = side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


@contextmanager
def tuned(attention_first: bool = False) -> Iterator[None]:
    """The fastest convolutions: cuDNN tries its algorithms; and its attention goes first if wanted."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, not cudnn.deterministic
    try:
        with _attention() if attention_first else nullcontext():
            yield
    finally:
        cudnn.benchmark = before


def _attention() -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    try:
        return sdpa_kernel(order, set_priority=True)
    except TypeError:  # before torch 2.6 the order is fixed
        return sdpa_kernel(order)

"""CUDA graphs of networks, which save the processor every single launch, under any allocator that a
process may have.

Everything that is read or written from outside a graph lies in memory from before its recording, so
that nothing a recording allocates outlives it. Under an asynchronous allocator a recording that
fails can end the process, whenever what it allocated is freed: there, `graph_trial` has to allow
graphs first.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..devices.autograd import Function
from ..devices.streams import (
    first_line,
    graphs_alive,
    is_out_of_memory,
    recording_stream,
    uses_async_allocator,
)
from ..devices.team import alone
from . import graph_trial

log = logging.getLogger(__name__)

WARM_UPS = 3  # calls before a recording, in which libraries choose their algorithms and allocate
# per network; Perp-Neg makes batches of many sizes, and what comes after is called directly
MOST_GRAPHS = 12
SPARE = 2**29  # bytes that are to be free besides what a graph needs
NO_GRAPH = "CUDA graphs of the %s cannot be recorded here (%s); it runs without."
NO_ROOM = (
    "Not enough memory for CUDA graphs of the %s, which then runs without; micro_batch needs less."
)

_stranded: list[Any] = []  # what failed recordings had allocated, which must never be freed


class Graphed:
    """A function of tensors, without gradient, as one CUDA graph per their shapes, recorded when
    these come for the second time."""

    def __init__(
        self, function: Callable[..., Tensor], name: str, attention_first: bool = False
    ) -> None:
        """name: of the network, for messages. attention_first: cuDNN's attention goes before the
        others.
        """
        self.function, self.name, self.attention_first = function, name, attention_first
        self.most, self.seen = MOST_GRAPHS, set[Hashable]()
        self.pool: Any = None
        self.graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    @torch.no_grad()
    def __call__(self, *given: Tensor) -> Tensor:
        key = tuple((value.shape, value.dtype) for value in given)
        if (
            key not in self.graphs
            and key in self.seen
            and len(self.graphs) < self.most
            and graph_trial.allowed()
        ):
            try:
                with alone():
                    self.graphs[key] = self._recorded([value.clone() for value in given])
            except Exception as error:
                self.most = 0
                warn_of_no_graph(self.name, error)
        self.seen.add(key)
        if key not in self.graphs:
            with alone(), tuned(self.attention_first):
                return self.function(*given)
        graph, inputs, output = self.graphs[key]
        for place, value in zip(inputs, given, strict=True):
            place.copy_(value)
        graph.replay()
        return output.clone()  # the next call overwrites it

    def _recorded(self, inputs: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with tuned(self.attention_first):
            output = warm_up(inputs[0].device, lambda: self.function(*inputs)).clone()
            # shared: nothing in it is read from outside
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            with recording(graph, inputs[0].device, self.pool):
                output.copy_(self.function(*inputs))
        graphs_alive.add(self)
        return graph, inputs, output

    def drop(self) -> None:
        """Forget the graphs; what they used can be given back to the device then."""
        tell_of(self.name, len(self.graphs))
        self.graphs.clear()
        self.pool = None
        graphs_alive.discard(self)


class GraphedGradient:
    """A function of pictures with its gradient as two CUDA graphs per their shape.

    One answer has to be differentiated before the next is asked for, or the gradient raises
    RuntimeError.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str = "encoder") -> None:
        self.function, self.name, self.most = function, name, MOST_GRAPHS
        self.graphs: dict[Hashable, _Pair] = {}

    def __call__(self, images: Tensor) -> Tensor:
        key = images.shape, images.dtype
        differentiable = torch.is_grad_enabled() and images.requires_grad
        if (
            differentiable
            and key not in self.graphs
            and len(self.graphs) < self.most
            and graph_trial.allowed()
        ):
            try:
                with alone():
                    self.graphs[key] = _Pair(self.function, images)
                graphs_alive.add(self)
            except Exception as error:
                self.most = 0
                warn_of_no_graph(self.name, error)
        if differentiable and key in self.graphs:
            output: Tensor = _Replay.apply(images, self.graphs[key])
            return output
        with alone(), tuned():
            return self.function(images)

    def drop(self) -> None:
        """Forget the graphs; what they used can be given back to the device then."""
        tell_of(self.name, len(self.graphs))
        try:
            for pair in self.graphs.values():
                pair.finish()
        finally:
            self.graphs.clear()
            graphs_alive.discard(self)


class _Pair:
    """The way there and the way back; what the first leaves for the second, a replay of the second
    frees.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], like: Tensor) -> None:
        self.images = like.detach().clone().requires_grad_()
        self.gradient = torch.empty_like(like)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # replays of the way there; whether the way back is still to come
        self.turn, self.open = 0, False

        def there_and_back() -> Tensor:
            output = function(self.images)
            torch.autograd.grad(output, self.images, torch.ones_like(output))
            return output.detach()

        # In this thread: autograd's own may free its last gradient when the recording is over
        # already, which an asynchronous allocator does not survive.
        with torch.enable_grad(), tuned(), torch.autograd.set_multithreading_enabled(False):
            self.output = warm_up(like.device, there_and_back).clone()
            self.given = torch.ones_like(self.output)
            pool = torch.cuda.graph_pool_handle()
            with recording(self.forward, like.device, pool):
                output = function(self.images)
                self.output.copy_(output.detach())
            with recording(self.backward, like.device, pool):
                (gradient,) = torch.autograd.grad(output, self.images, self.given)
                self.gradient.copy_(gradient)
                del output, gradient

    def finish(self) -> None:
        """Free what a replay of the way there has left."""
        if self.open:
            self.backward.replay()
            self.open = False


class _Replay(Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, pair: _Pair) -> Tensor:
        ctx.pair = pair
        with torch.no_grad():
            pair.images.copy_(images)
        pair.forward.replay()
        pair.turn, pair.open = pair.turn + 1, True
        ctx.turn = pair.turn
        return pair.output.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.turn != ctx.pair.turn or not ctx.pair.open:
            raise RuntimeError(
                "CUDA graphs: an answer has to be differentiated once, and before the next is asked"
                " for."
            )
        ctx.pair.given.copy_(grad)
        ctx.pair.backward.replay()
        ctx.pair.open = False
        return ctx.pair.gradient.clone(), None


def warm_up(device: torch.device, call: Callable[[], Tensor]) -> Tensor:
    """The result of ``call`` after a few of them on the stream of the recording that follows.

    Raises OutOfMemoryError, before there is a recording, where one more would not fit: what a graph
    needs is free memory, whatever torch keeps of these calls.
    """
    stream, main = recording_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(main)
    with torch.cuda.stream(stream):
        # in which libraries try their algorithms, some of which take more memory than the one they
        # choose
        call()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(device)
        try:
            for _ in range(WARM_UPS - 2):
                call()
            with forbid_synchronization():
                result = call()
        finally:
            main.wait_stream(stream)
    torch.cuda.synchronize(device)
    needed = torch.cuda.memory_reserved(device) - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    if free < 1.25 * needed + SPARE:
        raise torch.cuda.OutOfMemoryError(
            f"a graph needs {needed / 2**20:.0f} MiB besides, {free / 2**20:.0f} are free"
        )
    return result


@contextmanager
def forbid_synchronization() -> Iterator[None]:
    """What waits for the device, and so cannot be recorded, raises RuntimeError inside; in other
    threads too.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def recording(graph: torch.cuda.CUDAGraph, device: torch.device, pool: Any) -> Iterator[None]:
    """What is asked for inside becomes the graph; other threads may use the device meanwhile.

    One that fails is the last of the process: nobody knows in what state it leaves the allocator.
    """
    stream = recording_stream(device)
    # so that the ones before come back, however the recording ends
    with torch.cuda.stream(stream), _own_generator(device):
        try:
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                yield
        except BaseException as error:
            if uses_async_allocator():
                _never_freed(_allocated(error))
            graph_trial.forbid(f"a recording failed: {first_line(error)}")
            raise


def _never_freed(values: list[Any]) -> None:
    """They are held for good, past the interpreter's end, whose clearing of modules would free
    them.
    """
    _stranded.append(values)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(values))


@contextmanager
def _own_generator(device: torch.device) -> Iterator[None]:
    """Inside, the device's random numbers have a state of their own, which a recording may spoil.

    After one that fails torch (2.11) takes that state for one that is still being recorded, draws
    no more of it, and replays no graph that was recorded with it.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    if not hasattr(generator, "graphsafe_set_state"):  # before torch 2.4
        yield
        return
    before = generator.graphsafe_get_state()
    generator.graphsafe_set_state(generator.clone_state())
    try:
        yield
    finally:
        generator.graphsafe_set_state(before)


def _allocated(error: BaseException) -> list[Any]:
    """What those have at hand that record and that have failed at it."""
    recorder = sys._getframe(3)  # behind this, `recording` and contextlib
    frames = (recorder, *(frame for frame, _ in traceback.walk_tb(error.__traceback__)))
    values = (value for frame in frames for value in frame.f_locals.values())
    return [value for value in values if not isinstance(value, BaseException)]


def tell_of(network: str, graphs: int) -> None:
    """Say in the log, at the end of a run, that the network has run in so many graphs."""
    if graphs:
        log.info("The %s has run in CUDA graphs: %d recorded.", network, graphs)


def warn_of_no_graph(network: str, error: Exception) -> None:
    """Say in the log that the network runs without a graph, and why."""
    if is_out_of_memory(error):
        log.warning(NO_ROOM, network)
    else:
        log.warning(NO_GRAPH, network, first_line(error))


@contextmanager
def tuned(attention_first: bool = False) -> Iterator[None]:
    """The fastest convolutions: cuDNN tries its algorithms; and its attention goes first if wanted.

    Not under an asynchronous allocator: torch (2.11) then takes all the memory that is free for its
    trials, which drives other models off the device and fails what other processes do there.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = before or not (
        cudnn.deterministic or (torch.cuda.is_available() and uses_async_allocator())
    )
    try:
        with _attention() if attention_first else nullcontext():
            yield
    finally:
        cudnn.benchmark = before


def _attention() -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    try:
        return sdpa_kernel(order, set_priority=True)
    except TypeError:  # before torch 2.6 the order is fixed
        return sdpa_kernel(order)

"""Whether this process may record CUDA graphs: always with torch's own allocator, under another
only once a process of its own, with the same allocator, has recorded, replayed and dropped some and
is still alive.

Memory that cudaMallocAsync hands out during a recording is not there before the graph runs, so that
a recording which fails leaves tensors whose release ends the process. Nobody can know this
beforehand of every torch, Triton and driver.
"""

from __future__ import annotations

import atexit
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import torch
from torch.nn import functional as F

from ..devices.streams import ASYNCHRONOUS, release_memory

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 180.0  # seconds that a trial may take
# The pack by its folder, whatever that is called, and nothing from where ComfyUI was started.
PROGRAM = """
import sys
sys.path[:] = [path for path in sys.path if path]
import importlib, types
pack = sys.modules["pack"] = types.ModuleType("pack")
pack.__path__ = [sys.argv[1]]
importlib.import_module("pack.kernels.fast.graph_trial").run(sys.argv[2], int(sys.argv[3]))
"""
MOST_TRIES = 3  # of a trial that wants memory, each in a later run
ALLOWED = "CUDA graphs work under %s here: tried in a process of its own, %.0f s."
FORBIDDEN = "CUDA graphs are off from here on (%s); networks run without, slower."
ADVICE = " ComfyUI's --disable-cuda-malloc allows them without a trial."
NO_ROOM = "Not enough memory on the device to try CUDA graphs; networks run without, slower."
# ComfyUI's portable form and its desktop program: their own packages alone, no window.
FLAGS = ["-s"] if sys.flags.no_user_site else []
NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)


class Trial:
    """A trial under way, and what came of it."""

    def __init__(self) -> None:
        self.answer: bool | None = None
        self.reason = ""  # of a refusal
        self.process: subprocess.Popen[bytes] | None = None
        self.errors: IO[bytes] | None = None
        self.began, self.tries = 0.0, 0

    def begin(self, device: torch.device | None = None) -> None:
        """Start it, if it is needed and was not started before; it goes on beside whatever else is
        done.

        device: on which the graphs are to run.
        """
        if self.answer is not None or self.process is not None:
            return
        backend = torch.cuda.get_allocator_backend()
        if backend == "native":  # expandable segments included
            self.answer = True
        elif backend != ASYNCHRONOUS:
            self.forbid("the allocator is not torch's")
        else:
            self.errors, self.began, self.tries = (
                tempfile.TemporaryFile(),  # noqa: SIM115  # the process writes into it
                time.monotonic(),
                self.tries + 1,
            )
            index = str((device.index if device else None) or 0)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, *FLAGS, "-c", PROGRAM, str(ROOT), backend, index],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self.errors,
                    creationflags=NO_WINDOW,
                )
                atexit.register(self.process.kill)
            except OSError as error:
                self.forbid(f"no process to try them in: {error}")

    def allowed(self) -> bool:
        """Whether a graph may be recorded now; not while a trial goes on."""
        if not self.tries:
            self.begin()
        if self.answer is None and self.process is not None:
            code, seconds = self.process.poll(), time.monotonic() - self.began
            if code == 0:
                self.answer = True
                log.info(ALLOWED, torch.cuda.get_allocator_backend(), seconds)
            elif code is not None:
                self._failed(code)
            elif seconds > LONGEST:
                self.process.kill()
                self.forbid(f"a trial of them took more than {LONGEST:.0f} s", ADVICE)
        return bool(self.answer)

    def _failed(self, code: int) -> None:
        said = self._said()
        if "out of memory" not in said:
            self.forbid(f"a trial of them ended with {code}: {said}", ADVICE)
        elif self.tries < MOST_TRIES:
            self.process = None
            if self.tries == 1:
                log.warning(NO_ROOM)
        else:
            self.forbid(f"{MOST_TRIES} times there was no memory on the device to try them")

    def forbid(self, reason: str, advice: str = "") -> None:
        """No graph is recorded in this process from now on."""
        if self.answer is not False:
            log.warning(FORBIDDEN + advice, reason)
        self.answer, self.reason = False, reason

    def state(self) -> str:
        """For a log: what of graphs can be expected now."""
        if self.allowed():
            return "in CUDA graphs"
        return (
            f"without CUDA graphs ({self.reason})"
            if self.answer is False
            else "in CUDA graphs once a trial allows them"
        )

    def _said(self) -> str:
        assert self.errors is not None
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"


_trial = Trial()
begin, allowed, forbid, state = _trial.begin, _trial.allowed, _trial.forbid, _trial.state


def run(backend: str, index: int) -> None:
    """The trial on a GPU, in a process of its own: graphs of what priors are made of, in two sizes,
    twice.

    Raises RuntimeError for an allocator other than ``backend``, for wrong numbers, and where graphs
    cannot be recorded.
    """
    from . import graphs

    if not torch.cuda.is_available():
        raise RuntimeError("it has no CUDA device")
    if torch.cuda.get_allocator_backend() != backend:
        raise RuntimeError(
            f"it has the allocator {torch.cuda.get_allocator_backend()} and not {backend}"
        )
    torch.cuda.set_device(index)
    _trial.answer = True  # it is what this process is for
    for _ in range(2):
        function = _network(torch.device("cuda", index))
        alone, paired = graphs.Graphed(function, "network"), graphs.GraphedGradient(function)
        for size in (16, 32, 16, 32, 16):
            images = torch.rand(2, 8, size, size, device=f"cuda:{index}", requires_grad=True)
            expected, got = function(images), paired(images)
            upstream = torch.rand_like(expected)
            slopes = [torch.autograd.grad(value, images, upstream)[0] for value in (expected, got)]
            _compare(expected, got, "a graph")
            _compare(slopes[0], slopes[1], "a gradient's graph")
            _compare(expected, alone(images.detach()), "a graph without gradient")
        if len(alone.graphs) != 2 or len(paired.graphs) != 2:
            raise RuntimeError("graphs could not be recorded")
        alone.drop()
        paired.drop()
        release_memory(torch.device("cuda", index))


def _network(device: torch.device) -> Any:
    """A convolution, a normalisation (fused where Triton works), attention, a matrix product."""
    from .ops import norm_act
    from .reference import Norm

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device) / 8

    convolution, mixing, norm = (
        draw(32, 8, 3, 3),
        draw(96, 32),
        Norm(draw(32), draw(32), 8, 1e-5, True),
    )

    def function(images: torch.Tensor) -> torch.Tensor:
        x = norm_act(F.conv2d(images, convolution, padding=1), norm)
        q, k, v = F.linear(x.flatten(2).transpose(1, 2), mixing).chunk(3, -1)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    return function


def _compare(expected: torch.Tensor, got: torch.Tensor, what: str) -> None:
    if not torch.allclose(expected, got, rtol=1e-2, atol=1e-2):
        raise RuntimeError(
            f"{what} gives wrong numbers, by up to {(expected - got).abs().max():.3g}"
        )

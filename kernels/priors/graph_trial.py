"""Whether this process may record CUDA graphs: always with torch's own allocator, under another only once a process of
its own, with the same allocator, has recorded, replayed and dropped some and is still alive.

Memory that cudaMallocAsync hands out during a recording is not there before the graph runs, so that a recording which
fails leaves tensors whose release ends the process. Nobody can know this beforehand of every torch, Triton and driver.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import torch
from torch.nn import functional as F

from ..devices import ASYNCHRONOUS, give_back

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
importlib.import_module("pack.kernels.priors.graph_trial").run(sys.argv[2])
"""
ALLOWED = "CUDA graphs work under %s here: tried in a process of its own, %.0f s."
FORBIDDEN = (
    "CUDA graphs are off under %s (%s); networks run without, slower. ComfyUI's --disable-cuda-malloc allows them."
)


class Trial:
    """A trial under way, and what came of it."""

    def __init__(self) -> None:
        self.answer: bool | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.errors: IO[bytes] | None = None
        self.began = 0.0

    def begin(self) -> None:
        """Start it, if it is needed and was not started before; it goes on beside whatever else is done."""
        if self.answer is not None or self.process is not None:
            return
        backend = torch.cuda.get_allocator_backend()
        if backend == "native":  # expandable segments included
            self.answer = True
        elif backend != ASYNCHRONOUS:
            self.forbid("an allocator that is not torch's")
        else:
            self.errors, self.began = tempfile.TemporaryFile(), time.monotonic()
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, str(ROOT), backend],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self.errors,
                )
            except OSError as error:
                self.forbid(f"no process to try them in: {error}")

    def allowed(self) -> bool:
        """Whether a graph may be recorded now; not while the trial goes on."""
        self.begin()
        if self.answer is None and self.process is not None:
            code, seconds = self.process.poll(), time.monotonic() - self.began
            if code == 0:
                self.answer = True
                log.info(ALLOWED, torch.cuda.get_allocator_backend(), seconds)
            elif code is not None:
                self.forbid(f"a trial of them ended with {code}: {self._said()}")
            elif seconds > LONGEST:
                self.process.kill()
                self.forbid(f"a trial of them took more than {LONGEST:.0f} s")
        return bool(self.answer)

    def forbid(self, reason: str) -> None:
        """No graph is recorded in this process from now on."""
        if self.answer is not False:
            log.warning(FORBIDDEN, torch.cuda.get_allocator_backend(), reason)
        self.answer = False

    def _said(self) -> str:
        assert self.errors is not None
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"


_trial = Trial()
begin, allowed, forbid = _trial.begin, _trial.allowed, _trial.forbid


def run(backend: str) -> None:
    """The trial: graphs of what priors are made of, with gradients, in two sizes, twice; in a process of its own.

    Raises RuntimeError for an allocator other than ``backend``, for wrong numbers, and where graphs cannot be recorded.
    """
    from . import graphs

    if not torch.cuda.is_available():
        raise RuntimeError("it has no CUDA device")
    if torch.cuda.get_allocator_backend() != backend:
        raise RuntimeError(f"it has the allocator {torch.cuda.get_allocator_backend()} and not {backend}")
    _trial.answer = True  # it is what this process is for
    for _ in range(2):
        function = _network(torch.device("cuda"))
        alone, paired = graphs.Graphed(function, "network"), graphs.GraphedGradient(function)
        for size in (16, 32, 16, 32, 16):
            pictures = torch.rand(2, 8, size, size, device="cuda", requires_grad=True)
            expected, got = function(pictures), paired(pictures)
            upstream = torch.rand_like(expected)
            slopes = [torch.autograd.grad(value, pictures, upstream)[0] for value in (expected, got)]
            _compare(expected, got, "a graph")
            _compare(slopes[0], slopes[1], "a gradient's graph")
            _compare(expected, alone(pictures.detach()), "a graph without gradient")
        if len(alone.graphs) != 2 or len(paired.graphs) != 2:
            raise RuntimeError("graphs could not be recorded")
        alone.drop()
        paired.drop()
        give_back(torch.device("cuda"))


def _network(device: torch.device) -> Any:
    """A convolution, a normalisation (fused where Triton works), attention, a matrix product."""
    from ..fast.ops import norm_act
    from ..fast.reference import Norm

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device) / 8

    convolution, mixing, norm = draw(32, 8, 3, 3), draw(96, 32), Norm(draw(32), draw(32), 8, 1e-5, True)

    def function(pictures: torch.Tensor) -> torch.Tensor:
        x = norm_act(F.conv2d(pictures, convolution, padding=1), norm)
        q, k, v = F.linear(x.flatten(2).transpose(1, 2), mixing).chunk(3, -1)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    return function


def _compare(expected: torch.Tensor, got: torch.Tensor, what: str) -> None:
    if not torch.allclose(expected, got, rtol=1e-2, atol=1e-2):
        raise RuntimeError(f"{what} gives wrong numbers, by up to {(expected - got).abs().max():.3g}")

"""Run by test_graphs.py in a process with the allocator to be tested: a recording that really
fails, in both kinds of graph, and work that goes on after it. Prints what the log said."""

import gc
import logging
import sys

import torch

from distill3d.kernels.devices.streams import release_memory
from distill3d.kernels.fast import graph_trial
from distill3d.kernels.fast.graphs import Graphed, GraphedGradient

DEVICE = torch.device("cuda")


def network(x: torch.Tensor) -> torch.Tensor:
    """Takes memory, and only while it is recorded asks for what cannot be."""
    wide = x.repeat(1, 8, 1, 1).square()
    if torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize()
    return wide.mean(1)


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    graph_trial._trial.answer = True  # as after a trial that has nothing to say against them
    x = torch.rand(2, 3, 256, 256, device=DEVICE, requires_grad=True)
    expected = network(x)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    kind = {"Graphed": Graphed, "GraphedGradient": GraphedGradient}[sys.argv[1]]
    graphed = kind(network, "network")
    before = Graphed(lambda x: 2 * x, "other")
    for _ in range(2):
        before(x.detach())
    assert len(before.graphs) == 1
    state = torch.cuda.get_rng_state(DEVICE)
    for _ in range(20):
        found = graphed(x)
        torch.testing.assert_close(found, expected)
        if found.requires_grad:
            torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], slope)
        del found
        assert torch.equal(torch.cuda.get_rng_state(DEVICE), state)
        torch.testing.assert_close(before(x.detach()), 2 * x.detach())
        gc.collect()
        release_memory(DEVICE)
        # what was given back is taken again
        held = [torch.rand(2**22, device=DEVICE) for _ in range(16)]
        assert 0.49 < float(sum(each.mean() for each in held)) / 16 < 0.51
        torch.cuda.set_rng_state(state, DEVICE)
    assert not graphed.graphs and not graph_trial.allowed()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()

"""What a prior with CUDA graphs promises without a CUDA device; its numbers are for a machine that has one."""

from types import SimpleNamespace

import pytest
import torch

from distill3d.kernels.priors.diffusers import cuda_graphs as captured
from distill3d.kernels.priors.diffusers.cuda_graphs import Accelerated, Graphed, GraphedGradient, tuned

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_prior_on_the_cpu_is_refused_with_its_place():
    with pytest.raises(ValueError, match="'toy' is on cpu; CUDA graphs need a CUDA device"):
        Accelerated(torch.nn.Conv2d(1, 1, 1), None, "toy")


def test_the_search_for_fast_convolutions_ends_with_the_block_that_wants_it():
    before = torch.backends.cudnn.benchmark
    with pytest.raises(RuntimeError), tuned():
        assert torch.backends.cudnn.benchmark
        raise RuntimeError
    assert torch.backends.cudnn.benchmark == before


@cuda
def test_replayed_answers_are_the_networks_whatever_the_batch():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, z, steps, encoder_hidden_states, return_dict=True):
            return (self.layer(z) * steps[:, None, None, None] + encoder_hidden_states.mean(),)

    net = Net().cuda()
    graphed = Graphed(net)
    for scale in (1.0, 2.0, 3.0):
        for rows in (3, 5):
            given = [torch.rand(rows, 2, 8, 8).cuda(), scale * torch.arange(rows).cuda(), torch.rand(rows, 4, 5).cuda()]
            torch.testing.assert_close(graphed(*given), net(*given)[0])
    assert len(graphed.graphs) == 2


@cuda
def test_a_replayed_gradient_is_the_functions():
    layer = torch.nn.Conv2d(3, 2, 3).cuda().requires_grad_(False)
    graphed = GraphedGradient(lambda x: layer(x).square())
    for _ in range(3):
        pictures = torch.rand(2, 3, 8, 8, device="cuda", requires_grad=True)
        upstream = torch.rand(2, 2, 6, 6, device="cuda")
        values = [function(pictures) for function in (graphed, lambda x: layer(x).square())]
        torch.testing.assert_close(*values)
        torch.testing.assert_close(*(torch.autograd.grad(value, pictures, upstream)[0] for value in values))


class Broken:
    """A network of fused kernels that a driver will not run."""

    def __call__(self, *given):
        raise RuntimeError("no kernel image")


def accelerated(watched, **parts):
    """An Accelerated without the device that making one needs."""
    fast = Accelerated.__new__(Accelerated)
    fast.watched, fast.name, fast.fused_encoder, fast.fused_unet = watched, "toy", True, True
    for name, part in parts.items():
        setattr(fast, name, part)
    return fast


def test_watchers_of_the_network_see_every_accelerated_call():
    seen = []
    watched = torch.nn.Conv2d(1, 1, 1)
    watched.register_forward_hook(lambda module, given, output: seen.append((len(given[0]), output.sample.shape)))
    fast = accelerated(watched, denoiser=lambda z, steps, text: z)
    fast.output(torch.zeros(3, 1, 2, 2), torch.zeros(3), torch.zeros(3, 4, 5))
    assert seen == [(3, torch.Size([3, 1, 2, 2]))]


def test_networks_whose_fused_kernels_fail_go_on_with_plain_layers_and_say_so(monkeypatch, caplog):
    monkeypatch.setattr(captured, "GraphedGradient", lambda function: function)
    monkeypatch.setattr(captured, "Graphed", lambda net: lambda z, steps, text: net(z))
    fast = accelerated(torch.nn.Conv2d(1, 1, 1), encoder=Broken(), denoiser=Broken())
    fast.vae = SimpleNamespace(encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(parameters=2 * x)))
    z = torch.ones(1, 1, 2, 2)
    for _ in range(2):
        assert torch.equal(fast.moments(z), 2 * z)
        assert torch.equal(fast.output(z, torch.zeros(1), torch.zeros(1, 4, 5)), fast.watched(z))
    assert [r.message for r in caplog.records] == [
        f"Prior 'toy': the fused kernels of its {part} fail (no kernel image); going on with plain layers."
        for part in ("encoder", "U-Net")
    ]


def test_want_of_memory_is_not_taken_for_a_broken_kernel():
    def full(*given):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    fast = accelerated(torch.nn.Conv2d(1, 1, 1), encoder=full, denoiser=full)
    for call in (lambda: fast.moments(torch.ones(1, 1, 2, 2)), lambda: fast.output(*torch.ones(3, 1, 1, 2, 2))):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            call()
    assert fast.fused_encoder and fast.fused_unet


def test_what_plain_layers_cannot_do_either_is_an_error():
    fast = accelerated(torch.nn.Conv2d(1, 1, 1), encoder=Broken(), denoiser=Broken())
    fast.fused_encoder = fast.fused_unet = False
    with pytest.raises(RuntimeError, match="no kernel image"):
        fast.moments(torch.ones(1, 1, 2, 2))
    with pytest.raises(RuntimeError, match="no kernel image"):
        fast.output(torch.ones(1, 1, 2, 2), torch.zeros(1), torch.zeros(1, 4, 5))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "pictures_at_once needs less"),
        (RuntimeError("operation not permitted when stream is capturing"), "not permitted when stream is capturing"),
    ],
)
def test_an_encoder_of_which_no_graph_can_be_made_runs_without_and_does_not_try_again(monkeypatch, caplog, error, said):
    tries = []

    def no_graph(function, pictures):
        tries.append(1)
        raise error

    monkeypatch.setattr(captured, "_Pair", no_graph)
    graphed = GraphedGradient(lambda x: 3 * x)
    for _ in range(2):
        pictures = torch.ones(1, 3, 2, 2, requires_grad=True)
        assert torch.autograd.grad(graphed(pictures).sum(), pictures)[0].unique().tolist() == [3.0]
    assert tries == [1] and said in caplog.text

"""What a prior with CUDA graphs promises without a CUDA device; its numbers are for a machine that
has one.
"""

from types import SimpleNamespace

import pytest
import torch

from distill3d.kernels.priors.diffusers import cuda_graphs as captured
from distill3d.kernels.priors.diffusers.cuda_graphs import Accelerated


def test_a_prior_on_the_cpu_is_refused_with_its_place():
    with pytest.raises(ValueError, match="'toy' is on cpu; CUDA graphs need a CUDA device"):
        Accelerated(torch.nn.Conv2d(1, 1, 1), None, "toy")


class Net(torch.nn.Conv2d):
    """Takes and gives what a U-Net does."""

    def forward(self, z, steps=None, encoder_hidden_states=None, return_dict=True):
        return (super().forward(z),)


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
    watched.register_forward_hook(
        lambda module, given, output: seen.append((len(given[0]), output.sample.shape))
    )
    fast = accelerated(watched, denoiser=lambda z, steps, text: z)
    fast.output(torch.zeros(3, 1, 2, 2), torch.zeros(3), torch.zeros(3, 4, 5))
    assert seen == [(3, torch.Size([3, 1, 2, 2]))]


def test_networks_whose_fused_kernels_fail_go_on_with_plain_layers_and_say_so(monkeypatch, caplog):
    monkeypatch.setattr(captured, "GraphedGradient", lambda function: function)
    monkeypatch.setattr(captured, "Graphed", lambda call, name, attention_first: call)
    fast = accelerated(Net(1, 1, 1), encoder=Broken(), denoiser=Broken())
    fast.vae = SimpleNamespace(
        encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(parameters=2 * x))
    )
    z = torch.ones(1, 1, 2, 2)
    for _ in range(2):
        assert torch.equal(fast.moments(z), 2 * z)
        assert torch.equal(fast.output(z, torch.zeros(1), torch.zeros(1, 4, 5)), fast.watched(z)[0])
    assert [r.message for r in caplog.records] == [
        f"Prior 'toy': the fused kernels of its {part} fail (no kernel image); going on with plain"
        " layers."
        for part in ("encoder", "U-Net")
    ]


def test_want_of_memory_is_not_taken_for_a_broken_kernel():
    def full(*given):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    fast = accelerated(torch.nn.Conv2d(1, 1, 1), encoder=full, denoiser=full)
    for call in (
        lambda: fast.moments(torch.ones(1, 1, 2, 2)),
        lambda: fast.output(*torch.ones(3, 1, 1, 2, 2)),
    ):
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

"""What a prior with CUDA graphs promises without a CUDA device; its numbers are for a machine that has one."""

import copy
from types import SimpleNamespace

import pytest
import torch

from distill3d.kernels.priors.captured import _Denoiser, capture


def test_a_prior_on_the_cpu_is_refused_with_its_place():
    prior = SimpleNamespace(name="toy", device=torch.device("cpu"))
    with pytest.raises(ValueError, match="is on cpu; CUDA graphs need a CUDA device"):
        capture(prior)


def test_a_copy_of_the_denoiser_is_the_network_itself_on_the_same_weights():
    net = torch.nn.Conv2d(1, 1, 1)
    shared = {id(value): value for value in net.parameters()}
    twin = copy.deepcopy(_Denoiser(net), shared)
    assert isinstance(twin, torch.nn.Conv2d) and twin.weight is net.weight


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_replayed_answers_are_the_networks_and_watchers_see_every_call():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, z, steps, encoder_hidden_states):
            return SimpleNamespace(sample=self.layer(z) * steps[:, None, None, None] + encoder_hidden_states.mean())

    net, seen = Net().cuda(), []
    captured = _Denoiser(net)
    inputs = [torch.rand(3, 2, 8, 8).cuda(), torch.arange(3.0).cuda(), torch.rand(3, 4, 5).cuda()]
    captured(*inputs)
    net.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    for scale in (1.0, 2.0):
        scaled = [value * scale for value in inputs]
        torch.testing.assert_close(captured(*scaled).sample, net(*scaled).sample)
    assert seen == [3] * 4  # two of the recording, two of the network

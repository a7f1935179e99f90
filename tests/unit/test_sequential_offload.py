"""A prior whose networks visit the device one at a time gives the same numbers, with one of them
there at most.
"""

from itertools import chain

import pytest
import torch

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.priors.control import ControlledPrior, ControlSettings
from distill3d.kernels.priors.diffusers.latent_prior import PARTS
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings


@pytest.fixture
def prior(pipeline_folder):
    return load_diffusers(pipeline_folder)


def places(prior, part):
    module = getattr(prior, part)
    return [tensor.data_ptr() for tensor in chain(module.parameters(), module.buffers())]


def watched(prior):
    """Every network's calls, each with the networks whose weights were away from home then."""
    homes, calls = {part: places(prior, part) for part in PARTS}, []

    def watch(part):
        def note(*_):
            calls.append((part, [other for other in PARTS if places(prior, other) != homes[other]]))

        return note

    for part in ("unet", "text_encoder"):
        getattr(prior, part).register_forward_pre_hook(watch(part))
    prior.vae.encoder.register_forward_pre_hook(watch("vae"))
    prior.vae.decoder.register_forward_pre_hook(watch("vae"))
    return calls


@pytest.mark.parametrize("loss", [CDS(), VDM(), VSD()], ids=lambda loss: loss.name)
@pytest.mark.parametrize("at_once", [0, 1])
def test_a_run_in_turns_is_the_same_run(prior, loss, at_once):
    pytest.importorskip("peft")
    cloud = random_ball(60, scale=0.06, opacity_logit=-1.4)
    settings = OptimizeSettings(views=2, micro_batch=at_once)

    def run():
        return optimize(
            cloud, loss, prior, view_prompts(prior, "a mug"), OrbitSampler(), 2, settings
        )

    expected = run()
    prior._rows.clear()  # so that the texts are embedded in turns too
    homes, calls = {part: places(prior, part) for part in PARTS}, watched(prior)
    with prior.sequential_offload("cpu"):
        found = run()
    for name, value in expected.tensors().items():
        assert torch.equal(value, found.tensors()[name]), name
    assert {part for part, _ in calls} >= {"text_encoder", "vae"} and len(calls) > 6
    assert all(away == [part] for part, away in calls)
    assert {part: places(prior, part) for part in PARTS} == homes


def test_a_control_network_comes_and_goes_with_the_unet(prior):
    from diffusers import ControlNetModel

    with torch.random.fork_rng():
        torch.manual_seed(3)
        control = ControlNetModel.from_unet(prior.unet, conditioning_embedding_out_channels=(8, 16))
        for weight in control.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    shown = ControlledPrior(prior, control, ControlSettings())
    homes, seen = [weight.data_ptr() for weight in control.parameters()], []
    shown.vae.encoder.register_forward_pre_hook(
        lambda *_: seen.append([w.data_ptr() for w in control.parameters()])
    )
    control.register_forward_pre_hook(
        lambda *_: seen.append([w.data_ptr() for w in control.parameters()])
    )
    cloud, prompts = random_ball(200, scale=0.1, opacity_logit=3.0), view_prompts(shown, "a mug")
    settings = OptimizeSettings(views=2)
    expected = optimize(cloud, CDS(), shown, prompts, OrbitSampler(), 1, settings)
    seen.clear()
    with shown.sequential_offload("cpu"):
        found = optimize(cloud, CDS(), shown, prompts, OrbitSampler(), 1, settings)
    assert torch.equal(found.means, expected.means) and not torch.equal(found.means, cloud.means)
    assert seen[0] == homes and any(not set(places) & set(homes) for places in seen)


def test_what_is_decoded_is_the_same(prior):
    latents = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    expected, calls = prior.decode(latents), watched(prior)
    with prior.sequential_offload("cpu"):
        assert torch.equal(prior.decode(latents), expected)
    assert calls == [("vae", ["vae"])]


def test_an_error_brings_everything_home(prior):
    homes = {part: places(prior, part) for part in PARTS}
    with pytest.raises(RuntimeError), prior.sequential_offload("cpu"):
        prior.encode(torch.rand(1, 3, 16, 16))
        raise RuntimeError
    assert {part: places(prior, part) for part in PARTS} == homes and prior._offload is None

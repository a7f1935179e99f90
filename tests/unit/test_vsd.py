"""VSD: its fixed point with an exact learner, and a real LoRA on a tiny U-Net that leaves the prior
alone.
"""

import sys

import pytest
import torch
from kit import normal, seeded
from safetensors.torch import load, save

from distill3d.kernels.losses.base import Views, guided
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.degradation import AdamState
from distill3d.kernels.losses.vsd import VSD, vsd
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.lora import LoraAdapter
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()
SHAPE = (3, 8, 8)


class TinyPrior:
    """A random U-Net behind the parts of DiffusersPrior that a loss meets."""

    views_per_group = DiffusersPrior.views_per_group
    name, latent_channels, adapter = "tiny", 3, DiffusersPrior.adapter
    predict, _noise, _output = DiffusersPrior.predict, DiffusersPrior._noise, DiffusersPrior._output
    micro_batch, _fast, _extra_inputs = (
        DiffusersPrior.micro_batch,
        DiffusersPrior._fast,
        DiffusersPrior._extra_inputs,
    )
    _bring, _offload = DiffusersPrior._bring, DiffusersPrior._offload
    replicas = DiffusersPrior.replicas

    def __init__(self, prediction="epsilon", dtype=torch.float32):
        from diffusers import UNet2DConditionModel

        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet = UNet2DConditionModel(
                sample_size=8,
                in_channels=3,
                out_channels=3,
                block_out_channels=(8, 16),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=16,
                attention_head_dim=2,
                norm_num_groups=4,
            )
        self.unet = (
            unet.eval().requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)
        )
        self.schedule, self.prediction, self.device, self.dtype = (
            SCHEDULE,
            prediction,
            torch.device("cpu"),
            dtype,
        )

    def embed(self, texts):
        return Conditioning(torch.stack([normal(len(text), 4, 16) for text in texts]))


@pytest.fixture(scope="module")
def prior():
    return TinyPrior()


def views(prior, count=2, step=0, factor=1.0):
    return Views(prior.embed(["a mug"] * count), prior.embed([""] * count), None, step, 10, factor)


def advance(run, prior, generator, begin, end):
    for step in range(begin, end):
        latents = normal(20 + step, 2, *SHAPE).requires_grad_()
        value, logs = run(latents, views(prior, step=step), generator)
    return torch.autograd.grad(value, latents)[0], logs


def test_the_lora_is_trained_by_adamw_with_its_usual_betas(prior):
    generator = seeded()
    run = VSD(lora_lr=1e-3).start(prior, SHAPE, generator)
    advance(run, prior, generator, 0, 1)
    state = run.state()
    means = {
        key.removeprefix("adam_mean."): value
        for key, value in state.items()
        if key.startswith("adam_mean.")
    }
    moved = [key for key, value in means.items() if value.abs().max() > 0]
    assert moved
    for key in moved:  # after one step 0.1 g and 0.001 g^2
        torch.testing.assert_close(state[f"adam_square.{key}"], 0.1 * means[key].square())


def test_direction_is_the_guided_estimate_less_the_renders():
    e_c, e_u, e_q = (normal(seed, 2, *SHAPE) for seed in (1, 2, 3))
    torch.testing.assert_close(vsd(e_c, e_u, e_q, 7.5), guided(e_c, e_u, 7.5) - e_q)


class GaussianLearner:
    """Learns the mean and the variance of Gaussian renders, whose score is then exact."""

    def __init__(self, schedule, mean, variance):
        self.schedule, self.weights = schedule, {"mean": mean, "log_variance": variance.log()}

    def initial(self, generator):
        return self.weights

    def _noise(self, weights, z_t, t):
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        return s * (z_t - a * weights["mean"]) / (a**2 * weights["log_variance"].exp() + s**2)

    def predict(self, weights, z_t, t, text):
        return self._noise(weights, z_t, t)

    def error(self, weights, z0, noise, t, text):
        return (
            self._noise(weights, self.schedule.alpha(t) * z0 + self.schedule.sigma(t) * noise, t)
            - noise
        )


class AdaptableMixture(GaussianMixturePrior):
    learned = torch.tensor(2.0), torch.tensor(0.25)

    def adapter(self, rank):
        return GaussianLearner(self.schedule, *self.learned)


def gaussian_prior(kind=AdaptableMixture):
    mixture = Mixture(torch.full((1, *SHAPE), 2.0), torch.full((1, 1, 1, 1), 0.25), torch.ones(1))
    return kind({"a mug": mixture, "": mixture}, SCHEDULE)


class Watched(AdaptableMixture):
    """Keeps every picture that a loss hands to the prior or to the learner."""

    def __init__(self, *args):
        super().__init__(*args)
        self.inputs = []

    def predict(self, z_t, t, conditionings):
        self.inputs.append(z_t)
        return super().predict(z_t, t, conditionings)

    def adapter(self, rank):
        learner = super().adapter(rank)
        predict, error = learner.predict, learner.error
        learner.predict = lambda weights, z_t, *rest: (
            self.inputs.append(z_t) or predict(weights, z_t, *rest)
        )
        learner.error = lambda weights, z0, *rest: (
            self.inputs.append(z0) or error(weights, z0, *rest)
        )
        return learner


def test_no_gradient_passes_the_denoiser_or_the_learner():
    prior = gaussian_prior(Watched)
    latents = normal(1, 2, *SHAPE).requires_grad_()
    value, logs = VSD().start(prior, SHAPE, seeded())(latents, views(prior), seeded(1))
    value.backward()
    assert len(prior.inputs) == 3 and not any(z.requires_grad for z in prior.inputs)
    assert latents.grad.abs().sum() > 0 and not any(log.requires_grad for log in logs.values())


def test_it_stands_still_where_renders_are_distributed_as_the_prior_has_it():
    prior = gaussian_prior()
    run = VSD(lora_lr=0.0, weighting="one").start(prior, SHAPE, seeded())
    direction, _ = advance(run, prior, seeded(1), 0, 1)
    assert direction.abs().max() < 1e-5
    prior.learned = torch.tensor(2.5), torch.tensor(0.25)
    direction, _ = advance(
        VSD(lora_lr=0.0, weighting="one").start(prior, SHAPE, seeded()), prior, seeded(1), 0, 1
    )
    assert (direction > 0.01).all()  # renders too bright are made darker


def test_the_learner_finds_the_renders_distribution():
    prior, generator = gaussian_prior(), seeded(1)
    run = VSD(lora_lr=5e-2, guidance=1).start(prior, SHAPE, generator)
    for step in range(300):
        renders = -1.0 + 0.8 * torch.randn(8, *SHAPE, generator=generator)
        run(renders, views(prior, 8, step), generator)
    learned = run.state()
    assert learned["lora.mean"].item() == pytest.approx(-1.0, abs=0.1)
    assert learned["lora.log_variance"].exp().sqrt().item() == pytest.approx(0.8, abs=0.1)


def test_weights_that_nothing_pulls_at_decay_as_adamws_default_has_it():
    class Content(GaussianLearner):
        def error(self, weights, z0, noise, t, text):
            return 0 * super().error(weights, z0, noise, t, text)

    prior = gaussian_prior()
    prior.adapter = lambda rank: Content(SCHEDULE, *prior.learned)
    run = VSD(lora_lr=0.5).start(prior, SHAPE, seeded())
    advance(run, prior, seeded(1), 0, 2)
    assert run.state()["lora.mean"].item() == pytest.approx(2.0 * (1 - 0.5 * 0.01) ** 2)


def test_a_prior_without_a_network_is_refused():
    with pytest.raises(
        ValueError, match="VSD Loss: prior 'gaussian mixture' has no network that could be trained"
    ):
        VSD().start(gaussian_prior(GaussianMixturePrior), SHAPE, seeded())


def test_a_fresh_lora_changes_nothing_so_the_first_step_is_csd(prior):
    latents = normal(1, 2, *SHAPE).requires_grad_()
    gradients = []
    for kind in (VSD, CSD):
        value, _ = kind().start(prior, SHAPE, seeded())(latents, views(prior), seeded(1))
        gradients.append(torch.autograd.grad(value, latents)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_learning_lowers_the_loss_and_leaves_the_prior_bit_for_bit(prediction):
    prior = TinyPrior(prediction)
    before = {key: value.clone() for key, value in prior.unet.state_dict().items()}
    z_t, t, text = normal(3, 2, *SHAPE), torch.tensor([40, 700]), prior.embed(["a mug", ""])
    (answer,) = prior.predict(z_t, t, [text])
    global_stream = torch.get_rng_state()
    run, generator, renders = (
        VSD(lora_lr=3e-2).start(prior, SHAPE, seeded()),
        seeded(1),
        3 * normal(4, 2, *SHAPE),
    )

    def loss():
        noise, levels = normal(5, 2, *SHAPE), torch.tensor([300, 600])
        return (
            run.adapter.error(run.lora.parameters, renders, noise, levels, views(prior).text)
            .square()
            .mean()
            .item()
        )

    fresh = loss()
    for step in range(30):
        run(renders, views(prior, step=step), generator)
    assert loss() < 0.98 * fresh

    after = prior.unet.state_dict()
    assert after.keys() == before.keys() and all(
        torch.equal(after[key], before[key]) for key in before
    )
    assert all(p.grad is None and not p.requires_grad for p in prior.unet.parameters())
    assert torch.equal(prior.predict(z_t, t, [text])[0], answer)
    assert not any("lora" in type(module).__module__ for module in prior.unet.modules())
    assert torch.equal(torch.get_rng_state(), global_stream)
    learned = run.adapter.predict(run.lora.parameters, z_t, t, text)
    assert (learned - answer).abs().max() > 1e-2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_error_is_taken_in_what_the_network_puts_out(prediction):
    prior = TinyPrior(prediction)
    adapter = prior.adapter(4)
    weights = {key: value + 0.1 for key, value in adapter.initial(seeded()).items()}
    z0, noise, t, text = (
        normal(1, 2, *SHAPE),
        normal(2, 2, *SHAPE),
        torch.tensor([100, 800]),
        prior.embed(["a", "b"]),
    )
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    of_noise = adapter.predict(weights, a * z0 + s * noise, t, text) - noise
    error = adapter.error(weights, z0, noise, t, text)
    torch.testing.assert_close(
        error, of_noise / a if prediction == "v_prediction" else of_noise, rtol=1e-3, atol=1e-4
    )


def test_two_runs_on_one_prior_do_not_meet(prior):
    alone, _ = advance(VSD().start(prior, SHAPE, seeded()), prior, seeded(1), 0, 4)
    run, other = (
        VSD().start(prior, SHAPE, seeded()),
        VSD(lora_rank=2, lora_lr=0.5).start(prior, SHAPE, seeded(9)),
    )
    generator = seeded(1)
    for step in range(4):
        beside, _ = advance(run, prior, generator, step, step + 1)
        advance(other, prior, seeded(step), step, step + 1)
    assert torch.equal(alone, beside)


def test_a_run_resumes_bit_for_bit_from_a_file(prior):
    loss, generator = VSD(lora_lr=1e-2), seeded()
    run = loss.start(prior, SHAPE, generator)
    advance(run, prior, generator, 0, 3)
    file, drawn = save(run.state()), generator.get_state()
    expected, _ = advance(run, prior, generator, 3, 6)
    generator.set_state(drawn)
    resumed = loss.start(prior, SHAPE, generator, load(file))
    assert torch.equal(advance(resumed, prior, generator, 3, 6)[0], expected)
    assert all(torch.equal(value, resumed.state()[key]) for key, value in run.state().items())
    with pytest.raises(
        ValueError, match=r"VSD Loss: the saved loss state's 'lora\..*' is of shape"
    ):
        VSD(lora_rank=2).start(prior, SHAPE, generator, load(file))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_may_happen_in_inference_mode(dtype):
    prior = TinyPrior(dtype=dtype)
    with torch.inference_mode():
        run = VSD(lora_lr=1e-2).start(prior, SHAPE, seeded())
        resumed = VSD(lora_lr=1e-2).start(
            prior, SHAPE, seeded(), {k: v.clone() for k, v in run.state().items()}
        )
        for each in (run, resumed):
            before = each.state()
            _, logs = each(normal(1, 2, *SHAPE), views(prior), seeded(1))
            assert torch.isfinite(logs["lora_loss"])
            assert any(not torch.equal(value, before[key]) for key, value in each.state().items())
    assert all(
        v.dtype == torch.float32 and not v.is_inference() for v in run.lora.parameters.values()
    )


def test_missing_peft_is_told_with_its_cure(prior, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ValueError, match=r'package peft is needed .* Install it: pip install "peft>=0.13"'
    ):
        LoraAdapter(prior.unet, SCHEDULE, "epsilon", 4)


def test_adamw_equals_torchs():
    start, gradients = normal(7, 5).double(), [normal(8 + k, 5).double() for k in range(4)]
    parameter = start.clone().requires_grad_()
    reference = torch.optim.AdamW([parameter], lr=0.1, betas=(0.9, 0.999), weight_decay=0.01)
    state = AdamState.fresh({"p": start})
    for gradient in gradients:
        parameter.grad = gradient
        reference.step()
        state = state.step({"p": gradient}, 0.1, betas=(0.9, 0.999), decay=0.01)
    torch.testing.assert_close(state.parameters["p"], parameter.detach())

"""TraCe: its bridge in closed form, and what its LoRA is taught."""

from dataclasses import replace

import pytest
import torch
from kit import normal, seeded
from test_vsd import SHAPE, TinyPrior, views

from distill3d.kernels.losses.reward import Reward
from distill3d.kernels.losses.trace import TraCe, bridge_spreads, bridged
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()
MEAN = 0.5


class Learner:
    """A LoRA of one number, which it always answers with."""

    def __init__(self, answer=0.25):
        self.answer, self.seen, self.taught = answer, [], []

    def initial(self, generator):
        return {"answer": torch.tensor(self.answer)}

    def predict(self, weights, z_t, t, text):
        self.seen.append((z_t, t))
        return weights["answer"].expand_as(z_t)

    def error(self, weights, z0, noise, t, text):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        self.taught.append((alpha * z0 + sigma * noise, noise, t))
        return weights["answer"] - noise


class Prior(GaussianMixturePrior):
    """Knows one picture, so that every target is it."""

    def __init__(self, learner):
        mixture = Mixture(torch.full((1, *SHAPE), MEAN), torch.zeros(1, 1, 1, 1), torch.ones(1))
        super().__init__({"a mug": mixture, "": mixture}, SCHEDULE)
        self.learner = learner

    def adapter(self, rank):
        return self.learner

    def embed(self, texts):
        return super().embed(["a mug" if text else "" for text in texts])


def asked(step=0, **settings):
    learner = Learner()
    prior, latents = Prior(learner), normal(1, 2, *SHAPE).requires_grad_()
    run = TraCe(**settings).start(prior, SHAPE, seeded())
    value, logs = run(latents, replace(views(prior), step=step, steps=100), seeded(1))
    (gradient,) = torch.autograd.grad(value, latents)
    return 2 * gradient, logs, learner, run, latents.detach()


def test_a_bridge_gathers_as_much_noise_on_both_sides_and_is_fixed_at_its_ends():
    a, b = bridge_spreads()
    torch.testing.assert_close(a[:-1].square() + b[1:].square(), a[-1].square().expand(999))
    torch.testing.assert_close(a, b.flip(0))
    target, render = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    still = torch.zeros(1, 1, 1, 1)
    ends = [float(bridged(target, render, step, still)[0]) for step in (0, 500, 999)]
    assert ends == pytest.approx([0.0, 0.5, 1.0], abs=2e-3)
    # a random walk between two known ends: variance s (1 - s) of the whole
    x, _ = bridged(target, render, 250, torch.ones(1, 1, 1, 1))
    share = float((a[250] ** 2) / (a[250] ** 2 + b[250] ** 2))
    whole = float(a[250] ** 2 + b[250] ** 2)
    assert float(x) == pytest.approx(share + (share * (1 - share) * whole) ** 0.5)


def test_the_direction_is_the_bridges_noise_less_what_the_lora_expects():
    gradient, logs, learner, _, latents = asked()
    assert float(logs["bridge"]) == 500
    (x, s), *_ = learner.seen
    a = float(bridge_spreads()[0][500])
    torch.testing.assert_close(gradient, (x - MEAN) / a - 0.25, atol=2e-3, rtol=2e-3)
    assert s.tolist() == [500, 500]
    # in the mean it leads to the target: half of the way at the middle of the bridge
    assert float((gradient * (latents - MEAN)).mean()) > 0


def test_the_lora_is_taught_that_noise_at_that_point():
    _, _, learner, run, _ = asked()
    (x, _), (point, noise, s) = learner.seen[0], learner.taught[0]
    torch.testing.assert_close(point, x, atol=1e-4, rtol=1e-4)
    a = float(bridge_spreads()[0][500])
    torch.testing.assert_close(noise, (x - MEAN) / a, atol=2e-3, rtol=2e-3)
    assert s.tolist() == [500, 500]
    assert float(run.lora.parameters["answer"]) != 0.25  # and learns


@pytest.mark.parametrize(("step", "bridge"), [(0, 500), (50, 260), (100, 20)])
def test_the_bridge_is_walked_towards_the_target(step, bridge):
    assert float(asked(step)[1]["bridge"]) == bridge


def test_a_real_lora_learns_and_the_prior_stays():
    prior = TinyPrior()
    before = {name: value.clone() for name, value in prior.unet.state_dict().items()}
    run, generator = TraCe(lora_lr=1e-2).start(prior, SHAPE, seeded()), seeded(1)
    losses = []
    for _ in range(12):
        latents = normal(4, 2, *SHAPE).requires_grad_()
        value, logs = run(latents, views(prior), generator)
        (gradient,) = torch.autograd.grad(value, latents)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        losses.append(float(logs["lora_loss"]))
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.equal(value, before[name]) for name, value in prior.unet.state_dict().items())
    again = TraCe(lora_lr=1e-2).start(prior, SHAPE, seeded(), run.state())
    assert again.lora.updates == 12


def test_a_wrong_setting_is_named():
    with pytest.raises(ValueError, match="TraCe Loss: bridge_start is 1000"):
        TraCe(bridge_start=1000).check()


def test_its_draws_can_be_weighed_and_it_learns_once_a_draw():
    learner = Learner()
    prior, latents = Prior(learner), normal(1, 2, *SHAPE).requires_grad_()
    weighed = Reward(TraCe(), lambda images: images.mean((1, 2, 3)), draws=3, steps=1)
    run = weighed.start(prior, SHAPE, seeded())
    value, logs = run(latents, views(prior), seeded(1))
    (gradient,) = torch.autograd.grad(value, latents)
    assert float(gradient.abs().max()) > 0 and {"lora_loss", "reward"} <= set(logs)
    assert len(learner.taught) == 3

"""Reward-weighted draws: the weights in closed form, and what they make of SDS."""

import pytest
import torch
from kit import around, normal64, seeded

from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.reward import Reward, draw_weights
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.mixture import GaussianMixturePrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (3, 4, 4)
AT_500 = {"t_min": 500, "t_max_start": 500, "t_max_end": 500, "weighting": "one", "guidance": 1.0}


def prior():
    texts = {"a": around(0.5, 0.25, SHAPE), "": around(0.2, 0.25, SHAPE)}
    return GaussianMixturePrior(texts, SCHEDULE)


def views(model, count=2, step=0):
    return Views(model.embed(["a"] * count), model.embed([""] * count), None, step, 100)


def gradient(loss, step=0, count=2, seed=3):
    model, latents = prior(), normal64(1, count, *SHAPE).requires_grad_()
    run = loss.start(model, SHAPE, seeded(seed))
    value, logs = run(latents, views(model, count, step), seeded(seed))
    return torch.autograd.grad(value, latents)[0] * count, logs


def drawn(count, seed=3):
    """The directions of plain SDS at timestep 500 for the same draws, one after another."""
    model, latents, generator = prior(), normal64(1, 2, *SHAPE), seeded(seed)
    torch.randint(500, 501, (2,), generator=generator)
    rows, found = views(model), []
    for _ in range(count):
        direction = SDS(**AT_500).direction(
            model, latents, torch.tensor([500, 500]), rows, 1.0, generator
        )
        found.append(direction)
    return torch.stack(found)


def test_weights_of_the_three_strategies():
    scores = torch.tensor([[1.0], [3.0], [2.0], [0.0]])
    torch.testing.assert_close(
        draw_weights(scores, "softmax", 2.0)[:, 0], torch.softmax(2 * scores[:, 0], 0)
    )
    assert draw_weights(scores, "best")[:, 0].tolist() == [0, 1, 0, 0]
    found = draw_weights(scores, "best less worst")[:, 0]
    torch.testing.assert_close(found, torch.tensor([-0.05, 0.45, 0.45, -0.05]))


def test_a_scorer_that_likes_all_alike_makes_a_mean_of_the_draws():
    found, logs = gradient(Reward(SDS(**AT_500), lambda images: torch.zeros(len(images)), draws=4))
    torch.testing.assert_close(found, drawn(4).mean(0))
    assert float(logs["reward"]) == 0


def test_only_the_best_draw_of_each_view_counts_where_the_best_is_asked_for():
    calls = []

    def scorer(images):  # the third draw is best for the first view, the second for the other
        calls.append(images.shape)
        return torch.tensor([[0.0, 1], [1, 3], [2, 0]])[len(calls) - 1]

    found, logs = gradient(Reward(SDS(**AT_500), scorer, draws=3, strategy="best"))
    directions = drawn(3)
    torch.testing.assert_close(found, torch.stack([directions[2, 0], directions[1, 1]]))
    assert calls == [(2, 3, 4, 4)] * 3 and float(logs["reward_best"]) == 2.5


def test_what_is_scored_is_the_priors_picture_of_the_noised_render():
    seen = []

    def scorer(images):
        seen.append(images)
        return torch.zeros(len(images))

    gradient(Reward(SDS(**AT_500), scorer, draws=2, steps=100))
    t, generator = torch.tensor([500, 500]), seeded(3)
    torch.randint(500, 501, (2,), generator=generator)
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    for pictures in seen:
        noise = torch.randn((2, *SHAPE), generator=generator).double()
        z_t = alpha * normal64(1, 2, *SHAPE) + sigma * noise
        # down the flow of one Gaussian: as many spreads from its mean as there were above
        clean = 0.5 + (0.25 / (0.25 * alpha**2 + sigma**2)).sqrt() * (z_t - 0.5 * alpha)
        torch.testing.assert_close(
            pictures, clean.clamp(0, 1).float(), atol=0.02, rtol=0, check_dtype=False
        )


def test_after_its_share_of_the_run_the_loss_goes_on_alone():
    def scorer(images):
        raise AssertionError("asked")

    found, logs = gradient(Reward(SDS(**AT_500), scorer, until=0.5), step=50)
    own, _ = gradient(SDS(**AT_500), step=50)
    assert torch.equal(found, own) and "reward" not in logs


def test_views_that_are_judged_together_have_one_score():
    model = prior()
    rows = views(model, 2)
    rows = Views(rows.text, rows.negative, None, 0, 100, views_per_group=2)
    scores = iter([torch.tensor([0.0, 4.0]), torch.tensor([3.0, 0.0])])
    loss = Reward(SDS(**AT_500), lambda _: next(scores), draws=2, strategy="best")
    latents = normal64(1, 2, *SHAPE).requires_grad_()
    value, logs = loss.start(model, SHAPE, seeded(3))(latents, rows, seeded(3))
    assert float(logs["reward_best"]) == 2.0
    found = torch.autograd.grad(value, latents)[0] * 2
    torch.testing.assert_close(found, drawn(2)[0])


@pytest.mark.parametrize(("field", "value"), [("draws", 1), ("strategy", "worst"), ("steps", 0)])
def test_a_wrong_setting_is_named(field, value):
    with pytest.raises(ValueError, match=f"Reward Loss: {field} is"):
        Reward(SDS(), lambda images: images, **{field: value}).check()


def test_a_loss_without_a_timestep_of_its_own_is_refused():
    with pytest.raises(ValueError, match="loss is CDS, which does not draw one timestep"):
        Reward(CDS(), lambda images: images).start(prior(), SHAPE, seeded())

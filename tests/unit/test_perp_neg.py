"""Perp-Neg against a plain loop over its branches; which rows it evaluates; the weights that views
get.
"""

import math
from dataclasses import replace

import pytest
import torch
from kit import normal64 as normal
from kit import seeded

from distill3d.kernels.losses.base import Views, guided
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.conditioning import Against, Conditioning
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule
from distill3d.kernels.priors.perp_neg import perpendicular, view_weights
from distill3d.kernels.priors.prompts import view_prompts

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (2, 8, 8)
SIDES = ("front", "front left", "left", "back left", "back", "back right", "right", "front right")


class CountingPrior(GaussianMixturePrior):
    """The mixture, and how many rows its network was asked for."""

    evaluated = 0

    def _network(self, z_t, alpha, sigma, conditioning):
        self.evaluated += len(z_t)
        assert len(conditioning) == len(z_t)
        return super()._network(z_t, alpha, sigma, conditioning)


class LoopPrior(GaussianMixturePrior):
    """Perp-Neg as the papers' codes write it: view by view, one call for every text, needed or
    not.
    """

    def predict(self, z_t, t, conditionings):
        return [self.bent(z_t, t, conditioning) for conditioning in conditionings]

    def bent(self, z_t, t, conditioning):
        rows = []
        for i in range(len(z_t)):
            one, step = z_t[i : i + 1], t[i : i + 1]

            def estimate(text, i=i, one=one, step=step):
                return super(LoopPrior, self).predict(
                    one, step, [replace(text.index(i), against=None)]
                )[0]

            row = estimate(conditioning)
            if conditioning.against is not None:
                null = estimate(conditioning.against.null)
                own = row - null
                for text, weights in conditioning.against.branches:
                    other = estimate(text) - null
                    row = row + weights[i] * (other - (other * own).sum() / (own * own).sum() * own)
            rows.append(row)
        return torch.cat(rows)


def view_prior(kind=CountingPrior, words=("front", "side", "back", "overhead"), **options):
    texts = {f"a cup, {word} view": 3 + k for k, word in enumerate(words)} | {
        "a cup": 1,
        "bad": 2,
        "": 99,
    }
    mixtures = {
        text: Mixture(
            normal(seed, 2, *SHAPE),
            torch.tensor([0.3, 0.8]).double()[:, None, None, None],
            torch.ones(2),
        )
        for text, seed in texts.items()
    }
    prior = kind(mixtures, SCHEDULE, **options)
    if len(words) > 4:
        prior.around_words, prior.overhead_words = words[:-1], words[-1:]
    return prior


def bent_text(prior):
    """Four rows, of which the first is led away from one text, the third from two, the others from
    none.
    """
    weights = (-2.0, 0.0, -0.5, 0.0), (0.0, 0.0, -1.5, 0.0)
    branches = zip(
        (prior.embed([f"a cup, {side} view"] * 4) for side in ("front", "side")),
        weights,
        strict=True,
    )
    own = prior.embed([f"a cup, {side} view" for side in ("side", "front", "back", "back")])
    return replace(own, against=Against(tuple(branches), prior.embed([""]).repeat(4)))


def perp(x, y):
    return x - (x * y).sum() / (y * y).sum() * y


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_guidance_with_it_is_the_papers_combination(prediction):
    prior, scale = view_prior(prediction=prediction), 7.5
    text, z_t, t = bent_text(prior), normal(1, 4, *SHAPE), torch.tensor([50, 400, 700, 900])
    e, e_null = prior.predict(z_t, t, [text, text.against.null])
    combined = guided(e, e_null, scale)
    branches = [texts for texts, _ in text.against.branches]
    own, null, front, side = prior.predict(
        z_t, t, [replace(text, against=None), text.against.null, *branches]
    )
    d_0, d_front, d_side = own - null, front - null, side - null
    bent = d_0.clone()
    bent[0] += -2.0 * perp(d_front[0], d_0[0])
    bent[2] += -0.5 * perp(d_front[2], d_0[2]) - 1.5 * perp(d_side[2], d_0[2])
    torch.testing.assert_close(combined, null + scale * bent)
    assert (combined - guided(own, null, scale))[[0, 2]].abs().flatten(1).amax(1).min() > 0.1


def test_with_a_negative_prompt_directions_still_begin_at_the_null_text():
    prior = view_prior()
    text, z_t, t = bent_text(prior), normal(1, 4, *SHAPE), torch.tensor([50, 400, 700, 900])
    bad = prior.embed(["bad"] * 4)
    e, e_bad = prior.predict(z_t, t, [text, bad])
    torch.testing.assert_close(e, prior.predict(z_t, t, [text, text.against.null])[0])
    torch.testing.assert_close(e_bad, prior.predict(z_t, t, [bad])[0])


def test_only_rows_of_some_weight_are_evaluated_and_the_null_text_once():
    prior, loop = view_prior(), view_prior(LoopPrior)
    text, z_t, t = bent_text(prior), normal(1, 4, *SHAPE), torch.tensor([50, 400, 700, 900])
    null, bad = text.against.null, prior.embed(["bad"] * 4)
    # text, what else was asked for, the null text's two rows where it was not, three rows of
    # branches
    for asked, count in (
        ([text, null], 4 + 4 + 3),
        ([text], 4 + 2 + 3),
        ([bad, text], 4 + 4 + 2 + 3),
    ):
        prior.evaluated = prior.calls = 0
        estimates = prior.predict(z_t, t, asked)
        assert (prior.evaluated, prior.calls, len(estimates)) == (count, 1, len(asked))
        for estimate, expected in zip(estimates, loop.predict(z_t, t, asked), strict=True):
            torch.testing.assert_close(estimate, expected)
    prior.evaluated = 0
    prior.predict(z_t[:1], t[:1], [text.index(1)])
    assert prior.evaluated == 1


def test_perpendicular_is_so_sample_by_sample_and_zero_for_parallel_directions():
    x, y = normal(2, 3, *SHAPE), normal(3, 3, *SHAPE)
    assert (perpendicular(x, y) * y).sum((1, 2, 3)).abs().max() < 1e-10
    assert (
        perpendicular(torch.tensor([2.0, -3.0, 0.0])[:, None, None, None] * y, y).abs().max()
        < 1e-12
    )
    torch.testing.assert_close(perpendicular(x, y) + (x - perpendicular(x, y)), x)
    torch.testing.assert_close(perpendicular(x, 0 * y), x)


@pytest.mark.parametrize(
    ("azimuth", "front", "side"),
    [
        (0, 0, -2),
        (17.9, 0, -2 * math.exp(-10 * 17.9 / 90)),
        (18.1, -2 * math.exp(-2 * 71.9 / 90), -2 * math.exp(-10 * 18.1 / 90)),
        (45, -2 * math.exp(-1), -2 * math.exp(-5)),
        (71.9, -2 * math.exp(-2 * 18.1 / 90), -2 * math.exp(-10 * 71.9 / 90)),
        (72.1, -2 * math.exp(-2 * 17.9 / 90), 0),
        (90, -2, 0),
        (107.9, -2, 0),
        (108.1, -2, -math.exp(-10 * 71.9 / 90)),
        (135, -2, -math.exp(-5)),
        (180, -2, -1),
    ],
)
def test_weights_by_azimuth_are_the_published_ones(azimuth, front, side):
    for same in (azimuth, -azimuth, azimuth + 360, -azimuth - 720):
        assert view_weights(same) == pytest.approx((front, side), abs=1e-12)


def test_views_are_led_away_from_front_and_side_but_not_under_the_overhead_text():
    prior = view_prior()
    prompts = view_prompts(prior, "a cup", interpolate=True, perp_neg=0.5)
    azimuths = torch.tensor([0.0, 60.0, -150.0, 60.0, 60.0])
    elevations = torch.tensor([0.0, 0, 0, 55, 80])
    against = prompts.at(azimuths, elevations).against
    shares = (1, 1, 1, 0.75, 0)
    for side, (text, weights) in enumerate(against.branches):
        published = [view_weights(azimuth)[side] for azimuth in azimuths.tolist()]
        assert weights == pytest.approx(
            [0.5 * share * w for share, w in zip(shares, published, strict=True)]
        )
        expected = prior.embed([f"a cup, {('front', 'side')[side]} view"] * 5)
        assert torch.equal(text.embeddings, expected.embeddings)
    assert torch.equal(against.null.embeddings, prior.embed([""] * 5).embeddings)
    assert view_prompts(prior, "a cup").at(azimuths, elevations).against is None


def test_a_view_whose_text_is_the_fronts_is_not_led_away_from_it():
    prompts = view_prompts(view_prior(), "a cup", perp_neg=1.0)
    against = prompts.at(torch.tensor([40.0, 50, 120, 140]), torch.zeros(4)).against
    (_, front), (_, side) = against.branches
    assert [w != 0 for w in front] == [False, True, True, True]
    assert [w != 0 for w in side] == [True, False, False, True]


def test_a_prior_with_finer_view_words_is_led_away_from_the_front_and_the_nearer_side():
    prior = view_prior(words=(*SIDES, "overhead"))
    prompts = view_prompts(prior, "a cup", perp_neg=1.0)
    azimuths = torch.tensor([45.0, -45, 160, -160, 90])
    against = prompts.at(azimuths, torch.zeros(5)).against
    (front_text, front), (side_text, side) = against.branches
    assert torch.equal(front_text.embeddings, prior.embed(["a cup, front view"] * 5).embeddings)
    sides = [f"a cup, {side} view" for side in ("left", "right", "left", "right", "left")]
    assert torch.equal(side_text.embeddings, prior.embed(sides).embeddings)
    assert front == pytest.approx([view_weights(a)[0] for a in azimuths.tolist()])
    assert side == pytest.approx([view_weights(a)[1] for a in azimuths.tolist()])


def test_the_null_text_serves_as_the_empty_negative_prompt_on_every_device():
    prior = view_prior()
    prompts = view_prompts(prior, "a cup", perp_neg=1.0).to("cpu")
    text = prompts.at(torch.tensor([0.0, 180]), torch.zeros(2))
    prior.evaluated = 0
    prior.predict(normal(1, 2, *SHAPE), torch.tensor([300, 300]), [text, prompts.negative_rows(2)])
    assert prior.evaluated == 2 + 2 + 1 + 2  # front is led away from side, back from both
    moved = prompts.to("meta")
    assert moved.negative_row is moved.null and moved.perp_neg == 1.0


def test_nothing_is_read_from_the_device():
    """On the meta device there are no values, so reading one raises."""
    means = torch.zeros(1, *SHAPE, device="meta")
    mixture = Mixture(means, torch.ones(1, 1, 1, 1, device="meta"), torch.ones(1, device="meta"))
    prior = GaussianMixturePrior({"a cup": mixture, "bad": mixture, "": mixture})
    prompts = view_prompts(prior, "a cup", "bad", interpolate=True, perp_neg=1.0)
    text = prompts.at(torch.tensor([0.0, 30, 100, 180]), torch.tensor([0.0, 55, 0, 80]))
    z_t, t = torch.zeros(4, *SHAPE, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")
    estimates = prior.predict(z_t, t, [text, prompts.negative_rows(4)])
    assert [e.shape for e in estimates] == [z_t.shape] * 2


LOSSES = [
    SDS(),
    CDS(),
    CDS(shared_unconditional=True),
    VDM(),
    Picture(),
    Picture(guidance=1.0),
]


@pytest.mark.parametrize("negative", ["", "bad"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_every_loss_has_the_gradient_of_the_plain_loop(loss, negative):
    gradients = []
    for kind, strength in ((CountingPrior, 0.7), (LoopPrior, 0.7), (CountingPrior, 0.0)):
        prompts = view_prompts(
            prior := view_prior(kind), "a cup", negative, interpolate=True, perp_neg=strength
        )
        text = prompts.at(torch.tensor([0.0, 30, 100, 180]), torch.tensor([0.0, 0, 55, 0]))
        latents = normal(4, 4, *SHAPE).requires_grad_()
        run = loss.start(prior, SHAPE, seeded())
        value, _ = run(latents, Views(text, prompts.negative_rows(4), None, 30, 100), seeded(1))
        gradients.append(torch.autograd.grad(value, latents)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert (gradients[0] - gradients[2]).abs().max() > 1e-3


def test_picking_repeating_and_moving_rows_takes_along_what_they_are_led_away_from():
    prior = view_prior()
    text = bent_text(prior)
    for rows in (
        [2, 0],
        torch.tensor([2, 0]),
        torch.tensor([True, False, True, False]),
        slice(0, 3, 2),
    ):
        picked = text.index(rows)
        order = (
            [0, 2]
            if isinstance(rows, slice) or getattr(rows, "dtype", None) == torch.bool
            else [2, 0]
        )
        (first, weights), _ = picked.against.branches
        assert weights == tuple(text.against.branches[0][1][row] for row in order)
        assert len(first) == len(picked.against.null) == len(picked) == 2
    one = text.index(2)
    repeated = one.repeat(3)
    assert repeated.against.branches[1][1] == (-1.5,) * 3 and len(repeated.against.null) == 3
    moved = text.to("meta").against
    assert (
        moved.null.embeddings.device.type == moved.branches[0][0].embeddings.device.type == "meta"
    )
    assert Conditioning.lerp(text, text, torch.ones(4)).against is None
    with pytest.raises(ValueError, match="cat cannot join texts with Perp-Neg branches"):
        Conditioning.cat([text, text])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perp_neg": -1.0}, "perp_neg is -1; it must lie between 0 and 10"),
        ({"back_guidance": float("nan")}, "back_guidance is nan"),
        (
            {"perp_neg": 1.0, "view_dependent": False},
            "perp_neg is 1, but there are no front and side texts",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        view_prompts(view_prior(), "a cup", **changes)

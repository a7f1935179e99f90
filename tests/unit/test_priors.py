"""The prior interface, its conversions, view prompts, and the closed-form mixture prior."""

import pytest
import torch
from kit import normal64 as normal

from distill3d.kernels.losses.base import guided
from distill3d.kernels.priors.base import check_multiple, check_words
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.mixture import GaussianMixturePrior, LinearEncoder, Mixture
from distill3d.kernels.priors.noise_schedule import (
    NoiseSchedule,
    clean_from_noise,
    flow_input,
    noise_from_clean,
    noise_from_output,
)
from distill3d.kernels.priors.prompts import view_prompts

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())


def test_schedule_is_stable_diffusions_and_variance_preserving():
    t = torch.tensor([20, 500, 980])
    alpha, sigma, ratio = (f(t).flatten() for f in (SCHEDULE.alpha, SCHEDULE.sigma, SCHEDULE.ratio))
    torch.testing.assert_close(
        alpha, torch.tensor([0.991, 0.526, 0.076]).double(), atol=5e-4, rtol=0
    )
    torch.testing.assert_close(
        ratio, torch.tensor([0.138, 1.618, 13.04]).double(), atol=5e-3, rtol=0
    )
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3).double())
    assert SCHEDULE.alpha(t).shape == (3, 1, 1, 1)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_conversions_recover_noise_and_clean_latent(prediction):
    t = torch.tensor([20, 400, 980])
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    clean, noise = normal(0, 3, 4, 5, 5), normal(1, 3, 4, 5, 5)
    z_t = alpha * clean + sigma * noise
    output = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * clean,
        "flow": noise - clean,
    }[prediction]
    found = noise_from_output(output, z_t, alpha, sigma, prediction)
    torch.testing.assert_close(found, noise)
    torch.testing.assert_close(clean_from_noise(z_t, found, alpha, sigma), clean)
    z, r = flow_input(z_t, alpha, sigma)
    torch.testing.assert_close(z, (1 - r) * clean + r * noise)


def test_a_schedule_from_its_ratios_is_the_same_one_and_stays_finite():
    steps = torch.arange(1000)
    again = NoiseSchedule.from_ratios(SCHEDULE.ratio(steps).flatten())
    torch.testing.assert_close(again.alpha(steps), SCHEDULE.alpha(steps).float())
    torch.testing.assert_close(again.sigma(steps), SCHEDULE.sigma(steps).float())
    # a flow model's times: the last has no clean latent left
    flow = torch.arange(1, 1001, dtype=torch.float64) / 1000
    ratios = NoiseSchedule.from_ratios(flow / (1 - flow)).ratio(steps).flatten()
    torch.testing.assert_close(ratios[:-1], (flow / (1 - flow))[:-1].float(), rtol=1e-3, atol=1e-4)
    assert torch.isfinite(ratios).all()


def test_a_clean_latent_and_the_noise_imply_each_other():
    t = torch.tensor([10, 500, 990])
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    clean, noise = normal(7, 3, 1, 4, 4).double(), normal(8, 3, 1, 4, 4).double()
    z_t = alpha * clean + sigma * noise
    torch.testing.assert_close(noise_from_clean(z_t, clean, alpha, sigma), noise)
    torch.testing.assert_close(
        clean_from_noise(z_t, noise_from_clean(z_t, clean, alpha, sigma), alpha, sigma), clean
    )


def test_unknown_prediction_is_refused():
    one = torch.ones(1, 1, 1, 1)
    with pytest.raises(ValueError, match="'sample'; known are epsilon"):
        noise_from_output(one, one, one, one, "sample")


def two_texts(variance=0.25, **options):
    def around(mean):
        return Mixture(
            mean[None], torch.full((1, 1, 1, 1), variance).double(), torch.ones(1).double()
        )

    return GaussianMixturePrior(
        {"a": around(normal(2, 3, 4, 4)), "": around(normal(3, 3, 4, 4))}, SCHEDULE, **options
    )


def test_mixture_noise_is_the_score_of_its_density():
    means = normal(4, 3, 2, 2, 2)
    mixture = Mixture(
        means,
        torch.tensor([0.1, 0.3, 0.5]).double()[:, None, None, None],
        torch.tensor([1.0, 2, 3]),
    )
    prior = GaussianMixturePrior({"a": mixture}, SCHEDULE)
    t = torch.tensor([100, 600])
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    z_t = normal(5, 2, 2, 2, 2).requires_grad_()
    log_density = 0.0
    for k in range(3):
        weight = mixture.weights[k] / 6
        sd = (alpha**2 * mixture.variances[k] + sigma**2).sqrt()
        component = torch.distributions.Normal(alpha * means[k], sd).log_prob(z_t).flatten(1).sum(1)
        log_density = log_density + weight * component.exp()
    (score,) = torch.autograd.grad(log_density.log().sum(), z_t)
    (noise,) = prior.predict(z_t, t, [prior.embed(["a", "a"])])
    torch.testing.assert_close(noise, -sigma * score)
    assert not noise.requires_grad


def test_guidance_between_equal_gaussians_aims_at_the_extrapolated_mean():
    prior, scale = two_texts(), 7.5
    far = prior.means[1] + scale * (prior.means[0] - prior.means[1])
    aimed = GaussianMixturePrior(
        {"far": Mixture(far[None], prior.variances[:1, :1, :1, :1], torch.ones(1))}, SCHEDULE
    )
    z_t, t = normal(6, 2, 3, 4, 4), torch.tensor([50, 800])
    e_c, e_u = prior.predict(z_t, t, [prior.embed(["a"] * 2), prior.embed([""] * 2)])
    torch.testing.assert_close(
        guided(e_c, e_u, scale), aimed.predict(z_t, t, [aimed.embed(["far"] * 2)])[0]
    )


@pytest.mark.parametrize("prediction", ["v_prediction", "flow", "edm"])
def test_priors_of_every_prediction_agree(prediction):
    z_t, t = normal(7, 2, 3, 4, 4), torch.tensor([50, 800])
    results = [
        p.predict(z_t, t, [p.embed(["a", ""])])[0]
        for p in (two_texts(), two_texts(prediction=prediction))
    ]
    torch.testing.assert_close(*results)


def test_a_blend_of_embeddings_is_the_blend_of_densities():
    prior = two_texts()
    blend = Conditioning.lerp(prior.embed(["a"]), prior.embed([""]), torch.tensor([0.25]))
    both = Mixture(prior.means, prior.variances, torch.tensor([0.75, 0.25]))
    expected = GaussianMixturePrior({"both": both}, SCHEDULE)
    z_t, t = normal(8, 1, 3, 4, 4), torch.tensor([300])
    torch.testing.assert_close(
        prior.predict(z_t, t, [blend])[0], expected.predict(z_t, t, [expected.embed(["both"])])[0]
    )


def test_linear_encoder_and_its_adjoint_match_autograd():
    encoder = LinearEncoder(normal(9, 4, 3), downscale=2)
    images, gradient = normal(10, 2, 3, 6, 6).requires_grad_(), normal(11, 2, 4, 3, 3)
    encoder.forward(images).backward(gradient)
    torch.testing.assert_close(images.grad, encoder.adjoint(gradient))
    latents = encoder.forward(images).detach()
    torch.testing.assert_close(encoder.forward(encoder.inverse(latents)), latents)


def test_unknown_text_is_refused_by_name():
    with pytest.raises(ValueError, match="'a fish' is unknown"):
        two_texts().embed(["a fish"])


def constant(value):
    return Mixture(torch.full((1, 1, 1, 1), value), torch.ones(1, 1, 1, 1), torch.ones(1))


def view_prior():
    views = ("front", "side", "back", "overhead")
    return GaussianMixturePrior(
        {f"a cup, {view} view": constant(float(k)) for k, view in enumerate(views)}
        | {"a cup": constant(9.0)}
    )


def test_view_prompts_switch_at_the_stated_angles():
    prior = view_prior()
    prompts = view_prompts(prior, "a cup")
    azimuths = torch.tensor([0.0, 44, -44, 46, -134, 136, 180, -180, 350, 0, -100])
    elevations = torch.tensor([0.0, 60, 0, 0, 0, 0, 0, 0, 0, 61, 80])
    names = "front front front side side back back back front overhead overhead".split()
    expected = prior.embed([f"a cup, {name} view" for name in names])
    torch.testing.assert_close(
        prompts.at(azimuths, elevations).embeddings, expected.embeddings, rtol=0, atol=0
    )


def test_interpolated_prompts_never_jump_in_azimuth():
    prompts = view_prompts(view_prior(), "a cup", interpolate=True)
    azimuths = torch.arange(-180.0, 541.0)  # two turns, a degree apart
    rows = prompts.at(azimuths, torch.zeros_like(azimuths)).embeddings
    assert (rows[1:] - rows[:-1]).abs().max() <= 1 / 90 + 1e-5
    torch.testing.assert_close(rows[:361], rows[360:])  # periodic
    front, side, back = prompts.around.embeddings[:3]
    for azimuth, row in ((0, front), (90, side), (-90, side), (180, back)):
        torch.testing.assert_close(rows[azimuth + 180], row)
    halfway = prompts.at(torch.tensor([45.0]), torch.tensor([0.0])).embeddings
    torch.testing.assert_close(halfway[0], (front + side) / 2)
    switched = prompts.at(torch.tensor([44.0]), torch.tensor([0.0]), interpolate=False)
    torch.testing.assert_close(switched.embeddings[0], front)


def test_a_prior_with_finer_view_words_hears_them():
    prior = view_prior()
    sides = (
        "front",
        "front left",
        "left",
        "back left",
        "back",
        "back right",
        "right",
        "front right",
    )
    above = ("overhead front", "overhead left", "overhead back", "overhead right")
    words = {f"a cup, {view} view": k for k, view in enumerate((*sides, *above))}
    prior = GaussianMixturePrior(
        {text: constant(float(k)) for text, k in words.items()} | {"a cup": constant(99.0)}
    )
    prior.around_words, prior.overhead_words = sides, above
    azimuths = torch.tensor([0.0, 44, -44, 91, 181, 337, 339, -100, 80, 179])
    elevations = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 70, 70, 61])
    names = (
        "front,front left,front right,left,back,front right,front,overhead right,overhead"
        " left,overhead back"
    )
    expected = prior.embed([f"a cup, {name} view" for name in names.split(",")])
    heard = view_prompts(prior, "a cup").at(azimuths, elevations)
    torch.testing.assert_close(heard.embeddings, expected.embeddings, rtol=0, atol=0)
    halfway = view_prompts(prior, "a cup", interpolate=True).at(
        torch.tensor([-22.5]), torch.tensor([0.0])
    )
    ends = prior.embed(["a cup, front right view", "a cup, front view"]).embeddings
    torch.testing.assert_close(halfway.embeddings[0], ends.mean(0))


@pytest.mark.parametrize("words", [4, 8])
def test_interpolated_prompts_turn_into_the_overhead_text_without_a_jump(words):
    sides = (
        ("front", "f l", "left", "b l", "back", "b r", "right", "f r")
        if words == 8
        else ("front", "side", "back")
    )
    above = ("overhead", "overhead left", "overhead back", "overhead right")[
        : 1 if words == 4 else 4
    ]
    names = (f"a cup, {view} view" for view in (*sides, *above))
    prior = GaussianMixturePrior(
        {name: constant(float(k)) for k, name in enumerate(names)} | {"a cup": constant(9.0)}
    )
    if words == 8:
        prior.around_words, prior.overhead_words = sides, above
    prompts = view_prompts(prior, "a cup", interpolate=True)
    elevations = torch.arange(-10.0, 91.0)
    azimuths = torch.full_like(elevations, 30.0)
    rows = prompts.at(azimuths, elevations).embeddings
    assert (rows[1:] - rows[:-1]).abs().max() <= 1 / 20 + 1e-5
    low, high = rows[elevations <= 50], rows[elevations >= 70]
    assert torch.equal(low, low[:1].expand_as(low)) and torch.equal(high, high[:1].expand_as(high))
    torch.testing.assert_close(rows[elevations == 60], (low[:1] + high[:1]) / 2)
    # nothing but overhead is left
    assert prior.means[(high[0, 0] > 0).nonzero()].min() >= len(sides)


def test_guidance_by_view_runs_smoothly_from_the_front_to_the_back_and_overhead():
    plain = view_prompts(view_prior(), "a cup")
    assert plain.guidance_factor(torch.zeros(3), torch.zeros(3)) == 1.0
    prompts = view_prompts(
        view_prior(), "a cup", side_guidance=0.8, back_guidance=0.5, overhead_guidance=1.5
    )
    azimuths = torch.tensor([0.0, 90, -90, 180, -180, 45, -135, 360, 0, 180, 90])
    elevations = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 50, 60, 70, 90])
    factors = prompts.guidance_factor(azimuths, elevations)
    assert factors.shape == (11, 1, 1, 1)
    expected = [1, 0.8, 0.8, 0.5, 0.5, 0.9, 0.65, 1, 1.25, 1.5, 1.5]
    torch.testing.assert_close(factors.flatten(), torch.tensor(expected))
    turn = prompts.guidance_factor(torch.arange(-180.0, 181.0), torch.zeros(361)).flatten()
    slopes = turn[1:] - turn[:-1]
    # no jump, no kink
    assert slopes.abs().max() < 0.01 and (slopes[1:] - slopes[:-1]).abs().max() < 1e-3


def test_cameras_that_look_outward_hear_outward_words():
    words = (
        "front",
        "side",
        "back",
        "overhead",
        "outward front",
        "outward left",
        "outward back",
        "outward right",
    )
    texts = {f"a cup, {word} view": constant(float(k)) for k, word in enumerate(words)}
    prior = GaussianMixturePrior(texts | {"a cup": constant(99.0)})
    azimuths, elevations = torch.tensor([0.0, 91, 91, -91, 180]), torch.tensor([0.0, 5, 5, 0, 70])
    outward = torch.tensor([True, True, False, True, True])
    # it knows no such words
    bare = view_prompts(prior, "a cup").at(azimuths, elevations, outward=outward)
    expected = prior.embed([f"a cup{view}" for view in ("", "", ", side view", "", "")])
    torch.testing.assert_close(bare.embeddings, expected.embeddings, rtol=0, atol=0)
    prior.outward_words = words[4:]
    prompts = view_prompts(prior, "a cup")
    names = ("outward front", "outward left", "side", "outward right", "outward back")
    expected = prior.embed([f"a cup, {name} view" for name in names])
    heard = prompts.at(azimuths, elevations, outward=outward)
    torch.testing.assert_close(heard.embeddings, expected.embeddings, rtol=0, atol=0)
    halfway = prompts.at(
        torch.tensor([45.0]), torch.tensor([0.0]), interpolate=True, outward=torch.tensor([True])
    )
    ends = prior.embed(["a cup, outward front view", "a cup, outward left view"]).embeddings
    torch.testing.assert_close(halfway.embeddings[0], ends.mean(0))
    assert view_prompts(prior, "a cup", view_dependent=False).outward is None
    bent = (
        view_prompts(prior, "a cup", perp_neg=1.0).at(azimuths, elevations, outward=outward).against
    )
    for _, weights in bent.branches:  # nothing is led away from texts of views into the scene
        assert [weight for weight, out in zip(weights, outward, strict=True) if out] == [0.0] * 4


def test_prompts_without_views_are_the_same_from_everywhere():
    prompts = view_prompts(view_prior(), "a cup", view_dependent=False)
    rows = prompts.at(torch.tensor([0.0, 90, 180, 0]), torch.tensor([0.0, 0, 0, 80]))
    torch.testing.assert_close(rows.embeddings, prompts.base.repeat(4).embeddings)


def test_negative_rows_are_the_negative_prompt_or_else_the_null_text():
    prior = view_prior()
    plain, negative = view_prompts(prior, "a cup"), view_prompts(prior, "a cup", "a cup, back view")
    torch.testing.assert_close(plain.negative_rows(3).embeddings, prior.embed([""] * 3).embeddings)
    torch.testing.assert_close(
        negative.negative_rows(2).embeddings, prior.embed(["a cup, back view"] * 2).embeddings
    )
    with pytest.raises(ValueError, match="prompt is empty"):
        view_prompts(prior, "  ")


def test_conditioning_rows_can_be_picked_joined_and_repeated():
    rows = Conditioning(normal(12, 3, 2, 4), normal(13, 3, 5))
    assert len(rows.index(1)) == 1 and len(rows.index(torch.tensor([2, 0]))) == 2
    joined = Conditioning.cat([rows.index(0), rows.index(slice(1, 3))])
    torch.testing.assert_close(joined.embeddings, rows.embeddings)
    torch.testing.assert_close(joined.pooled, rows.pooled)
    end = Conditioning.lerp(rows.index(0), rows.index(1), torch.ones(2))
    assert torch.equal(end.pooled, rows.index([1, 1]).pooled) and len(end) == 2
    with pytest.raises(ValueError, match="exactly 1 row, this one holds 3"):
        rows.repeat(2)
    with pytest.raises(ValueError, match="with and without a pooled"):
        Conditioning.cat([rows, Conditioning(rows.embeddings)])
    with pytest.raises(ValueError, match="no parts"):
        Conditioning.cat([])


def test_size_and_words_are_checked_with_a_cure():
    with pytest.raises(
        ValueError, match=r"image_size 100 .* multiple of 16, for instance 96 or 112"
    ):
        check_multiple(100, 16, "p")
    with pytest.raises(ValueError, match="multiple of 16, for instance 16 or 32"):
        check_multiple(0, 16, "p")
    check_multiple(128, 16, "p")
    words = frozenset({"a", "red", "mug"})
    check_words("A red, red mug", words, "p")
    check_words("anything at all", None, "p")
    with pytest.raises(ValueError, match=r"does not know 'green', 'cat'\. .* a, mug, red"):
        check_words("a green green cat", words, "p")

"""Looking into a loss: what is recorded is what the loss asked, and looking changes nothing."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from distill3d.kernels.cameras.pinhole import turntable
from distill3d.kernels.devices.pace import paced
from distill3d.kernels.evaluate.inspection import inspect, record_predictions
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.combine import Combined, Scheduled
from distill3d.kernels.losses.degradation import Degradation
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import clean_from_noise
from distill3d.kernels.priors.prompts import view_prompts

SIZE, SHAPE = 16, (3, 16, 16)
CAMERAS = turntable(2, size=SIZE)
SMALL = VDM(guidance=3.0, degradation=Degradation(widths=(8, 16)))


def then_pictures(vdm, start, **picture):
    return Scheduled((vdm, Picture(**picture)), (0.0, start), ("whole run", "own share"))


PARTS = then_pictures(SMALL, 0.4)


def prior(bright=0.9, other=0.4):
    def around(value):
        return Mixture(
            torch.full((1, *SHAPE), value), torch.full((1, 1, 1, 1), 0.01), torch.ones(1)
        )

    return GaussianMixturePrior({"a ball": around(bright), "": around(other)})


def cloud(training=None):
    draw = torch.Generator().manual_seed(1)
    return Gaussians(
        means=0.2 * torch.randn(40, 3, generator=draw),
        log_scales=torch.full((40, 3), -2.5),
        quats=torch.randn(40, 4, generator=draw),
        opacity_logits=torch.full((40,), -2.0),
        sh=torch.zeros(40, 1, 3),
        training=training,
    )


def look(loss, timestep=500, progress=0.0, training=None, **changes):
    model = prior(**changes)
    return inspect(
        cloud(training),
        CAMERAS,
        model,
        view_prompts(model, "a ball"),
        loss,
        timestep,
        progress,
        seed=3,
    )


def test_a_recorded_prior_is_of_the_same_type_and_answers_alike():
    model = prior()
    twin, questions = record_predictions(model)
    z, t, rows = (
        torch.rand(2, *SHAPE),
        torch.tensor([100, 900]),
        [model.embed(["a ball"] * 2), model.embed([""] * 2)],
    )
    answers = twin.predict(z, t, rows)
    assert type(twin) is type(model) and "predict" not in vars(model)
    assert all(torch.equal(a, b) for a, b in zip(answers, model.predict(z, t, rows), strict=True))
    (question,) = questions
    assert torch.equal(question.z_t, z) and torch.equal(question.answer(rows[1]), answers[1])
    # equal rows of another conditioning are another question
    assert question.answer(model.embed([""] * 2)) is None


@pytest.mark.parametrize("t", [1, 150, 640, 980])
@pytest.mark.parametrize("progress", [0.0, 0.7])
@pytest.mark.parametrize(
    "loss", [SDS(), SMALL, PARTS, CDS(), CDS.texture(), Combined((CDS(), PARTS), (0.5, 1.0))]
)
def test_every_loss_meets_the_timestep_it_is_given(loss, t, progress):
    assert look(loss, t, progress).t.tolist() == [t, t]


@dataclass(frozen=True)
class Segmented(SDS):
    """Needs room between its ends, as losses do that split the schedule into segments."""

    def check(self):
        super().check()
        if self.t_max_start - self.t_min < 80:
            raise ValueError("no room")


def test_a_loss_that_needs_a_range_keeps_its_lower_end_and_below_that_itself():
    changed = Segmented().near(300)
    assert (changed.t_min, changed.t_max_start, changed.t_max_end) == (20, 300, 300)
    assert look(Segmented(), 300).t.float().mean() <= 300
    assert Segmented().near(50) == Segmented()


def test_pictures_are_what_the_priors_estimates_mean():
    found, model = look(SDS(guidance=4.0)), prior()
    z0, t = found.render, found.t
    alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
    # the loss's t
    torch.randint(500, 501, (2,), generator=(draw := torch.Generator().manual_seed(3)))
    z_t = alpha * z0 + sigma * torch.randn(2, *SHAPE, generator=draw)
    torch.testing.assert_close(found.noised, z_t.clamp(0, 1))
    e_c, e_u = (model.noise(z_t, alpha, sigma, model.embed([text] * 2)) for text in ("a ball", ""))
    x0_c, x0_u = (clean_from_noise(z_t, e, alpha, sigma) for e in (e_c, e_u))
    torch.testing.assert_close(found.x0_text, x0_c.clamp(0, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found.x0_guided, (x0_u + 4 * (x0_c - x0_u)).clamp(0, 1), rtol=1e-4, atol=1e-4
    )
    assert found.guidance == 4 and found.degraded is None


def test_the_gradient_shows_where_a_step_leads():
    brighter, darker = (
        look(SDS(guidance=1.0), 300),
        look(SDS(guidance=1.0), 300, bright=0.1, other=0.1),
    )
    assert (brighter.gradient > 0).all() and (darker.gradient < 0).all()
    assert 0.9 < brighter.gradient.max() <= 1
    # hardly any is cut off at the end of the scale
    assert brighter.gradient.flatten().quantile(0.99) < 1


def test_guidance_is_the_losss_own_where_it_is():
    assert CDS(guidance_start=11.0, guidance_end=1.0).guidance_at(0.5) == 6
    parts = then_pictures(VDM(guidance=7.0), 0.5, guidance=2.0)
    assert [parts.guidance_at(k) for k in (0.0, 0.5, 1.0)] == [7, 2, 2]
    assert then_pictures(VDM(guidance=7.0), 1.0).guidance_at(1.0) == 7
    stages = Scheduled(
        [CDS(guidance_start=11.0, guidance_end=1.0)] * 2, (0.0, 0.5), ("own share",) * 2
    )
    assert [stages.guidance_at(k) for k in (0.25, 0.5, 0.75)] == [6, 11, 6]
    assert Combined((SDS(), parts), (0.0, 1.0)).guidance_at(0.0) == 7


def test_memory_of_a_run_with_the_same_loss_is_used_and_kept():
    model = prior()
    prompts = view_prompts(model, "a ball")
    views = Views(
        prompts.at(CAMERAS.azimuths, CAMERAS.elevations), prompts.negative_rows(2), CAMERAS, 0, 10
    )
    run = SMALL.start(model, SHAPE, torch.Generator().manual_seed(0))
    for seed in range(15):
        run(torch.full((2, *SHAPE), 0.2), views, torch.Generator().manual_seed(seed))
    state = run.state()
    kept = {key: value.clone() for key, value in state.items()}
    training = SimpleNamespace(loss_name="VDM", latent_shape=SHAPE, loss=state)
    learned, fresh = look(SMALL, training=training), look(SMALL)
    assert learned.continued and not fresh.continued
    # M_psi begins as the identity: it had not learned when asked
    assert torch.equal(fresh.degraded, fresh.x0_text)
    assert (learned.degraded - 0.2).abs().mean() < 0.5 * (learned.x0_text - 0.2).abs().mean()
    assert all(torch.equal(value, kept[key]) for key, value in state.items())
    assert not look(
        SMALL, training=SimpleNamespace(loss_name="SDS", latent_shape=SHAPE, loss={})
    ).continued


def test_a_schedule_shows_the_map_while_it_is_vdms_turn():
    assert look(PARTS, progress=0.3).degraded is not None
    assert look(PARTS, progress=0.5).degraded is None


def test_looking_at_a_schedule_shows_its_map_as_it_was_before_the_look():
    """As one that never learned, M_psi answers with what it is given."""
    for loss in (PARTS, Combined((PARTS,), (1.0,))):
        found = look(loss, progress=0.3)
        assert torch.equal(found.degraded, found.x0_text)


def test_a_loss_that_inverts_first_shows_the_question_at_its_own_timestep():
    @dataclass(frozen=True)
    class Inverting(SDS):
        def start(self, prior, shape, generator, state=None):
            inner = super().start(prior, shape, generator, state)

            def run(latents, views, generator):
                prior.predict(latents, torch.tensor([5, 5]), [views.text, views.negative])
                prior.predict(latents, torch.tensor([500, 500]), [replace(views.negative)])
                return inner(latents, views, generator)

            return run

    assert look(Inverting(), 500).t.tolist() == [500, 500]


@pytest.mark.parametrize("loss", [SDS(guidance=3.0), CDS(), SMALL], ids=lambda loss: loss.name)
def test_what_the_views_gradients_count_changes_no_picture_of_them(loss):
    """Each view's gradient is shown by its direction, so neither their number nor the loss's
    reduction scales it."""
    mean = look(loss)
    for reduction in ("sum", "elements"):
        other = look(replace(loss, reduction=reduction))
        torch.testing.assert_close(other.gradient, mean.gradient, rtol=1e-4, atol=1e-4)


def test_looking_can_be_ended_at_every_question_and_picture():
    places = []
    with paced(lambda part, share: places.append(1)):
        look(CDS())
    # two questions; of each view the render, the noised, the two clean and the gradient's two
    assert len(places) >= 2 + 6 * len(CAMERAS)
    for last in range(len(places)):
        left = [last]

        def end(part, share, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

        with paced(end), pytest.raises(KeyboardInterrupt):
            look(CDS())

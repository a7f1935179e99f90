"""What the authors' runs do and the pack's only on demand, together in one run."""

from dataclasses import replace

import pytest
import torch
from optimize_runs import LOSS, ORBIT, assert_same, ball_prior, haze, run

from distill3d.kernels.cameras.orbit import Widening
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings, RefineSettings

AS_PUBLISHED = {
    "flip_share": 0.5,
    "depth_share": 0.5,
    "background": "thirds",
    "clip_norm_start": 2.0,
    "clip_norm_end": 8.0,
    "tv_kind": "squared",
    "lambda_tv_color": 1.0,
    "lambda_tv_depth": 1.0,
    "schedule_steps": 6,
}


@pytest.mark.parametrize(
    "loss",
    [
        LOSS,
        ISM(start_level=1, noise_offset=0.1, gap_start=100, t_min=21, shared_t=True, stride=500),
        SCTD(noise_per_view=True, t_low_start=501, t_low_end=21, shared_t=True),
    ],
    ids=lambda loss: loss.name,
)
def test_a_run_with_all_of_it_goes_on_exactly_where_it_stopped(loss):
    whole = run(haze(), 6, loss=loss, **AS_PUBLISHED)
    half = run(haze(), 3, loss=loss, **AS_PUBLISHED)
    assert_same(run(half, 3, loss=loss, **AS_PUBLISHED), whole)
    assert int(whole.training.bad_steps) == 0


def test_pictures_are_stretched_to_what_the_loss_is_started_for():
    prior = ball_prior()
    result = run(haze(), 2, image_size=prior.image_size // 2, judged_size=prior.image_size)
    assert result.training.latent_shape[-1] == prior.image_size // prior.downscale


def test_a_run_sees_through_the_cameras_of_its_step():
    prior, seen = ball_prior(), []
    wide = Widening(every=2, distance_floor_min=0.1, distance_floor_max=0.1)
    cameras = replace(ORBIT, widening=wide)

    class Watching:
        name = "Watching"

        def __getattr__(self, name):
            return getattr(LOSS, name)

        def start(self, *args):
            own = LOSS.start(*args)

            class Run:
                state = own.state

                def __call__(self, latents, views, generator):
                    seen.append(float(views.cameras.distances.mean()))
                    return own(latents, views, generator)

            return Run()

    settings = OptimizeSettings(views=2, densify=None, render_backend="reference")
    prompts = view_prompts(prior, "a ball")
    optimize(haze(), Watching(), prior, prompts, cameras, 4, settings)
    assert seen[0] == pytest.approx(2.0, abs=0.04)
    assert seen[1] == pytest.approx(1.9, abs=0.04) and seen[2] == pytest.approx(1.9, abs=0.04)
    assert seen[3] == pytest.approx(1.805, abs=0.04)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip_share": 1.5}, "flip_share is 1.5; give a share of the steps"),
        ({"clip_norm_start": 2.0}, "clip_norm_start 2 and clip_norm_end 0: 0 means any norm"),
        ({"clip_norm_share": 0.0}, "clip_norm_share is 0.0; give a share of the schedule"),
        ({"judged_size": 0}, "judged_size is 0"),
        ({"tv_kind": "cubed"}, "tv_kind is 'cubed'; choose one of absolute, squared"),
    ],
)
def test_bad_options_are_named_with_their_cure(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimizeSettings(**changes).check()


def test_a_mesh_has_no_depth_to_judge():
    with pytest.raises(ValueError, match=r"depth_share is 0\.2; only splats' depth is judged"):
        RefineSettings(depth_share=0.2).check()
    with pytest.raises(ValueError, match="penalty_form is 'x'; choose one of edges, consistent3d"):
        RefineSettings(penalty_form="x").check()


def test_a_noise_for_each_view_wants_the_same_views_again():
    loss = SCTD(noise_per_view=True)
    half = run(haze(), 2, loss=loss, schedule_steps=4)
    assert half.training.loss["noise"].shape[0] == 2
    with pytest.raises(ValueError, match="there are 3 views, but the run's noise_per_view has 2"):
        run(half, 2, loss=loss, schedule_steps=4, views=3)
    assert torch.isfinite(half.means).all()


def test_a_training_saved_before_there_was_this_stream_goes_on():
    changes = {"schedule_steps": 4, "background": "random"}
    whole, half = run(haze(), 4, **changes), run(haze(), 2, **changes)
    older = {name: state for name, state in half.training.generators.items() if name != "augment"}
    half = replace(half, training=replace(half.training, generators=older))
    assert_same(run(half, 2, **changes), whole)

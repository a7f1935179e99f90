"""What a run that goes on from another tells of the differences, and runs whose last steps are
bad.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mesh_balls import ball
from optimize_runs import (
    LEARNING,
    LOSS,
    ORBIT,
    Spoiled,
    assert_same,
    ball_prior,
    haze,
    run,
    settings,
)

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.files.notes import notes
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.checkpoint import load_training, save_training
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.refine import refine_mesh
from distill3d.kernels.run.settings import RefineSettings
from distill3d.kernels.run.step import DivergedError


def test_a_run_that_goes_on_as_it_was_says_nothing():
    start = run(haze(), 2, loss=CDS(), schedule_steps=9)
    with notes() as told:
        run(start, 2, loss=CDS(), schedule_steps=9)
    assert told == []


def test_another_prompt_and_other_settings_are_told_by_name_with_both_values(tmp_path):
    save_training(run(haze(), 2, schedule_steps=9), tmp_path / "a.safetensors")
    start = load_training(tmp_path / "a.safetensors")
    with notes() as told:
        run(start, 1, loss=SDS(guidance=11.0), schedule_steps=9, lr_means=0.007)
    (text,) = told
    assert (
        "step 2" in text and "now '11.0'" in text and "lr_means" in text and "now '0.007'" in text
    )
    prior = ball_prior()
    other = replace(view_prompts(prior, "a ball"), prompt="a red ball")
    with notes() as told:
        optimize(start, LOSS, prior, other, ORBIT, 1, settings(schedule_steps=9))
    assert "prompt 'a ball', now 'a red ball'" in told[0]


def test_another_prior_gets_noise_of_its_own_and_that_is_told():
    start = run(haze(), 2, loss=CDS(), schedule_steps=9)
    prior = ball_prior()
    prior.name = "another"
    with notes() as told:
        other = run(start, 1, loss=CDS(), schedule_steps=9, prior=prior)
    same = run(start, 1, loss=CDS(), schedule_steps=9)
    assert any("begins anew" in text for text in told) and "now 'another'" in told[-1]
    key = next(iter(start.training.loss))
    assert torch.equal(same.training.loss[key], start.training.loss[key])
    assert not torch.equal(other.training.loss[key], start.training.loss[key])


@pytest.mark.parametrize("bad", [1, 3, 7])
def test_a_run_that_ends_in_bad_steps_returns_the_last_good_cloud_and_says_so(bad):
    loss = Spoiled(frozenset(range(20 - bad, 99)))
    with notes() as told:
        result = run(haze(), 20, loss=loss, schedule_steps=20, check_every=1)
    good = run(haze(), 20 - bad - 1, loss=loss, schedule_steps=20, check_every=1)
    for name, value in good.tensors().items():
        assert torch.equal(value, getattr(result, name)), name
    assert result.training.step == 20 - bad - 1 and int(result.training.bad_steps) == bad
    assert f"the last {bad} steps up to step 20" in told[0] and f"step {20 - bad - 1}" in told[0]


def test_a_last_step_that_is_bad_by_chance_costs_no_other():
    with notes() as told:
        result = run(haze(), 6, loss=Spoiled(frozenset({5})), schedule_steps=6, check_every=10)
    assert_same_cloud(result, run(haze(), 5, schedule_steps=6))
    assert result.training.step == 6 and int(result.training.bad_steps) == 1 and told == []


def test_one_that_is_ended_early_among_bad_steps_returns_the_last_good_cloud():
    loss = Spoiled(frozenset(range(5, 99)))
    result = run(haze(), 50, loss=loss, schedule_steps=50, on_step=lambda p: p.step == 8)
    assert_same_cloud(result, run(haze(), 4, loss=loss, schedule_steps=50))


def test_a_cancel_among_bad_steps_keeps_the_last_good_cloud():
    def cancel(progress):
        if progress.step == 8:
            raise KeyboardInterrupt

    kept = []
    loss = Spoiled(frozenset(range(5, 99)))
    with pytest.raises(KeyboardInterrupt):
        run(haze(), 50, loss=loss, schedule_steps=50, on_step=cancel, on_partial=kept.append)
    assert_same_cloud(kept[0], run(haze(), 4, loss=loss, schedule_steps=50))


def test_a_refinement_all_of_whose_steps_are_bad_is_an_error():
    prior = ball_prior()
    with pytest.raises(DivergedError, match="Refine Mesh: the last 3 steps"):
        refine_mesh(
            ball(), Spoiled(frozenset(range(9))), prior, view_prompts(prior, "a ball"),
            OrbitSampler(), 3, RefineSettings(views=2),
        )  # fmt: skip


def test_a_saved_run_still_goes_on_bit_for_bit(tmp_path):
    whole = run(haze(), 4, loss=LEARNING, schedule_steps=4)
    save_training(run(haze(), 2, loss=LEARNING, schedule_steps=4), tmp_path / "a.safetensors")
    rest = run(load_training(tmp_path / "a.safetensors"), 2, loss=LEARNING, schedule_steps=4)
    assert_same(rest, whole)


def assert_same_cloud(one, other):
    for name, value in one.tensors().items():
        assert torch.equal(value, getattr(other, name)), name

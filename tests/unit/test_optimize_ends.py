"""Runs that end early or go wrong: what was reached is kept, and can go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimize_runs import (
    SIZE,
    Interrupt,
    Spoiled,
    assert_same,
    ball_prior,
    haze,
    run,
)
from torch import Tensor

from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.run.step import DivergedError, Progress


def test_a_bad_step_changes_nothing_but_the_counters():
    two = run(haze(), 2, schedule_steps=9)
    three = run(two, 1, loss=Spoiled(frozenset()), schedule_steps=9)
    four = run(three, 2, loss=Spoiled(frozenset({3})), schedule_steps=9)  # one bad step, one good
    assert int(four.training.bad_steps) == 1 and int(four.training.bad_run) == 0
    assert int(four.training.updates) == 4 and four.training.step == 5
    seen: list[Progress] = []
    with pytest.raises(RuntimeError, match="stop"):
        run(
            three,
            2,
            loss=Spoiled(frozenset({3})),
            schedule_steps=9,
            on_step=_stop_after(1, seen),
            on_partial=seen.append,
        )
    partial = seen[-1]
    for name, value in three.tensors().items():
        assert torch.equal(value, getattr(partial, name))
        assert torch.equal(three.training.first[name], partial.training.first[name])
        assert torch.equal(three.training.second[name], partial.training.second[name])


def _stop_after(step: int, seen: list) -> Any:
    def on_step(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == step:
            raise RuntimeError("stop")

    return on_step


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
def test_scattered_bad_steps_are_skipped_and_counted(factor):
    logs: list[Tensor] = []
    loss = Spoiled(frozenset({1, 2, 5}), factor)
    result = run(
        haze(), 8, loss=loss, max_bad_steps=2, on_step=lambda p: logs.append(p.logs["bad_steps"])
    )
    result.check()
    assert [int(count) for count in logs] == [0, 1, 2, 2, 2, 3, 3, 3]
    assert int(result.training.updates) == 5 and all(
        v.isfinite().all() for v in result.training.second.values()
    )


def test_too_many_bad_steps_in_a_row_stop_the_run_with_the_last_good_cloud():
    partial: list[Gaussians] = []
    loss = Spoiled(frozenset(range(4, 99)))
    with pytest.raises(DivergedError, match="last 3 steps up to step 7") as caught:
        run(haze(), 20, loss=loss, schedule_steps=20, max_bad_steps=2, on_partial=partial.append)
    # Step 4 is the first bad one, so the cloud that went into step 3 is the last whose loss is
    # known to be finite.
    assert_same(caught.value.result, run(haze(), 3, loss=loss, schedule_steps=20))
    assert partial == [caught.value.result] and caught.value.bad_steps == 3


def test_a_cloud_that_an_update_ruined_is_not_the_one_that_comes_back():
    start = haze()
    with pytest.raises(DivergedError) as caught:
        run(start, 10, lr_means=1e30, max_bad_steps=3)
    assert torch.equal(caught.value.result.means, start.means)


def test_a_call_without_one_good_step_is_an_error_however_short():
    with pytest.raises(DivergedError, match="NaN or infinite"):
        run(haze(), 2, loss=Spoiled(frozenset(range(9))))


def test_an_interrupt_leaves_a_cloud_that_goes_on_to_the_same_result():
    def on_step(progress: Progress) -> None:
        if progress.step == 2:
            raise Interrupt

    partial: list[Gaussians] = []
    with pytest.raises(Interrupt):
        run(haze(), 5, loss=CDS(), schedule_steps=5, on_step=on_step, on_partial=partial.append)
    assert partial[0].training.step == 2
    assert_same(
        run(partial[0], 3, loss=CDS(), schedule_steps=5),
        run(haze(), 5, loss=CDS(), schedule_steps=5),
    )


@pytest.mark.parametrize("failing", [0, 2])
def test_a_failure_inside_a_step_leaves_the_cloud_before_that_step(failing):
    prior = ball_prior()
    predict, calls = prior.predict, []

    def fail_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 * failing + 1:  # CDS asks twice per step
            raise MemoryError("out of memory")
        return predict(*arguments)

    prior.predict = fail_once
    partial: list[Gaussians] = []
    with pytest.raises(MemoryError):
        run(haze(), 5, loss=CDS(), prior=prior, schedule_steps=5, on_partial=partial.append)
    assert partial[0].training.step == failing
    rest = run(partial[0], 5 - failing, loss=CDS(), prior=prior, schedule_steps=5)
    assert_same(rest, run(haze(), 5, loss=CDS(), schedule_steps=5))


def test_progress_says_where_the_run_is_and_hands_out_snapshots():
    clouds: list[Gaussians] = []
    seen: list[Progress] = []
    pictures: list[Tensor] = []

    def on_step(progress: Progress) -> None:
        seen.append(progress)
        clouds.append(progress.result())
        if progress.preview_due:
            pictures.append(progress.preview())

    start = run(haze(), 2, schedule_steps=7)
    result = run(start, 5, schedule_steps=7, preview_every=2, on_step=on_step)
    assert [(p.step, p.steps, p.done) for p in seen] == [(i, 5, 2 + i) for i in range(1, 6)]
    assert [p.preview_due for p in seen] == [False, True, False, True, True]
    assert all(p.loss.shape == () and p.seconds > 0 and "t" in p.logs for p in seen)
    assert not any(v.requires_grad for p in seen for v in [p.loss, *p.logs.values()])
    assert all(
        picture.shape == (SIZE, SIZE, 3) and 0 <= picture.min() <= picture.max() <= 1
        for picture in pictures
    )
    assert_same(clouds[-1], result)
    assert_same(run(clouds[1], 3, schedule_steps=7), result)


def test_a_true_answer_ends_the_run_with_the_cloud_so_far_which_can_go_on():
    kept: list[Gaussians] = []
    seen: list[int] = []

    def on_step(progress: Progress) -> bool:
        seen.append(progress.step)
        assert progress.viewer_cloud().training is None
        assert torch.equal(progress.viewer_cloud().means, progress.result().means)
        return progress.step == 2

    stopped = run(haze(), 5, schedule_steps=5, on_step=on_step, on_partial=kept.append)
    assert seen == [1, 2] and not kept
    assert_same(stopped, run(haze(), 2, schedule_steps=5))
    assert_same(run(stopped, 3, schedule_steps=5), run(haze(), 5, schedule_steps=5))

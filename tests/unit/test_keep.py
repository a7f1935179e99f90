"""What is left of a run on the disk, however it ends."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfy_stubs import Comfy, Interrupt
from optimize_runs import assert_same, haze, run

from distill3d.kernels.files.ply import load_ply
from distill3d.kernels.run.checkpoint import load_training, run_of


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    made = Comfy(monkeypatch, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def trained():
    return run(haze(), 2, schedule_steps=9)


def progress(step, seconds, cloud, steps=1000):
    return SimpleNamespace(
        step=step, steps=steps, done=step, seconds=seconds, result=lambda: cloud,
        loss=torch.tensor(1.0), preview_due=False, viewer_cloud=lambda: cloud,
    )  # fmt: skip


def left(comfy, folder="autosave", root="output"):
    return sorted(path.name for path in (comfy.folder / root / "distill3d" / folder).glob("*"))


def test_the_first_autosave_is_early_and_the_next_by_steps_or_by_the_clock(
    comfy, trained, monkeypatch
):
    keep = comfy.load("run.keep")
    keeper = keep.Keeper(keep.CLOUD, 100, {})
    saved = []
    monkeypatch.setattr(keeper, "_autosave", lambda *_, **__: saved.append(len(seen)) or True)
    seen: list[int] = []
    for step in range(1, 13):  # a minute each
        seen.append(step)
        keeper.step(progress(step, 60.0 * step, trained))
    assert saved == [1, 3, 5, 7, 9, 11]
    saved.clear()
    keeper = keep.Keeper(keep.CLOUD, 5, {})
    monkeypatch.setattr(keeper, "_autosave", lambda *_, **__: saved.append(len(seen)) or True)
    seen.clear()
    for step in range(1, 13):  # a tenth of a second each
        seen.append(step)
        keeper.step(progress(step, 0.1 * step, trained, steps=10))
    assert saved == [5]  # at the last step the end itself is kept


def test_an_autosave_is_a_pair_and_takes_the_place_of_the_one_before(comfy, trained):
    keep = comfy.load("run.keep")
    keeper = keep.Keeper(keep.CLOUD, 1, {"node": "Optimize", "prompt": "a ball", "steps": 9})
    for step in (1, 2, 3):
        keeper.step(progress(step, 0.1, trained))
    (ply, state) = left(comfy)
    assert ply.removesuffix(".ply") == state.removesuffix(".safetensors")
    folder = comfy.folder / "output" / "distill3d" / "autosave"
    torch.testing.assert_close(load_ply(folder / ply).means, trained.means)
    assert_same(load_training(folder / state), trained)
    told = run_of(folder / state)
    assert (told["prompt"], told["step"], told["finished"]) == ("a ball", 2, False)


def test_a_full_output_folder_is_evaded_and_the_run_goes_on(comfy, trained, monkeypatch):
    keep = comfy.load("run.keep")
    keeper = keep.Keeper(keep.CLOUD, 1, {})
    opened = os.open

    def full(path, *arguments, **options):
        if str(path).startswith(str(comfy.folder / "output")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", full)
    keeper.step(progress(1, 0.1, trained))
    assert not left(comfy) and len(left(comfy, root="user")) == 2
    assert keep.shown(keeper.path).startswith("user/distill3d/autosave/")
    monkeypatch.undo()


def test_an_autosave_folder_that_is_deleted_is_made_again(comfy, trained):
    keep = comfy.load("run.keep")
    keeper = keep.Keeper(keep.CLOUD, 1, {})
    keeper.step(progress(1, 0.1, trained))
    shutil.rmtree(comfy.folder / "output" / "distill3d")
    keeper.step(progress(2, 0.2, trained))
    assert len(left(comfy)) == 2


def test_a_pair_of_which_one_cannot_be_written_is_not_there_at_all(comfy, trained, full_disk):
    keep = comfy.load("run.keep")
    keeper = keep.Keeper(keep.CLOUD, 1, {})
    with full_disk(6000):  # the .ply fits, the state does not
        keeper.step(progress(1, 0.1, trained))
    assert keeper.path is None and "could not be written" in keeper.problem
    files = [path for path in comfy.folder.rglob("*") if path.is_file()]
    assert files == []


def test_ended_runs_are_kept_up_to_a_number_and_runs_that_were_killed_for_good(
    comfy, trained, monkeypatch
):
    keep = comfy.load("run.keep")
    monkeypatch.setattr(keep, "KEPT", 3)
    killed = keep.Keeper(keep.CLOUD, 1, {"prompt": "killed"})
    killed.step(progress(1, 0.1, trained))
    for number in range(6):
        keep.Keeper(keep.CLOUD, 1, {"prompt": str(number)}).end(trained)
    prompts = [told["prompt"] for _, told in keep.kept_files()]
    assert prompts == ["5", "4", "3", "killed"]
    assert len(left(comfy)) == 8


def test_a_clock_that_was_set_back_costs_no_finished_run(comfy, trained, monkeypatch):
    keep = comfy.load("run.keep")
    monkeypatch.setattr(keep, "KEPT", 3)
    clock = SimpleNamespace(time=lambda: 2e9, perf_counter=lambda: 0.0)
    monkeypatch.setattr(keep, "time", clock)
    for number in range(4):
        keep.Keeper(keep.CLOUD, 1, {"prompt": str(number)}).end(trained)
    clock.time = lambda: 1e9
    for prompt in ("after", "later"):
        keeper = keep.Keeper(keep.CLOUD, 1, {"prompt": prompt})
        keeper.end(trained)
        assert keeper.place.is_file()
        assert keeper.place.with_suffix(".safetensors").is_file()
    assert {told["prompt"] for _, told in keep.kept_files()} == {"3", "after", "later"}


@pytest.mark.parametrize("where", ["turntable", "preview at the last step"])
def test_a_cancel_after_the_last_step_loses_nothing_and_says_where_it_is(comfy, trained, where):
    watch = comfy.load("run.watch")
    keep = comfy.load("run.keep")
    watching = watch.Watch(2, 100, haze(), "a ball")
    with pytest.raises(Interrupt), watching:
        if where == "turntable":
            result = run(haze(), 2, schedule_steps=9, on_step=watching.step)
            watching.finish(result)
        comfy.interrupted = True
        if where == "turntable":
            comfy.check()
        run(
            haze(), 2, schedule_steps=9, on_step=watching.step, on_partial=watching.keep,
        )  # fmt: skip
    ((path, told),) = keep.kept_files()
    assert told["step"] == (2 if where == "turntable" else 1)
    ends = [data for name, data in comfy.sent if name == "distill3d.end"]
    assert ends[0]["partial"] == keep.shown(path.with_suffix(".ply"))
    if where == "turntable":
        assert_same(load_training(path), trained)


def test_a_failing_turntable_does_not_end_a_finished_run(comfy):
    watch = comfy.load("run.watch")

    def fails():
        raise RuntimeError("CUDA error: out of memory")

    assert watch.attempted(fails, 3) == 3


def test_an_error_after_the_run_keeps_the_result_where_autosaves_are_off(comfy, trained):
    watch, keep = comfy.load("run.watch"), comfy.load("run.keep")
    watching = watch.Watch(2, 0, haze(), "a ball")
    place = r"finished cloud is in output/distill3d/partial/.*\.ply"
    with pytest.raises(RuntimeError, match=place), watching:
        watching.finish(trained)
        raise RuntimeError("no room")
    ((path, _),) = keep.kept_files()
    assert_same(load_training(path), trained)


def test_skipped_steps_are_told_in_the_node_and_the_history(comfy, trained):
    watch = comfy.load("run.watch")
    watching = watch.Watch(2, 100, haze(), "a ball")
    bad = replace(trained.training, bad_steps=torch.tensor(30))
    with watching:
        watching.live.about = {"step": 60}
        watching.finish(replace(trained, training=bad))
        told = watching.told()
    assert "30 of 60 steps" in told["text"][0]
    (about,) = told["distill3d_run"]
    assert (about["bad_steps"], about["steps"], about["notes"]) == (30, 60, told["text"])
    assert about["kept"].startswith("output/distill3d/autosave/")


def test_memory_that_runs_out_at_the_picture_still_keeps_the_state(comfy, trained):
    keep = comfy.load("run.keep")

    def no_memory(*_):
        raise MemoryError

    keeper = keep.Keeper(replace(keep.CLOUD, save=no_memory), 1, {})
    try:
        raise MemoryError("the step")
    except MemoryError:
        keeper.part(trained)
    assert keeper.partial.suffix == ".safetensors"
    assert_same(load_training(keeper.partial), trained)
    assert run_of(keeper.partial)["reason"] == "MemoryError: the step"


def test_places_outside_the_folders_of_comfyui_are_shown_whole(comfy):
    keep = comfy.load("run.keep")
    assert keep.shown(Path("/elsewhere/a.ply")) == "/elsewhere/a.ply"

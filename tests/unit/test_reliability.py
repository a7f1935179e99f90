"""The tools of tests/reliability: what counts as a fault, the report, the shim over the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from faults.report import LOST, OVERWRITTEN, RAW, Report, Trial, answers, summary
from faults.servers import Outcome
from faults.verdict import check_files, check_kept, files_in, raw
from format_clouds import object_cloud

from distill3d.kernels.files.atomic import atomic_write
from distill3d.kernels.files.ply import save_ply
from distill3d.kernels.run.checkpoint import save_training
from distill3d.kernels.run.state import fresh_state

SABOTEUR = Path(__file__).resolve().parents[1] / "reliability" / "saboteur"
sys.path.append(str(SABOTEUR))
disk = pytest.importorskip("disk", reason="the shim is POSIX's")


def kinds(trial):
    return sorted({kind for kind, _ in trial.problems})


def test_a_report_goes_on_where_it_was_cut_off(tmp_path):
    path, bad = tmp_path / "report.json", Trial("0 kill 1", answer=0.5)
    bad.found(LOST, "gone")
    first = Report(path, {"seed": 0})
    first.add("kill", Trial("0 kill 0", answer=0.126))
    first.add("kill", bad)
    again = Report(path, {"seed": 0})
    assert again.done("kill") == 2 and again.content["about"] == [{"seed": 0}]
    again.add("kill", Trial("0 kill 2", answer=0.5))
    (line,) = summary(Report(path, {"seed": 0}).content)
    assert (line["trials"], line[LOST], line[RAW]) == (3, 1, 0)
    assert (line["median"], line["slowest"]) == (0.5, 0.5)
    assert sorted(answers(again.content["faults"]["kill"])) == [0.13, 0.5, 0.5]
    assert again.content["faults"]["kill"]["problems"][0]["seed"] == "0 kill 1"


def test_reports_of_campaigns_side_by_side_are_added_up(tmp_path):
    reports = [Report(tmp_path / f"{seed}.json", {"seed": seed}) for seed in (0, 1)]
    for seed, report in enumerate(reports):
        trial = Trial(f"{seed} kill 0", answer=0.5, figures={"seconds": 1.0 + seed})
        trial.found(LOST, f"gone {seed}")
        report.add("kill", trial)
    reports[1].add("cancel", Trial("1 cancel 0"))
    reports[0].join(reports[1].content)
    joined = Report(tmp_path / "0.json").content
    assert joined["about"] == [{"seed": 0}, {"seed": 1}]
    kill, cancel = joined["faults"]["kill"], joined["faults"]["cancel"]
    assert (kill["trials"], kill[LOST], kill["answers"]) == (2, 2, {"0.50": 2})
    assert [p["what"] for p in kill["problems"]] == ["gone 0", "gone 1"]
    assert kill["figures"] == {"seconds": 2.0} and cancel["trials"] == 1


@pytest.mark.parametrize(
    ("kind", "message", "is_raw"),
    [
        ("ValueError", "x.ply is a damaged PLY: its header ends too early.", False),
        ("ValueError", "another.ply is a damaged PLY: its header ends too early.", True),
        ("OSError", "[Errno 28] No space left on device: x.ply and some more words", True),
        ("KeyError", "x.ply has no such key in the header that it begins with", True),
        ("builtins.IndexError", "list index out of range", True),
        ("ValueError", "x.ply is bad", True),
    ],
)
def test_sentences_and_bare_exceptions_are_told_apart(kind, message, is_raw):
    assert bool(raw(Outcome("error", kind, message), ("x.ply",))) == is_raw


def test_changed_vanished_and_unreadable_files_are_found(tmp_path):
    for name in ("kept.ply", "changed.ply", "gone.ply"):
        save_ply(object_cloud(5, 0), tmp_path / name)
    before, trial = files_in(tmp_path), Trial("")
    assert check_files(tmp_path, before, trial) == before and not trial.problems
    save_ply(object_cloud(6, 0), tmp_path / "changed.ply")
    check_files(tmp_path, before, trial)
    assert kinds(trial) == [OVERWRITTEN]
    (tmp_path / "gone.ply").unlink()
    (tmp_path / "new.ply").write_bytes((tmp_path / "kept.ply").read_bytes()[:-5])
    trial = Trial("")
    check_files(tmp_path, files_in(tmp_path) | {"gone.ply": before["gone.ply"]}, trial)
    assert [what.partition(":")[0] for _, what in trial.problems] == ["gone.ply is gone"]
    trial = Trial("")
    check_files(tmp_path, before | {"gone.ply": (0, 0, 0)}, trial)
    assert {what.partition(":")[0] for _, what in trial.problems} >= {"new.ply"}


def test_a_splat_of_another_step_than_its_training_state_is_found(tmp_path):
    cloud = object_cloud(5, 0)
    trained = replace(cloud, training=fresh_state(cloud.tensors(), 0))
    save_training(trained, tmp_path / "x.safetensors")
    save_ply(cloud, tmp_path / "x.ply")
    trial = Trial("")
    check_files(tmp_path, {}, trial)
    assert not trial.problems
    save_ply(replace(cloud, means=cloud.means + 1), tmp_path / "x.ply")
    check_files(tmp_path, {}, trial)
    assert kinds(trial) == [LOST]


def test_what_is_kept_must_be_as_far_as_what_was_told():
    runs = [{"node": "Optimize", "step": 4}, {"node": "Optimize", "step": 3}]
    for step, found in ((4, []), (5, [LOST])):
        trial = Trial("")
        assert check_kept(runs, "Optimize", step, trial) == runs[0]
        assert kinds(trial) == found
    trial = Trial("")
    check_kept(runs, "Refine Mesh", 1, trial)
    assert kinds(trial) == [LOST]


@pytest.fixture
def armed():
    yield disk.arm
    disk.arm(None)


def test_the_disk_refuses_from_one_operation_on(tmp_path, armed):
    def write(name):
        with atomic_write(tmp_path / name) as file:
            file.write(b"x" * 100)

    armed(disk.Plan([str(tmp_path)]))
    write("counted")
    needed = disk.seen()
    assert needed >= 4
    for at in range(1, needed + 1):
        armed(disk.Plan([str(tmp_path)], "errno", at, 1, errno.ENOSPC))
        with pytest.raises(OSError) as error:
            write("refused")
        assert error.value.errno == errno.ENOSPC
        armed(None)
        assert [path.name for path in tmp_path.iterdir()] == ["counted"]
    write("after")
    assert (tmp_path / "after").read_bytes() == b"x" * 100


def test_a_process_is_killed_in_the_middle_of_a_write(tmp_path):
    script = f"""
import sys
sys.path.append({str(SABOTEUR)!r})
import disk
disk.arm(disk.Plan([{str(tmp_path)!r}], "kill", at=2))
with open({str(tmp_path / "half")!r}, "wb", buffering=0) as file:
    file.write(b"x" * 100)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert os.path.getsize(tmp_path / "half") == 50

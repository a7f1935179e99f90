"""A few faults of each family, in one server: what tests/reliability does by the hundred."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("resource", reason="limits and forks are POSIX's")
if sys.platform != "linux":
    pytest.skip("forks ComfyUI and limits its memory", allow_module_level=True)

from faults import cancels, disks, files, kills, memory, numbers, samples
from faults.bed import Bed
from faults.report import Report
from faults.servers import Forks

FEW = {
    **kills.FAULTS,
    "cancel in the last step or after it": cancels.in_the_last_step_or_after_it,
    "disk refuses": disks.refuses,
    "memory is limited": memory.limited,
    "NaN in the loss": numbers.loss,
}
READ = ("damaged ply", "damaged training state")


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("reliability")
    with Forks(folder / "base") as forks:
        bed = Bed(forks, Report(folder / "report.json", {}), 1)
        yield bed
        bed.stop()


def problems(bed: Bed, fault: str) -> list:
    return bed.report.content["faults"][fault]["problems"]


# for a session that reports, not for one that has to pass
LIMITED = pytest.mark.nightly(reason="another place each time")


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=LIMITED if "memory" in name else ()) for name in FEW]
)
def test_nothing_is_lost_or_silently_wrong(bed, fault):
    bed.trials(fault, 1, FEW[fault])
    assert not problems(bed, fault)


def test_damaged_files_are_refused_by_name_or_sound(bed, tmp_path):
    for kind in samples.kinds(tmp_path):
        if kind.name in READ:
            files.damaged(bed, kind, files.BATCH)
            assert not problems(bed, kind.name)

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
    **{name: (once, 1) for module in (kills, disks) for name, once in module.FAULTS.items()},
    "cancel in a node": (cancels.in_a_node, 2),
    "cancel in the last step or after it": (cancels.in_the_last_step_or_after_it, 2),
    "memory is limited": (memory.limited, 2),
    "NaN in the loss": (numbers.loss, 1),
    "changed workflow": (files.workflows, 3),
}
READ = ("damaged ply", "damaged training state", "damaged LoRA")


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("reliability")
    with Forks(folder / "base") as forks:
        bed = Bed(forks, Report(folder / "report.json", {}), 1)
        yield bed
        bed.stop()


def problems(bed: Bed, fault: str) -> list:
    return bed.report.content["faults"][fault]["problems"]


@pytest.mark.parametrize("fault", FEW)
def test_nothing_is_lost_or_silently_wrong(bed, fault):
    once, count = FEW[fault]
    bed.trials(fault, count, once)
    assert not problems(bed, fault)


def test_damaged_files_are_refused_by_name_or_sound(bed, tmp_path):
    for kind in samples.kinds(tmp_path):
        if kind.name in READ:
            files.damaged(bed, kind, files.BATCH)
            assert not problems(bed, kind.name)

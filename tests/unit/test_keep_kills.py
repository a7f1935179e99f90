"""A process killed while it writes autosaves, at any moment: from the first one on there is always
a whole one, and what is half written can be told and removed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill3d.kernels.files.held import clean
from distill3d.kernels.files.ply import load_ply
from distill3d.kernels.run.checkpoint import load_training

pytestmark = pytest.mark.slow(reason="a process for each kill")
pytest.importorskip("fcntl")

# autosaves without end, each of a cloud that says by its places which step it is of
WRITER = """
import sys
sys.path.insert(0, {here!r})
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from comfy_stubs import Comfy
keep = Comfy(pytest.MonkeyPatch(), Path({folder!r})).load("run.keep")
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.run.state import fresh_state
n, step = 20_000, 0
cloud = Gaussians(
    torch.randn(n, 3), torch.zeros(n, 3), torch.randn(n, 4), torch.zeros(n), torch.zeros(n, 4, 3)
)
keeper = keep.Keeper(keep.CLOUD, 1, {{}})
while True:
    step += 1
    now = replace(cloud, means=torch.full((n, 3), float(step)))
    now = replace(now, training=replace(fresh_state(now.tensors(), 0), step=step))
    keeper.step(SimpleNamespace(step=step, steps=10**9, done=step, seconds=0, result=lambda: now))
    if step == 1:
        print("ready", flush=True)
"""


MORE = pytest.mark.nightly(reason="other moments of the same")


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=MORE) for seed in range(2, 12))])
def test_a_kill_leaves_a_whole_autosave_whose_two_files_agree(tmp_path, seed):
    script = WRITER.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path)
    try:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(random.Random(seed).uniform(0.0, 0.3))
    finally:
        process.kill()
        process.wait()
    folder = tmp_path / "output" / "distill3d" / "autosave"
    states = list(folder.glob("*.safetensors"))
    assert states
    for state in states:
        cloud = load_training(state)
        assert float(cloud.means[0, 0]) == cloud.training.step
        if state.with_suffix(".ply").exists():
            assert float(load_ply(state.with_suffix(".ply")).means[0, 0]) == cloud.training.step
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    clean(folder)
    assert not [path for path in folder.iterdir() if path.suffix not in (".ply", ".safetensors")]

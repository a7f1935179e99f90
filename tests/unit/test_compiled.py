"""The cache of compiled kernels when one folder is imported under several names, as ComfyUI and the
tests do.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distill3d import kernels
from distill3d.kernels.rasterizers.rasterize import available

pytestmark = pytest.mark.slow(reason="compiles anew in other processes")

SCRIPT = """
import importlib, sys
import numpy as np
kernels = importlib.import_module(sys.argv[1] + ".rasterizers.numba.binning")
boxes, depths, offsets = np.array([[[0, 1, 0, 1]]], np.int16), np.ones((1, 1), np.float32), np.array([[0, 1]])
entries, slots, firsts = np.full(1, 7, np.int32), np.zeros(1, np.int32), np.zeros(2, np.int64)
kernels.bin_share(0, 1, boxes, depths, 1, offsets, entries, slots, firsts)
print(entries[0], firsts[1], sum(kernels.bin_share.stats.cache_hits.values()))
"""


@pytest.mark.nightly(reason="compiles for half a minute")
@pytest.mark.skipif(not available("numba"), reason="needs numba")
@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_code_compiled_under_one_name_does_not_break_another_and_is_found_again_under_its_own(
    tmp_path,
):
    for name in ("first", "second"):
        tmp_path.joinpath(name).symlink_to(Path(kernels.__file__).parent, target_is_directory=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    seen = []
    for name in ("first", "second", "first"):
        command = [sys.executable, "-c", SCRIPT, name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.split())
    assert seen == [["0", "1", "0"], ["0", "1", "0"], ["0", "1", "1"]]


@pytest.mark.nightly(reason="compiles for half a minute each")
@pytest.mark.skipif(not available("numba"), reason="needs numba")
@pytest.mark.parametrize("file", ["numba/lanes.py", "projection.py"])
def test_code_is_compiled_anew_when_a_file_beside_or_above_its_own_changes(tmp_path, file):
    folder = shutil.copytree(
        Path(kernels.__file__).parent, tmp_path / "copied", ignore=lambda *_: ["__pycache__"]
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    hits = []
    for _ in range(3):
        command = [sys.executable, "-c", SCRIPT, "copied"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        hits.append(done.stdout.split()[-1])
        if len(hits) == 2:
            other = folder / "rasterizers" / file
            other.write_text(
                other.read_text(encoding="utf-8") + "\nANOTHER = 1\n", encoding="utf-8"
            )
    assert hits == ["0", "1", "0"]

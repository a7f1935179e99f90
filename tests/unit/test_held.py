"""Files that belong to a process: nobody else takes them while it runs, and anybody removes them
once it has died.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill3d.kernels.files.atomic import appearing_together, atomic_write
from distill3d.kernels.files.formats import FORMATS
from distill3d.kernels.files.held import MARK, Held, clean
from distill3d.kernels.init.ball import random_ball

pytest.importorskip("fcntl")

# in a process of its own: begin to write, say so, and wait
WRITER = """
import time
from distill3d.kernels.files.atomic import atomic_write
with atomic_write({path!r}) as file:
    file.write(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def age(folder: Path) -> None:
    """As if everything in the folder had been made a minute ago."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)


def test_what_a_killed_process_was_writing_is_removed_and_a_running_ones_is_not(tmp_path):
    script = WRITER.format(path=str(tmp_path / "a.ply"))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path)
    try:
        assert process.stdout.readline() == b"ready\n"
        (part,) = tmp_path.iterdir()
        age(tmp_path)
        assert clean(tmp_path) == [] and part.exists()
    finally:
        process.kill()
        process.wait()
    assert part.exists()
    assert clean(tmp_path) == [part] and not list(tmp_path.iterdir())


def test_only_ours_is_ever_removed(tmp_path):
    for name in (".0123456789abcdef0123456789abcdef.part", "a.ply", ".hidden", "distill3d-x.part"):
        (tmp_path / name).touch()
    (tmp_path / f"{MARK}folder").mkdir()
    os.mkfifo(tmp_path / f"{MARK}pipe")
    (tmp_path / f"{MARK}link").symlink_to(tmp_path / "a.ply")
    before = sorted(tmp_path.iterdir())
    age(tmp_path)
    assert clean(tmp_path) == [] and sorted(tmp_path.iterdir()) == before


def test_a_name_that_is_held_cannot_be_had_and_can_again_afterwards(tmp_path):
    first = Held(tmp_path / "name")
    with pytest.raises(FileExistsError):
        Held(tmp_path / "name")
    first.release()
    Held(tmp_path / "name").release()
    assert not list(tmp_path.iterdir())


def test_files_written_together_appear_at_the_end_or_not_at_all(tmp_path):
    def write(fail: bool) -> None:
        with appearing_together():
            for name in ("a.ply", "a.safetensors"):
                with atomic_write(tmp_path / name) as file:
                    file.write(name.encode())
                assert not (tmp_path / name).exists()
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fail=True)
    assert not list(tmp_path.iterdir())
    write(fail=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a.ply", "a.safetensors"}


def test_one_that_fails_among_those_written_together_does_not_appear(tmp_path):
    with appearing_together():
        with pytest.raises(OSError, match="no room"), atomic_write(tmp_path / "a.ply"):
            raise OSError("no room")
        with atomic_write(tmp_path / "b.ply") as file:
            file.write(b"b")
    assert [path.name for path in tmp_path.iterdir()] == ["b.ply"]


@pytest.mark.parametrize("format", [*FORMATS])
def test_every_format_can_be_written_among_others(tmp_path, format):
    """Inside a block in which files appear at its end, those too that writers read on their way."""
    kind = FORMATS[format]
    with appearing_together():
        kind.save(random_ball(20), tmp_path / f"a.{kind.extension}")
    assert list(tmp_path.iterdir())

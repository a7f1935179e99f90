"""Names of the files that nodes write: the next free one, for all files that belong together, and
one process's alone.
"""

import errno
import importlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

# what another process does: take twenty names, one after the other
TAKER = """
import importlib, sys
from types import ModuleType
paths = ModuleType("folder_paths")
paths.get_output_directory = lambda: {folder!r}
paths.get_save_image_path = lambda prefix, root: (root, prefix, 1, "", prefix)
sys.modules["folder_paths"] = paths
outputs = importlib.import_module("distill3d.nodes.shared.outputs")
from distill3d.kernels.files.atomic import atomic_write
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    with outputs.new_output("Save", "a", "ply", "safetensors") as file:
        with atomic_write(file.path) as stream:
            stream.write(b"{who}")
        print(file.path.name, flush=True)
"""


@pytest.fixture
def outputs(monkeypatch, tmp_path):
    """The module, in a ComfyUI of which nothing is there but its folders."""
    paths = ModuleType("folder_paths")
    paths.get_output_directory = lambda: str(tmp_path)
    paths.get_user_directory = lambda: str(tmp_path / "user")
    paths.get_temp_directory = lambda: str(tmp_path / "temp")
    paths.get_save_image_path = lambda prefix, root: (root, prefix, 1, "", prefix)
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    monkeypatch.delitem(sys.modules, "distill3d.nodes.shared.outputs", raising=False)
    yield importlib.import_module("distill3d.nodes.shared.outputs")
    sys.modules.pop("distill3d.nodes.shared.outputs", None)


@pytest.mark.parametrize(
    ("there", "extensions", "wanted"),
    [
        ([], ("ply",), "a_00001_.ply"),
        (["a_00001_.ply", "a_00007_.ply", "b_00009_.ply"], ("ply",), "a_00008_.ply"),
        (["a_00004_.glb"], ("ply",), "a_00001_.ply"),
        # its .ply was moved elsewhere
        (["a_00003_.safetensors"], ("ply", "safetensors"), "a_00004_.ply"),
        (["a_00003_.safetensors"], ("ply",), "a_00001_.ply"),
        (["a_00002_.spz.safetensors"], ("spz", "spz.safetensors"), "a_00003_.spz"),
        (["a_00002_.compressed.ply"], ("ply",), "a_00001_.ply"),
    ],
)
def test_the_next_number_is_free_for_all_files_that_belong_together(
    outputs, tmp_path, there, extensions, wanted
):
    for name in there:
        (tmp_path / name).touch()
    with outputs.new_output("Save", "a", *extensions) as file:
        assert file.path == tmp_path / wanted


def test_a_name_is_taken_while_its_file_is_being_written(outputs):
    with (
        outputs.new_output("Save", "a", "ply") as first,
        outputs.new_output("Save", "a", "ply") as other,
    ):
        assert [first.path.name, other.path.name] == ["a_00001_.ply", "a_00002_.ply"]


def test_two_processes_never_write_one_file(outputs, tmp_path):
    commands = [TAKER.format(folder=str(tmp_path), who=who) for who in "AB"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=tmp_path,
        )
        for command in commands
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda process: process.communicate(b"go\n")[0], processes))
    names = [line.decode() for each in said for line in each.split()]
    assert len(names) == len(set(names)) == 40
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for who, each in zip(b"AB", said, strict=True):
        assert all((tmp_path / name.decode()).read_bytes() == bytes([who]) for name in each.split())


@pytest.mark.parametrize(
    ("code", "cause", "cure"),
    [
        (errno.ENOSPC, "the disk is full (", "Free some space"),
        (errno.EROFS, "the disk is read-only", "Make it writable"),
        (errno.EACCES, "ComfyUI may not write there", "Make it writable"),
        (errno.EIO, "the disk reports a fault", "--output-directory"),
    ],
)
def test_a_disk_that_refuses_is_named_with_file_folder_and_cure(
    outputs, tmp_path, monkeypatch, code, cause, cure
):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    from distill3d.kernels.files.atomic import atomic_write

    with (
        pytest.raises(OSError) as caught,
        outputs.new_output("Save Mesh", "a", "glb") as file,
        atomic_write(file.path) as stream,
    ):
        stream.write(b"x")
    for part in ("Save Mesh: a_00001_.glb", str(tmp_path), cause, cure, "run again"):
        assert part in str(caught.value)
    assert "Errno" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_folder_that_went_is_made_again(outputs, tmp_path):
    outputs.folder_paths.get_save_image_path = lambda prefix, root: (
        f"{root}/gone/deep",
        "a",
        1,
        "gone/deep",
        prefix,
    )
    with outputs.new_output("Save", "gone/deep/a", "ply") as file:
        file.path.touch()
    assert (tmp_path / "gone" / "deep" / "a_00001_.ply").exists()


@pytest.mark.parametrize("format", ["ply", "spz", "glb", "sog", "sog folder", "usdz", "html"])
def test_every_format_says_in_a_sentence_that_the_disk_is_full(
    outputs, tmp_path, full_disk, format
):
    from optimize_runs import haze

    from distill3d.kernels.files.formats import FORMATS

    if format == "usdz":
        pytest.importorskip("pxr")
    kind, cloud = FORMATS[format], haze(2000)
    with (
        full_disk(1000),
        pytest.raises(OSError) as caught,
        outputs.new_output("Save Gaussians", "a", kind.extension) as file,
    ):
        kind.save(cloud, file.path)
    for part in ("Save Gaussians: a_00001_.", str(tmp_path), "run again"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_state_that_does_not_fit_takes_its_splat_with_it(outputs, tmp_path, full_disk):
    from optimize_runs import haze, run

    from distill3d.kernels.files.ply import save_ply
    from distill3d.kernels.run.checkpoint import save_training

    cloud = run(haze(), 1)
    with (
        full_disk(6000),
        pytest.raises(OSError, match=r"a_00001_\.ply could not be written"),
        outputs.new_output("Save Gaussians", "a", "ply", "safetensors") as file,
    ):
        save_ply(cloud, file.path)
        save_training(cloud, file.path.with_suffix(".safetensors"))
    assert not list(tmp_path.iterdir())

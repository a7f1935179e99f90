"""Lists of files for ComfyUI's pages: right at once after every change, cheap where there is none,
and never in anybody's way.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
import time
from types import ModuleType

import pytest

from distill3d.nodes.shared import listing
from distill3d.nodes.shared.listing import Listing

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links are POSIX's")


@pytest.fixture
def opened():
    """Paths that a kind was asked about."""
    return []


@pytest.fixture
def files(tmp_path, opened):
    def is_splat(path):
        opened.append(path.name)
        return path.read_bytes()[:1] != b"m"

    return Listing((".ply", ".glb"), {"splat": is_splat, "mesh": lambda path: not is_splat(path)})


def names(files, root, kind="splat"):
    return files.names(kind, {"output": root})


def write(path, content=b"s", age=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_files_are_listed_by_kind_newest_first(files, tmp_path):
    write(tmp_path / "old.ply", age=50)
    write(tmp_path / "deep/er/new.PLY", age=10)
    write(tmp_path / "mesh.glb", b"m", age=20)
    write(tmp_path / "picture.png")
    write(tmp_path / ".hidden.ply")
    assert names(files, tmp_path) == ["output/deep/er/new.PLY", "output/old.ply"]
    assert names(files, tmp_path, "mesh") == ["output/mesh.glb"]
    assert names(files, tmp_path / "nowhere") == []


def test_every_change_shows_at_once(files, tmp_path):
    for step in range(20):
        write(tmp_path / f"d{step % 3}" / f"{step}.ply")
        assert f"output/d{step % 3}/{step}.ply" in names(files, tmp_path), step
    (tmp_path / "d0/0.ply").unlink()
    (tmp_path / "d1/1.ply").rename(tmp_path / "d2/moved.ply")
    found = names(files, tmp_path)
    assert "output/d2/moved.ply" in found and len(found) == 19
    write(tmp_path / "d2/other", b"m").replace(tmp_path / "d2/moved.ply")
    assert "output/d2/moved.ply" not in names(files, tmp_path)
    assert names(files, tmp_path, "mesh") == ["output/d2/moved.ply"]


def settle(tmp_path):
    """Folders that nothing has changed in for a while."""
    for folder in (tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())):
        os.utime(folder, (time.time() - 60,) * 2)


def test_where_nothing_changed_nothing_is_read_again(files, tmp_path, opened, monkeypatch):
    for k in range(30):
        write(tmp_path / f"d{k % 3}" / f"{k}.ply")
    settle(tmp_path)
    before = names(files, tmp_path)
    opened.clear()
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))
    assert names(files, tmp_path) == before and not opened and not scanned
    write(tmp_path / "d1/more.ply")
    assert len(names(files, tmp_path)) == 31
    # of a folder that changed its new file alone is opened, by both kinds
    assert set(opened) == {"more.ply"} and scanned == [str(tmp_path / "d1")]


def test_a_file_written_to_in_its_place_is_seen_in_time(files, tmp_path, monkeypatch):
    write(tmp_path / "a.ply", b"s")
    settle(tmp_path)
    assert names(files, tmp_path) == ["output/a.ply"]
    with open(tmp_path / "a.ply", "r+b") as file:
        file.write(b"more")
    monkeypatch.setattr(listing, "AGAIN", 0.0)
    assert names(files, tmp_path) == [] and names(files, tmp_path, "mesh") == ["output/a.ply"]


def test_pipes_devices_and_sockets_are_left_out_unopened(files, tmp_path, opened):
    write(tmp_path / "a.ply")
    os.mkfifo(tmp_path / "pipe.ply")
    (tmp_path / "device.ply").symlink_to("/dev/zero")
    (tmp_path / "gone.ply").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.ply").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s.ply")) if len(str(tmp_path)) < 90 else None
        start = time.monotonic()
        assert names(files, tmp_path) == ["output/a.ply"]
    assert time.monotonic() - start < 2 and set(opened) == {"a.ply"}


def test_linked_files_and_folders_are_listed_and_loops_end(files, tmp_path):
    root, other = tmp_path / "output", tmp_path / "disk"
    write(other / "deep/b.ply")
    write(root / "c/c.ply")
    (root / "file.ply").symlink_to(other / "deep/b.ply")
    (root / "folder").symlink_to(other / "deep")
    (root / "c/up").symlink_to(root)
    (root / "c/self").symlink_to(root / "c")
    found = names(files, root)
    assert sorted(found) == ["output/c/c.ply", "output/file.ply", "output/folder/b.ply"]


def test_a_disk_that_does_not_answer_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "WAIT", 0.1)
    stuck = threading.Event()

    def slow(path):
        if path.name == "slow.ply":
            stuck.wait(10)
        return True

    files = Listing((".ply",), {"splat": slow})
    write(tmp_path / "a.ply")
    assert names(files, tmp_path) == ["output/a.ply"]
    write(tmp_path / "slow.ply")
    threads = threading.active_count()
    start = time.monotonic()
    # as known, twenty times, and only the first of these waits
    assert [names(files, tmp_path) for _ in range(20)] == [["output/a.ply"]] * 20
    assert time.monotonic() - start < 1 and threading.active_count() <= threads + 1
    stuck.set()
    deadline = time.monotonic() + 5
    while len(names(files, tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(names(files, tmp_path)) == 2


def test_the_thread_ends_when_nobody_asks(files, tmp_path):
    names(files, tmp_path)
    thread = files._thread
    thread.join(5)
    assert not thread.is_alive()
    write(tmp_path / "a.ply")
    assert names(files, tmp_path) == ["output/a.ply"]


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """The nodes' module, in a ComfyUI of which nothing is there but its folders."""
    paths = ModuleType("folder_paths")
    paths.get_output_directory = lambda: str(tmp_path / "output")
    paths.get_input_directory = lambda: str(tmp_path / "input")
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    name = "distill3d.nodes.shared.files"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


PLY = (
    b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float scale_0\nend_header\n"
)


def test_what_is_listed_is_found(folders, tmp_path):
    other = tmp_path / "disk"
    write(other / "splats/b.ply", PLY)
    write(other / "mesh.ply", b"ply\nelement vertex 0\nend_header\n")
    (tmp_path / "output").mkdir()
    (tmp_path / "input").mkdir()
    (tmp_path / "output/linked").symlink_to(other / "splats")
    (tmp_path / "input/3d").symlink_to(other)  # the whole folder a link
    splats, meshes = folders.splat_files(), folders.mesh_files()
    assert "output/linked/b.ply" in splats and "input/3d/splats/b.ply" in splats
    assert meshes == ["input/3d/mesh.ply"]
    for name in (*splats, *meshes):
        assert folders.located(name).is_file()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("output/../secret.ply", "leads out of output/"),
        ("output//etc/passwd", "leads out of output/"),
        ("input/3d/../../secret.ply", "leads out of input/3d/"),
        ("elsewhere/a.ply", "not below output/ or input/3d/"),
        ("output/a.png", "none of .ply"),
        ("output/none.ply", "does not exist (any more)"),
        ("output/a\0.ply", "does not exist (any more)"),
        ("output/\ud800.ply", "does not exist (any more)"),
        ("output/" + "a" * 5000 + ".ply", "does not exist (any more)"),
        ("output/pipe.ply", "is a pipe, a device or a socket"),
        ("output/device.ply", "is a pipe, a device or a socket"),
    ],
)
def test_other_names_are_refused_in_a_sentence(folders, tmp_path, file, message):
    (tmp_path / "output").mkdir()
    write(tmp_path / "secret.ply", PLY)
    os.mkfifo(tmp_path / "output/pipe.ply")
    (tmp_path / "output/device.ply").symlink_to("/dev/zero")
    with pytest.raises(ValueError) as refused:
        folders.located(file)
    assert message in str(refused.value) and len(str(refused.value)) < 500

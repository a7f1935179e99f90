"""The farm on GPUs, without any: when a number of workers is judged, what MPS sees, a server that
hangs.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from distill3d.farm import packing, run
from distill3d.farm.engines.comfyui import ComfyEngine
from distill3d.farm.engines.server import ServerDiedError


class Fleet:
    """Slots, pool and bar at once."""

    def __init__(self, gpus=2):
        self.gpus, self.workers, self.made, self.memory, self.said = gpus, gpus, 0, 1 << 30, []
        self.ray = SimpleNamespace(kill=lambda actor: None)

    def packing(self, memory):
        return packing.Packing(memory) if memory else None

    def more(self, count):
        return [object()] * count * self.gpus

    def add(self, slot):
        self.workers += 1

    def __len__(self):
        return self.workers

    def tell(self, text):
        self.said.append(text)


def test_a_number_of_workers_is_judged_when_all_have_started_and_made_one(monkeypatch):
    fleet, abouts, now = Fleet(), {}, [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    packer = run._Packer(fleet, fleet, abouts, fleet)

    def worked(seconds, made, started):
        now[0] += seconds
        fleet.made += made
        for number in range(started):
            abouts[number] = {"gpu_memory": 140 << 30}
        packer.look()

    worked(5, 0, 1)
    worked(100, 40, 1)  # the second one is slow to start; what the first makes says nothing
    worked(1, 0, 2)
    worked(60, 2, 2)  # its first object, which takes long, either
    assert not fleet.said
    worked(36, 6, 2)
    assert fleet.said == ["1 workers a GPU: 600 objects an hour; now 2."] and len(fleet) == 4
    worked(500, 50, 2)
    assert len(fleet.said) == 1
    worked(1, 0, 4)
    worked(60, 4, 4)
    worked(36, 12, 4)
    assert fleet.said[1:] == ["2 workers a GPU: 1,200 objects an hour; now 3."]


def test_mps_serves_all_gpus_whichever_a_worker_may_see(monkeypatch, tmp_path):
    seen = {}

    def started(command, env, **options):
        seen.update(env)
        (tmp_path / f"distill3d-mps-{packing.os.getuid()}/pipe/control").touch()

    monkeypatch.setattr(packing.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(packing.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(packing.subprocess, "run", started)
    found = packing.start_mps({"CUDA_VISIBLE_DEVICES": "1", "PATH": "/usr/bin"})
    assert set(found) == {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}
    assert "CUDA_VISIBLE_DEVICES" not in seen and seen["PATH"] == "/usr/bin"


class Stuck:
    """A server that answers, and never ends its job; its log grows for a while."""

    def __init__(self, folder, lines):
        self.output, self.log, self.lines, self.stopped = folder, folder / "log", lines, False
        self.log.touch()

    def check_alive(self, what): ...

    def get(self, path):
        if self.lines:
            self.lines -= 1
            with self.log.open("a") as log:
                log.write("a line\n")
        return {}

    def tail(self):
        return "its last line"

    def stop(self):
        self.stopped = True


def test_a_server_without_a_sign_of_life_is_ended(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + 60))
    engine = ComfyEngine(tmp_path, tmp_path, True, 1, hung=600)
    engine.server = Stuck(tmp_path, lines=20)
    with pytest.raises(ServerDiedError, match=r"hung: .* for 600 s.*\n.*last line"):
        engine._followed("id", "key", lambda node, path: None, set())
    assert engine.server.stopped and engine.server.lines == 0 and now[0] >= 20 * 60 + 600

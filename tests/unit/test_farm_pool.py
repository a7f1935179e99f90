"""The loop that gives jobs to workers, with workers of threads in place of Ray's."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from distill3d.farm import pool as pools
from distill3d.farm.errors import FarmError
from distill3d.farm.graph import Job
from distill3d.farm.pool import Pool, Slot


class RayError(Exception):
    pass


class ActorUnavailableError(RayError):
    pass


class Reference:
    def __init__(self):
        self.answer = Future()

    def future(self):
        return self.answer


class Actor:
    """Does what it is asked one after the other; a job named crash ends it, with all that waits."""

    def __init__(self, broken=False):
        self.asked, self.broken, self.made = queue.Queue(), broken, []
        self.start = SimpleNamespace(remote=lambda: self.ask(self._start))
        self.stop = SimpleNamespace(remote=lambda: self.ask(lambda: None))
        self.run = SimpleNamespace(remote=lambda *job: self.ask(lambda: self._run(*job)))
        threading.Thread(target=self._work, daemon=True).start()

    def ask(self, call):
        reference = Reference()
        self.asked.put((reference, call))
        return reference

    def _start(self):
        if self.broken:
            raise RayError("it does not start")
        return {"number": 0}

    def _run(self, job, prompt, attempt):
        time.sleep(0.01)
        if job.name == "crash":
            raise RayError("gone")
        self.made.append(job.name)
        status = job.name if job.name in ("disk", "error", "refused") else "done"
        return {"status": status, "key": job.key, "name": job.name, "error": status}

    def _work(self):
        while True:
            reference, call = self.asked.get()
            try:
                reference.answer.set_result(call())
            except RayError as error:
                waiting = []
                while not self.asked.empty():
                    waiting.append(self.asked.get()[0])
                for each in (*reversed(waiting), reference):  # in whatever order
                    each.answer.set_exception(error)


@pytest.fixture
def made(monkeypatch):
    exceptions = SimpleNamespace(RayError=RayError, ActorUnavailableError=ActorUnavailableError)
    ray = SimpleNamespace(exceptions=exceptions, wait=lambda *a, **k: None)
    monkeypatch.setattr(pools, "needed", lambda name: ray)
    monkeypatch.setattr(pools, "WAIT", 0.05)

    def run(names, actors, progress=lambda job: None):
        entries = []
        slots = [Slot(actor, number) for number, actor in enumerate(actors)]
        pool = Pool(slots, lambda job: {}, progress, entries.append)
        jobs = deque(Job(name, f"{place}", place, {}) for place, name in enumerate(names))
        pool.run(jobs)
        return Counter((entry["name"], entry["status"]) for entry in entries), entries

    return run


def test_every_job_ends_once_and_workers_share_them(made):
    actors = [Actor() for _ in range(3)]
    names = [f"job{number}" for number in range(60)]
    counted, _ = made(names, actors)
    assert counted == Counter({(name, "done"): 1 for name in names})
    assert all(len(actor.made) > 10 for actor in actors)


def test_a_job_that_ends_its_worker_is_set_aside_and_those_behind_it_are_not_blamed(made):
    names = ["a", "crash", *(f"b{number}" for number in range(20))]
    counted, entries = made(names, [Actor(), Actor()])
    assert counted.pop(("crash", "failed")) == 1
    assert counted == Counter({(name, "done"): 1 for name in names if name != "crash"})
    (failed,) = [entry for entry in entries if entry["name"] == "crash"]
    assert failed["attempt"] == 3 and len(failed["errors"]) == 3


def test_a_job_that_gets_further_each_time_is_not_set_aside(made):
    seen = iter(range(100))
    told = [0]

    def progress(job):
        told[0] = next(seen)
        return min(told[0], 5)  # further five times

    _, entries = made(["crash"], [Actor()], progress)
    assert len(entries[0]["errors"]) == 6 + 2


def test_an_error_is_tried_three_times_and_a_refusal_once(made):
    actor = Actor()
    counted, _ = made(["error", "refused", "fine"], [actor])
    assert counted == Counter(
        {("error", "failed"): 1, ("refused", "refused"): 1, ("fine", "done"): 1}
    )
    assert Counter(actor.made) == Counter(error=3, refused=1, fine=1)


def test_a_full_disk_ends_the_run_with_a_sentence(made):
    with pytest.raises(FarmError, match="make room and start the same command again"):
        made(["disk", "disk", "disk", "disk"], [Actor()])


def test_a_worker_that_does_not_start_is_left_out_and_none_is_told(made):
    counted, _ = made(["a", "b"], [Actor(broken=True), Actor()])
    assert sum(counted.values()) == 2
    with pytest.raises(FarmError, match="No worker could be started: it does not start"):
        made(["a"], [Actor(broken=True)])


def test_a_run_that_was_stopped_says_so_by_its_code_and_all_jobs_are_told(tmp_path, monkeypatch):
    from distill3d.farm import run

    (tmp_path / "jobs.txt").write_text("a red mug\na red dragon\n")
    settings = run.Settings(
        tmp_path / "jobs.txt", "quickstart", str(tmp_path / "out"), engine="python"
    )
    said = []
    for code in (run.STOPPED, run.INTERRUPTED):
        monkeypatch.setattr(run, "_make", lambda *_, code=code: code)
        assert run.farm(settings, said.append) == code
    assert said[0] == "2 jobs: 0 made already, 1 set aside, 1 to do."
    assert "dragon" in (tmp_path / "out" / "table.csv").read_text()

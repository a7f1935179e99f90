"""The loop around Ray's actors: each free worker gets a job, until there are none."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from .errors import FarmError, needed
from .graph import Job, Prompt
from .manifest import DONE, FAILED, REFUSED, Entry
from .worker import BROKEN, DISK

TRIES = 3  # attempts without progress after which a job is set aside
STARTS = 3  # failures in a row after which a worker is no longer asked
AHEAD = 1  # jobs that wait at a worker
STOPPING = 10.0  # seconds that they may take to end
WAIT = 0.5  # seconds that one look at the workers may take
DIED = "the worker died while it made this object"


@dataclass
class Slot:
    """A place where one job runs: an actor, or one of an actor's many.

    Args:
        number: of the worker
        about: what it said when it started
        failures: in a row, of its starts
        jobs: references of those that it has, the first of which runs
        culprit: of the job at which it died, until it has started again
    """

    actor: Any
    number: int
    about: Entry = field(default_factory=dict)
    failures: int = 0
    jobs: list[Any] = field(default_factory=list)
    culprit: Any = None


@dataclass
class Attempt:
    """How often a job was tried.

    Args:
        failures: since it last got further
        reached: a mark of how far it had come then
        errors: what was told of each
    """

    failures: int = 0
    reached: Any = None
    errors: list[str] = field(default_factory=list)


class Pool:
    """Gives jobs to slots and takes what comes of them.

    Args:
        prompt: the graph of a job
        progress: a mark of how far a job has come, which differs when it gets further: a job that
            does is not set aside for workers that were killed
        on_end: takes the entry of each job that has ended, done or set aside
        on_start: takes what a worker says of itself, each time that one starts
    """

    def __init__(
        self,
        slots: Iterable[Slot],
        prompt: Callable[[Job], Prompt],
        progress: Callable[[Job], Any],
        on_end: Callable[[Entry], None],
        on_start: Callable[[Entry], None] = lambda about: None,
    ) -> None:
        self.ray = needed("ray")
        self.prompt, self.progress = prompt, progress
        self.on_end, self.on_start = on_end, on_start
        self.free: dict[int, Slot] = {}  # by number
        self.ahead: dict[int, Slot] = {}  # that work, and may be given their next job
        self.attempts: dict[str, Attempt] = {}
        self.full = 0  # times in a row that OUT had no room
        self.failed_starts: list[str] = []
        self._running: dict[Any, tuple[Slot, Job | None]] = {}
        self._ended: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        self._count = 0
        for slot in slots:
            self.add(slot)

    def add(self, slot: Slot) -> None:
        """One more; it gets jobs when it has started."""
        self._ask(slot.actor.start.remote(), slot, None)
        self._count += 1

    def retire(self) -> Slot | None:
        """One less, of those that are free."""
        if not self.free:
            return None
        self._count -= 1
        return self.free.popitem()[1]

    def __len__(self) -> int:
        """Workers that there are, the starting ones included."""
        return self._count

    def run(self, jobs: deque[Job], tick: Callable[[], None] = lambda: None) -> None:
        """Until all jobs have ended. ``tick`` is called about twice a second. Raises FarmError when
        no worker is left, or OUT has no room; what was running then goes on from its autosaves in
        the next call.
        """
        ticked = 0.0
        while jobs or any(job for _, job in self._running.values()):
            self._hand_out(jobs)
            if not self._running and not self.free:
                raise FarmError(f"No worker could be started: {self._last_failure()}")
            for reference, answer in self._answers():
                self._take(reference, answer, jobs)
                self._hand_out(jobs)  # before the next: nobody waits for all that have come
            if time.monotonic() - ticked > WAIT:
                ticked = time.monotonic()
                tick()

    def close(self) -> None:
        """Free workers end their engines and clear up; the others end with Ray."""
        asked = [slot.actor.stop.remote() for slot in self.free.values()]
        if asked:
            self.ray.wait(asked, num_returns=len(asked), timeout=STOPPING)

    def _hand_out(self, jobs: deque[Job]) -> None:
        """A job for each that has none; while there are plenty, one more, so that nobody waits for
        the driver between two.
        """
        while jobs and self.free:
            self._begin(next(iter(self.free.values())), jobs.popleft())
        while len(jobs) > len(self) and self.ahead:
            self._begin(next(iter(self.ahead.values())), jobs.popleft())

    def _begin(self, slot: Slot, job: Job) -> None:
        attempt = self.attempts.get(job.key)
        tried = 0 if attempt is None else len(attempt.errors)
        reference = slot.actor.run.remote(job, self.prompt(job), tried + 1)
        slot.jobs.append(reference)
        self._place(slot)
        self._ask(reference, slot, job)

    def _place(self, slot: Slot) -> None:
        """Among those that may be given a job, or not."""
        self.free.pop(slot.number, None)
        self.ahead.pop(slot.number, None)
        if slot.culprit is None and len(slot.jobs) <= AHEAD:
            (self.ahead if slot.jobs else self.free)[slot.number] = slot

    def _ask(self, reference: Any, slot: Slot, job: Job | None) -> None:
        """Have the answer come by itself: looking at thousands in turn would take longer than
        many of them.
        """
        self._running[reference] = slot, job
        reference.future().add_done_callback(lambda answer: self._ended.put((reference, answer)))

    def _answers(self) -> Iterator[tuple[Any, Any]]:
        """Those that have come, after a wait for one."""
        with suppress(Empty):
            yield self._ended.get(timeout=WAIT)
            while True:
                yield self._ended.get_nowait()

    def _take(self, reference: Any, answer: Any, jobs: deque[Job]) -> None:
        slot, job = self._running.pop(reference)
        try:
            entry: Entry = answer.result()
        except self.ray.exceptions.RayError as error:
            if slot.culprit is None:
                slot.culprit = slot.jobs[0] if slot.jobs else reference
            if job is None and not self._restartable(slot, error):
                return
            if job is not None and reference is slot.culprit:
                self._again(job, {"status": BROKEN, "error": DIED, "log": str(error)}, jobs)
            elif job is not None:
                jobs.appendleft(job)  # it had not begun
        else:
            if job is None:
                slot.about, slot.failures, slot.culprit = entry, 0, None
                self.on_start(entry)
            elif entry["status"] in (DONE, REFUSED):
                self.full = 0
                self.attempts.pop(job.key, None)
                self.on_end(entry)
            else:
                self._again(job, entry, jobs)
        if job is not None:
            slot.jobs.remove(reference)
        if slot.culprit is not None and not slot.jobs:
            self._ask(slot.actor.start.remote(), slot, None)
        self._place(slot)

    def _restartable(self, slot: Slot, error: Exception) -> bool:
        """Whether a worker that did not start is asked once more."""
        slot.failures += 1
        self.failed_starts.append(str(error))
        lost = isinstance(error, self.ray.exceptions.ActorUnavailableError)
        if slot.failures < STARTS or lost:
            time.sleep(0.2)
            return True
        self._count -= 1
        return False

    def _again(self, job: Job, entry: Entry, jobs: deque[Job]) -> None:
        """Back into the queue, or aside."""
        if entry["status"] == DISK:
            self.full += 1
            jobs.append(job)
            if self.full >= TRIES:
                raise FarmError(
                    f"OUT has no room or may not be written to: {entry['error']}. Nothing is lost:"
                    " make room and start the same command again."
                )
            return
        attempt = self.attempts.setdefault(job.key, Attempt())
        attempt.errors.append(entry["error"])
        reached = self.progress(job)
        further = reached is not None and reached != attempt.reached
        attempt.failures = 1 if further else attempt.failures + 1
        attempt.reached = reached
        if attempt.failures < TRIES:
            jobs.appendleft(job)
            return
        self.on_end(
            {
                "key": job.key,
                "name": job.name,
                "line": job.line,
                "prompt": job.prompt,
                "seed": job.values.get("seed"),
                "settings": dict(job.values),
                **entry,
                "status": FAILED,
                "attempt": len(attempt.errors),
                "errors": attempt.errors,
                "time": time.time(),
            }
        )
        del self.attempts[job.key]

    def _last_failure(self) -> str:
        return self.failed_starts[-1].strip()[-2000:] if self.failed_starts else "there is none"


def connect(address: str, cpus: int, dashboard: bool) -> tuple[Any, str]:
    """Ray, connected, and where its page is; "local" starts one on this machine for this call,
    bound to the loopback.

    Raises FarmError where it is not installed, or the address does not answer.
    """
    if address == "local":
        # Ray's own switch for one machine: on Linux it listens on all interfaces otherwise. Read
        # when it is imported, and by the processes that it starts.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    ray = needed("ray")
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        if address == "local":
            context = ray.init(
                address="local", num_cpus=cpus, include_dashboard=dashboard,
                dashboard_host="127.0.0.1", **quiet,
            )  # fmt: skip
        else:
            context = ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FarmError(f"--address {address}: Ray does not answer there ({error}).") from error
    return ray, str(getattr(context, "dashboard_url", "") or "") if dashboard else ""

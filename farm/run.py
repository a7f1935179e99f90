"""One call of the farm: what is left to do, done; what there is then, shown."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .checks import checked
from .engines.comfyui import HUNG
from .engines.server import find_comfyui
from .errors import FarmError
from .graph import Graph, Job, read_graph
from .jobs import read_jobs
from .manifest import DONE, RECORDS, REFUSED, Entry, Manifest
from .packing import ROUND, Packing
from .pool import Pool, connect
from .progress import Progress
from .report import summary, write_sheets, write_table
from .slots import Slots, cores
from .store import OWN, Folder, Remote, Store, open_store
from .worker import PLACE, SAVES, Options, make_engine

LOCK, WORKERS = f"{OWN}/lock", f"{OWN}/workers.json"
OK, SOME, STOPPED, INTERRUPTED = 0, 1, 3, 130  # exit codes
PROBLEMS = 20  # that the check shows


@dataclass(frozen=True)
class Settings:
    """What a call asks for; see the command's help."""

    jobs: Path
    graph: str
    out: str
    address: str = "local"
    engine: str = "comfyui"
    comfyui: Path | None = None
    models: Path | None = None
    flags: tuple[str, ...] = ()
    workers: int = 0
    per_gpu: int = 0
    threads: int = 1
    scratch: str | None = None
    dry_run: bool = False
    retry: bool = False
    dashboard: bool = False
    hung: float = HUNG


def farm(settings: Settings, say: Callable[[str], None] = print) -> int:
    """Make what is not made yet; the exit code: 0 all is done, 1 not all could be made, 3 no room
    or no worker, 130 interrupted. Raises FarmError for what is wrong with the call.
    """
    graph = read_graph(settings.graph)
    jobs = checked(graph, graph.jobs(read_jobs(settings.jobs)))
    options = _options(settings, graph)
    if settings.dry_run:
        return _dry_run(settings, options, graph, jobs, say)
    store = open_store(settings.out)
    with _alone(store):
        manifest = Manifest(store)
        for key in manifest.load():  # the worker may have died before it could
            store.remove(f"{SAVES}/{key}")
        todo = _todo(manifest, jobs, settings.retry)
        made = sum(manifest.states.get(job.key) == DONE for job in jobs)
        aside = len(jobs) - made - len(todo)
        told = f", {aside} set aside" if aside else ""
        say(f"{len(jobs)} jobs: {made} made already{told}, {len(todo)} to do.")
        code = OK
        if todo:
            code = _make(
                settings, replace(options, place=_place(store)), graph, todo, manifest, say
            )
        ended = _finish(store, manifest, jobs, say)
        return code or ended


def _todo(manifest: Manifest, jobs: list[Job], retry: bool) -> list[Job]:
    """Jobs that are not made; those that cannot be are told in the manifest."""
    todo = []
    for job in jobs:
        state = manifest.states.get(job.key)
        if job.problem:
            if state is None:
                manifest.add(_refused(job))
        elif state is None or (retry and state != DONE):
            if state is not None:
                manifest.forget(job.key)
            todo.append(job)
    return todo


def _make(
    settings: Settings, options: Options, graph: Graph, todo: list[Job], manifest: Manifest,
    say: Callable[[str], None],
) -> int:  # fmt: skip
    store, abouts = manifest.store, dict[int, Entry]()
    begun = time.monotonic()
    wanted = max(cores(), settings.workers * settings.threads)
    ray, page = connect(settings.address, wanted, settings.dashboard)
    slots = Slots(ray, options, settings.workers, settings.per_gpu)
    bar = Progress(len(todo))

    def ended(entry: Entry) -> None:
        log = entry.pop("log", "")
        if slots.gpus:
            share = slots.gpus / len(pool)
            entry["gpu_seconds"] = round(float(entry.get("seconds") or 0) * share, 3)
        if entry["status"] != DONE:
            entry["log"] = f"failed/{entry['name']}.log"
            bar.attempt(lambda: store.write(entry["log"], log.encode(errors="replace")))
            bar.tell(
                f"line {entry['line']} is set aside: {str(entry['error']).splitlines()[0][:200]}"
            )
        elif entry["attempt"] > 1:
            store.remove(f"{SAVES}/{entry['key']}")
        manifest.add(entry)
        bar.ended(entry)

    def started(about: Entry) -> None:
        abouts[about["number"]] = about
        told = json.dumps(list(abouts.values()), indent=1).encode()
        bar.attempt(lambda: store.write(WORKERS, told))

    pool = Pool(
        slots.first(),
        lambda job: graph.filled(job.values),
        lambda job: store.mark(f"{SAVES}/{job.key}"),
        ended,
        started,
    )
    if page:
        say(f"Ray's page: http://{page}")
    say(f"{len(pool)} workers start ({time.monotonic() - begun:.1f} s for Ray).")
    packer = _Packer(slots, pool, abouts, bar)

    def tick() -> None:
        bar.attempt(manifest.flush)
        bar.show(len(pool))
        packer.look()

    try:
        pool.run(deque(todo), tick)
        pool.close()
        return OK
    except FarmError as error:
        bar.tell(str(error))
        return STOPPED
    except KeyboardInterrupt:
        bar.tell("Interrupted. The same command goes on from here.")
        return INTERRUPTED
    finally:
        bar.attempt(lambda: manifest.flush(now=True))
        bar.close()
        ray.shutdown()


class _Packer:
    """Adds workers to the GPUs while that makes more objects an hour.

    A number is judged from when all its workers have started and made an object each on average:
    until then they load networks and try kernels.
    """

    def __init__(self, slots: Slots, pool: Pool, abouts: dict[int, Entry], bar: Progress) -> None:
        self.slots, self.pool, self.abouts, self.bar = slots, pool, abouts, bar
        self.packing: Packing | None = None
        self._since: float | None = None  # of the measurement; None: not yet
        self._objects: int | None = None  # made before; None: not all have started

    def look(self) -> None:
        memory = min((about.get("gpu_memory", 0) for about in self.abouts.values()), default=0)
        self.packing = self.packing or self.slots.packing(memory)
        packing, workers = self.packing, len(self.pool)
        if packing is None or packing.settled or len(self.abouts) < workers:
            return
        if self._objects is None:
            self._objects = self.bar.made
        objects = self.bar.made - self._objects
        if self._since is None:
            if objects >= workers:
                self._since, self._objects = time.monotonic(), self.bar.made
            return
        if objects < ROUND * workers:
            return
        rate = objects / (time.monotonic() - self._since) * 3600
        before = packing.count
        after = packing.measured(rate, self.bar.memory)
        self.bar.tell(f"{before} workers a GPU: {rate:,.0f} objects an hour; now {after}.")
        for slot in self.slots.more(max(0, after - before)):
            self.pool.add(slot)
        for _ in range(max(0, before - after) * self.slots.gpus):
            if (idle := self.pool.retire()) is not None:
                self.slots.ray.kill(idle.actor)
        self._since = self._objects = None


def _dry_run(
    settings: Settings, options: Options, graph: Graph, jobs: list[Job], say: Callable[[str], None]
) -> int:
    """Checks every job against the graph, by a server's own word where ComfyUI is to make them."""
    if settings.engine == "comfyui":
        with tempfile.TemporaryDirectory() as folder:
            engine: Any = make_engine(options, Path(folder))
            try:
                engine.start()
                jobs = checked(graph, jobs, engine.types())
            finally:
                engine.stop()
    wrong = [job for job in jobs if job.problem]
    for job in wrong[:PROBLEMS]:
        say(f"line {job.line}: {job.problem}")
    if len(wrong) > PROBLEMS:
        say(f"and {len(wrong) - PROBLEMS} more")
    say(f"{len(jobs) - len(wrong)} of {len(jobs)} jobs fit {graph.source}. Nothing was started.")
    return SOME if wrong else OK


def _options(settings: Settings, graph: Graph) -> Options:
    comfyui = ""
    if settings.engine == "comfyui":
        comfyui = str(find_comfyui(settings.comfyui))
    elif settings.engine == "python":
        from .engines.python import check_nodes

        check_nodes(graph)
    out = open_store(settings.out).address
    return Options(
        out, "", settings.engine, comfyui, str(settings.models or ""), settings.flags,
        settings.threads, 0.0, settings.scratch, settings.hung,
    )  # fmt: skip


def _finish(
    store: Store,
    manifest: Manifest,
    jobs: list[Job],
    say: Callable[[str], None],
) -> int:
    """Table, contact sheet, summary; 1 where not all are made."""
    keys = {job.key for job in jobs}
    entries = [entry for entry in manifest.entries() if entry["key"] in keys]
    for folder in ("", RECORDS, OWN):
        store.sweep(folder)
    try:
        manifest.flush(now=True)
        write_table(store, sorted(entries, key=lambda entry: entry["line"]))
        with tempfile.TemporaryDirectory() as folder:
            sheets = write_sheets(store, entries, Path(folder))
    except OSError as error:
        say(
            f"Manifest and table could not be written: {error}."
            " What is made is recorded all the same."
        )
        sheets = []
    say(summary(entries, len(jobs)))
    say(f"In {store.address}: manifest.jsonl, table.csv" + "".join(f", {name}" for name in sheets))
    return OK if all(manifest.states.get(key) == DONE for key in keys) else SOME


def _refused(job: Job) -> Entry:
    return {
        "key": job.key, "name": job.name, "line": job.line, "status": REFUSED, "prompt": job.prompt,
        "seed": job.values.get("seed"), "settings": dict(job.values), "error": job.problem,
        "time": time.time(),
    }  # fmt: skip


def _place(store: Store) -> str:
    """A word in OUT by which workers see that they have the same; raises FarmError where OUT cannot
    be written to.
    """
    word = f"{socket.gethostname()} {uuid.uuid4()}"
    try:
        store.write(PLACE, word.encode())
    except (OSError, ValueError) as error:
        raise FarmError(f"OUT {store.address} cannot be written to: {error}") from error
    return word


@contextmanager
def _alone(store: Folder | Remote) -> Iterator[None]:
    """One driver at a time in a folder. Raises FarmError where another one works."""
    if isinstance(store, Remote) or os.name == "nt":
        yield
        return
    import fcntl

    path = store.path / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise FarmError(f"OUT {store.address} cannot be written to: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FarmError(f"OUT {store.address}: another farm works in this folder.") from error
        yield

"""A worker: one engine, job after job. Ray makes an actor of it, and a new one when it dies."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engines.base import Engine, Made, RefusedError
from .engines.comfyui import HUNG
from .graph import Job, Prompt
from .manifest import DONE, REFUSED, Entry, record_name, write_record
from .packing import start_mps
from .resume import SUFFIX
from .store import OWN, Store, open_store

SAVES, PLACE = f"{OWN}/autosaves", f"{OWN}/place"
ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"_\d+_?(\.[A-Za-z][\w.]*)$")  # what ComfyUI puts before a file's ending
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
DISK = "disk"  # the status of a job that OUT had no room for
BROKEN = "error"  # of one that may go well another time


@dataclass(frozen=True)
class Options:
    """What all workers of a run share.

    Args:
        out: the store's address
        place: what OUT/.farm/place says, by which a machine knows that it sees the same OUT
        engine: "comfyui", "python" or "stub"
        comfyui: its folder
        models: of diffusers folders, for the engine python
        flags: more of ComfyUI's
        threads: of a worker on the CPU
        gpu: share of a GPU; 0: the CPU
        scratch: folder for what is on its way; None: the machine's own
        hung: seconds without a sign of life after which a ComfyUI is ended
    """

    out: str
    place: str
    engine: str
    comfyui: str = ""
    models: str = ""
    flags: tuple[str, ...] = ()
    threads: int = 1
    gpu: float = 0.0
    scratch: str | None = None
    hung: float = HUNG


class Worker:
    """See `Options`. ``number`` tells the workers of a run apart."""

    def __init__(self, options: Options, number: int) -> None:
        leave_root()
        self.options, self.number = options, number
        self.store: Store = open_store(options.out)
        if 0 < options.gpu < 1:
            os.environ.update(start_mps())  # before anything of CUDA
        self._clear_orphans()
        self.folder = Path(
            tempfile.mkdtemp(prefix=f"distill3d-farm-{os.getpid()}-", dir=options.scratch)
        )
        self.engine = make_engine(options, self.folder)

    def start(self) -> Entry:
        """Ready; tells where and as what. Raises RuntimeError where this machine sees another
        OUT.
        """
        try:
            there = self.store.read(PLACE).decode()
        except OSError:
            there = ""
        if there != self.options.place:
            raise RuntimeError(
                f"{socket.gethostname()} does not see OUT {self.options.out} as the driver does."
                " Give a folder that all machines share, or an address such as s3://..."
            )
        return {
            "number": self.number,
            "pid": os.getpid(),
            "machine": socket.gethostname(),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", "") if self.options.gpu else "",
            "path": [folder for folder in sys.path if folder],
            **self.engine.start(),
        }

    def run(self, job: Job, prompt: Prompt, attempt: int) -> Entry:
        """Make a job's object; its files, then its record, are in OUT when this returns an entry
        with status "done". Nothing is raised: a status "error" or "disk" may be tried again.
        """
        start, work = time.time(), self.folder / "work"
        try:
            if (recorded := self._recorded(job)) is not None:
                return recorded
            work.mkdir(exist_ok=True)
            made = self.engine.make(prompt, job.key, self._saved(job, work), self._keeper(job))
            seconds = time.time() - start
            entry = self._entry(job, DONE, seconds, attempt) | {
                "resumed": made.resumed, "metrics": made.metrics, "notes": made.notes,
                "files": self._put(job, made), "memory": self.engine.memory(),
            }  # fmt: skip
            write_record(self.store, entry)
            self.store.remove(f"{SAVES}/{job.key}")
            return entry
        except RefusedError as error:
            return self._failed(job, REFUSED, error, time.time() - start, attempt)
        except OSError as error:
            status = DISK if error.errno in FULL else BROKEN
            return self._failed(job, status, error, time.time() - start, attempt)
        except Exception as error:  # of any kind: nodes have their own
            return self._failed(job, BROKEN, error, time.time() - start, attempt)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(self.folder / job.key, ignore_errors=True)

    def stop(self) -> None:
        self.engine.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _recorded(self, job: Job) -> Entry | None:
        """What a worker wrote that finished the job without the driver's hearing of it."""
        try:
            return dict(json.loads(self.store.read(record_name(job.key))))
        except (OSError, ValueError):
            return None

    def _saved(self, job: Job, work: Path) -> dict[str, Path]:
        """The job's autosaves of earlier attempts, brought here, by node."""
        found = {}
        for name in self.store.names(f"{SAVES}/{job.key}"):
            if name.endswith(SUFFIX):
                path = work / name
                self.store.get(f"{SAVES}/{job.key}/{name}", path)
                found[name.removesuffix(SUFFIX).replace("~", ":")] = path
        return found

    def _keeper(self, job: Job) -> Any:
        def keep(node: str, path: Path) -> None:
            name = f"{node.replace(':', '~')}{SUFFIX}"  # the ids of nodes in subgraphs have colons
            try:
                self.store.put(path, f"{SAVES}/{job.key}/{name}")
            except FileNotFoundError:
                raise
            except OSError as error:  # a full disk does not end the run, which may yet find room
                print(f"farm: no autosave of {job.name}: {error}", file=sys.stderr)

        return keep

    def _put(self, job: Job, made: Made) -> list[dict[str, Any]]:
        """Moves the files to OUT as NAME and their ending; a second one of an ending as NAME-2."""
        listed, taken = [], dict[str, int]()
        for path in dict.fromkeys(made.files):
            found = NUMBER.search(path.name)
            ending = found[1] if found else path.suffix
            taken[ending] = taken.get(ending, 0) + 1
            count = "" if taken[ending] == 1 else f"-{taken[ending]}"
            name = f"{job.name}{count}{ending}"
            self.store.put(path, name)
            listed.append({"name": name, "bytes": path.stat().st_size, "blake2b": digest_of(path)})
        return listed

    def _entry(self, job: Job, status: str, seconds: float, attempt: int) -> Entry:
        return {
            "key": job.key, "name": job.name, "line": job.line, "status": status,
            "prompt": job.prompt, "seed": job.values.get("seed"), "settings": dict(job.values),
            "machine": socket.gethostname(), "worker": self.number, "attempt": attempt,
            "seconds": round(seconds, 3), "gpu_seconds": round(seconds * self.options.gpu, 3),
            "time": time.time(),
        }  # fmt: skip

    def _failed(
        self, job: Job, status: str, error: Exception, seconds: float, attempt: int
    ) -> Entry:
        told = str(error).strip() or type(error).__name__
        log = "\n".join([traceback.format_exc(), self.engine.log()])
        return self._entry(job, status, seconds, attempt) | {"error": told, "log": log}

    def _clear_orphans(self) -> None:
        """Folders that workers of this machine left when they were killed."""
        place = Path(self.options.scratch or tempfile.gettempdir())
        for path in place.glob("distill3d-farm-*-*"):
            pid = path.name.split("-")[2]
            if pid.isdigit() and not _runs(int(pid)):
                shutil.rmtree(path, ignore_errors=True)


def make_engine(options: Options, folder: Path) -> Engine:
    """The engine of that name."""
    if options.engine == "python":
        from .engines.python import PythonEngine

        return PythonEngine(folder, options.threads, Path(options.models or "."))
    if options.engine == "stub":
        from .engines.stub import StubEngine

        return StubEngine(folder)
    from .engines.comfyui import ComfyEngine

    cpu = not options.gpu
    return ComfyEngine(
        Path(options.comfyui), folder, cpu, options.threads, options.flags, options.hung
    )


def leave_root() -> None:
    """Takes this pack's folder from the places that imports are looked for in, where Ray and
    `python -m` put the current folder: its `nodes` and `kernels` are names of other packages.
    """
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]


def digest_of(path: Path) -> str:
    """What the manifest says of a file's contents."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

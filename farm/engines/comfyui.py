"""A headless ComfyUI makes the objects: any workflow in API form."""

from __future__ import annotations

import shutil
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..graph import Prompt
from ..resume import SUFFIX, resumed, run_of
from .base import Keep, Made, RefusedError
from .server import Server, ServerDiedError, error_of

POLL, SLOWEST = 0.05, 0.5  # seconds between looks at a job, at first and later
AUTOSAVE = "distill3d/autosave"
RUN = "distill3d_run"
LOST = 4  # calls that may fail in a row while the process lives
HUNG = 1800.0  # seconds that a job may be without an autosave or a line in the log


class NodeError(RuntimeError):
    """A node has failed."""


class ComfyEngine:
    """See `Server`."""

    def __init__(
        self,
        tree: Path,
        folder: Path,
        cpu: bool,
        threads: int,
        flags: Sequence[str] = (),
        hung: float = HUNG,
    ) -> None:
        self.server = Server(tree, folder, cpu, threads, flags)
        self._memory, self._hung = 0, hung

    def start(self) -> Mapping[str, Any]:
        if not self.server.alive:
            self.server.start()
        assert self.server.process is not None
        device = {} if self.server.cpu else self.server.get("/system_stats")["devices"][0]
        about = {"engine_pid": self.server.process.pid, "port": self.server.port}
        return about | {"gpu_memory": int(device.get("vram_total") or 0)}

    def types(self) -> dict[str, Any]:
        """What the server says of its node types."""
        return dict(self.server.get("/object_info"))

    def make(self, prompt: Prompt, key: str, saved: Mapping[str, Path], keep: Keep) -> Made:
        self.start()
        self._clean()
        autosaves = self.server.output / AUTOSAVE
        autosaves.mkdir(parents=True, exist_ok=True)
        placed = {
            id: Path(shutil.copy(path, autosaves / f"farm-{place}{SUFFIX}"))
            for place, (id, path) in enumerate(saved.items())
        }
        graph, steps = resumed(prompt, placed)
        entry = self._followed(self._queued(graph, key), key, keep, set(placed.values()))
        made = self._made(prompt, entry)
        made.resumed = steps
        return made

    def log(self) -> str:
        return self.server.tail()

    def memory(self) -> int:
        return self._memory

    def stop(self) -> None:
        self.server.stop()

    def _queued(self, graph: Prompt, key: str) -> str:
        # the pack's autosaves name the workflow of their run by this id
        about = {"extra_pnginfo": {"workflow": {"id": key}}}
        try:
            answer = self.server.post("/prompt", {"prompt": graph, "extra_data": about})
        except urllib.error.HTTPError as error:
            raise RefusedError(error_of(error)) from error
        except OSError as error:
            self.server.check_alive("died")
            raise ServerDiedError(f"ComfyUI does not answer: {error}") from error
        if answer.get("node_errors"):  # of an output that is wrong, while others are not
            raise RefusedError(str(answer["node_errors"]))
        return str(answer["prompt_id"])

    def _followed(self, id: str, key: str, keep: Keep, old: set[Path]) -> dict[str, Any]:
        """The history's entry of the prompt once it has ended; autosaves go to ``keep``."""
        pause, lost, told = POLL, 0, old
        sign, seen = (0, 0), time.monotonic()  # of life: how long the log is, how many autosaves
        while True:
            self.server.check_alive("died")
            try:
                entry = self.server.get(f"/history/{id}").get(id)
                lost = 0
            except OSError as error:
                lost += 1
                if lost >= LOST:
                    self.server.stop()
                    raise ServerDiedError(f"ComfyUI does not answer: {error}") from error
                entry = None
            if entry is not None:
                break
            told |= self._kept(key, keep, told)
            if (now := (self.server.log.stat().st_size, len(told))) != sign:
                sign, seen = now, time.monotonic()
            elif time.monotonic() - seen > self._hung:
                tail = self.server.tail()
                self.server.stop()
                raise ServerDiedError(
                    f"ComfyUI hung: no autosave and no line in its log for {self._hung:g} s."
                    f" It is started again; --hung sets the limit.\n{tail}"
                )
            time.sleep(pause)
            pause = min(SLOWEST, pause * 1.2)
        self.server.post("/history", {"delete": [id]})
        self._measure()
        _check(entry)
        return dict(entry)

    def _kept(self, key: str, keep: Keep, told: set[Path]) -> set[Path]:
        """Hands on what runs of this job have saved since."""
        found = {
            path for path in (self.server.output / AUTOSAVE).glob(f"*{SUFFIX}") if path not in told
        }
        for path in found:
            run = run_of(path)
            if run.get("workflow") == key and run.get("finished") is not True:
                try:
                    keep(str(run["node_id"]), path)
                except FileNotFoundError:  # the next one has taken its place
                    continue
        return found

    def _made(self, prompt: Prompt, entry: Mapping[str, Any]) -> Made:
        made = Made()
        outputs = entry.get("outputs", {})
        for id in (id for id in prompt if id in outputs):
            for kind, values in outputs[id].items():
                if kind == RUN:
                    made.metrics[id] = values[0] if len(values) == 1 else values
                elif kind == "text":
                    made.notes += [str(value) for value in values]
                made.files += [
                    self.server.output / value["subfolder"] / value["filename"]
                    for value in values
                    if isinstance(value, dict) and value.get("type") == "output"
                ]
        return made

    def _measure(self) -> None:
        try:
            devices = self.server.get("/system_stats")["devices"]
        except (OSError, KeyError):
            return
        held = max((int(device.get("torch_vram_total") or 0) for device in devices), default=0)
        self._memory = 0 if self.server.cpu else max(self._memory, held)

    def _clean(self) -> None:
        """Nothing of the job before stays."""
        for name in ("output", "temp"):
            for path in (self.server.folder / name).iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _check(entry: Mapping[str, Any]) -> None:
    """Raises what a node raised."""
    status = entry.get("status", {})
    if status.get("status_str") == "success":
        return
    for kind, data in status.get("messages", []):
        if kind == "execution_error":
            told = f"{data.get('node_type')}: {data.get('exception_message', '').strip()}"
            if str(data.get("exception_type", "")).rpartition(".")[2] == "ValueError":
                raise RefusedError(told)
            raise NodeError(told)
    raise NodeError("the prompt was interrupted")

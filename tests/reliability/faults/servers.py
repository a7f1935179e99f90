"""Servers for trials: real ComfyUIs that start fast, can be killed, limited and sabotaged."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import aiohttp
from harness.environment import ROOT, child_environment, tree
from harness.links import link
from harness.server import PromptRefused, Server, ServerError, free_port

HERE = Path(__file__).resolve().parents[1]
# a node of the last prompt is answered by then, or the server is dead
PATIENCE = 120.0
# what comes of asking a server that dies meanwhile
BROKEN = (ServerError, OSError, aiohttp.ClientError, HTTPException)


class Forks:
    """ComfyUI imported once, with this pack and the saboteur; see fork_server.py. Use as a context
    manager.
    """

    def __init__(self, base: Path) -> None:
        self.base, self.tree = base, tree()
        self.count = 0
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Forks:
        for folder in ("custom_nodes", "input/3d", "models/diffusers", "models/loras", "user"):
            self.base.joinpath(folder).mkdir(parents=True, exist_ok=True)
        link(ROOT, self.base / "custom_nodes" / "distill3d")
        link(HERE / "saboteur", self.base / "custom_nodes" / "saboteur")
        self.log = self.base / "fork_server.log"
        command = [
            sys.executable, str(HERE / "fork_server.py"), str(self.tree), "--cpu", "--listen",
            "127.0.0.1", "--base-directory", str(self.base), "--database-url",
            "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True, env=child_environment(),
            )  # fmt: skip
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def server(self, output: Path | None = None) -> Forked:
        self.count += 1
        return Forked(self, output or self.base / "output", self.base / f"server_{self.count}")

    def fork(self, **asked: Any) -> int:
        assert self.process is not None and self.process.stdin is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return int(self._answer())

    def _answer(self) -> str:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise ServerError(f"ComfyUI could not be imported; see {self.log}")
        return line


class Forked(Server):
    """One of them, with an output folder that others may share."""

    def __init__(self, forks: Forks, output: Path, own: Path) -> None:
        super().__init__(forks.tree, forks.base, own.with_suffix(".log"))
        self.forks, self._output, self.own = forks, output, own
        self.pid = 0

    @property
    def output(self) -> Path:
        return self._output

    def start(self, timeout: float = PATIENCE) -> None:
        self.port = free_port()
        for folder in (self.output, self.own):
            folder.mkdir(parents=True, exist_ok=True)
        places = {"output": self.output, "temp": self.own, "log": self.log}
        self.pid = self.forks.fork(
            port=self.port, **{name: str(path) for name, path in places.items()}
        )
        end = time.monotonic() + timeout
        while True:
            self._check_alive("did not start")
            try:
                self.get("/system_stats", timeout=2)
                return
            except OSError:
                if time.monotonic() > end:
                    raise ServerError(f"It did not answer.\n{self.log_tail()}") from None
                time.sleep(0.05)

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return self.pid > 0

    def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        """At once, and until it is gone."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 30) -> bool:
        """Until it has ended, by itself or by a kill; whether it has."""
        end = time.monotonic() + seconds
        while self.alive and time.monotonic() < end:
            time.sleep(0.01)
        return not self.alive

    def answers(self, seconds: float = 20) -> bool:
        """Whether it still answers pages."""
        try:
            self.get("/queue", timeout=seconds)
        except BROKEN:
            return False
        return self.alive

    def sabotage(self, **asked: Any) -> None:
        """What the saboteur is to do from now on; see its module."""
        self.post("/saboteur", asked)

    def limit_memory(self, more: int | None) -> None:
        """The process may take so many bytes more than it has now; None: as many as there are."""
        total = resource.RLIM_INFINITY if more is None else self.figures()["bytes"] + more
        resource.prlimit(self.pid, resource.RLIMIT_AS, (int(total), resource.RLIM_INFINITY))

    def figures(self) -> dict[str, int]:
        """Of the process: address space and resident bytes, threads, open files."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()
        size = os.sysconf("SC_PAGE_SIZE")
        return {
            "bytes": int(pages[0]) * size,
            "resident": int(pages[1]) * size,
            "threads": len(os.listdir(f"/proc/{self.pid}/task")),
            "files": len(os.listdir(f"/proc/{self.pid}/fd")),
        }

    def _check_alive(self, what: str) -> None:
        if not self.alive:
            raise ServerError(f"ComfyUI {what}.\n{self.log_tail()}")


@dataclass
class Outcome:
    """What came of one of many prompts.

    Args:
        status: success, error, interrupted or refused
        kind: of the error, its class
        message: the error's
        node: type of the node it is of
        seconds: from its start to its end
        output: of its nodes, by their ids
    """

    status: str
    kind: str = ""
    message: str = ""
    node: str = ""
    seconds: float = 0.0
    output: dict[str, Any] | None = None


def outcomes(server: Server, prompts: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Queues all at once and follows them to their ends. Raises ServerError where one has none."""
    return asyncio.run(_outcomes(server, prompts))


async def _outcomes(server: Server, prompts: Sequence[dict[str, Any]]) -> list[Outcome]:
    client, found = str(uuid.uuid4()), list[Outcome | None]()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/ws?clientId={client}", max_msg_size=0) as socket,
    ):
        places: dict[str, int] = {}
        for prompt in prompts:
            found.append(None)
            try:
                places[server.queue(prompt, client)] = len(found) - 1
            except PromptRefused as refused:
                found[-1] = Outcome("refused", "PromptRefused", str(refused))
        started: dict[str, float] = {}
        output: dict[str, dict[str, Any]] = {}
        waiting = set(places)
        while waiting:
            try:
                message = await socket.receive(timeout=PATIENCE)
            except asyncio.TimeoutError:
                raise ServerError(f"A prompt has no end.\n{server.log_tail()}") from None
            if message.type == aiohttp.WSMsgType.BINARY:
                continue
            if message.type != aiohttp.WSMsgType.TEXT:
                raise ServerError(f"ComfyUI closed the connection.\n{server.log_tail()}")
            event = json.loads(message.data)
            data, id = event.get("data", {}), event.get("data", {}).get("prompt_id")
            if id not in waiting:
                continue
            now = time.monotonic()
            if event["type"] == "execution_start":
                started[id] = now
            if event["type"] == "executed":
                output.setdefault(id, {})[data["node"]] = data["output"]
            if (outcome := ended(event["type"], data)) is not None:
                outcome.seconds = now - started.get(id, now)
                outcome.output = output.get(id)
                found[places[id]] = outcome
                waiting.discard(id)
    return [outcome for outcome in found if outcome is not None]


def ended(kind: str, data: dict[str, Any]) -> Outcome | None:
    """What an event says of a prompt's end; None where it is none."""
    if kind == "execution_success":
        return Outcome("success")
    if kind == "execution_interrupted":
        return Outcome("interrupted", node=data.get("node_type", ""))
    if kind == "execution_error":
        return Outcome(
            "error", data["exception_type"], data["exception_message"].strip(), data["node_type"]
        )
    return None


def of_run(run: Any) -> Outcome:
    """The same of a run that `Server.run` has followed."""
    for _, event in reversed(run.events):
        if (outcome := ended(event["type"], event.get("data", {}))) is not None:
            outcome.output = run.history.get("outputs", {})
            return outcome
    return Outcome("running")


class Later:
    """Calls a function once, some seconds from when it is told to."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act, self.called = act, 0.0
        self._timer: threading.Timer | None = None

    def after(self, seconds: float) -> None:
        """Only the first time counts."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, self._call)
            self._timer.start()

    def _call(self) -> None:
        self.called = time.monotonic()
        with suppress(*BROKEN):  # nobody is there any more
            self.act()

    @property
    def asked(self) -> bool:
        return self._timer is not None

    def join(self) -> None:
        if self._timer is not None:
            self._timer.join()

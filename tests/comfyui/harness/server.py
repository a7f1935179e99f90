"""A real ComfyUI server: started, asked and stopped from Python."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from filelock import FileLock

from .environment import HOME, ROOT, child_environment
from .links import link

# a proxy has no business on the loopback
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(RuntimeError):
    """The server did not start, died, or did not answer in time; the message ends with its log's
    last lines.
    """


class PromptRefused(RuntimeError):
    """The server refused a prompt; ``node_errors`` is its answer per node id."""

    def __init__(self, answer: dict):
        self.node_errors: dict = answer.get("node_errors", {})
        details = [
            f"{node['class_type']}: {error['message']} ({error['details']})"
            for node in self.node_errors.values()
            for error in node["errors"]
        ]
        super().__init__("\n".join([answer.get("error", {}).get("message", "refused"), *details]))


@dataclass(frozen=True)
class Preview:
    """A picture sent while a node was running."""

    node: str | None
    seconds: float
    image: bytes


@dataclass
class Run:
    """What came of one prompt. ``events``: (seconds since it was queued, message) in order of
    arrival.
    """

    prompt_id: str
    events: list[tuple[float, dict]] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    history: dict = field(default_factory=dict)

    @property
    def status(self) -> str:
        """success, error or interrupted; running while there is no end yet."""
        ends = {
            "execution_success": "success",
            "execution_error": "error",
            "execution_interrupted": "interrupted",
        }
        return next(
            (ends[m["type"]] for _, m in reversed(self.events) if m["type"] in ends), "running"
        )

    @property
    def error(self) -> str:
        """Node type and message of the node that failed, with its traceback; empty when none
        did.
        """
        for _, message in self.events:
            if message["type"] == "execution_error":
                data = message["data"]
                return (
                    f"{data['node_type']}:"
                    f" {data['exception_message']}\n{''.join(data['traceback'])}"
                )
        return ""

    @property
    def files(self) -> list[dict]:
        """Every file that a node reported: {filename, subfolder, type, node}."""
        return [
            record | {"node": node}
            for node, outputs in self.history.get("outputs", {}).items()
            for records in outputs.values()
            for record in records
            if isinstance(record, dict) and "filename" in record
        ]

    def started(self, node: str) -> float | None:
        """Seconds after queueing at which that node began."""
        for seconds, message in self.events:
            if message["type"] == "executing" and message["data"]["node"] == node:
                return seconds
        return None

    def progress(self, node: str) -> list[tuple[int, int]]:
        """(value, max) of each progress event of that node."""
        return [
            (int(m["data"]["value"]), int(m["data"]["max"]))
            for _, m in self.events
            if m["type"] == "progress" and m["data"]["node"] == node
        ]


class Server:
    """ComfyUI ``tree`` on a free loopback port, with this pack and those in ``base``/custom_nodes;
    log in ``log``.

    The pack is at the same place for all of them: its compiled kernels are kept by its name, which
    ComfyUI makes of that. Use as a context manager: it is up inside the block and gone after it.
    """

    def __init__(
        self, tree: Path, base: Path, log: Path, cpu: bool = True, arguments: tuple[str, ...] = ()
    ):
        self.tree, self.base, self.log = tree, base, log
        self.arguments = (*(("--cpu",) if cpu else ()), *arguments)
        self.port = 0
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        return self.base / "output"

    def start(self, timeout: float = 180) -> None:
        """Returns when the server answers. Raises ServerError."""
        for folder in ("custom_nodes", "input", "models/diffusers", "output", "temp", "user"):
            self.base.joinpath(folder).mkdir(parents=True, exist_ok=True)
        earlier = self.base / "custom_nodes" / "distill3d"  # where it was linked before
        if earlier.is_symlink():
            earlier.unlink()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        paths = self.base / "paths.yaml"
        paths.write_text(json.dumps({"tests": {"custom_nodes": str(shared_packs())}}))
        command = [
            sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(self.port),
            "--base-directory", str(self.base), "--extra-model-paths-config", str(paths),
            "--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch",
            *self.arguments,
        ]  # fmt: skip
        # A session of its own: Ctrl-C in the terminal reaches us alone, and we decide what becomes
        # of the server.
        own_group = {"start_new_session": True} if os.name == "posix" else {"creationflags": 0x200}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.tree, env=child_environment(), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, **own_group,
            )  # fmt: skip
        end = time.monotonic() + timeout
        while True:
            self._check_alive("did not start")
            try:
                self.get("/system_stats", timeout=2)
                return
            except OSError:
                if time.monotonic() > end:
                    raise ServerError(
                        f"ComfyUI did not answer within {timeout:.0f} s.\n{self.log_tail()}"
                    ) from None
                time.sleep(0.1)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def object_info(self) -> dict:
        """Every node type the server knows, with its inputs."""
        return self.get("/object_info")

    def queue(self, prompt: dict, client_id: str | None = None) -> str:
        """Queues an API-form prompt; returns its id. Raises PromptRefused."""
        request = {"prompt": prompt} | ({"client_id": client_id} if client_id else {})
        try:
            return self.post("/prompt", request)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise PromptRefused(json.load(error)) from None

    def run(
        self, prompt: dict, timeout: float = 600, on_event: Callable[[Run], None] | None = None
    ) -> Run:
        """Queues an API-form prompt and follows it to its end, whatever that is: see
        ``Run.status``.

        ``on_event`` is called after every event and preview with the run so far. Raises
        PromptRefused, and ServerError when there is no end within ``timeout`` seconds.
        """
        return asyncio.run(self._run(prompt, timeout, on_event or (lambda run: None)))

    async def _run(self, prompt: dict, timeout: float, on_event: Callable[[Run], None]) -> Run:
        client = str(uuid.uuid4())
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket,
        ):
            # Asks for previews that say which node they are of.
            await socket.send_json(
                {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            )
            start = time.monotonic()
            run = Run(self.queue(prompt, client))
            while True:
                left = start + timeout - time.monotonic()
                try:
                    message = await socket.receive(timeout=max(left, 0.01))
                except asyncio.TimeoutError:
                    raise ServerError(
                        f"The prompt took more than {timeout:.0f} s.\n{self.log_tail()}"
                    ) from None
                seconds = time.monotonic() - start
                if message.type == aiohttp.WSMsgType.BINARY:
                    if preview := _preview(message.data, seconds):
                        run.previews.append(preview)
                        on_event(run)
                elif message.type == aiohttp.WSMsgType.TEXT:
                    event = json.loads(message.data)
                    run.events.append((seconds, event))
                    on_event(run)
                    if _is_end(event, run.prompt_id):
                        break
                else:
                    self._check_alive("died")
                    raise ServerError(f"ComfyUI closed the connection.\n{self.log_tail()}")
        # The history entry is written before "executing null" is sent, but after execution_success.
        run.history = self.history(run.prompt_id)
        return run

    def history(self, prompt_id: str) -> dict:
        """The prompt's history entry; empty while it has not ended."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def view(self, record: dict) -> bytes:
        """The contents of a file that a node reported."""
        query = urllib.parse.urlencode(
            {key: record[key] for key in ("filename", "subfolder", "type")}
        )
        with _DIRECT.open(f"{self.url}/view?{query}", timeout=60) as answer:
            return answer.read()

    def fetch(self, run: Run, suffix: str) -> bytes:
        """The contents of the one file of that kind which a run reported. Raises ValueError."""
        records = [file for file in run.files if file["filename"].endswith(suffix)]
        if len(records) != 1:
            names = ", ".join(file["filename"] for file in run.files)
            raise ValueError(
                f"expected one {suffix} file, found {len(records)} among:"
                f" {names or 'no file at all'}."
            )
        return self.view(records[0])

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stops the running prompt, or only that one."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        """Unloads models and empties the node cache.

        Asked twice: its worker does so when it wakes, which a first request misses that comes while
        it collects garbage, and a prompt that comes before that goes first.
        """
        for _ in range(2):
            self.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(0.6)

    def get(self, path: str, timeout: float = 60):
        with _DIRECT.open(self.url + path, timeout=timeout) as answer:
            return json.load(answer)

    def post(self, path: str, data: dict):
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        with _DIRECT.open(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def log_tail(self, lines: int = 30) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join([*text.splitlines()[-lines:], f"Whole log: {self.log}"])

    def _check_alive(self, what: str) -> None:
        if self._process is None or self._process.poll() is not None:
            code = self._process.returncode if self._process else "none"
            raise ServerError(f"ComfyUI {what} (exit code {code}).\n{self.log_tail()}")


def shared_packs() -> Path:
    """A folder of custom nodes with the pack alone."""
    packs = HOME / "packs"
    packs.mkdir(parents=True, exist_ok=True)
    with FileLock(HOME / "packs.lock"):
        link(ROOT, packs / "distill3d")
    return packs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _preview(data: bytes, seconds: float) -> Preview | None:
    """ComfyUI's binary events: 1 = picture, 4 = length, JSON about it, picture; others are not
    previews.
    """
    kind, word = struct.unpack(">II", data[:8])
    if kind == 1:
        return Preview(None, seconds, data[8:])
    if kind == 4:
        return Preview(json.loads(data[8 : 8 + word]).get("node_id"), seconds, data[8 + word :])
    return None


def _is_end(event: dict, prompt_id: str) -> bool:
    data = event.get("data", {})
    return (
        event["type"] == "executing"
        and data.get("node") is None
        and data.get("prompt_id") == prompt_id
    )

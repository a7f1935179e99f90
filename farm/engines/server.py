"""A headless ComfyUI of a worker's own, on a free loopback port, which dies with the worker."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FarmError

ROOT = Path(__file__).resolve().parents[2]
GUARD = Path(__file__).resolve().with_name("guarded.py")
STARTING, ANSWER = 300.0, 60.0  # seconds that a server may take to start, and to answer
TAIL = 60  # lines of the log that are told
OWN = ("output", "temp", "user")
# a proxy has no business on the loopback
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerDiedError(RuntimeError):
    """The process has ended, or does not start."""


def find_comfyui(given: Path | None) -> Path:
    """ComfyUI's folder: the one that is given, or of COMFYUI_PATH, or the one whose custom_nodes
    this pack is in, or this clone's own. Raises FarmError.
    """
    own = os.environ.get("COMFYUI_PATH")
    around = ROOT.parent.parent if ROOT.parent.name == "custom_nodes" else None
    clones = sorted(ROOT.glob(".comfyui/*/main.py"), key=lambda path: _version(path.parent.name))
    for folder in (given, Path(own) if own else None, around):
        if folder is not None:
            if (folder / "main.py").is_file():
                return folder.resolve()
            raise FarmError(f"ComfyUI is not in {folder}: there is no main.py. Give --comfyui.")
    if clones:
        return clones[-1].parent
    raise FarmError(
        "There is no ComfyUI to make objects with: give its folder as --comfyui, or take"
        " --engine python."
    )


class Server:
    """One ComfyUI.

    Args:
        tree: ComfyUI's folder, whose models and custom nodes it has
        folder: for what it writes
        cpu: whether it leaves the GPU alone
        threads: on the CPU
        flags: more of ComfyUI's
    """

    def __init__(
        self, tree: Path, folder: Path, cpu: bool, threads: int, flags: Sequence[str] = ()
    ) -> None:
        self.tree, self.folder, self.cpu, self.threads = tree, folder, cpu, threads
        self.flags, self.port, self.log = list(flags), 0, folder / "comfyui.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Returns when the server answers. Raises ServerDiedError."""
        self.stop()
        for name in OWN:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        # the Python that runs this runs ComfyUI too; a fixed program, no text from outside
        command = [sys.executable, str(GUARD), "main.py", *self._arguments()]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.tree, env=self._environment(), stdin=subprocess.PIPE, stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        end = time.monotonic() + STARTING
        while True:
            self.check_alive("did not start")
            with suppress(OSError):
                self.get("/system_stats", timeout=5)
                return
            if time.monotonic() > end:
                self.stop()
                raise ServerDiedError(f"ComfyUI did not answer within {STARTING:.0f} s.")
            time.sleep(0.2)

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check_alive(self, what: str) -> None:
        """Raises ServerDiedError where it is not."""
        if not self.alive:
            code = "none" if self.process is None else self.process.returncode
            raise ServerDiedError(f"ComfyUI {what} (exit code {code}).\n{self.tail()}")

    def get(self, path: str, timeout: float = ANSWER) -> Any:
        """The JSON at a path. Raises OSError."""
        with _DIRECT.open(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
            return json.load(answer)

    def post(self, path: str, data: Any) -> Any:
        """The JSON that a path answers to JSON. Raises OSError; HTTPError with its answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(data).encode(),
            {"Content-Type": "application/json"},
        )
        with _DIRECT.open(request, timeout=ANSWER) as answer:
            body = answer.read()
        return json.loads(body) if body.strip() else None

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-TAIL:])

    def _arguments(self) -> list[str]:
        places = [word for name in OWN for word in (f"--{name}-directory", str(self.folder / name))]
        if (self.tree / "input").is_dir():
            places += ["--input-directory", str(self.tree / "input")]
        if not _has_pack(self.tree):
            places += ["--base-directory", str(self._base())]
        return [
            "--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch",
            "--disable-api-nodes", "--disable-metadata", "--database-url",
            "sqlite:///:memory:", *places, *(["--cpu"] if self.cpu else []), *self.flags,
        ]  # fmt: skip

    def _base(self) -> Path:
        """A folder around the ComfyUI that has not got this pack, in which it has."""
        base = self.folder / "base"
        (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
        others = self.tree / "custom_nodes"
        found = {path.name: path for path in others.iterdir()} if others.is_dir() else {}
        wanted = found | {"distill3d": ROOT}
        links = {base / "custom_nodes" / name: path for name, path in wanted.items()}
        if (self.tree / "models").is_dir():
            links[base / "models"] = self.tree / "models"
        for link, target in links.items():
            if not link.exists():
                _link(link, target)
        return base

    def _environment(self) -> dict[str, str]:
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        return variables | {
            "PYTHONUTF8": "1",
            "HF_HUB_OFFLINE": "1",
            **({"OMP_NUM_THREADS": str(self.threads)} if self.cpu else {}),
        }


def error_of(error: urllib.error.HTTPError) -> str:
    """What a server says of a prompt that it refuses."""
    try:
        answer = json.load(error)
    except ValueError:
        return str(error)
    details = [
        f"{node['class_type']}: {each['message']} ({each['details']})"
        for node in answer.get("node_errors", {}).values()
        for each in node["errors"]
    ]
    return "; ".join(details) or str(answer.get("error", {}).get("message", error))


def _has_pack(tree: Path) -> bool:
    folder = tree / "custom_nodes"
    return folder.is_dir() and any(path.resolve() == ROOT for path in folder.iterdir())


def _link(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:  # Windows without the privilege
        if target.is_dir():
            shutil.copytree(
                target, link, ignore=shutil.ignore_patterns(".venv", ".git", ".comfyui")
            )
        else:
            shutil.copy2(target, link)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in name.split("."))

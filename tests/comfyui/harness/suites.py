"""Suites of tests side by side; the output of each is shown in one piece when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .environment import ROOT, child_environment

GRACE = 60  # seconds in which an interrupted suite may stop its servers
POSIX = os.name == "posix"


class Suite:
    """Commands that run one after the other until one fails, with their output in a file."""

    def __init__(self, name: str, commands: list[list[str]], log: Path):
        self.name, self.commands, self.log = name, list(commands), log
        self._process = self._next()

    def poll(self) -> int | None:
        """None while it runs, then its exit code."""
        code = self._process.poll()
        if code == 0 and self.commands:
            self._process, code = self._next(), None
        return code

    def interrupt(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT) if POSIX else self._process.terminate()

    def wait(self) -> None:
        """Until it has ended, which it is given `GRACE` seconds for."""
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL) if POSIX else self._process.kill()
            self._process.wait()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _next(self) -> subprocess.Popen:
        command = self.commands.pop(0)
        # Ctrl-C reaches us alone, and we hand it on, once; a shell's background jobs ignore it.
        own = {"start_new_session": True, "preexec_fn": _heed_ctrl_c} if POSIX else {}
        # Threads of several programs on the same cores wait for each other.
        environment = child_environment() | {"OMP_NUM_THREADS": "1"}
        with self.log.open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, **own,
            )  # fmt: skip


def side_by_side(suites: dict[str, list[list[str]]]) -> list[str]:
    """Runs {name: commands} at once. Returns for each suite that failed what failed in it first, in
    the order in which they ended. KeyboardInterrupt and SIGTERM end them all.
    """
    failures, running, start = [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, _terminated_like_ctrl_c():
        try:
            _say(f"{', '.join(suites)}: side by side, each shown when it ends")
            for name, commands in suites.items():
                running.append(Suite(name, commands, Path(folder, f"{name}.log")))
            while running:
                time.sleep(0.1)
                for suite in [suite for suite in running if suite.poll() is not None]:
                    running.remove(suite)
                    print(suite.output(), flush=True)
                    how = "FAILED" if suite.poll() else "passed"
                    _say(f"{suite.name}: {how} after {time.monotonic() - start:.0f} s")
                    if suite.poll():
                        failures.append(first_failure(suite.name, suite.output()))
        except BaseException:
            for act in (Suite.interrupt, Suite.wait):
                for suite in running:
                    act(suite)
            for suite in running:
                print(suite.output(), flush=True)
                _say(f"{suite.name}: interrupted")
            raise
    return failures


def first_failure(name: str, output: str) -> str:
    """The first test that pytest's summary names; the suite's name where there is none."""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return found[1] if found else name


def _say(text: str) -> None:
    print(f"=== {text} ===", flush=True)


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

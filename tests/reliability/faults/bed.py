"""What the trials of one campaign share: the servers, the report, and the files that are there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from random import Random
from typing import Any

from .report import DEAD, Report, Trial
from .servers import Forked, Forks
from .verdict import Files, check_files, files_in

KEPT = 300  # files in the output folder, beyond which it is emptied between trials


class Bed:
    """One server at a time, started when one is needed."""

    def __init__(self, forks: Forks, report: Report, seed: int) -> None:
        self.forks, self.report, self.seed = forks, report, seed
        self.output = forks.base / "output"
        self._server: Forked | None = None
        self._info: dict[str, Any] = {}
        self.files: Files = {}

    @property
    def server(self) -> Forked:
        """The one that runs, or a new one."""
        if self._server is None or not self._server.alive:
            self._server = self.forks.server()
            self._server.start()
        return self._server

    @property
    def info(self) -> dict[str, Any]:
        if not self._info:
            self._info = self.server.object_info()
        return self._info

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server = None

    def kept_of(self, prompt_id: str) -> list[dict[str, Any]]:
        """What the server says can be gone on with of a prompt."""
        return self.server.get(f"/distill3d/recover?prompt_id={prompt_id}")["runs"]

    def check_files(self, trial: Trial) -> None:
        self.files = check_files(self.output, self.files, trial)

    def check_alive(self, trial: Trial) -> None:
        """The server answers; else another takes its place."""
        if self._server is not None and not self._server.answers():
            trial.found(DEAD, f"no answer; its log ends: {self._server.log_tail(6)}")
            self.stop()

    def tidy(self) -> None:
        if len(self.files) > KEPT:
            shutil.rmtree(self.output, ignore_errors=True)
            self.output.mkdir(exist_ok=True)
        self.files = files_in(self.output)

    def trials(self, fault: str, wanted: int, once: Callable[[Bed, Random, Trial], None]) -> None:
        """Trials of a fault until the report has as many as are wanted."""
        self.tidy()
        while (number := self.report.done(fault)) < wanted:
            trial = Trial(f"{self.seed} {fault} {number}")
            once(self, Random(trial.seed), trial)
            self.check_alive(trial)
            self.check_files(trial)
            self.report.add(fault, trial)
            mark = "" if not trial.problems else f"  {trial.problems}"
            answer = "" if trial.answer is None else f"{trial.answer:.2f} s"
            print(f"{trial.seed}  {answer}{mark}", flush=True)
            self.tidy()

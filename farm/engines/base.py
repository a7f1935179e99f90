"""What a worker asks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..graph import Prompt

Keep = Callable[[str, Path], None]  # takes an autosave: the node's id, and the file


class RefusedError(Exception):
    """The graph or a value in it is wrong: another attempt would end alike."""


@dataclass
class Made:
    """What came of a job.

    Args:
        files: on this machine, in the order of their nodes; the worker moves them
        metrics: by node and name, what nodes told of their run
        resumed: the step that it went on from, by the id of the node
        notes: what nodes said to people
    """

    files: list[Path] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    resumed: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Engine(Protocol):
    """One at a time makes a worker's objects."""

    def start(self) -> Mapping[str, Any]:
        """Ready for jobs, which may take a minute; called again after an error. Returns what
        there is to tell: its process, its versions."""

    def make(self, prompt: Prompt, key: str, saved: Mapping[str, Path], keep: Keep) -> Made:
        """The object of a graph.

        ``saved``: autosaves of earlier attempts by the ids of their nodes, to go on from. Raises
        RefusedError, or any other exception for what may go well another time.
        """

    def log(self) -> str:
        """The last lines of what it said."""

    def memory(self) -> int:
        """Bytes of the GPU that it has held at most; 0 where there is none."""

    def stop(self) -> None:
        """Free what it holds; it may be started again."""

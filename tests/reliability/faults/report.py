"""The report: by fault how many trials, what went wrong in them, and how long answers took."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# what a trial may show, each of which should be zero
LOST, WRONG, OVERWRITTEN, DEAD, RAW = "lost", "wrong", "overwritten", "dead", "raw"
KINDS = {
    LOST: "a finished or resumable result is gone, or cannot be read",
    WRONG: "success is said where there is none",
    OVERWRITTEN: "a file that somebody had saved has changed",
    DEAD: "the server has ended, or answers nobody",
    RAW: "an error that does not name the input, or an exception's bare text",
}
SHOWN = 12  # problems of a fault that are kept word for word


@dataclass
class Trial:
    """What one trial has shown.

    Args:
        seed: with which it can be run again
        answer: seconds until what was asked was answered; None where nothing was
        figures: numbers of which the report keeps the largest, by name
    """

    seed: str
    problems: list[tuple[str, str]] = field(default_factory=list)
    answer: float | None = None
    figures: dict[str, float] = field(default_factory=dict)

    def found(self, kind: str, what: str) -> None:
        self.problems.append((kind, what))


class Report:
    """A JSON file that grows trial by trial; another command goes on where one was cut off."""

    def __init__(self, path: Path, about: dict[str, Any] | None = None) -> None:
        self.path = path
        self.content: dict[str, Any] = {"about": [], "faults": {}}
        if path.is_file():
            self.content = json.loads(path.read_text(encoding="utf-8"))
        if about is not None and about not in self.content["about"]:
            self.content["about"].append(about)

    def done(self, fault: str) -> int:
        """Trials of that fault that are in the report."""
        return int(self.content["faults"].get(fault, {}).get("trials", 0))

    def add(self, fault: str, trial: Trial, save: bool = True) -> None:
        entry = self.content["faults"].setdefault(
            fault, {"trials": 0} | dict.fromkeys(KINDS, 0) | {"answers": {}, "problems": []}
        )
        entry["trials"] += 1
        for kind in {kind for kind, _ in trial.problems}:
            entry[kind] += 1
        for kind, what in trial.problems:
            if len(entry["problems"]) < SHOWN:
                entry["problems"].append({"seed": trial.seed, "kind": kind, "what": what[:400]})
        if trial.answer is not None:
            key = f"{trial.answer:.2f}"
            entry["answers"][key] = entry["answers"].get(key, 0) + 1
        for name, value in trial.figures.items():
            figures = entry.setdefault("figures", {})
            figures[name] = max(value, figures.get(name, value))
        self.save()

    def join(self, other: dict[str, Any]) -> None:
        """Adds what a campaign of another seed, which ran beside this one, has found."""
        self.content["about"] += [one for one in other["about"] if one not in self.content["about"]]
        for fault, theirs in other["faults"].items():
            ours = self.content["faults"].setdefault(fault, {"answers": {}, "problems": []})
            for count in ("trials", *KINDS):
                ours[count] = ours.get(count, 0) + theirs[count]
            ours["answers"] = dict(Counter(ours["answers"]) + Counter(theirs["answers"]))
            ours["problems"] = (ours["problems"] + theirs["problems"])[:SHOWN]
            if figures := theirs.get("figures"):
                known = ours.get("figures", {})
                ours["figures"] = {n: max(v, known.get(n, v)) for n, v in figures.items()}
        self.content["endurance"] = other.get("endurance") or self.content.get("endurance", [])
        self.save()

    def save(self) -> None:
        """Appears whole or not at all."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.path)


def answers(entry: dict[str, Any]) -> list[float]:
    """Seconds of all answers of one fault."""
    return list(Counter({float(key): n for key, n in entry["answers"].items()}).elements())


def summary(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each fault: name, trials, the counts, median and slowest answer."""
    for name, entry in content["faults"].items():
        times = answers(entry)
        yield {
            "fault": name,
            "trials": entry["trials"],
            **{kind: entry[kind] for kind in KINDS},
            "median": statistics.median(times) if times else None,
            "slowest": max(times) if times else None,
        }

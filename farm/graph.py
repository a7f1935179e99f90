"""GRAPH: a workflow in API form, and the inputs that the columns of JOBS set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .errors import FarmError
from .jobs import Row

Prompt = dict[str, dict[str, Any]]
Target = tuple[str, str]  # a node's id and the name of its input
SHIPPED = Path(__file__).resolve().parents[1] / "workflows" / "api"
PREFIX = "Distill3D_"
NAME = "name"  # the column that names a job's files
EVERYWHERE = ("prompt", "seed")  # columns that set all inputs of their name
WORDS = {"true": True, "yes": True, "on": True, "1": True}
WORDS |= {"false": False, "no": False, "off": False, "0": False}
SLUG = 48  # characters of a prompt in a file's name


@dataclass(frozen=True)
class Job:
    """One object to make.

    Args:
        name: of its files, unique among the jobs
        key: of what it is: the graph and the values, so that the same job has the same key in
            every call
        line: of JOBS, from 1
        values: what the columns set, by column, as the graph's inputs take them
        problem: why it cannot be made; empty where nothing is known to be wrong
    """

    name: str
    key: str
    line: int
    values: Mapping[str, Any]
    problem: str = ""

    @property
    def prompt(self) -> str:
        return str(self.values.get("prompt", ""))


@dataclass(frozen=True)
class Graph:
    """A workflow in API form.

    Args:
        source: what messages call it
        nodes: by id {"class_type", "inputs", "_meta"}
    """

    source: str
    nodes: Prompt

    @cached_property
    def digest(self) -> str:
        """Changes when anything that is computed does; titles do not count."""
        plain = {id: (node["class_type"], node["inputs"]) for id, node in self.nodes.items()}
        return _digest(plain)

    def title(self, id: str) -> str:
        node = self.nodes[id]
        return str(node.get("_meta", {}).get("title") or node["class_type"].removeprefix(PREFIX))

    def targets(self, column: str) -> list[Target]:
        """The inputs that a column sets: "Title.input" those of the nodes of that title, type or
        id, "prompt" and "seed" all of that name, any other "input" the only one of its name.

        Raises FarmError for a column that names none, or several.
        """
        node, _, name = column.rpartition(".")
        named = [
            (id, name)
            for id, each in self.nodes.items()
            if name in each["inputs"] and (not node or node.lower() in self._names(id))
        ]
        if node:
            if named:
                return named
            raise FarmError(self._unknown(column, node, name))
        found = [target for target in named if not is_link(self._value(target))]
        if not found or (len(found) > 1 and name not in EVERYWHERE):
            listed = ", ".join(f"{self.title(id)}.{name}" for id, _ in found or named)
            problem = f"is an input of several nodes ({listed})" if listed else "is no input"
            raise FarmError(
                f"Column {column!r} {problem} of the graph {self.source}."
                f" Columns are {NAME}, an input's name, or a node's title, a dot and the input:"
                f" {self._examples()}."
            )
        return found

    def filled(self, values: Mapping[str, Any]) -> Prompt:
        """The workflow with a job's values in it; nodes that none of them is for are this
        graph's own.
        """
        changed = dict(self.nodes)
        for column, value in values.items():
            if column not in self._targets:
                self._targets[column] = [] if column == NAME else self.targets(column)
            for id, name in self._targets[column]:
                changed[id] = {
                    **changed[id],
                    "inputs": changed[id]["inputs"] | {name: value},
                }
        return changed

    def jobs(self, rows: list[Row]) -> list[Job]:
        """A job for each row. What is wrong with a row is told in its job; raises FarmError for
        columns that do not fit the graph, which would be wrong in all.
        """
        columns = dict.fromkeys(name for row in rows for name in row.values)
        kinds = {
            name: self._value(self.targets(name)[0]) if name != NAME else "" for name in columns
        }
        made: list[Job] = []
        keys: dict[str, int] = {}
        names: dict[str, int] = {}
        for row in rows:
            values, problem = _converted(row, kinds)
            key = _digest([self.digest, {k: v for k, v in values.items() if k != NAME}])[:16]
            name = str(values.get(NAME) or f"{slug(values.get('prompt', 'job'))}-{key[:8]}")
            if NAME in values and slug(name, 120, keep=True) != name:
                problem = problem or f"name {name!r}: letters, digits, - and _ only"
            if not problem and key in keys:
                problem = f"the same as line {keys[key]}, which is made once; give it another seed"
            elif not problem and name in names:
                problem = f"name {name!r} is that of line {names[name]} already"
            if problem:  # a key of its own, or it would stand for the job that it repeats
                key = _digest([key, row.line, problem])[:16]
                name = f"line-{row.line}-{key[:8]}"
            else:
                keys[key] = names[name] = row.line
            made.append(Job(name, key, row.line, values, problem))
        return made

    @cached_property
    def _targets(self) -> dict[str, list[Target]]:
        return {}

    def _names(self, id: str) -> set[str]:
        kind = self.nodes[id]["class_type"]
        return {self.title(id).lower(), kind.lower(), kind.removeprefix(PREFIX).lower(), id.lower()}

    def _value(self, target: Target) -> Any:
        return self.nodes[target[0]]["inputs"][target[1]]

    def _unknown(self, column: str, node: str, name: str) -> str:
        there = [id for id in self.nodes if node.lower() in self._names(id)]
        if not there:
            titles = ", ".join(sorted({self.title(id) for id in self.nodes}))
            return f"Column {column!r}: the graph {self.source} has no node {node!r}, but {titles}."
        inputs = ", ".join(sorted(self.nodes[there[0]]["inputs"]))
        return f"Column {column!r}: {node} has no input {name!r}, but {inputs}."

    def _examples(self) -> str:
        plain = [
            f"{self.title(id)}.{name}"
            for id, node in self.nodes.items()
            for name, value in node["inputs"].items()
            if not is_link(value)
        ]
        return ", ".join(plain[:12]) + (", ..." if len(plain) > 12 else "")


def read_graph(given: str) -> Graph:
    """The graph of a file, or the shipped one of that name. Raises FarmError for anything else."""
    path = Path(given)
    if not path.suffix and not path.exists():
        path = SHIPPED / f"{given.removeprefix('distill3d_')}.json"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.json")))
            raise FarmError(f"GRAPH {given!r} is neither a file nor a shipped graph: {known}.")
    try:
        nodes = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FarmError(f"GRAPH {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise FarmError(f"GRAPH {path} is no JSON: {error}.") from error
    if isinstance(nodes, dict) and "nodes" in nodes and "links" in nodes:
        raise FarmError(
            f"GRAPH {path} is a workflow as ComfyUI's page saves it. Open it there and use Workflow"
            " > Export (API)."
        )
    if (
        not isinstance(nodes, dict)
        or not nodes
        or not all(
            isinstance(node, dict) and {"class_type", "inputs"} <= node.keys()
            for node in nodes.values()
        )
    ):
        raise FarmError(f"GRAPH {path} is no workflow in API form: Workflow > Export (API).")
    return Graph(path.name, nodes)


def is_link(value: Any) -> bool:
    """Whether an input comes from another node: [its id, the output's number]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def slug(text: Any, most: int = SLUG, keep: bool = False) -> str:
    """Letters, digits and dashes of the text, for a file's name."""
    allowed = r"[^\w-]+" if keep else r"[^a-z0-9]+"
    text = str(text) if keep else str(text).lower()
    return re.sub(allowed, "-", text).strip("-")[:most].rstrip("-") or "job"


def _converted(row: Row, kinds: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The row's values of the kinds that the graph has there, and what is wrong with them."""
    values: dict[str, Any] = {}
    for column, given in row.values.items():
        try:
            values[column] = _as(kinds[column], given)
        except ValueError as error:
            return dict(row.values), f"{column} is {given!r}, expected {error}"
    return values, row.problem


def _as(like: Any, given: Any) -> Any:
    """``given``, a cell or a JSON value, as the kind of value that the graph has."""
    if is_link(like):  # whatever comes through a link there: a number, or else a text
        if not isinstance(given, str):
            return given
        try:
            return json.loads(given)
        except ValueError:
            return given
    if isinstance(like, bool):
        if isinstance(given, bool):
            return given
        if str(given).lower() not in WORDS:
            raise ValueError("true or false")
        return WORDS[str(given).lower()]
    if isinstance(like, int):
        try:
            number = float(given)
            return int(given) if not number.is_integer() or isinstance(given, str) else int(number)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("a whole number") from None
    if isinstance(like, float):
        try:
            return float(given)
        except (TypeError, ValueError):
            raise ValueError("a number") from None
    return given if not isinstance(like, str) or isinstance(given, str) else str(given)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

"""JOBS: a CSV, JSON lines or text file, one job a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import FarmError

KINDS = {".csv": "CSV", ".tsv": "CSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines"}
CURE = "Save it as UTF-8"


@dataclass(frozen=True)
class Row:
    """One line of JOBS.

    Args:
        line: in the file, from 1
        values: by column; of a text file {"prompt": line}
        problem: why the line cannot be read; empty where it can
    """

    line: int
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_jobs(path: Path) -> list[Row]:
    """The rows of the file, in order. By its ending: .csv and .tsv with a line of column names,
    .jsonl or .ndjson an object a line, anything else a prompt a line, where blank lines and those
    that begin with # are skipped.

    A line that cannot be read is a row with a problem. Raises FarmError for a file that is not
    there, is no text, or has no job in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FarmError(f"JOBS {path} is not text in UTF-8 ({error.reason}). {CURE}.") from error
    except OSError as error:
        raise FarmError(f"JOBS {path} cannot be read: {error.strerror}.") from error
    readers = {"CSV": _csv, "JSON lines": _json_lines}
    rows = list(readers.get(KINDS.get(path.suffix.lower(), ""), _text)(text, path))
    if not rows:
        raise FarmError(f"JOBS {path} has no job in it: write one prompt a line.")
    return rows


def _text(text: str, path: Path) -> Iterator[Row]:
    for line, words in enumerate(text.splitlines(), 1):
        if words.strip() and not words.lstrip().startswith("#"):
            yield Row(line, {"prompt": words.strip()})


def _json_lines(text: str, path: Path) -> Iterator[Row]:
    for line, words in enumerate(text.splitlines(), 1):
        if not words.strip():
            continue
        try:
            values = json.loads(words)
        except ValueError as error:
            yield Row(line, problem=f"no JSON: {error}")
            continue
        if isinstance(values, dict):
            yield Row(line, {name: value for name, value in values.items() if value is not None})
        else:
            yield Row(line, problem='a JSON object is expected, such as {"prompt": "a red mug"}')


def _csv(text: str, path: Path) -> Iterator[Row]:
    """An empty cell leaves the graph's own value."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names) or "" in names:
            raise FarmError(
                f"JOBS {path}: its first line has to name the columns, each once; it names {names}."
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(names):
                problem = f"{len(cells)} cells, but {len(names)} columns; quote texts with commas"
                yield Row(reader.line_num, problem=problem)
                continue
            pairs = zip(names, cells, strict=False)
            yield Row(reader.line_num, {name: cell.strip() for name, cell in pairs if cell.strip()})
    except csv.Error as error:
        raise FarmError(f"JOBS {path}, line {reader.line_num}: no CSV ({error}).") from error

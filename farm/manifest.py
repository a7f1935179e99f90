"""What has become of each job: a record the moment it ends, and all of them in OUT/manifest.jsonl.

A worker writes a job's files, then its record, OUT/.farm/records/KEY.json; the driver gathers
records into the manifest, which it rewrites as a whole, and removes them afterwards. Killed
anywhere in between, what is there is complete, and a job counts once, by its key.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .store import OWN, Store

FILE, RECORDS = "manifest.jsonl", f"{OWN}/records"
DONE, FAILED, REFUSED = "done", "failed", "refused"  # refused: before anything was run
PAUSE, SHARE = 5.0, 0.02  # seconds between rewritings at least, and their share of the time
READERS = 8  # threads that read records
Entry = dict[str, Any]


class Manifest:
    """The driver's; nobody else writes the file."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.states: dict[str, str] = {}  # by key
        self._lines: dict[str, bytes] = {}
        self._loose: list[str] = []  # records that the file does not have yet
        self._due = 0.0

    def load(self) -> list[str]:
        """What earlier calls have left; the keys of the jobs that only had records. Half a line, of
        an editor or a disk that failed, is as if the job had not been made.
        """
        try:
            lines = self.store.read(FILE).splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            self._take(line)
        names = [name for name in self.store.names(RECORDS) if name.endswith(".json")]
        with ThreadPoolExecutor(READERS) as pool:
            for data in pool.map(lambda name: self.store.read(f"{RECORDS}/{name}"), names):
                self._take(data)
        self._loose = [f"{RECORDS}/{name}" for name in names]
        return [name.removesuffix(".json") for name in names]

    def add(self, entry: Entry) -> None:
        """A job that has ended; its record may be there already."""
        key = entry["key"]
        self._lines[key], self.states[key] = line_of(entry), entry["status"]
        self._loose.append(record_name(key))

    def forget(self, key: str) -> None:
        """A job that is to be made anew."""
        self.states.pop(key, None)
        self._lines.pop(key, None)
        self.store.remove(record_name(key))

    def flush(self, now: bool = False) -> None:
        """Rewrite the file where that is due."""
        if not self._loose or (not now and time.monotonic() < self._due):
            return
        start = time.monotonic()
        gone, self._loose = self._loose, []
        try:
            self.store.write(FILE, b"".join(self._lines.values()))
        except OSError:
            self._loose = gone + self._loose
            raise
        for name in gone:
            self.store.remove(name)
        took = time.monotonic() - start
        self._due = start + max(PAUSE, took / SHARE)

    def entries(self) -> Iterator[Entry]:
        """All there are, in the order in which they ended."""
        for line in self._lines.values():
            yield json.loads(line)

    def counts(self) -> Counter[str]:
        """How many jobs there are of each status."""
        return Counter(self.states.values())

    def __len__(self) -> int:
        return len(self._lines)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, status = str(entry["key"]), str(entry["status"])
        except (ValueError, KeyError, TypeError):
            return
        self._lines[key] = line.rstrip(b"\n") + b"\n"
        self.states[key] = status


def write_record(store: Store, entry: Entry) -> None:
    """That a job has ended, in a file of its own. Raises OSError where the disk refuses."""
    store.write(record_name(entry["key"]), line_of(entry))


def record_name(key: str) -> str:
    """Of a job's record, in OUT."""
    return f"{RECORDS}/{key}.json"


def line_of(entry: Mapping[str, Any]) -> bytes:
    """An entry as the manifest has it."""
    return json.dumps(entry, ensure_ascii=False, default=str).encode() + b"\n"

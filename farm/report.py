"""What is there at the end: a table, a contact sheet, a summary."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .manifest import DONE, Entry
from .store import Store

TABLE, SHEET = "table.csv", "contact-sheet"
COLUMNS = (
    "line", "name", "status", "prompt", "seed", "seconds", "gpu_seconds", "attempt", "machine",
    "files", "metrics", "error",
)  # fmt: skip
PICTURES = (".webp", ".png", ".jpg", ".jpeg")
TILE, LABEL, ACROSS, DOWN = 192, 28, 8, 12  # pixels, pixels, tiles, tiles on a sheet
MOST = 20 * ACROSS * DOWN  # each has to be fetched and opened


def write_table(store: Store, entries: Iterable[Entry]) -> None:
    """OUT/table.csv, a line a job."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow(
            entry
            | {
                "files": " ".join(file["name"] for file in entry.get("files", [])),
                "metrics": json.dumps(entry.get("metrics", {})) if entry.get("metrics") else "",
            }
        )
    store.write(TABLE, text.getvalue().encode())


def write_sheets(store: Store, entries: Iterable[Entry], folder: Path) -> list[str]:
    """Contact sheets of the objects that have a picture, the first `MOST` of them in JOBS' order;
    their names. ``folder``: for copies on their way.
    """
    shown = [entry for entry in entries if entry["status"] == DONE and _picture(entry)]
    shown = sorted(shown, key=lambda entry: entry["line"])[:MOST]
    names = []
    for first in range(0, len(shown), ACROSS * DOWN):
        number = first // (ACROSS * DOWN) + 1
        names.append(f"{SHEET}.jpg" if len(shown) <= ACROSS * DOWN else f"{SHEET}-{number:03}.jpg")
        part = shown[first : first + ACROSS * DOWN]
        store.write(names[-1], _sheet(store, part, folder))
    return names


def summary(entries: Iterable[Entry], total: int) -> str:
    """What has become of so many jobs, for the terminal."""
    listed = list(entries)
    done = [entry for entry in listed if entry["status"] == DONE]
    others = [entry for entry in listed if entry["status"] != DONE]
    lines = [f"{len(done)} of {total} objects are made."]
    if done:
        seconds = sorted(entry["seconds"] for entry in done)
        lines[0] += f" {seconds[len(seconds) // 2]:.1f} s each (median)."
    for entry in others[:20]:
        told = str(entry.get("error", "")).splitlines() or [""]
        lines.append(f"  line {entry['line']}, {entry.get('prompt', '')!r}: {told[0][:160]}")
    if len(others) > 20:
        lines.append(f"  and {len(others) - 20} more; all are in {TABLE}.")
    return "\n".join(lines)


def _picture(entry: Entry) -> str:
    names = (file["name"] for file in entry.get("files", []))
    return next((name for name in names if name.endswith(PICTURES)), "")


def _sheet(store: Store, entries: list[Entry], folder: Path) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    rows = -(-len(entries) // ACROSS)
    across = min(ACROSS, len(entries))
    sheet = Image.new("RGB", (across * TILE, rows * (TILE + LABEL)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (entry, picture) in enumerate(_opened(store, entries, folder)):
        left, top = place % across * TILE, place // across * (TILE + LABEL)
        if picture is not None:
            sheet.paste(picture, (left, top))
        label = f"{entry['line']} {entry.get('prompt') or entry['name']}"
        while len(label) > 4 and draw.textlength(label, font=font) > TILE - 8:
            label = label[:-2]
        draw.text((left + 4, top + TILE + 6), label, "black", font=font)
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=88)
    return data.getvalue()


def _opened(store: Store, entries: list[Entry], folder: Path) -> Iterator[tuple[Entry, Any]]:
    """Each with its first picture, of an animation the first frame; None for one that is gone."""
    from PIL import Image, UnidentifiedImageError

    for entry in entries:
        copy = folder / "tile"
        try:
            store.get(_picture(entry), copy)
            with Image.open(copy) as opened:
                frame = opened.convert("RGB")
        except (OSError, UnidentifiedImageError):
            yield entry, None
            continue
        frame.thumbnail((TILE, TILE))
        tile = Image.new("RGB", (TILE, TILE), "white")
        tile.paste(frame, ((TILE - frame.width) // 2, (TILE - frame.height) // 2))
        yield entry, tile

"""One page of HTML with everything in it, and a contact sheet."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image, ImageDraw

from .measure import STRIP

PAGE, SHEET = "gallery.html", "contact-sheet.jpg"
TEMPLATE = Path(__file__).with_name("page.html")
TURN, TILE, BAND = 256, 160, 18  # pixels: of a turntable on the page; of a side, a caption
KINDS = {".webp": "image/webp", ".jpg": "image/jpeg"}
FOOT = (
    "Made with Distill3D. Turntables and sides are renders of the Gaussians from all around;"
    " nothing was chosen or retouched. Objects lie beside this page as .ply and .glb."
)
# name in a record, title in the table, beside the number in a caption, digits
NUMBERS = (
    ("seconds", "Seconds", "{} s", 0), ("memory_gb", "GPU, GB", "{} GB", 1),
    ("gaussians", "Gaussians", "{} Gaussians", 0), ("clip_score", "CLIP score", "CLIP {}", 1),
    ("image_reward", "ImageReward", "ImageReward {}", 2),
)  # fmt: skip
Record = Mapping[str, Any]


def write_page(out: Path, about: Mapping[str, Any], records: Sequence[Record]) -> None:
    """OUT/gallery.html, which needs no other file, and OUT/contact-sheet.jpg."""
    title = f"{about['recipe']} with {about['model']}"
    steps = f", {about['steps']} steps a stage" if about["steps"] else ""
    facts = (
        f"{about['made']} of {len(records)} prompts made{steps}. {about['machine']},"
        f" PyTorch {about['torch']}."
    )
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        facts=escape(facts),
        objects="\n".join(figure(out, record) for record in records),
        table=numbers(records),
        foot=escape(FOOT),
    )
    part = out / f"{PAGE}.part"
    part.write_text(text, encoding="utf-8")
    part.replace(out / PAGE)
    contact_sheet(out, records)


def figure(out: Path, record: Record) -> str:
    """An object on the page: its turntable, its four sides and what it took."""
    caption = f"<b>{escape(record['prompt'])}</b>"
    if record.get("of"):
        caption += f'<span class="source">a prompt of {escape(record["of"])}</span>'
    if "error" in record:
        first = record["error"].splitlines()[0]
        return (
            f'<figure><figcaption>{caption}</figcaption><div class="failed">not made:'
            f" {escape(first)}</div></figure>"
        )
    folder = out / record["folder"]
    pictures = [
        f'<img class="{kind}" loading="lazy" alt="{escape(record["prompt"])}" src="{data(file)}">'
        for kind, file in (("turn", folder / "turntable.webp"), ("sides", folder / STRIP))
        if file.is_file()
    ]
    said, found = {title: text for _, title, text, _ in NUMBERS}, shown_numbers(record)
    shown = [said[title].format(value) for title, value in found]
    return (
        f"<figure>{''.join(pictures)}<figcaption>{caption}"
        f'<div class="numbers">{escape(" · ".join(shown))}</div></figcaption></figure>'
    )


def data(file: Path) -> str:
    """A picture as an address that holds it; turntables as large as they are shown."""
    if file.suffix == ".webp":
        smaller(file)
        small = file.with_name("turntable-small.webp")
        file = small if small.is_file() else file
    return f"data:{KINDS[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def smaller(file: Path) -> None:
    """A turntable of `TURN` pixels beside one that is larger."""
    small = file.with_name("turntable-small.webp")
    with Image.open(file) as turn:
        if small.is_file() or turn.width <= TURN:
            return
        frames = []
        for place in range(getattr(turn, "n_frames", 1)):
            turn.seek(place)
            frames.append(turn.convert("RGB").resize((TURN, TURN), Image.Resampling.LANCZOS))
        wait = turn.info.get("duration", 83)
    frames[0].save(
        small, save_all=True, append_images=frames[1:], duration=wait, loop=0, quality=80
    )


def shown_numbers(record: Record) -> list[tuple[str, str]]:
    """Titles and values of the numbers that a record has; memory of a CPU is none."""
    return [
        (title, f"{record[name]:,.{digits}f}")
        for name, title, _, digits in NUMBERS
        if record.get(name) or (name == "image_reward" and name in record)
    ]


def numbers(records: Sequence[Record]) -> str:
    """The table: a line a prompt, and the means."""
    made = [record for record in records if "error" not in record]
    found = [dict(shown_numbers(record)) for record in made]
    columns = [(n, t, d) for n, t, _, d in NUMBERS if any(t in each for each in found)]
    if not columns:
        return ""
    head = "".join(f"<th>{escape(title)}</th>" for _, title, _ in columns)
    lines = [
        f"<tr><td>{escape(record['prompt'])}</td>"
        + "".join(f"<td>{each.get(title, '')}</td>" for _, title, _ in columns)
        + "</tr>"
        for record, each in zip(made, found, strict=True)
    ]
    means = []
    for name, _, digits in columns:
        values = [record[name] for record in made if record.get(name) is not None]
        means.append(f"<td>{sum(values) / len(values):,.{digits}f}</td>")
    lines.append(f"<tr><td><b>mean</b></td>{''.join(means)}</tr>")
    return f"<table><tr><th>Prompt</th>{head}</tr>{''.join(lines)}</table>"


def contact_sheet(out: Path, records: Sequence[Record]) -> None:
    """OUT/contact-sheet.jpg: four sides of each object under its prompt, two objects a line."""
    strips = [
        (record["prompt"], out / record["folder"] / STRIP)
        for record in records
        if "error" not in record and (out / record["folder"] / STRIP).is_file()
    ]
    if not strips:
        return
    across = min(2, len(strips))
    down = -(-len(strips) // across)
    sheet = Image.new("RGB", (across * 4 * TILE, down * (TILE + BAND)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (prompt, file) in enumerate(strips):
        left, top = (place % across) * 4 * TILE, (place // across) * (TILE + BAND)
        draw.text((left + 4, top + 2), prompt, "black")
        with Image.open(file) as strip:
            sheet.paste(strip.resize((4 * TILE, TILE)), (left, top + BAND))
    part = out / f"{SHEET}.part"
    sheet.save(part, "JPEG", quality=88)
    part.replace(out / SHEET)

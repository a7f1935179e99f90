"""Runs the pack in a real ComfyUI server on this machine's GPU, and writes what came of it.

    python tests/gpu/suite.py COMFYUI --base DIR [--mode short|flags|whole] [--only CASE,...]
        [--report FILE] [--shared] [-- FLAGS]

COMFYUI: a ComfyUI tree (main.py), in whose environment this is started (ComfyUI's requirements, the
pack's, psutil, aiohttp). DIR: where models, outputs and the log go. FLAGS: for ComfyUI's command
line, none by default. Nothing is downloaded. The short mode takes less than five minutes. With a
report, cases that it already has as passed at this commit, device and flags are left out: a whole
run may be spread over several calls. Ends with 1 if a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bed import Bed, Failed, versions
from cases import FLAGS, SHORT, WHOLE, told
from harness.server import PromptRefused, ServerError

MODES = {"short": SHORT, "flags": FLAGS, "whole": WHOLE}


def main() -> int:
    own, flags = sys.argv[1:], list[str]()
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--mode", choices=tuple(MODES), default="short")
    parser.add_argument("--only", default="", help="names of cases, with commas between")
    parser.add_argument("--report", type=Path)
    parser.add_argument(
        "--shared", action="store_true", help="other programs use the GPU meanwhile"
    )
    options = parser.parse_args(own)
    if not (options.comfyui / "main.py").is_file():
        parser.error(f"{options.comfyui} is no ComfyUI tree: it has no main.py.")
    wanted = options.only.split(",") if options.only else list(MODES[options.mode])
    if unknown := [name for name in wanted if name not in WHOLE]:
        parser.error(f"--only {','.join(unknown)}: the cases are {', '.join(WHOLE)}.")
    place = options.comfyui.resolve(), options.base.resolve(), tuple(flags), options.shared
    return run(place, wanted, options.report)


def run(
    place: tuple[Path, Path, tuple[str, ...], bool], wanted: list[str], report: Path | None
) -> int:
    """1 if a case failed, else 0; a server that dies is followed by another for the cases left."""
    failed = 0
    while wanted:
        with Bed(*place) as bed:
            about = versions(bed.server) | {"flags": " ".join(place[2]) or "default"}
            about |= {"shared": "yes"} if bed.shared else {}
            print(json.dumps(about), flush=True)
            while wanted:
                name = wanted.pop(0)
                if _passed(report, about, name):
                    continue
                row = one(bed, name)
                failed += not row["ok"]
                print(
                    f"{'ok  ' if row['ok'] else 'FAIL'} {name} {row['seconds']} s"
                    f" {told(row['figures'])}",
                    flush=True,
                )
                if report:
                    _write(report, about, name, row)
                if row.get("died"):
                    print(bed.server.log_tail(40), flush=True)
                    break  # out of this server
    print(f"{failed} failed", flush=True)
    return int(failed > 0)


def one(bed: Bed, name: str) -> dict[str, Any]:
    """What came of a case."""
    start = time.monotonic()
    row: dict[str, Any] = {"ok": False, "figures": {}}
    try:
        row["figures"], row["ok"] = WHOLE[name](bed), True
    except (Failed, PromptRefused, ServerError) as error:
        row["figures"] = {"problem": str(error)[-1500:]}
    except Exception as error:
        row["figures"] = {
            "problem": f"{type(error).__name__}: {error}",
            "where": traceback.format_exc()[-600:],
        }
    row["seconds"] = round(time.monotonic() - start, 1)
    try:
        bed.server.get("/queue", timeout=10)
    except OSError:
        row["died"] = True
    return row


def _rows(report: Path) -> list[dict[str, Any]]:
    return json.loads(report.read_text()) if report.is_file() else []


def _passed(report: Path | None, about: dict[str, str], name: str) -> bool:
    rows = _rows(report) if report else []
    return any(row["case"] == name and row["ok"] and row["server"] == about for row in rows)


def _write(report: Path, about: dict[str, str], name: str, row: dict[str, Any]) -> None:
    """Replaces the row of that case with the same flags; appears whole or not at all."""
    same = [
        r
        for r in _rows(report)
        if not (r["case"] == name and r["server"]["flags"] == about["flags"])
    ]
    part = report.with_suffix(".part")
    rows = [*same, {"case": name, "server": about, **row}]
    part.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")
    os.replace(part, report)


if __name__ == "__main__":
    sys.exit(main())

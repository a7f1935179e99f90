"""Runs the unit tests that want a GPU, with the rest of their files, and writes what came of them.

    python tests/gpu/units.py [--processes N] [--report FILE]

In ComfyUI's environment with pytest and pytest-xdist. Ends with 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from bed import commit

UNIT = Path(__file__).resolve().parents[1] / "unit"
WANTED = "cuda"  # whatever asks for one, or behaves otherwise with one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU here that PyTorch can use.")
    files = sorted(
        file
        for file in UNIT.glob("test_*.py")
        if WANTED in file.read_text(encoding="utf-8").lower()
    )
    with tempfile.TemporaryDirectory() as folder:
        told, start = Path(folder, "told.xml"), time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(options.processes)]
        subprocess.run([*command, f"--junitxml={told}", *map(str, files)], cwd=folder)
        found = cases(told)
    about = {
        "device": torch.cuda.get_device_name(),
        "pytorch": torch.__version__,
        "pack": commit(),
        "seconds": round(time.monotonic() - start),
    }
    counted = {
        end: sum(case["end"] == end for case in found) for end in ("passed", "skipped", "failed")
    }
    wrong = [case for case in found if case["end"] != "passed"]
    print(json.dumps(about | counted))
    if options.report:
        rows = {**about, **counted, "files": [file.name for file in files], "not passed": wrong}
        options.report.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(counted["failed"] > 0 or not counted["passed"])


def cases(told: Path) -> list[dict[str, Any]]:
    """Of pytest's report, by test: how it ended, and why where it did not pass."""
    found = []
    for case in ElementTree.parse(told).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        end = "failed" if wrong is not None else "skipped" if skipped is not None else "passed"
        reason = next((e.get("message", "") for e in (wrong, skipped) if e is not None), "")
        found.append({"test": name, "end": end, "reason": reason[:200]})
    return found


if __name__ == "__main__":
    sys.exit(main())

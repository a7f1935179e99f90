"""Runs the unit tests that want a GPU, with the rest of their files, and writes what came of them.

    python tests/gpu/units.py [--processes N] [--limit SECONDS] [--report FILE]

In ComfyUI's environment with pytest and pytest-xdist. Ends with 1 if one failed, or if they did not
end within the limit.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from bed import commit

# "[gw1] [ 50%] PASSED tests/unit/test_a.py::test_b "
ENDED = re.compile(r"\[gw\d+\] \[ *\d+%\] (?P<end>[A-Z]+) \S*?(?P<test>test_\w+\.py::.*\S)")
UNIT = Path(__file__).resolve().parents[1] / "unit"
WANTED = "cuda"  # whatever asks for one, or behaves otherwise with one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--limit", type=float, default=900)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU here that PyTorch can use.")
    files = sorted(
        file
        for file in UNIT.glob("test_*.py")
        if WANTED in file.read_text(encoding="utf-8").lower()
    )
    start = time.monotonic()
    found, code = ended(options.processes, options.limit, files)
    about = {
        "device": torch.cuda.get_device_name(),
        "pytorch": torch.__version__,
        "pack": commit(),
        "seconds": round(time.monotonic() - start),
        "exit code": code,
    }
    counted = dict(Counter(found.values()))
    wrong = sorted(test for test, end in found.items() if end not in ("PASSED", "XFAIL"))
    print(json.dumps(about | counted))
    if options.report:
        rows = {**about, **counted, "files": [file.name for file in files], "not passed": wrong}
        options.report.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(code != 0)


def ended(processes: int, limit: float, files: list[Path]) -> tuple[dict[str, str], int]:
    """How each test ended, by its name, as pytest tells it meanwhile, and the exit code, below 0
    where the limit ended it: what does not end hides nothing of the rest.
    """
    command = [sys.executable, "-m", "pytest", "-vv", "-n", str(processes), *map(str, files)]
    found: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout
        late = threading.Timer(limit, process.kill)
        late.start()
        for line in process.stdout:
            if told := ENDED.match(line):
                found[told["test"]] = told["end"]
            else:
                print(line, end="", flush=True)
        late.cancel()
    return found, process.returncode


if __name__ == "__main__":
    sys.exit(main())

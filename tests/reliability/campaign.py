"""Injects faults into real ComfyUI servers and reports what was lost.

    python tests/reliability/campaign.py [--faults NAME,...] [--trials N] [--seed N]
        [--report FILE] [--base DIR] [--join FILE ...]

--faults: by default all, see `--list`; a family's name (kills, files, ...) stands for all of its
own.
--trials: of each, instead of the number that the committed report has. The report grows trial by
trial, and a command that was cut off goes on where it was when it is given again. --join: nothing
is tried; the trials of these reports, of other seeds, are added to the report. Ends with 1 if
anything was lost, overwritten, wrong, dead or raw. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "comfyui"), str(HERE.parent / "unit")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from faults import cancels, disks, endurance, files, kills, memory, numbers, others  # noqa: E402
from faults.bed import Bed  # noqa: E402
from faults.report import KINDS, Report, summary  # noqa: E402
from faults.servers import Forks  # noqa: E402
from harness import environment  # noqa: E402

FILES = 480  # of each kind
TRIALS = {
    "kill at any moment": 140,
    "kill inside a write": 70,
    "cancel in a node": 110,
    "cancel at a step": 30,
    "cancel in the last step or after it": 70,
    "disk refuses": 100,
    "disk is slow": 8,
    "folder goes": 12,
    "memory is limited": 110,
    "NaN in the loss": 30,
    "NaN in the prior": 20,
    "NaN in the cloud": 15,
    "two servers on one folder": 40,
    "two clients": 10,
    "long queue": 5,
    "models freed in a run": 10,
    "clock jumps": 10,
    "changed workflow": 200,
    "run after run": 100,
}
FAMILIES = {
    "endurance": endurance, "cancels": cancels, "disks": disks, "memory": memory,
    "numbers": numbers, "others": others, "kills": kills, "files": files,
}  # fmt: skip


def faults(work: Path) -> dict[str, dict[str, Callable[[Bed, int], None]]]:
    """By family, what does so many trials of each fault."""
    found = {
        family: {name: partial(_trials, name, once) for name, once in module.FAULTS.items()}
        for family, module in FAMILIES.items()
    }
    found["files"] |= files.families(work)
    return found


def _trials(name: str, once: Callable, bed: Bed, wanted: int) -> None:
    bed.trials(name, wanted, once)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", default="", help="names, with commas between")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("output/reliability.json"))
    parser.add_argument("--base", type=Path, help="of the servers; else a folder that goes again")
    parser.add_argument("--list", action="store_true", help="only the names")
    parser.add_argument("--join", type=Path, nargs="+", help="reports to add to the report")
    options = parser.parse_args()
    if options.join:
        report = Report(options.report)
        for file in options.join:
            report.join(json.loads(file.read_text(encoding="utf-8")))
        return said(report, list(report.content["faults"]))
    with tempfile.TemporaryDirectory() as passing:
        base = (options.base or Path(passing)).resolve()
        known = faults(base / "sound")
        if options.list:
            print("\n".join(f"{f}: {', '.join(names)}" for f, names in known.items()))
            return 0
        wanted = chosen(known, options.faults, parser)
        options.report.parent.mkdir(parents=True, exist_ok=True)
        report = Report(options.report, about(options.seed))
        with Forks(base) as forks:
            bed = Bed(forks, report, options.seed)
            try:
                for name, run in wanted.items():
                    run(bed, options.trials or TRIALS.get(name, FILES))
            finally:
                bed.stop()
                others.stop_second()
                report.save()
    return said(report, list(wanted))


def chosen(
    known: dict[str, dict[str, Callable]], words: str, parser: argparse.ArgumentParser
) -> dict[str, Callable[[Bed, int], None]]:
    """The faults that are asked for, by name."""
    every = {name: run for names in known.values() for name, run in names.items()}
    found: dict[str, Callable] = {}
    for word in filter(None, words.split(",")):
        if word not in known and word not in every:
            parser.error(f"--faults {word}: it is none of {', '.join([*known, *every])}.")
        found |= known.get(word) or {word: every[word]}
    return found or every


def about(seed: int) -> dict[str, object]:
    """Where and of what the trials are."""
    return {
        "seed": seed,
        "comfyui": environment.MAIN,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "niceness": os.nice(0),
    }


def said(report: Report, names: list[str]) -> int:
    """Prints the lines of these faults; 1 if one of them has found anything."""
    bad = 0
    for line in summary(report.content):
        if line["fault"] in names:
            bad += sum(line[kind] for kind in KINDS)
            print(json.dumps(line))
    print(f"{bad} found" if bad else "nothing found")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Holds the papers' claims against what quality.py measured; prints Markdown.

    python tests/benchmarks/claims.py                    every tests/benchmarks/results/quality_*.json there is
    python tests/benchmarks/claims.py --json FILE ...    these instead; each is quality_NAME.json, NAME an experiment's
    python tests/benchmarks/claims.py --run --out DIR [--only losses,speed] [--device cuda] [--jobs
                                                         12] makes the files first; without --out,
                                                         what results/ lacks

A claim is a difference between two kinds of runs over the same captions and seeds. It holds if the
mean difference exceeds two of its standard errors in the claim's direction, does not hold if it
does in the other, and is else undecided, as it is with fewer than five captions. VDM is this
project's derivation, so what is said of DreamMapping's claims is said of that derivation.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality_statistics import Row, groups, paired, summary
from results_files import read
from scipy.stats import t

HERE = Path("tests/benchmarks")
SURE = 0.975  # on either side: 95 %, Student's limits, 2.0 standard errors of many captions
LEAST_CAPTIONS = 5  # a standard error from fewer says little
TIMED = (
    "a brown windmill;a white car with pink checks;a red bed;a gray tree with white checks;an"
    " orange cube"
)
# Arguments of quality.py besides the files; for each there is a file in sweeps/.
EXPERIMENTS = {
    "losses": "--prompts 60 --seeds 2 --steps 267",
    # 25 of them other captions than in "losses"
    "others": "--prompts 32 --caption-seed 11 --seeds 2 --steps 267",
    "designs": "--prompts 24 --seeds 1 --steps 400",
    "dca": "--prompts 24 --seeds 1 --steps 400",
    "psi": "--prompts 24 --caption-seed 7 --seeds 1 --steps 400",
    "views": "--prompts 24 --caption-seed 7 --seeds 1 --steps 400",
    "text": "--prompts 32 --seeds 2 --steps 267",
    "quickstart": "--prompts 32 --seeds 1 --steps 200",
    "published": "--prompts 12 --seeds 1 --steps 400",
    "growth": "--prompts 12 --seeds 1 --steps 400",
    # one process, so that nothing else is on the device
    "speed": f"--captions '{TIMED}' --seeds 1 --steps 60",
}
AWAITED: tuple[str, ...] = ()  # experiments that no rows are committed of yet
ALONE = (
    "derivation alone",
    "vdm",
)  # without Picture Loss after it, which is this project's addition
PLAIN = (
    "without pull",
    "cds",
)  # the paper's direction; "default" adds pull, which is mostly SDS's with the run's noises
SDS, CDS, VDM = (("default", loss) for loss in ("sds", "cds", "vdm"))
LONG_SDS, LONG_CDS, LONG_VDM = (("800 steps", loss) for loss in ("sds", "cds", "vdm"))
SDS_100 = ("guidance 100", "sds")  # 800 steps
ETA_1 = ("eta 1 throughout", "vdm")
PER_VIEW = ("guidance of sides and back 1.5", "negative prompt front view")
MIDDLE_SDS, MIDDLE_CDS, MIDDLE_VDM, MIDDLE_VSD = (
    ("400 steps", loss) for loss in ("sds", "cds", "vdm", "vsd")
)
PUBLISHED = {
    loss: ("as published", loss)
    for loss in ("sds", "cds", "vdm", "ism", "sctd", "vsd", "csd", "sdi")
}
CRISP = ("iou", "psnr", "r_precision_all", "edges_distance")
NAMES = {
    "iou": "IoU", "psnr": "PSNR, dB", "consistency": "agreement of neighbouring gradients, cosine",
    "contrast_distance": "contrast, distance of the ratio from 1", "saturation": "saturation ratio",
    "saturation_distance": "saturation, distance of the ratio from 1",
    "edges_distance": "edges, distance of the ratio from 1", "seconds_per_step": "seconds per step",
    "evaluations_per_step": "rows through the denoiser per step",
    "r_precision_all": "R-precision among all captions", "janus": "Janus rate",
}  # fmt: skip
COLUMNS = (
    ("iou", "IoU", 3), ("psnr", "PSNR, dB", 1), ("false_alpha", "false alpha", 3),
    ("saturation", "saturation", 2), ("contrast", "contrast", 2), ("edges", "edges", 2),
    ("r_precision_all", "R-precision", 2), ("janus", "Janus", 2), ("consistency", "consistency", 2),
    ("evaluations", "rows", 0), ("seconds_per_step", "s per step", 3),
    ("steps_to_iou80", "steps to IoU 0.8", 0),
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """``measure`` is larger (or smaller) for ``first`` than for ``second``; both (config, loss) of
    one experiment.
    """

    paper: str
    text: str
    experiment: str
    measure: str
    first: tuple[str, str]
    second: tuple[str, str]
    larger: bool = True
    against: str | None = None  # the second's measure, where it is another one

    def sides(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """The rows of the first and of the second kind, both with the measure under its name."""
        by_group = groups(map(derived, rows))
        other = self.against or self.measure
        second = [row | {self.measure: row.get(other)} for row in by_group.get(self.second, [])]
        return by_group.get(self.first, []), second

    def difference(self, rows: list[Row]) -> tuple[float, float | None, int] | None:
        """Mean paired difference first - second, its standard error, the number of captions; None
        without rows.
        """
        return paired(*self.sides(rows), self.measure)

    def means(self, rows: list[Row]) -> tuple[float, ...]:
        """Of the first and of the second, over the captions and seeds that both have."""
        values = [
            {
                (r["caption"], r["seed"]): r[self.measure]
                for r in side
                if r.get(self.measure) is not None
            }
            for side in self.sides(rows)
        ]
        both = values[0].keys() & values[1].keys()
        return tuple(sum(side[key] for key in both) / len(both) for side in values)


CLAIMS = (
    Claim("Consistent3D", "CDS gives better geometry than SDS", "losses", "iou", PLAIN, LONG_SDS),
    Claim("Consistent3D", "CDS gives better texture than SDS", "losses", "psnr", PLAIN, LONG_SDS),
    *(
        Claim("Consistent3D", f"CDS with pull (ours) against SDS, {steps} steps", "losses", measure, first, second)
        for steps, first, second in ((267, CDS, SDS), (400, MIDDLE_CDS, MIDDLE_SDS), (800, LONG_CDS, LONG_SDS))
        for measure in ("iou", "psnr", "r_precision_all")
    ),
    *(
        Claim("Consistent3D", f"{name} against SDS with guidance 100", "losses", measure, first, SDS_100, more)
        for name, first in (("CDS", PLAIN), ("CDS with pull (ours), 800 steps,", LONG_CDS))
        for measure, more in (("iou", True), ("psnr", True), ("saturation_distance", False))
    ),
    *(
        Claim("Consistent3D", "CDS with pull (ours) against SDS, other captions", "others", measure, CDS, SDS)
        for measure in ("iou", "psnr", "r_precision_all")
    ),
    Claim("Consistent3D", "CDS guides more consistently than SDS", "losses", "consistency", PLAIN, LONG_SDS),
    Claim(
        "Consistent3D", "its fixed noise is why: CDS against CDS with fresh noise", "losses", "consistency", PLAIN,
        PLAIN, against="consistency_fresh",
    ),
    *(
        Claim("Consistent3D", "CDS against SDS, both as published", "published", measure,
              PUBLISHED["cds"],
              PUBLISHED["sds"], measure != "edges_distance")
        for measure in CRISP
    ),
    *(
        Claim("DreamMapping", "VDM with LucidDreamer's values against SDS as published",
              "published", measure,
              PUBLISHED["vdm"], PUBLISHED["sds"], not measure.endswith("distance"))
        for measure in (*CRISP, "saturation_distance")
    ),
    *(
        Claim("DreamMapping", "the same against ISM as published (LucidDreamer)", "published",
              measure,
              PUBLISHED["vdm"], PUBLISHED["ism"], measure != "edges_distance")
        for measure in CRISP
    ),
    *(
        Claim("(others)", f"{name}, both as published", "published", measure, PUBLISHED[first],
              PUBLISHED[second],
              measure != "edges_distance")
        for name, first, second in (
            ("LucidDreamer: ISM against SDS", "ism", "sds"),
            ("ProlificDreamer: VSD against SDS", "vsd", "sds"), ("SDI: against SDS", "sdi", "sds"),
            ("CSD: against SDS", "csd", "sds"), ("SegmentDreamer: SCTD against ISM", "sctd", "ism"),
        )
        for measure in CRISP
    ),
    Claim("DreamMapping", "VDM adds detail over SDS", "losses", "psnr", ALONE, MIDDLE_SDS),
    Claim("DreamMapping", "VDM adds detail over SDS", "losses", "contrast_distance", ALONE, MIDDLE_SDS, larger=False),
    *(
        Claim(
            "DreamMapping", f"VDM, then Picture Loss (ours) against SDS, {steps} steps", "losses", measure, first,
            second,
        )
        for steps, first, second in ((267, VDM, SDS), (400, MIDDLE_VDM, MIDDLE_SDS), (800, LONG_VDM, LONG_SDS))
        for measure in ("iou", "psnr", "r_precision_all")
    ),
    *(
        Claim("DreamMapping", f"{name} against SDS with guidance 100", "losses", measure, first, SDS_100, more)
        for name, first in (("VDM", ALONE), ("VDM, then Picture Loss (ours), 800 steps,", LONG_VDM))
        for measure, more in (("iou", True), ("psnr", True), ("saturation_distance", False))
    ),
    *(
        Claim("DreamMapping", "VDM, then Picture Loss (ours) against SDS, other captions", "others", measure, VDM, SDS)
        for measure in ("iou", "psnr", "r_precision_all")
    ),
    Claim(
        "DreamMapping", "VDM, then Picture Loss (ours) against SDS, 800 steps", "losses", "contrast_distance", LONG_VDM,
        LONG_SDS, larger=False,
    ),
    *(
        Claim(
            "DreamMapping", f"noise-free nonlinear degradation beats {design}", "designs", measure,
            ("nonlinear", "vdm"), (design, "vdm"),
        )
        for design in ("linear", "nonlinear_noise")
        for measure in ("iou", "psnr")
    ),
    Claim(
        "DreamMapping", "DCA tames saturation: falling eta against eta 1", "dca", "saturation_distance",
        ("linear decreasing", "vdm"), ("constant 1", "vdm"), larger=False,
    ),
    Claim(
        "DreamMapping", "DCA tames saturation: rising eta against eta 1", "dca", "saturation_distance",
        ("linear increasing", "vdm"), ("constant 1", "vdm"), larger=False,
    ),
    Claim(
        "DreamMapping", "the same in the whole recipe: falling eta against eta 1", "losses", "saturation_distance",
        LONG_VDM, ETA_1, larger=False,
    ),
    *(
        Claim("DreamMapping", "falling eta against eta 1, whole recipe", "losses", measure, LONG_VDM, ETA_1)
        for measure in ("iou", "psnr")
    ),
    *(
        Claim("(steps)", f"267 steps of {loss} against 800 of SDS", "losses", measure, first, LONG_SDS)
        for loss, first in (("CDS with pull", CDS), ("VDM", VDM), ("SDS", SDS))
        for measure in ("iou", "psnr")
    ),
    *(
        Claim("(views)", f"{name} against plain view words", "views", measure, (name, "sds"), ("view words", "sds"))
        for name in ("no view words", "interpolated", "Perp-Neg 1", *PER_VIEW)
        for measure in ("iou", "janus")
    ),
    Claim(
        "DreamMapping", "VDM is faster than VSD with a LoRA", "speed", "seconds_per_step", ALONE, ("default", "vsd"),
        larger=False,
    ),
    Claim(
        "DreamMapping", "VDM needs fewer denoiser evaluations than VSD", "losses", "evaluations_per_step", ALONE,
        MIDDLE_VSD, larger=False,
    ),
)  # fmt: skip


def derived(row: Row) -> Row:
    """The row with the measures that follow from its own."""
    more: Row = {
        f"{name}_distance": None if row.get(name) is None else abs(row[name] - 1)
        for name in ("saturation", "contrast", "edges")
    }
    if row.get("evaluations") is not None:
        more["evaluations_per_step"] = row["evaluations"] / row["steps"]
    return row | more


def verdict(difference: float, error: float | None, captions: int, larger: bool) -> str:
    """holds | does not hold | undecided, of a claim that the difference is above 0 (or, not
    ``larger``, below).
    """
    if error is None or captions < LEAST_CAPTIONS:
        return "undecided"
    if abs(difference) <= t.ppf(SURE, captions - 1) * error:
        return "undecided"
    return "holds" if (difference > 0) == larger else "does not hold"


def claims_table(results: dict[str, dict[str, Any]]) -> str:
    """A line per claim; results by experiment, as quality.py writes them."""
    lines = [
        "| Paper | Claim | Measure | First | Second | Difference | Captions | Verdict |",
        "|---" * 8 + "|",
    ]
    for claim in CLAIMS:
        rows = results.get(claim.experiment, {}).get("rows", [])
        found = claim.difference(rows)
        name = NAMES[claim.measure] + (", less is better" if not claim.larger else "")
        if found is None:
            cells = ["", "", "", "", "not measured"]
        else:
            difference, error, count = found
            first, second = claim.means(rows)
            spread = "" if error is None else f" +- {error:.2g}"
            outcome = f"**{verdict(difference, error, count, claim.larger)}**"
            cells = [
                f"{first:.3g}",
                f"{second:.3g}",
                f"{difference:+.3g}{spread}",
                str(count),
                outcome,
            ]
        lines.append("| " + " | ".join([claim.paper, claim.text, name, *cells]) + " |")
    return "\n".join(lines)


def experiment_table(result: dict[str, Any]) -> str:
    """A line per config and loss: means, and IoU's and PSNR's standard errors."""
    lines = ["| Config | Loss | Objects |" + "".join(f" {title} |" for _, title, _ in COLUMNS)]
    lines.append("|---" * (len(COLUMNS) + 3) + "|")
    for entry in summary(result["rows"]):
        cells = [entry["config"], entry["loss"], str(entry["objects"])]
        for name, _, digits in COLUMNS:
            error = entry.get(f"{name}_error") if name in ("iou", "psnr") else None
            text = "" if entry.get(name) is None else f"{entry[name]:.{digits}f}"
            cells.append(text + (f" +- {error:.{digits}f}" if error is not None else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def command(
    name: str, device: str = "cuda", jobs: int = 12, out: Path = HERE / "results"
) -> list[str]:
    """quality.py's arguments, the program first, that make the rows of an experiment which ``out``
    lacks.
    """
    file = out / f"quality_{name}.json"
    jobs = 1 if name == "speed" else jobs
    return [
        str(HERE / "quality.py"), "--device", device, "--sweep", str(HERE / "sweeps" / f"{name}.json"),
        *shlex.split(EXPERIMENTS[name]), "--jobs", str(jobs), "--json", str(file),
        "--sheet", f"output/quality_{name}.jpg", "--curves", f"output/curves_{name}.png",
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, nargs="+", help="quality_NAME.json of each experiment")
    parser.add_argument(
        "--run", action="store_true", help="run the experiments first; what is there is kept"
    )
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help="experiments to run, by name")
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "results",
        help="--run keeps the rows there; new: all anew",
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--jobs", type=int, default=12, help="processes on the device")
    options = parser.parse_args(arguments)
    if options.run:
        for name in options.only.split(","):
            if name not in EXPERIMENTS:
                parser.error(f"--only {name}: the experiments are {', '.join(EXPERIMENTS)}.")
            subprocess.run(
                [sys.executable, *command(name, options.device, options.jobs, options.out)],
                check=True,
            )
    files = options.json or sorted(options.out.glob("quality_*.json"))
    results = {f.stem.removeprefix("quality_"): read(f) for f in files if ".strips" not in f.name}
    print(claims_table(results))
    for name in EXPERIMENTS:
        if name in results:
            print(f"\n**{name}** ({results[name]['machine']})\n\n```sh")
            print(
                ".venv/bin/python"
                f" {shlex.join(command(name))}\n```\n\n{experiment_table(results[name])}"
            )


if __name__ == "__main__":
    main()

"""Tables of what objects come out: losses, sweeps, claims of the papers, presets, the prior, scenes."""

from __future__ import annotations

import json
import math
import statistics

import claims
from quality_statistics import Row, groups, paired, summary
from table_format import (
    HERE,
    SCORES,
    UNMEASURED,
    change,
    grid,
    percent,
    result,
    rows,
    scores,
    spread,
    table,
    whole,
)

LOSSES = {
    ("default", "sds"): "SDS (guidance 2.5, t from 50)",
    ("default", "cds"): "CDS with `pull` 3 (guidance 3 to 1.5)",
    ("default", "vdm"): "VDM (guidance 2, then 1.5; t from 400)",
    ("400 steps", "sds"): "SDS (guidance 4, t from 100)",
    ("400 steps", "cds"): "CDS with `pull` 3 (guidance 4 to 1)",
    ("400 steps", "vdm"): "VDM (guidance 4, then 1.5)",
    ("800 steps", "sds"): "SDS (guidance 2.5, t from 50)",
    ("800 steps", "cds"): "CDS with `pull` 3 (guidance 3 to 1.5)",
    ("800 steps", "vdm"): "VDM (guidance 2, then 1.5)",
    ("eta 1 throughout", "vdm"): "VDM, eta 1 throughout (no DCA)",
    ("guidance 7.5", "sds"): "SDS (guidance 7.5, t from 20)",
    ("guidance 30", "sds"): "SDS (guidance 30, t from 20)",
    ("guidance 100", "sds"): "SDS (guidance 100, t from 20)",
    ("without pull", "cds"): "CDS without `pull`, 360 noises (guidance 10 to 1)",
}


SAME = {  # the same 16 captions, seed 0, 400 steps
    ("400 steps", "cds"): "CDS with `pull`", ("400 steps", "sds"): "SDS", ("400 steps", "vdm"): "VDM",
    ("400 steps", "sdi"): "SDI", ("derivation alone", "vdm"): "VDM alone, without Picture Loss",
    ("400 steps", "vsd"): "VSD", ("400 steps", "ism"): "ISM", ("400 steps", "nfsd"): "NFSD",
    ("400 steps", "csd"): "CSD", ("400 steps", "sctd"): "SCTD",
}  # fmt: skip


@table
def losses_short() -> str:
    """267 steps, the first 32 captions, against SDS."""
    first = list(dict.fromkeys(row["caption"] for row in rows("losses")))[:32]
    chosen = [
        row for row in rows("losses") if row["config"] == "default" and row["caption"] in first
    ]
    by_loss = groups(chosen)
    lines = []
    for entry in sorted(summary(chosen), key=lambda entry: -entry["iou"]):
        key, against = (entry["config"], entry["loss"]), ["", ""]
        if key[1] != "sds":
            pairs = [
                (paired(by_loss[key], by_loss["default", "sds"], name), n)
                for name, n in (("iou", 3), ("psnr", 2))
            ]
            against = [change(found[0], found[1], digits) for found, digits in pairs if found]
        lines.append([LOSSES[key], *scores(entry), *against])
    return grid(("Loss", *SCORES, "IoU against SDS", "PSNR against SDS, dB"), lines)


@table
def losses_readme() -> str:
    """The same rows, a few of their columns."""
    titles, _, *lines = [line.strip("| ").split(" | ") for line in losses_short().splitlines()]
    chosen = [titles.index(name) for name in ("Loss", "IoU", "PSNR, dB", "False alpha", "Janus")]
    return grid([titles[i] for i in chosen], ([line[i] for i in chosen] for line in lines))


@table
def losses_all() -> str:
    found = {(e["config"], e["loss"]): e for e in summary(rows("losses"))}
    others = {(e["config"], e["loss"]): e for e in summary(rows("others"))}
    lines = []
    for key, name in LOSSES.items():
        entries = [(name, found[key])]
        if key in others:
            entries.append(("the same, other captions", others[key]))
        lines += [[n, e["steps"], e["objects"], *scores(e)] for n, e in entries]
    return grid(("Loss", "Steps", "Objects", *SCORES), lines)


SOFT = 0.8  # of the truth's edges
STARTS = {"ball": "a random ball", "text": "Init from Text"}


@table
def text_start() -> str:
    """What begins from a ball and from a text, and what that start scores alone."""
    found = rows("text")
    if not found:
        return UNMEASURED
    alone = [row for row in found if row["config"] == "text" and row["loss"] == "sds"]
    (start,) = summary(
        [row | {"iou": row["iou_start"], "psnr": row["psnr_start"]} for row in alone]
    )
    lines = []
    for entry in sorted(summary(found), key=lambda e: (e["loss"], e["config"])):
        kind = STARTS[entry["config"].split(",")[0]]
        own = [r for r in found if (r["loss"], r["config"]) == (entry["loss"], entry["config"])]
        edges = [row["edges"] for row in own if row["edges"] is not None]
        lines.append([
            kind, entry["loss"].upper(), entry["steps"], entry["objects"],
            spread(entry["iou"], entry["iou_error"], 3),
            spread(entry["psnr"], entry["psnr_error"], 1),
            _to_90(own), percent(entry["r_precision_all"]), f"{statistics.median(edges):.2f}",
            percent(sum(edge < SOFT for edge in edges) / len(edges)),
        ])  # fmt: skip
    scores = [
        spread(start["iou"], start["iou_error"], 3),
        spread(start["psnr"], start["psnr_error"], 1),
    ]
    lines.append(["Init from Text", "none", 0, start["objects"], *scores, "", "", "", ""])
    titles = ("From", "Loss", "Steps", "Objects", "IoU", "PSNR, dB", "Steps to IoU 0.90")
    return grid((*titles, "Strict R-precision", "Edges", "Soft"), lines, texts=2)


def _to_90(found: list[Row]) -> str:
    """Mean steps of those that start below it and get there, and how many do of how many."""
    below = [row for row in found if row["iou_start"] < 0.9]
    there = [steps for row in below if (steps := row.get("steps_to_iou90")) is not None]
    return f"{sum(there) / len(there):.0f} ({len(there)} of {len(below)})"


@table
def losses_same() -> str:
    by_loss = groups(rows("losses"))
    captions = {row["caption"] for row in by_loss["400 steps", "sctd"]}
    lines = []
    for key, name in SAME.items():
        (entry,) = summary(
            [row for row in by_loss[key] if row["caption"] in captions and row["seed"] == 0]
        )
        trained = (
            f", {whole(entry['evaluations_trained'])} of them trained"
            if entry["evaluations_trained"]
            else ""
        )
        values = [f"{entry['iou']:.3f}", f"{entry['psnr']:.1f}", percent(entry["false_alpha"], 1)]
        lines.append(
            (entry["iou"], [name, entry["objects"], *values, whole(entry["evaluations"]) + trained])
        )
    ordered = [line for _, line in sorted(lines, key=lambda line: -line[0])]
    return grid(("Loss", "Objects", "IoU", "PSNR, dB", "False alpha", "Denoiser rows"), ordered)


def _claimed(difference: float, error: float | None) -> str:
    """Both to the error's second significant digit."""
    if not error:
        return change(difference, None, 0)
    return change(difference, error, max(0, 1 - math.floor(math.log10(error))))


def claims_of(paper: str) -> str:
    results = {name: {"rows": rows(name)} for name in claims.EXPERIMENTS}
    lines = []
    for claim in claims.CLAIMS:
        if claim.paper != paper:
            continue
        found = claim.difference(results[claim.experiment]["rows"])
        if found is None:
            assert claim.experiment in claims.AWAITED, claim
            measure = claims.NAMES[claim.measure] + ("" if claim.larger else " (less is better)")
            lines.append([claim.text, measure, "", "", "", "", "not measured"])
            continue
        first, second = claim.means(results[claim.experiment]["rows"])
        difference, error, count = found
        text = _claimed(difference, error)
        measure = claims.NAMES[claim.measure] + ("" if claim.larger else " (less is better)")
        outcome = claims.verdict(difference, error, count, claim.larger)
        lines.append([claim.text, measure, f"{first:.3g}", f"{second:.3g}", text, count, outcome])
    return grid(
        ("Claim", "Measure", "First", "Second", "Difference", "Captions", "Verdict"), lines, texts=2
    )


@table
def claims_consistent3d() -> str:
    return claims_of("Consistent3D")


@table
def claims_dreammapping() -> str:
    return claims_of("DreamMapping")


@table
def claims_others() -> str:
    return claims_of("(others)")


@table
def claims_steps() -> str:
    return claims_of("(steps)")


def sweep(name: str, base: str) -> str:
    """A sweep's configs, and each one's paired difference from ``base``."""
    by_config = groups(rows(name))
    lines = []
    for entry in summary(rows(name)):
        key = (entry["config"], entry["loss"])
        against = ["", ""]
        if entry["config"] != base:
            pairs = [
                (paired(by_config[key], by_config[base, key[1]], n), d)
                for n, d in (("iou", 3), ("psnr", 2))
            ]
            against = [change(found[0], found[1], digits) for found, digits in pairs if found]
        values = [f"{entry['iou']:.3f}", f"{entry['psnr']:.1f}", f"{entry['saturation']:.2f}"]
        lines.append([entry["config"], *values, percent(entry.get("janus"), 0), *against])
    titles = (
        "Setting",
        "IoU",
        "PSNR, dB",
        "Saturation",
        "Janus",
        f"IoU against {base}",
        "PSNR against it, dB",
    )
    return grid(titles, lines)


@table
def sweep_dca() -> str:
    return sweep("dca", "constant 1")


@table
def sweep_psi() -> str:
    return sweep("psi", "32-64, lr 3e-3, 1 update")


@table
def sweep_designs() -> str:
    return sweep("designs", "nonlinear")


@table
def sweep_views() -> str:
    return sweep("views", "view words")


OBJECTS = 32  # held-out captions that a quality is measured on


@table
def preset() -> str:
    """The blueprint's qualities, what they were from a random ball, and VDM with as many denoiser
    rows as standard had there.
    """
    sweeps = json.loads((HERE / "sweeps" / "quickstart.json").read_text(encoding="utf-8"))
    lines = []
    found = {entry["config"]: entry for entry in summary(rows("quickstart"))}
    for config in sweeps:
        entry = found[config["name"]]
        settings = [
            entry["steps"],
            config["set"].get("settings.views", 4),
            whole(config["set"].get("init.count", 20_000)),
        ]
        name = {"quickstart before": "VDM from a ball"}.get(entry["config"], entry["config"])
        name += "" if entry["objects"] == OBJECTS else f" ({entry['objects']} of them)"
        lines.append([name, *settings, *scores(entry)])
    return grid(("`quality`", "Steps", "Views", "Gaussians", *SCORES), lines)


@table
def preset_short() -> str:
    """The qualities, a few of the columns."""
    titles, _, *lines = [line.strip("| ").split(" | ") for line in preset().splitlines()]
    chosen = [titles.index(name) for name in ("`quality`", "Steps", "Gaussians", "IoU", "PSNR, dB")]
    return grid([titles[i] for i in chosen], ([line[i] for i in chosen] for line in lines[:3]))


@table
def prior() -> str:
    found = result("prior")
    names = {"category": "Object", "color": "Colour", "finish": "Pattern", "view": "View word"}
    kinds = {"prior": "Samples of the prior", "judge_on_fresh_renders": "True renders"}
    return grid(
        ("", *names.values()),
        ([text, *(percent(found[k][n], 1) for n in names)] for k, text in kinds.items()),
    )


@table
def scenes() -> str:
    names = {
        "cds": "CDS with `pull` 3 (guidance 4 to 1)", "vdm": "VDM (guidance 6, then 3)",
        "vdm, 2,000 Gaussians per object": "VDM from 2,000 instead of 6,000 Gaussians an object",
        "sds": "SDS (guidance 6)",
    }  # fmt: skip
    found, lines = result("scene"), []
    first = [row["caption"] for row in found["sds"]["rows"]]
    for key, name in names.items():
        for few in (False, True):
            chosen = [row for row in found[key]["rows"] if not few or row["caption"] in first]
            if not few and len(chosen) == len(first):
                continue  # below, as one of those of the first scenes
            if few and key == "vdm, 2,000 Gaussians per object":
                continue
            values = [[row[k] for row in chosen] for k in ("psnr", "psnr_inward", "psnr_outward")]
            means = [f"{statistics.fmean(v):.1f}" for v in values]
            span = f"{min(values[0]):.1f} to {max(values[0]):.1f}"
            lines.append([name, len(chosen), means[0], span, *means[1:]])
    lines.sort(key=lambda line: -line[1])
    return grid(("Loss", "Scenes", "PSNR, dB", "from, to", "around", "in the middle"), lines)

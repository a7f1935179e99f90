"""Tables: published settings, the authors' own code beside ours, and growth."""

from __future__ import annotations

from quality_statistics import Row, groups, paired, summary
from table_format import (
    RESULTS,
    UNMEASURED,
    change,
    grid,
    percent,
    result,
    rows,
    spread,
    table,
    whole,
)

NAMES = {
    "sds": "SDS", "cds": "CDS", "vdm": "VDM", "ism": "ISM", "sctd": "SCTD", "vsd": "VSD",
    "csd": "CSD", "nfsd": "NFSD", "sdi": "SDI",
}  # fmt: skip
SETTINGS = {
    "as published": "as published",
    "400 steps": "suited to the prior",
    "default": "suited, doubled rates",
}


@table
def published() -> str:
    """Every loss with the settings of its authors' code, and with what suits the embedded prior."""
    if not (found := summary(rows("published"))):
        return UNMEASURED
    order = [*NAMES]
    found.sort(key=lambda e: (order.index(e["loss"]), [*SETTINGS].index(e["config"])))
    titles = (
        "Loss", "Settings", "Steps", "Objects", "IoU", "PSNR, dB", "False alpha",
        "Strict R-precision", "Edges", "Saturation", "Denoiser rows",
    )  # fmt: skip
    lines = []
    for entry in found:
        name = NAMES[entry["loss"]]
        if entry["loss"] == "vdm" and entry["config"] == "as published":
            name = "VDM alone, LucidDreamer's values"
        ratios = [f"{entry[key]:.2f}" if key in entry else "" for key in ("edges", "saturation")]
        lines.append(
            [
                name, SETTINGS[entry["config"]], entry["steps"], entry["objects"],
                spread(entry["iou"], entry["iou_error"], 3),
                spread(entry["psnr"], entry["psnr_error"], 1), percent(entry["false_alpha"], 1),
                percent(entry["r_precision_all"]), *ratios, whole(entry["evaluations"]),
            ]
        )  # fmt: skip
    return grid(titles, lines, texts=2)


@table
def growth() -> str:
    """Densification by gradients and as a Markov chain, against as many Gaussians throughout."""
    if not (known := rows("growth")):
        return UNMEASURED
    by_config = {config: members for (config, _), members in groups(known).items()}
    base, lines = "2,000 throughout", []
    for entry in summary(known):
        against = ["", ""]
        if entry["config"] != base:
            pairs = [
                (paired(by_config[entry["config"]], by_config[base], name), digits)
                for name, digits in (("iou", 3), ("psnr", 2))
            ]
            against = [change(pair[0], pair[1], digits) for pair, digits in pairs if pair]
        values = [f"{entry['iou']:.3f}", f"{entry['psnr']:.1f}", percent(entry["r_precision_all"])]
        values += [f"{entry['edges']:.2f}" if "edges" in entry else ""]
        at_end = whole(entry["gaussians"]) if "gaussians" in entry else ""
        lines.append([entry["config"], entry["objects"], at_end, *values, *against])
    titles = (
        "Gaussians", "Objects", "At the end", "IoU", "PSNR, dB", "Strict R-precision", "Edges",
        f"IoU against {base}", "PSNR against it, dB",
    )  # fmt: skip
    return grid(titles, lines)


@table
def peers() -> str:
    """Milliseconds a step of the authors' guidance code and of the pack."""
    if not (RESULTS / "peers.json").is_file():
        return UNMEASURED
    lines = [
        [
            row["row"],
            f"{row['repository']} {row['commit'][:7]}",
            f"{row['ms']['theirs']:.1f}",
            f"{row['ms']['ours']:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in result("peers")["rows"]
    ]
    return grid(("Step", "Authors' code", "theirs, ms", "ours, ms", "ratio"), lines, texts=2)


@table
def peers_quality() -> str:
    """The authors' guidance inside the pack's loop, and the pack's own loss there."""
    by_group = groups(rows("peers"))
    if not by_group:
        return UNMEASURED
    lines = []
    for (config, loss), ours in by_group.items():
        kind = loss.removesuffix("_ours")
        theirs = by_group.get((config, f"{kind}_official"))
        if kind == loss or not theirs:
            continue
        cells: list[object] = []
        for name, digits in (("iou", 3), ("psnr", 2)):
            found = paired(ours, theirs, name)
            assert found, (config, loss)
            cells += [f"{_mean(side, name):.{digits}f}" for side in (theirs, ours)]
            cells.append(change(found[0], found[1], digits))
        for name in ("r_precision_all", "edges"):
            values = [_mean(side, name) for side in (theirs, ours)]
            form = (lambda v: percent(v)) if name == "r_precision_all" else (lambda v: f"{v:.2f}")
            cells.append(", ".join(form(value) for value in values))
        lines.append([NAMES[kind], config, len(ours), *cells])
    titles = (
        "Loss", "Settings", "Objects", "IoU theirs", "ours", "difference", "PSNR theirs, dB",
        "ours", "difference", "Strict R-precision: theirs, ours", "Edges: theirs, ours",
    )  # fmt: skip
    return grid(titles, lines, texts=2)


def _mean(members: list[Row], name: str) -> float:
    values = [row[name] for row in members if row.get(name) is not None]
    return sum(values) / len(values) if values else float("nan")

"""Writes the tables of docs/ and README that come from tests/benchmarks/results/.

    python tests/benchmarks/tables.py            all of them, in place
    python tests/benchmarks/tables.py NAME ...   prints these

In a page such a table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; what is between
them is replaced.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import claims
from quality_statistics import Row, groups, paired, summary
from results_files import read

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
RESULTS = HERE / "results"
BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {}

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
    ("guidance 100", "sds"): "SDS (guidance 100, t from 20: as published)",
    ("without pull", "cds"): "CDS without `pull`, 360 noises (guidance 10 to 1)",
}
SAME = {  # the same 16 captions, seed 0, 400 steps
    ("400 steps", "cds"): "CDS with `pull`", ("400 steps", "sds"): "SDS", ("400 steps", "vdm"): "VDM",
    ("400 steps", "sdi"): "SDI", ("derivation alone", "vdm"): "VDM without its second part",
    ("400 steps", "vsd"): "VSD", ("400 steps", "ism"): "ISM", ("400 steps", "nfsd"): "NFSD",
    ("400 steps", "csd"): "CSD", ("400 steps", "sctd"): "SCTD",
}  # fmt: skip
FAMILIES = {
    ("sd21", "whole"): "Stable Diffusion 2.1", ("sd21", "low_vram"): "the same with `low_vram`",
    ("sd15", "comfyui"): "Stable Diffusion 1.5", ("sdxl", "comfyui"): "SDXL",
    ("sd3", "comfyui"): "Stable Diffusion 3-medium",
}  # fmt: skip


def table(make: Callable[[], str]) -> Callable[[], str]:
    TABLES[make.__name__.replace("_", "-")] = make
    return make


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows(name: str) -> list[Row]:
    return read(RESULTS / f"quality_{name}.json")["rows"]


def grid(titles: Sequence[str], lines: Iterable[Sequence[object]], texts: int = 1) -> str:
    """A Markdown table; the first columns are texts, the others numbers, so to the right."""
    head = [f"| {' | '.join(titles)} |", "|" + "---|" * texts + "--:|" * (len(titles) - texts)]
    return "\n".join(head + ["| " + " | ".join(map(str, line)) + " |" for line in lines]) + "\n"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def spread(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def change(value: float, error: float | None, digits: int) -> str:
    sign = "+" if value >= 0 else "-"
    return f"{sign} {abs(value):.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def percent(value: float | None, digits: int = 0) -> str:
    """A share of 0..1; 0 % and 100 % without digits."""
    if value is None:
        return ""
    text = f"{100 * value:.{digits}f}"
    return f"{float(text):g} %" if float(text) in (0, 100) else f"{text} %"


def scores(entry: Row) -> list[str]:
    strict = percent(entry["r_precision_all"])
    return [
        spread(entry["iou"], entry["iou_error"], 3), spread(entry["psnr"], entry["psnr_error"], 1),
        percent(entry["false_alpha"], 1), f"{percent(entry['r_precision'], 1)} ({strict})",
        percent(entry["janus"], 1), whole(entry["evaluations"]),
    ]  # fmt: skip


SCORES = ("IoU", "PSNR, dB", "False alpha", "R-precision (strict)", "Janus", "Denoiser rows")


@table
def image_models() -> str:
    """What tests/comfyui/test_families.py found of each family."""
    lines = []
    for row in read(RESULTS / "image_models.json")["rows"]:
        channels, pixels, dimensions = row["latent"]
        latent = "pixels" if pixels == 1 else f"{channels} x 1/{pixels}"
        short, long, none = row["tokens"]
        losses = ", ".join(name for name in ("SDS", "CDS", "VDM") if name in row["moved"])
        lines.append(
            [
                row["model"],
                row["class"],
                row["predicts"] + (f", {row['levels']} levels" if row["levels"] else ""),
                latent + (", one frame" if dimensions == 3 else ""),
                str(short) if short == long == none else f"{short}, {long}, {none}",
                f"{row['apart']:.0e}",
                losses,
            ]
        )
    titles = ("Model", "ComfyUI's class", "Predicts", "Latents", "Tokens", "Apart", "Moved by")
    return grid(titles, lines)


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
        assert found, claim
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


@table
def gpu_server() -> str:
    """Every case that was run in a ComfyUI server on a GPU, by the server's flags."""
    lines = []
    for file in sorted((HERE.parent / "gpu" / "results").glob("*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            server = row["server"]
            flags = server["flags"] if server["flags"] == "default" else f"`{server['flags']}`"
            device = server["device"].removeprefix("cuda:0 ").split(" : ")[0]
            outcome = "passed" if row["ok"] else "**failed**"
            lines.append(
                [flags, row["case"], outcome, f"{row['seconds']:.0f}", device, server["pack"]]
            )
    return grid(("Flags", "Case", "Outcome", "Seconds", "Device", "Commit"), lines)


@table
def gpu_models() -> str:
    """Milliseconds of a step of the same weights by the way they were loaded."""
    titles = {
        "folder": "folder",
        "checkpoint": "checkpoint",
        "model": "MODEL",
        "model_lora": "MODEL with a LoRA",
    }
    lines = []
    for file in sorted((HERE.parent / "gpu" / "results").glob("*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            if row["case"] == "models" and row["ok"]:
                found = row["figures"]
                for name, title in titles.items():
                    times = [
                        found.get(f"{name}_{kind}", {}).get("ms", "") for kind in ("plain", "long")
                    ]
                    lines.append([row["server"]["flags"], title, *times])
    return grid(("Flags", "Loaded as", "90 steps", "200 steps"), lines)


OBJECTS = 32  # held-out captions that a quality is measured on


@table
def preset() -> str:
    """The blueprint's qualities, and VDM with as many denoiser rows as the middle one."""
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
        name = {"quickstart before": "for comparison: VDM"}.get(entry["config"], entry["config"])
        name += "" if entry["objects"] == OBJECTS else f" ({entry['objects']} of them)"
        lines.append([name, *settings, *scores(entry)])
    return grid(("`quality`", "Steps", "Views", "Gaussians", *SCORES), lines)


@table
def preset_short() -> str:
    """The four qualities, a few of the columns."""
    titles, _, *lines = [line.strip("| ").split(" | ") for line in preset().splitlines()]
    chosen = [titles.index(name) for name in ("`quality`", "Steps", "Gaussians", "IoU", "PSNR, dB")]
    return grid([titles[i] for i in chosen], ([line[i] for i in chosen] for line in lines[:4]))


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


@table
def first_run() -> str:
    found = result("first_run")["seconds"]
    parts = {
        "everything": found["wall"],
        "environment, PyTorch, ComfyUI, packages": found["venv_and_nox"] + found["setup"],
        "ComfyUI's start and the prior's loading": found["server_start"] + found["load"],
        "200 steps": found["optimize"],
        "files, measuring against the truth": found["export"] + found["measure"],
    }
    return grid(("", "Seconds"), ([name, f"{seconds:.0f}"] for name, seconds in parts.items()))


@table
def step() -> str:
    cases = result("step")["cases"]
    lines = [
        [f"step, {case['loss'].upper()}", f"{case['naive']['step_ms']:.1f}", f"{case['ours']['step_ms']:.1f}",
         f"{case['speedup']:.2f}", ""]
        for case in cases
    ]  # fmt: skip
    naive, ours = cases[0]["naive"], cases[0]["ours"]
    names = {
        "encoder": "encoder, forward and backward",
        "unet": "guided U-Net, 8 rows",
        "render": "splats, both passes",
    }
    for key, name in names.items():
        a, b = naive["parts_ms"][key], ours["parts_ms"][key]
        shares = (
            f"{naive['share'][key]:.2f}, now {ours['share'][key]:.2f}"
            if key in ours["share"]
            else ""
        )
        work = f" ({cases[0]['tflop'][key]:.1f} TFLOP)" if key in cases[0]["tflop"] else ""
        lines.append([name + work, f"{a:.1f}", f"{b:.1f}", f"{a / b:.1f}", shares])
    return grid(("ms", "naive loop", "the pack", "ratio", "share of the matrix ceiling"), lines)


@table
def step_growth() -> str:
    lines = [
        [f"{case['views']} views, {whole(case['gaussians'])} Gaussians", f"{case['naive']['step_ms']:.1f}",
         f"{case['ours']['step_ms']:.1f}", f"{case['speedup']:.2f}"]
        for case in sorted(result("step_growth")["cases"], key=lambda case: (case["gaussians"], case["views"]))
    ]  # fmt: skip
    return grid(("SDS, ms a step", "naive loop", "the pack", "ratio"), lines)


@table
def step_memory() -> str:
    whole_batch, one = result("step")["cases"][0], result("step_memory")["cases"][0]
    kinds = (
        ("naive loop", whole_batch["naive"]), ("the pack", whole_batch["ours"]),
        ("the pack, `pictures_at_once` 1", one["ours"]),
    )  # fmt: skip
    lines = [
        [
            name,
            f"{k['memory']['allocated_gb']:.1f}",
            f"{k['memory']['reserved_gb']:.1f}",
            f"{k['step_ms']:.0f}",
        ]
        for name, k in kinds
    ]
    return grid(("A step of SDS", "GB of tensors", "GB held by PyTorch", "ms"), lines)


@table
def families() -> str:
    found = {
        (r["family"], r["way"], r["views"], r["size"], r["pictures_at_once"]): r
        for r in result("families")["rows"]
    }
    cases = {
        (4, 512, 0): "4 views of 512", (4, 512, 1): "4 views, `pictures_at_once` 1", (1, 512, 1): "1 view of 512",
        (1, 1024, 1): "1 view of 1024",
    }  # fmt: skip
    lines = [
        [
            name,
            *(
                f"{found[key + case]['step_ms']:.0f}, {found[key + case]['allocated_gb']:.1f}"
                for case in cases
            ),
        ]
        for key, name in FAMILIES.items()
    ]
    return grid(("a step: ms, GB", *cases.values()), lines)


@table
def recipes() -> str:
    lines = []
    for name in ("dreammapping", "consistent3d"):
        found = result(f"recipes_{name}")["recipes"][name]
        for place, stage in enumerate(found["stages"], 1):
            count = whole(stage["gaussians"])
            what = f"`{name}`, stage {place}: {stage['loss']}"
            lines.append(
                [what, whole(stage["steps"]), stage["views"], count, f"{stage['whole']:.0f}"]
            )
    return grid(("Run", "Steps", "Views", "Gaussians at most", "Seconds"), lines)


@table
def rasterize() -> str:
    lines = []
    for case, backends in result("rasterize")["cases"].items():
        _, count, size = case.split("x")
        times = [
            f"{backends[b]['min_ms']:,.1f}" if b in backends else ""
            for b in ("reference", "torch", "numba")
        ]
        ratio = f"{backends['torch']['min_ms'] / backends['numba']['min_ms']:.1f}"
        lines.append([f"{whole(int(count))}, {size} px", *times, ratio])
    return grid(
        ("Gaussians, picture", "reference, ms", "torch, ms", "numba, ms", "torch / numba"), lines
    )


@table
def rasterize_cuda() -> str:
    lines = []
    for name in ("rasterize_cuda_128", "rasterize_cuda"):
        found = result(name)
        for count, backends in found["cases"].items():
            times = [
                f"{backends[b]['total_ms']:.2f}" if b in backends else ""
                for b in ("torch", "gsplat", "triton")
            ]
            ratio = f"{backends['triton']['total_ms'] / backends['gsplat']['total_ms']:.2f}"
            memory = f"{backends['gsplat']['peak_mb']:,.0f}, {backends['triton']['peak_mb']:,.0f}"
            lines.append([f"{whole(int(count))}, {found['size']} px", *times, ratio, memory])
    titles = ("Gaussians, picture", "torch, ms", "gsplat, ms", "triton, ms", "triton / gsplat")
    return grid((*titles, "MB: gsplat, triton"), lines)


@table
def files() -> str:
    lines = [
        [name, whole(f["bytes"] / 1e6), f"{f['read_ms']:.0f}", f"{f['load_ms']:.0f}", f"{f['ratio']:.1f}",
         f"{f['cold_ratio']:.1f}", f"{f['plain_ratio']:.1f}"]
        for name, f in result("files")["formats"].items()
    ]  # fmt: skip
    return grid(
        ("Format", "MB", "bytes alone, ms", "load, ms", "load / bytes", "cold", "plain"), lines
    )


@table
def meshes() -> str:
    names = ("chamfer_percent", "normals", "psnr", "psnr_object", "seconds")
    objects = result("mesh")["objects"]

    def values(found: Sequence[dict[str, Any]]) -> Iterator[str]:
        for name, digits in zip(names, (2, 3, 1, 1, 0), strict=True):
            yield f"{statistics.fmean(o[name] for o in found):.{digits}f}"

    lines = [[n, *values([o]), "yes" if o["watertight"] else "no"] for n, o in objects.items()]
    lines.append(["**mean**", *values(list(objects.values())), ""])
    titles = (
        "Toy",
        "chamfer, %",
        "normals, cosine",
        "PSNR, dB",
        "PSNR on the object, dB",
        "seconds",
        "watertight",
    )
    return grid(titles, lines)


@table
def refine_mesh() -> str:
    measures = (("chamfer", 2), ("bias", 2), ("normals", 3), ("iou", 3), ("psnr", 2))
    lines = []
    for entry in result("refine_mesh")["summary"]:
        start = [f"{entry[name]:.{digits}f}" for name, digits in measures]
        lines.append([f"{entry['config']}: as exported", entry["objects"], *start])
        for part, text in (
            ("geometry", "after the vertices"),
            ("texture", "after the colours too"),
        ):
            changed = [change(*entry[f"{name}_{part}"], digits) for name, digits in measures]
            lines.append([text, "", *changed])
    titles = (
        "Setting",
        "Objects",
        "chamfer, %",
        "signed distance, %",
        "normals, cosine",
        "IoU",
        "PSNR, dB",
    )
    return grid(titles, lines)


@table
def refine_splat() -> str:
    lines = []
    for name in ("painted", "grey_back"):
        damage = {"painted": "painted another colour", "grey_back": "back half grey"}[name]
        for row in result(f"refine_splat_{name}")["rows"]:
            states = [
                f"{row[s]['iou']:.3f}, {row[s]['psnr']:.1f} dB"
                for s in ("before", "after", "undamaged")
            ]
            lines.append([damage, row["caption"], *states])
    return grid(("Damage", "Prompt", "Before", "After", "Without damage"), lines, texts=2)


def filled(page: str) -> str:
    """The page with its tables made anew. Raises KeyError for one that there is not."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", page)


def main(words: Sequence[str]) -> None:
    for name in words:
        print(TABLES[name]())
    if not words:
        for file in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))):
            page = file.read_text(encoding="utf-8")
            if (new := filled(page)) != page:
                file.write_text(new, encoding="utf-8")
                print(f"wrote {file.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main(sys.argv[1:])

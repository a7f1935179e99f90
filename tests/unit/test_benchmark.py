"""The benchmark's statistics, its verdicts on the papers' claims, and its committed settings; no
object is made.
"""

import importlib
import json
import math
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distill3d.kernels.evaluate.judge import held_out_captions
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.toybox.captions import held_out

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def importable():
    """The scripts import each other as siblings."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def script(name):
    return importlib.import_module(name)


def committed(name):
    return script("results_files").read(BENCHMARKS / "results" / name)["rows"]


def row(value, loss="sds", caption="a", seed=0, config="default", **more):
    return {
        "config": config,
        "loss": loss,
        "caption": caption,
        "seed": seed,
        "steps": 100,
        "iou": value,
    } | more


def test_a_paired_difference_rests_on_the_captions_both_have():
    paired = script("quality_statistics").paired
    first = [
        row(0.5, caption="a"),
        row(0.7, caption="a", seed=1),
        row(0.9, caption="b"),
        row(0.1, caption="c"),
    ]
    second = [
        row(0.4, caption="a"),
        row(0.4, caption="a", seed=1),
        row(0.5, caption="b"),
        row(0.9, caption="d"),
    ]
    difference, error, captions = paired(first, second, "iou")
    # a's two seeds count as one
    assert (difference, captions) == (pytest.approx((0.2 + 0.4) / 2), 2)
    assert error == pytest.approx(0.1)  # of 0.2 and 0.4
    assert paired(first, [row(0.5, caption="d")], "iou") is None
    assert paired(first, second, "psnr") is None
    assert paired([row(0.5)], [row(0.4)], "iou")[1] is None


def test_spread_over_prompts_and_over_seeds_are_told_apart():
    rows = [row(c + 0.01 * s, caption=str(c), seed=s) for c in (0.2, 0.4, 0.6) for s in (0, 1)]
    (entry,) = script("quality_statistics").summary(rows)
    assert entry["iou"] == pytest.approx(0.405) and entry["iou_prompts"] == pytest.approx(0.2)
    assert entry["iou_seeds"] == pytest.approx(0.01 / math.sqrt(2), rel=1e-3)
    assert entry["iou_error"] == pytest.approx(0.2 / math.sqrt(3), rel=1e-3)
    assert "against_sds" not in entry


def test_summary_compares_every_loss_with_sds_of_its_config_or_the_only_one():
    rows = [
        row(0.4),
        row(0.6, "vdm"),
        row(0.7, "vdm", config="other"),
        row(0.1, "cds", caption="z"),
    ]
    by_group = {(e["config"], e["loss"]): e for e in script("quality_statistics").summary(rows)}
    assert by_group["default", "vdm"]["against_sds"]["iou"] == pytest.approx(0.2)
    assert by_group["other", "vdm"]["against_sds"] == {
        "iou": pytest.approx(0.3),
        "iou_error": None,
        "captions": 1,
    }
    assert by_group["default", "cds"]["against_sds"] == {}
    script("quality_statistics").table(list(by_group.values()))


@pytest.mark.parametrize(
    ("difference", "error", "captions", "larger", "expected"),
    [
        (0.3, 0.1, 12, True, "holds"),
        (0.2, 0.1, 12, True, "undecided"),
        (0.25, 0.1, 12, True, "holds"),
        (0.25, 0.1, 5, True, "undecided"),  # whose limit is 2.8 errors
        (-0.3, 0.1, 12, True, "does not hold"),
        (-0.3, 0.1, 12, False, "holds"),
        (0.3, 0.1, 12, False, "does not hold"),
        (-0.1, 0.1, 12, False, "undecided"),
        (0.3, 0.1, 4, True, "undecided"),
        (0.3, None, 1, True, "undecided"),
    ],
)
def test_a_claim_holds_beyond_students_limit(difference, error, captions, larger, expected):
    assert script("claims").verdict(difference, error, captions, larger) == expected


def rows_of(values, **more):
    return [row(value, caption=str(i), **more) for i, value in enumerate(values)]


def test_claims_are_judged_on_the_rows_of_their_experiment():
    claims = script("claims")
    rows = rows_of([0.5, 0.6, 0.7] * 2, config="800 steps") + rows_of(
        [0.6, 0.71, 0.8] * 2,
        loss="cds",
        config="without pull",
        consistency=0.9,
        consistency_fresh=0.2,
    )
    lines = claims.claims_table({"losses": {"rows": rows}}).splitlines()
    found = {line.split(" | ")[1]: line for line in lines[2:]}
    assert found["CDS gives better geometry than SDS"].endswith(
        "| +0.103 +- 0.0021 | 6 | **holds** |"
    )
    assert "| 0.9 | 0.2 | +0.7" in found["its fixed noise is why: CDS against CDS with fresh noise"]
    # no PSNR in these rows
    assert found["CDS gives better texture than SDS"].endswith("not measured |")
    assert found["VDM is faster than VSD with a LoRA"].endswith("not measured |")


def test_a_ratio_is_better_the_nearer_it_is_to_one():
    claims = script("claims")
    tame = rows_of([0.5] * 6, loss="vdm", config="linear decreasing", saturation=0.9)
    for i, wild in enumerate(rows_of([0.5] * 6, loss="vdm", config="constant 1")):
        tame.append(wild | {"saturation": 1.4 + 0.01 * i})
    (claim,) = [c for c in claims.CLAIMS if c.text.startswith("DCA") and "falling eta" in c.text]
    difference, error, count = claim.difference(tame)
    assert difference == pytest.approx(0.1 - 0.425) and count == 6
    assert claims.verdict(difference, error, count, claim.larger) == "holds"


def test_every_experiment_has_its_sweep_and_every_claim_its_runs():
    claims, plan = script("claims"), script("quality_plan")
    groups = {}
    for name in claims.EXPERIMENTS:
        configs = json.loads((BENCHMARKS / "sweeps" / f"{name}.json").read_text())
        groups[name] = {(c["name"], loss) for c in configs for loss in c["losses"]}
        for config in configs:
            for loss in set(config["losses"]) & set(plan.LOSSES):
                plan.build(loss, 100, "auto", config["set"])
        assert str(BENCHMARKS / "sweeps" / f"{name}.json").endswith(claims.command(name)[4])
    for claim in claims.CLAIMS:
        assert {claim.first, claim.second} <= groups[claim.experiment], claim


def captions(prompts, seed):
    return script("quality_plan").captions_of(
        SimpleNamespace(captions=None, prompts=prompts, caption_seed=seed)
    )


def test_settings_are_chosen_on_captions_that_none_is_measured_on():
    plan = script("quality_plan")
    tuning, known = captions(plan.TUNING_PROMPTS, plan.TUNING_SEED), set(plan.TUNING_CAPTIONS)
    assert tuning == held_out_captions(plan.TUNING_PROMPTS, plan.TUNING_SEED)
    for seed in (0, 1, 3, 11):
        measured = captions(60, seed)
        assert len(set(measured)) == 60 and not {caption.text for caption in measured} & known
        assert (
            all(held_out(caption) for caption in measured) and captions(32, seed) == measured[:32]
        )
    for name in ("tuning", "psi", "views"):
        rows = committed(f"quality_{name}.json")
        assert {row["caption"] for row in rows} <= known
    for name in ("losses", "dca", "designs", "quickstart"):
        rows = committed(f"quality_{name}.json")
        assert {row["caption"] for row in rows} <= {caption.text for caption in captions(60, 0)}
    rows = committed("quality_others.json")
    assert {row["caption"] for row in rows} == {caption.text for caption in captions(32, 11)}
    with pytest.raises(ValueError, match="--prompts 25: --caption-seed 7 has 24"):
        captions(plan.TUNING_PROMPTS + 1, plan.TUNING_SEED)
    with pytest.raises(ValueError, match=r"--prompts 5000: \d+ held-out captions could be drawn"):
        captions(5000, 0)


def test_committed_rows_were_made_with_the_present_settings_and_weights():
    """A default that changes leaves figures behind that nobody can make again: make them anew, or
    keep the old value in the sweep's file."""
    claims, plan = script("claims"), script("quality_plan")
    weights = plan.weights_of(SimpleNamespace(prior=BENCHMARKS.parents[1] / "models" / "toybox"))
    for name, arguments in (claims.EXPERIMENTS | {"quickstart": "--steps 200"}).items():
        words = shlex.split(arguments)
        steps = int(words[words.index("--steps") + 1])
        known = {}
        for config in json.loads((BENCHMARKS / "sweeps" / f"{name}.json").read_text()):
            for loss in config["losses"]:
                setup = plan.build(loss, config.get("steps", steps), "auto", config["set"])
                known[config["name"], loss] = plan.Task(
                    "", loss, None, 0, setup, weights
                ).fingerprint
        file = f"quality_{name}.json"
        rows = committed(file) if (BENCHMARKS / "results" / file).is_file() else []
        assert bool(rows) == (name not in claims.AWAITED), name
        assert all(known[row["config"], row["loss"]] == row["fingerprint"] for row in rows), name


def test_a_setup_of_vdm_is_vdm_and_then_pictures():
    """Every setting reaches the loss that has it now."""
    settings = script("two_parts").VDM(
        guidance=2.0, t_min=400, shared_t=False, clip=3.0, weight=2.0, psi_updates=4, refine_from=0.6,
        refine_steps=4, refine_guidance=1.5, refine_t_min=350, refine_t_max=900,
    )  # fmt: skip
    loss = settings.loss
    first, second = loss.losses
    # the clip came after the weight when rows were measured
    assert first == VDM(
        guidance=2.0, t_min=400, shared_t=False, clip=1.5, weight=2.0, psi_updates=4
    )
    assert second == Picture(
        guidance=1.5, steps=4, t_min=350, t_max=900, shared_t=False, clip=1.5, weight=2.0
    )
    assert tuple(loss.starts) == (0.0, 0.6) and loss.spans == ("whole run", "own share")
    assert replace(settings, refine_from=1.0).loss == first
    assert repr(settings).startswith("VDM(guidance=2.0, dca='linear'")


def test_rows_that_were_measured_otherwise_are_not_taken_for_the_same(tmp_path):
    rows_of, file = script("quality").rows_of, tmp_path / "rows.json"
    measured = {"views": "24", "dtype": "auto"}
    assert rows_of(None, measured) == rows_of(file, measured) == []
    file.write_text(json.dumps({"rows": [{"iou": 1.0}], "measured": measured}))
    assert rows_of(file, measured) == [{"iou": 1.0}]
    with pytest.raises(ValueError, match="has rows of --views 24, not 6"):
        rows_of(file, measured | {"views": "6"})
    for text in ("nonsense", "[]", "{}"):
        file.write_text(text)
        with pytest.raises(ValueError, match="is there, but no result of this script"):
            rows_of(file, measured)


def test_a_shrunk_result_has_the_same_rows_but_for_digits_and_curves(tmp_path):
    files, file = script("results_files"), tmp_path / "rows.json"
    rows = [
        row(1 / 3, caption=c, seed=s, fingerprint="f", steps_to_iou80=None)
        for c in "ab"
        for s in (0, 1)
    ]
    rows.append(row(0.5, "vdm", fingerprint="g", diverged=7, curve={"step": [1]}))
    file.write_text(json.dumps({"rows": rows, "machine": "here", "summary": []}))
    files.main([str(file)])
    shrunk = files.read(file)
    assert shrunk["machine"] == "here" and "summary" not in shrunk and "tables" not in shrunk
    kept = [{k: v for k, v in r.items() if v is not None and k != "curve"} for r in rows]
    assert shrunk["rows"] == [r | {"iou": float(f"{r['iou']:.6g}")} for r in kept]
    again = file.read_text()
    files.main([str(file)])
    assert file.read_text() == again
    assert script("quality").rows_of(file, {}) == shrunk["rows"]


@pytest.mark.nightly(reason="a benchmark, run as a program")
def test_an_interrupted_benchmark_ends(tmp_path):
    """Its list of tasks is larger than a pipe takes, so most of it still waits in the queue."""
    tmp_path.joinpath("slow.py").write_text(
        "import time\n\n\ndef Slow(options, device):\n    time.sleep(600)\n"
    )
    tmp_path.joinpath("run.py").write_text("""
import argparse, os, signal, sys, threading
sys.path += sys.argv[1:]
import quality, quality_plan, slow

if __name__ == "__main__":
    # a shell's background job ignores Ctrl-C, and hands that on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = argparse.Namespace(device="cpu", threads=1, jobs=1, bench=slow.Slow)
    setup = quality_plan.build("vdm", 10, "auto", {})
    captions = quality_plan.captions_of(argparse.Namespace(captions=None, caption_seed=0, prompts=60))
    tasks = [quality_plan.Task("", "vdm", c, s, setup, "") for s in range(5) for c in captions]
    threading.Timer(6, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    for _ in quality.outcomes(options, tasks, float("inf")):
        pass
""")
    command = [sys.executable, str(tmp_path / "run.py"), str(BENCHMARKS), str(tmp_path)]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=BENCHMARKS.parents[1]
    )
    assert "KeyboardInterrupt" in ended.stderr and ended.returncode != 0


def test_scenes_were_measured_with_the_settings_that_the_script_has():
    rows = json.loads((BENCHMARKS / "results" / "scene.json").read_text())
    losses = script("scene").SCENE_LOSSES
    assert {"cds", "vdm", "sds"} <= rows.keys()
    for name in ("cds", "vdm", "sds"):
        assert rows[name]["loss"] == repr(losses[name])


def test_a_curve_reaches_a_level_between_its_points():
    reached = script("quality_score").reached
    assert reached([10, 20, 30], [0.2, 0.6, 0.9], 0.8) == pytest.approx(20 + 10 * 2 / 3)
    assert reached([10, 20], [0.9, 0.95], 0.8) == 10
    assert reached([10, 20], [0.2, 0.6], 0.8) is None


class Network(nn.Linear):
    def forward(self, z, t):
        output = type("Output", (), {})()
        output.sample = super().forward(z)
        return output


def test_rows_through_the_network_are_counted_with_and_without_gradient():
    network = Network(2, 2)
    counts = script("quality_score").counted(network)
    with torch.no_grad():
        network(torch.zeros(4, 2), 0)
    network(torch.zeros(3, 2), 0)
    assert counts == {"all": 7, "trained": 3}


def test_guidance_of_a_fixed_noise_agrees_with_itself_and_of_a_fresh_one_does_not():
    from distill3d.kernels.losses.base import Views
    from distill3d.kernels.losses.cds import CDS
    from distill3d.kernels.losses.sds import SDS
    from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture

    agreement, shape = script("quality_score").agreement, (1, 16, 16)
    data = Mixture(torch.zeros(1, *shape), torch.full((1, 1, 1, 1), 4.0), torch.ones(1))
    prior = GaussianMixturePrior({"a": data})
    views = Views(prior.embed(["a"] * 2), prior.embed([""] * 2), None, 10, 100)
    latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    cds, sds = CDS(guidance_start=1, guidance_end=1), SDS(guidance=1)
    state = cds.start(prior, shape, torch.Generator().manual_seed(1)).state()
    fixed, fresh, random = (
        agreement(loss, prior, latents, views, known, 3)
        for loss, known in ((cds, state), (cds, None), (sds, {}))
    )
    assert fixed > 0.95 and abs(fresh) < 0.3 and abs(random) < 0.3

"""The nodes in a running ComfyUI: what they declare, that they are pure, how they end."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from harness import prompts
from harness.nodes import (
    PACK,
    columns,
    declared_inputs,
    defaults,
    fresh_seed,
    newest,
    node,
    optimize,
    record,
    saved,
    succeeded,
)
from harness.prompts import BLUEPRINTS, WITH_SPLAT, WORKFLOWS

OWN_TYPES = {
    "DISTILL3D_PRIOR",
    "DISTILL3D_PROMPTS",
    "DISTILL3D_CAMERAS",
    "DISTILL3D_GAUSSIANS",
    "DISTILL3D_LOSS",
    "DISTILL3D_SCORER",
    "DISTILL3D_DEGRADATION_MAP",
    "DISTILL3D_LEARNING_RATES",
    "DISTILL3D_PENALTIES",
    "DISTILL3D_DENSIFICATION",
    "DISTILL3D_REFINING",
    "DISTILL3D_REFERENCES",
    "DISTILL3D_RUN_OPTIONS",
    "DISTILL3D_MESH_PENALTIES",
}
MESH_FILE = "FILE_3D_GLB,FILE_3D_OBJ,FILE_3D_PLY,FILE_3D_STL,FILE_3D"
SPLAT_FILE = "FILE_3D_PLY,FILE_3D,FILE_3D_SPLAT,FILE_3D_SPZ,FILE_3D_GLB,FILE_3D_SPLAT_ANY"
LOSSES = ("VDMLoss", "CDSLoss", "SDSLoss", "PictureLoss")
SETTINGS_SOCKETS = {*prompts.SETTINGS, "mesh_penalties", "degradation_map"}


class TestDeclarations:
    def test_every_input_and_output_is_explained(self, pack):
        for name, info in pack.items():
            assert len(info["description"]) > 20, name
            for input, _, options in declared_inputs(info):
                assert len(options.get("tooltip", "")) > 15, f"{name}.{input}"
            for output, tooltip in zip(info["output_name"], info["output_tooltips"], strict=True):
                assert tooltip, f"{name} -> {output}"

    def test_every_number_has_a_range_that_holds_its_default(self, pack):
        for name, info in pack.items():
            for input, kind, options in declared_inputs(info):
                if kind in ("INT", "FLOAT"):
                    assert options["min"] <= options["default"] <= options["max"], f"{name}.{input}"

    def test_every_node_can_be_found_by_other_names(self, pack):
        assert all(info["search_aliases"] for info in pack.values())

    def test_whole_number_steps_do_not_shift_values(self, pack):
        """The page rounds an INT to min + k * step: with min 1 and step 1000 nobody could type
        4000.
        """
        for name, info in pack.items():
            for input, kind, options in declared_inputs(info):
                if kind == "INT":
                    step = options.get("step", 1)
                    assert options["min"] % step == 0 and options["default"] % step == 0, (
                        f"{name}.{input}"
                    )

    def test_steps_of_fractions_show_the_default_as_it_is(self, pack):
        """The page shows as many decimals as the step has: 1.97 with a step of 0.1 would look like
        2.0.
        """
        for name, info in pack.items():
            for input, kind, options in declared_inputs(info):
                if kind == "FLOAT":
                    decimals = max(0, -math.floor(math.log10(options["step"])))
                    assert math.isclose(round(options["default"], decimals), options["default"]), (
                        f"{name}.{input}"
                    )

    def test_newcomers_see_few_inputs(self, pack):
        for name, info in pack.items():
            plain = [
                input
                for input, kind, options in declared_inputs(info)
                if not options.get("advanced") and input not in SETTINGS_SOCKETS
            ]
            assert len(plain) <= 12, f"{name} shows {plain}"

    def test_sockets_are_the_packs_own_or_comfyuis(self, pack):
        native = {
            "STRING",
            "FLOAT",
            "INT",
            "BOOLEAN",
            "IMAGE",
            "MASK",
            "MESH",
            "SPLAT",
            "LOAD3D_CAMERA",
        }
        native |= {"FILE_3D_GLB", SPLAT_FILE, MESH_FILE}
        assert {kind for info in pack.values() for kind in info["output"]} <= OWN_TYPES | native


class TestDefaults:
    @pytest.mark.parametrize("loss", LOSSES)
    def test_run_to_the_end(self, comfyui, graph, loss):
        run = succeeded(comfyui.run(graph(loss)))
        assert np.isfinite(columns(saved(comfyui, run))).all()

    def test_embedded_prior_is_the_default(self, pack):
        assert defaults(pack[PACK + "LoadDiffusionPrior"])["model"] == "toybox (embedded)"

    def test_combined_losses_run_and_chain(self, comfyui, graph, object_info):
        prompt = graph()
        prompt["cds"] = node(object_info, "CDSLoss", guidance_start=10, guidance_end=10)
        prompt["sds"] = node(object_info, "SDSLoss", guidance=10)
        prompt["two"] = node(object_info, "CombineLosses", loss_a=["loss", 0], loss_b=["cds", 0])
        prompt["three"] = node(
            object_info, "CombineLosses", loss_a=["two", 0], loss_b=["sds", 0], weight_b=0.5
        )
        prompt["optimize"]["inputs"]["loss"] = ["three", 0]
        succeeded(comfyui.run(prompt))

    def test_perp_neg_guidance_by_view_and_cdss_own_options_run_and_change_the_result(
        self, comfyui, graph
    ):
        views = {
            "interpolate": True,
            "perp_neg": 1.0,
            "back_guidance": 0.5,
            "overhead_guidance": 0.8,
        }
        loss = {"noise_groups": 4, "shared_unconditional": True}
        clouds = [
            columns(
                saved(comfyui, succeeded(comfyui.run(graph("CDSLoss", prompts=prompts, loss=loss))))
            )
            for prompts in ({"interpolate": True}, views)
        ]
        assert all(np.isfinite(cloud).all() for cloud in clouds)
        assert not np.array_equal(*clouds)

    def test_whose_weights_and_where_from_change_what_perp_neg_does(self, comfyui, graph):
        given = {"perp_neg": 1.0, "negative": "a blue chair"}
        clouds = [
            columns(
                saved(comfyui, succeeded(comfyui.run(graph("CDSLoss", prompts=given | others))))
            )
            for others in ({}, {"perp_neg_weights": "threestudio"}, {"perp_neg_from": "negative"})
        ]
        assert all(np.isfinite(cloud).all() for cloud in clouds)
        assert len({cloud.tobytes() for cloud in clouds}) == 3

    def test_each_choice_of_the_settings_nodes_changes_the_result(self, comfyui, graph):
        smooth = {"lambda_tv_color": 1000.0}
        grown = {"densify_every": 1, "densify_stop": 1.0, "densify_grow": 0.2}
        clouds = [
            columns(saved(comfyui, succeeded(comfyui.run(graph(settings=settings)))))
            for settings in (
                {"densify": False},
                smooth | {"densify": False},
                smooth | {"densify": False, "tv_kind": "squared"},
                {"densify": False, "lambda_tv_depth": 1000.0},
                grown,
                grown | {"strategy": "MCMC"},
            )
        ]
        assert len({cloud.tobytes() for cloud in clouds}) == len(clouds)
        assert {len(cloud) for cloud in clouds[:4]} == {300}
        assert len(clouds[-1]) > 300

    def test_half_precision_runs(self, comfyui, graph):
        succeeded(comfyui.run(graph(prior={"precision": "bf16"})))


class TestPurity:
    def test_same_inputs_give_the_same_bytes_and_leave_the_start_alone(
        self, comfyui, graph, object_info
    ):
        prompt = graph()
        # Another restart_schedule makes ComfyUI run it again, on the very same cached start.
        prompt["again"] = optimize(object_info, "start", restart_schedule=True)
        prompt["save again"] = node(
            object_info, "SaveGaussians", gaussians=["again", 0], filename_prefix="nodes/again"
        )
        prompt["save start"] = node(
            object_info, "SaveGaussians", gaussians=["start", 0], filename_prefix="nodes/start"
        )
        run = succeeded(comfyui.run(prompt))
        assert saved(comfyui, run).read_bytes() == saved(comfyui, run, "save again").read_bytes()

        del prompt["optimize"], prompt["save"], prompt["again"], prompt["save again"]
        comfyui.free()
        fresh = succeeded(comfyui.run(prompt))
        assert (
            saved(comfyui, run, "save start").read_bytes()
            == saved(comfyui, fresh, "save start").read_bytes()
        )

    def test_changing_the_second_of_two_runs_only_the_second(self, comfyui, graph, object_info):
        prompt = graph(optimize={"seed": fresh_seed()})
        prompt["second"] = optimize(object_info, "optimize")
        prompt["save second"] = node(
            object_info, "SaveGaussians", gaussians=["second", 0], filename_prefix="nodes/second"
        )
        before = succeeded(comfyui.run(prompt))
        prompt["rates"] = node(object_info, "LearningRates", lr_colors=0.5)
        prompt["second"]["inputs"]["learning_rates"] = ["rates", 0]
        after = succeeded(comfyui.run(prompt))
        assert after.started("second") is not None
        assert after.started("optimize") is None
        second = [columns(saved(comfyui, run, "save second")) for run in (before, after)]
        assert not np.array_equal(*second)

        # without settings nodes, or with all of them as they are by default, the numbers are the same
        prompt |= {socket: node(object_info, kind) for socket, kind in prompts.SETTINGS.items()}
        prompt["second"]["inputs"] |= {socket: [socket, 0] for socket in prompts.SETTINGS}
        prompt["options"]["inputs"]["preview_every"] = 0
        # from the first's cached cloud, which two others have started from
        third = succeeded(comfyui.run(prompt))
        assert third.started("optimize") is None
        assert np.array_equal(second[0], columns(saved(comfyui, third, "save second")))

    def test_two_halves_of_a_schedule_equal_the_whole(self, comfyui, graph, object_info):
        prompt = graph(optimize={"steps": 4})
        half = {"steps": 2, "schedule_steps": 4}
        prompt["first"] = optimize(object_info, "start", **half)
        prompt["second"] = optimize(object_info, "first", **half)
        prompt["save halves"] = node(
            object_info, "SaveGaussians", gaussians=["second", 0], filename_prefix="nodes/halves"
        )
        run = succeeded(comfyui.run(prompt))
        assert saved(comfyui, run).read_bytes() == saved(comfyui, run, "save halves").read_bytes()

    def test_restarted_schedule_forgets_the_first_run(self, comfyui, graph, object_info):
        prompt = graph()
        prompt["second"] = optimize(object_info, "optimize", restart_schedule=True)
        prompt["save second"] = node(
            object_info,
            "SaveGaussians",
            gaussians=["second", 0],
            filename_prefix="nodes/restart",
            training=True,
        )
        run = succeeded(comfyui.run(prompt))
        assert record(saved(comfyui, run, "save second").with_suffix(".safetensors"))["step"] == 3


class TestEarlyEnd:
    def test_cancelled_run_goes_on_from_its_partial_result_as_if_nothing_had_been(
        self, comfyui, graph
    ):
        seed, steps = fresh_seed(), 25
        asked = []

        def cancel(run):
            if not asked and (progress := run.progress("optimize")) and progress[-1][0] >= 2:
                asked.append(progress)
                comfyui.interrupt(run.prompt_id)

        values = {"seed": seed, "schedule_steps": steps}

        def of(steps):
            return graph(optimize=values | {"steps": steps}, settings={"densify_every": 4})

        cancelled = comfyui.run(of(steps), on_event=cancel)
        assert cancelled.status == "interrupted"
        partial = newest(comfyui.output / "distill3d" / "partial", ".safetensors")
        assert np.isfinite(columns(partial.with_suffix(".ply"))).all()
        done = record(partial)["step"]
        assert 2 <= done < steps

        file = partial.relative_to(comfyui.output).as_posix()
        load = {"class_type": PACK + "LoadGaussians", "inputs": {"file": f"output/{file}"}}
        rest = succeeded(comfyui.run(of(steps - done) | {"start": load}))
        whole = succeeded(comfyui.run(of(steps)))
        assert saved(comfyui, rest).read_bytes() == saved(comfyui, whole).read_bytes()

    def test_an_autosave_is_there_during_a_run_and_its_end_afterwards(self, comfyui, graph):
        folder, seen = comfyui.output / "distill3d" / "autosave", set()
        before = set(folder.glob("*"))
        values = {"steps": 40, "seed": fresh_seed()}
        succeeded(
            comfyui.run(
                graph(optimize=values, settings={"autosave_every": 2}),
                on_event=lambda run: seen.update(file.name for file in folder.glob("*.ply")),
            )
        )
        (kept,) = (path for path in set(folder.glob("*.safetensors")) - before)
        assert len(seen - {path.name for path in before}) > 1
        assert record(kept)["step"] == 40


def test_presets_name_nothing_but_inputs_of_their_node(object_info):
    """And all of a node the same ones, so that the page knows which of them is set."""
    compared = 0
    for id, info in object_info.items():
        spec = info["input"].get("required", {}).get("preset") if "Distill3D" in id else None
        if spec is None:
            continue
        declared = {**info["input"]["required"], **info["input"].get("optional", {})}
        first, *others = (set(values) for values in spec[1]["distill3d_presets"].values())
        assert first <= declared.keys(), id
        assert all(each == first for each in others), id
        compared += 1
    assert compared > 8


def test_optimize_says_how_far_it_is(comfyui, graph):
    run = succeeded(
        comfyui.run(
            graph(optimize={"steps": 4, "seed": fresh_seed()}, settings={"preview_every": 1})
        )
    )
    assert run.progress("optimize")[-1] == (4, 4)
    assert len([preview for preview in run.previews if preview.node == "optimize"]) == 4


def test_every_node_occurs_in_a_workflow(pack):
    files = [*WORKFLOWS.glob("*.json"), *BLUEPRINTS.glob("*.json")]
    graphs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    graphs += [
        part for graph in graphs for part in graph.get("definitions", {}).get("subgraphs", [])
    ]
    shown = {node["type"] for graph in graphs for node in graph["nodes"]}
    assert set(pack) - WITH_SPLAT <= shown  # in a ComfyUI without SPLAT a workflow would miss those

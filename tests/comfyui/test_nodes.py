"""The nodes in a running ComfyUI: what they declare, what they refuse, that they are pure, what
they leave.
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import plyfile
import pytest
import trimesh
from harness.prompts import BLUEPRINTS, WITH_SPLAT, WORKFLOWS
from harness.server import PromptRefused
from tiny_prior import write_tiny_prior

PACK = "Distill3D_"
OWN_TYPES = {
    "DISTILL3D_PRIOR",
    "DISTILL3D_PROMPTS",
    "DISTILL3D_CAMERAS",
    "DISTILL3D_GAUSSIANS",
    "DISTILL3D_LOSS",
}
MESH_FILE = "FILE_3D_GLB,FILE_3D_OBJ,FILE_3D_PLY,FILE_3D_STL,FILE_3D"
SPLAT_FILE = "FILE_3D_PLY,FILE_3D,FILE_3D_SPLAT,FILE_3D_SPZ,FILE_3D_GLB,FILE_3D_SPLAT_ANY"
LOSSES = ("VDMLoss", "CDSLoss", "SDSLoss")
fresh_seed = itertools.count(1000).__next__  # for runs that ComfyUI must not answer from its cache


@pytest.fixture(scope="module")
def prior(comfyui):
    """The name of a diffusers folder with a tiny random prior, for runs whose result does not
    matter.
    """
    folder = comfyui.base / "models" / "diffusers" / "tiny" / "nested"
    if not folder.exists():
        write_tiny_prior(folder)
    return "tiny/nested"


@pytest.fixture(scope="module")
def pack(object_info):
    return {name: info for name, info in object_info.items() if name.startswith(PACK)}


@pytest.fixture
def graph(prior, object_info):
    """A function that gives the API form of prior -> Optimize -> Save Gaussians, with values set by
    node id.
    """

    def build(kind="VDMLoss", /, **values):
        nodes = {
            "prior": node(object_info, "LoadDiffusionPrior", model=prior),
            "prompts": node(object_info, "ViewPrompts", prior=["prior", 0]),
            "cameras": node(object_info, "OrbitCameras"),
            "start": node(object_info, "InitGaussians", count=300, scale=0.04, opacity=0.12),
            "loss": node(object_info, kind),
            "optimize": optimize(object_info, "start"),
            "save": node(
                object_info,
                "SaveGaussians",
                gaussians=["optimize", 0],
                filename_prefix="nodes/saved",
            ),
        }
        for id, changes in values.items():
            nodes[id]["inputs"] |= changes
        return nodes

    return build


def node(object_info, kind, **inputs):
    """One node in API form with every default filled in."""
    name = kind if kind in object_info else PACK + kind
    return {"class_type": name, "inputs": defaults(object_info[name]) | inputs}


def optimize(object_info, start, **inputs):
    links = {name: [name, 0] for name in ("prior", "prompts", "cameras", "loss")} | {
        "gaussians": [start, 0]
    }
    small = {"steps": 3, "views": 2, "preview_every": 1, "seed": 5}
    return node(object_info, "Optimize", **(links | small | inputs))


def declared_inputs(info):
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            yield name, spec[0], spec[1] if len(spec) > 1 else {}


def defaults(info):
    values = {}
    for name, kind, options in declared_inputs(info):
        if "default" in options:
            values[name] = options["default"]
        elif kind == "COMBO":
            values[name] = options["options"][0]
    return values


def saved(comfyui, run, id="save"):
    """The file a Save or Export node wrote."""
    (record,) = (file for file in run.files if file["node"] == id)
    return comfyui.output / record["subfolder"] / record["filename"]


def succeeded(run):
    assert run.status == "success", run.error
    return run


def columns(path):
    rows = plyfile.PlyData.read(str(path))["vertex"].data
    return np.stack([rows[name] for name in rows.dtype.names], -1)


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
                if not options.get("advanced")
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

    def test_half_precision_runs(self, comfyui, graph):
        succeeded(comfyui.run(graph(prior={"precision": "bf16"})))


class TestRefusals:
    @pytest.mark.parametrize(
        ("id", "values", "message"),
        [
            ("prompts", {"prompt": " \n"}, "prompt is empty"),
            ("prior", {"model": "nope"}, "nope"),
            ("start", {"count": 0}, "count"),
            (
                "cameras",
                {"elevation_min": 50.0},
                "elevation_min 50 is above elevation_max 45. Swap",
            ),
            ("cameras", {"distance_min": 3.0}, "distance_min 3 is above distance_max"),
            (
                "cameras",
                {"elevation_max": 91.0},
                "elevation_max is 91.0; choose a value within -90.0..90.0",
            ),
            ("loss", {"t_min": 900, "t_max_start": 500}, "t_min 900 is above t_max_start 500"),
            (
                "loss",
                {"refine_t_min": 900},
                "refine_t_min 900 does not lie between 0 and refine_t_max 800",
            ),
            ("optimize", {"steps": 0}, "steps is 0"),
            ("optimize", {"steps": 10, "schedule_steps": 5}, "schedule_steps is 5, but 10 steps"),
            ("optimize", {"background": "plaid"}, "background"),
            (
                "save",
                {"filename_prefix": "../../elsewhere"},
                "leads out of ComfyUI's output folder",
            ),
            ("save", {"filename_prefix": "folder/"}, "holds no file name"),
        ],
    )
    def test_before_anything_runs(self, comfyui, graph, id, values, message):
        with pytest.raises(PromptRefused) as refused:
            comfyui.queue(graph(**{id: values}))
        assert message in str(refused.value)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"t_start": 100, "t_end": 300}, "t_end 300 is above t_start 100"),
            ({"preset": "texture", "t_end": 600}, "t_end 600 is above t_start 500"),
            ({"t_max": 150}, "t_max 150"),
            ({"clip_start": 0.0}, "Set both to 0"),
            ({"perturb": 0}, "perturb is 0; it must be at least 1 step"),
            ({"perturb": -2}, "perturb is -2; choose a value within -1..999"),
            ({"guidance_start": -0.5}, "guidance_start is -0.5; it must lie between 0 and 1000"),
            (
                {"guidance_end": float("nan")},
                "guidance_end is nan; choose a value within -1.0..1000.0",
            ),
            ({"weight": float("nan")}, "weight is nan; choose a value within 0.0..1000000.0"),
            ({"pull": float("nan")}, "pull is nan; choose a value within 0.0..100.0"),
        ],
    )
    def test_of_a_cds_schedule_that_cannot_be(self, comfyui, graph, values, message):
        with pytest.raises(PromptRefused) as refused:
            comfyui.queue(graph("CDSLoss", loss=values))
        assert message in str(refused.value)

    def test_of_perp_neg_without_texts_of_views(self, comfyui, graph):
        with pytest.raises(PromptRefused) as refused:
            comfyui.queue(graph(prompts={"perp_neg": 1.0, "view_dependent": False}))
        assert "perp_neg is 1, but view_dependent is off" in str(refused.value)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"format": "fbx"}, "format is 'fbx'; choose one of 'glb', 'obj', 'ply', 'stl'"),
            ({"up_axis": "Z"}, "up_axis is Z, but glb files are Y up"),
            ({"texture_size": 8}, "texture_size is 8; choose 64..4096"),
            ({"texture_size": 5000}, "texture_size is 5000"),
            ({"normal_map": True}, "normal_map is on, but faces is 0"),
            ({"scale": -1.0}, "scale"),
            ({"filename_prefix": "../../elsewhere"}, "leads out of ComfyUI's output folder"),
            ({"filename_prefix": "/tmp/elsewhere"}, "leads out of ComfyUI's output folder"),
            (
                {"filename_prefix": "distill3d/%year%/../../../elsewhere"},
                "leads out of ComfyUI's output folder",
            ),
        ],
    )
    def test_of_meshes_that_cannot_be_written(self, comfyui, graph, object_info, values, message):
        prompt = {"start": graph()["start"]}
        prompt["mesh"] = node(object_info, "ExportMesh", gaussians=["start", 0], **values)
        with pytest.raises(PromptRefused) as refused:
            comfyui.queue(prompt)
        assert message in str(refused.value)

    def test_of_numbers_that_are_none(self, comfyui, graph):
        with pytest.raises(PromptRefused) as refused:
            comfyui.queue(graph(cameras={"elevation_min": math.nan}))
        assert "elevation_min is nan" in str(refused.value)

    @pytest.mark.parametrize(
        ("id", "values", "node", "message"),
        [
            ("prompts", {"prompt": "a red dragon"}, "ViewPrompts", "does not know 'dragon'"),
            ("optimize", {"image_size": 33}, "Optimize", "image_size 33 does not fit prior"),
            (
                "optimize",
                {"max_gaussians": 100},
                "Optimize",
                "max_gaussians is 100, but the cloud already holds 300",
            ),
        ],
    )
    def test_of_what_only_the_prior_can_tell(self, comfyui, graph, id, values, node, message):
        run = comfyui.run(graph(**{id: values}))
        assert run.status == "error"
        assert run.error.startswith(PACK + node) and message in run.error

    def test_of_a_folder_that_is_no_stable_diffusion(self, comfyui, graph, prior):
        folder = comfyui.base / "models" / "diffusers" / "hollow"
        folder.mkdir(exist_ok=True)
        folder.joinpath("model_index.json").write_text("{}")
        run = comfyui.run(graph(prior={"model": "hollow"}))
        assert run.status == "error"
        assert "hollow lacks unet/config.json" in run.error

    def test_of_prompts_that_another_prior_embedded(self, comfyui, graph, object_info, tmp_path):
        other = comfyui.base / "models" / "diffusers" / "other"
        if not other.exists():
            write_tiny_prior(other, width=48)
        prompt = graph()
        prompt["other"] = node(object_info, "LoadDiffusionPrior", model="other")
        prompt["prompts"]["inputs"]["prior"] = ["other", 0]
        run = comfyui.run(prompt)
        assert run.status == "error"
        assert "Link View Prompts and Optimize to the same prior" in run.error

    @pytest.mark.parametrize(
        ("file", "message"),
        [
            ("output/nodes/none_00001_.ply", "does not exist"),
            ("output/../../secret.ply", "leads out of output/"),
            ("/etc/passwd", "not below output/ or input/3d/"),
            ("input/3d/picture.png", "none of .ply, .splat, .spz, .glb, .sog, .json"),
        ],
    )
    def test_of_files_that_cannot_be_loaded(self, comfyui, graph, file, message):
        prompt = graph() | {
            "start": {"class_type": PACK + "LoadGaussians", "inputs": {"file": file}}
        }
        with pytest.raises(PromptRefused) as refused:
            comfyui.queue(prompt)
        assert message in str(refused.value)

    def test_of_no_file_and_of_two(self, comfyui, object_info):
        start = node(object_info, "InitGaussians", count=10)
        save = node(
            object_info, "SaveGaussians", gaussians=["start", 0], filename_prefix="nodes/two"
        )
        view = {"class_type": PACK + "PreviewGaussians", "inputs": {"gaussians": ["load", 0]}}

        def refusal(**inputs):
            load = {"class_type": PACK + "LoadGaussians", "inputs": inputs}
            answer = comfyui.post(
                "/prompt", {"prompt": {"start": start, "save": save, "load": load, "view": view}}
            )
            return str(answer["node_errors"]["load"])

        assert "There is no file: choose one" in refusal(file="(the model_3d input)")
        assert "one is linked to model_3d too" in refusal(
            file="output/some.ply", model_3d=["save", 0]
        )

    def test_of_a_ply_without_gaussians(self, comfyui, graph):
        folder = comfyui.base / "input" / "3d"
        folder.mkdir(exist_ok=True)
        header = (
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty"
            " float z\n"
        )
        folder.joinpath("cloud.ply").write_text(header + "end_header\n0 0 0\n")
        run = comfyui.run(
            graph()
            | {
                "start": {
                    "class_type": PACK + "LoadGaussians",
                    "inputs": {"file": "input/3d/cloud.ply"},
                }
            }
        )
        assert run.status == "error"
        assert "cloud.ply holds no Gaussian splats" in run.error


class TestPurity:
    def test_same_inputs_give_the_same_bytes_and_leave_the_start_alone(
        self, comfyui, graph, object_info
    ):
        prompt = graph()
        # Another preview_every makes ComfyUI run it again, on the very same cached start.
        prompt["again"] = optimize(object_info, "start", preview_every=0)
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
        prompt["second"]["inputs"]["lr_colors"] = 0.5
        after = succeeded(comfyui.run(prompt))
        assert after.started("second") is not None
        assert after.started("optimize") is None
        second = [columns(saved(comfyui, run, "save second")) for run in (before, after)]
        assert not np.array_equal(*second)

        prompt["second"]["inputs"]["lr_colors"] = defaults(object_info[PACK + "Optimize"])[
            "lr_colors"
        ]
        prompt["second"]["inputs"]["preview_every"] = 0
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

        values = {"seed": seed, "schedule_steps": steps, "densify_every": 4}
        cancelled = comfyui.run(graph(optimize=values | {"steps": steps}), on_event=cancel)
        assert cancelled.status == "interrupted"
        partial = newest(comfyui.output / "distill3d" / "partial", ".safetensors")
        assert np.isfinite(columns(partial.with_suffix(".ply"))).all()
        done = record(partial)["step"]
        assert 2 <= done < steps

        file = partial.relative_to(comfyui.output).as_posix()
        load = {"class_type": PACK + "LoadGaussians", "inputs": {"file": f"output/{file}"}}
        rest = succeeded(
            comfyui.run(graph(optimize=values | {"steps": steps - done}) | {"start": load})
        )
        whole = succeeded(comfyui.run(graph(optimize=values | {"steps": steps})))
        assert saved(comfyui, rest).read_bytes() == saved(comfyui, whole).read_bytes()

    def test_autosave_is_there_during_a_run_and_gone_after_it(self, comfyui, graph):
        folder, seen = comfyui.output / "distill3d" / "autosave", set()
        values = {"steps": 40, "autosave_every": 2, "seed": fresh_seed()}
        succeeded(
            comfyui.run(
                graph(optimize=values),
                on_event=lambda run: seen.update(file.suffix for file in folder.glob("*")),
            )
        )
        assert {".ply", ".safetensors"} <= seen
        assert not list(folder.glob("*"))


class TestFiles:
    def test_saved_cloud_loads_as_it_was(self, comfyui, graph, object_info):
        first = saved(comfyui, succeeded(comfyui.run(graph(optimize={"seed": fresh_seed()}))))
        file = f"output/{first.relative_to(comfyui.output).as_posix()}"
        listed = dict(
            (name, options)
            for name, _, options in declared_inputs(comfyui.object_info()[PACK + "LoadGaussians"])
        )
        assert file in listed["file"]["options"]
        prompt = {
            "load": {"class_type": PACK + "LoadGaussians", "inputs": {"file": file}},
            "save": node(
                object_info, "SaveGaussians", gaussians=["load", 0], filename_prefix="nodes/loaded"
            ),
        }
        second = saved(comfyui, succeeded(comfyui.run(prompt)))
        assert np.allclose(columns(first), columns(second), atol=1e-6)

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("format", ["ply", "spz"])
    def test_what_save_gaussians_has_just_written_loads_through_a_link(
        self, comfyui, graph, object_info, format, training
    ):
        prompt = graph(optimize={"steps": 2, "schedule_steps": 4, "seed": fresh_seed()})
        prompt["save"]["inputs"] |= {"format": format, "training": training}
        prompt["load"] = node(
            object_info, "LoadGaussians", file="(the model_3d input)", model_3d=["save", 0]
        )
        prompt["rest"] = optimize(
            object_info, "load", **prompt["optimize"]["inputs"] | {"gaussians": ["load", 0]}
        )
        prompt["last"] = node(
            object_info,
            "SaveGaussians",
            gaussians=["rest", 0],
            filename_prefix="nodes/linked",
            training=True,
        )
        run = succeeded(comfyui.run(prompt))
        reached = record(saved(comfyui, run, "last").with_suffix(".safetensors"))["step"]
        assert reached == (4 if training else 2)  # a plain splat begins anew
        if training:
            whole = succeeded(
                comfyui.run(graph(optimize=prompt["optimize"]["inputs"] | {"steps": 4}))
            )
            assert saved(comfyui, run, "last").read_bytes() == saved(comfyui, whole).read_bytes()

    def test_a_file_of_a_core_node_loads_through_a_link(self, comfyui, graph, object_info):
        skip_without(object_info, "SplatToFile3D")
        prompt = graph()
        prompt["file"] = node(object_info, "SplatToFile3D", splat=["save", 1], format="ply")
        prompt["load"] = node(
            object_info, "LoadGaussians", file="(the model_3d input)", model_3d=["file", 0]
        )
        prompt["again"] = node(
            object_info, "SaveGaussians", gaussians=["load", 0], filename_prefix="nodes/core"
        )
        run = succeeded(comfyui.run(prompt))
        assert np.allclose(
            columns(saved(comfyui, run)), columns(saved(comfyui, run, "again")), atol=1e-4
        )

    @pytest.mark.parametrize("format", ["compressed ply", "splat", "spz", "spz 2", "glb"])
    def test_every_format_loads_and_feeds_the_viewer(self, comfyui, graph, object_info, format):
        prompt = graph()
        prompt["other"] = node(
            object_info,
            "SaveGaussians",
            gaussians=["optimize", 0],
            filename_prefix="nodes/other",
            format=format,
        )
        prompt["view"] = {"class_type": "Preview3D", "inputs": {"model_file": ["other", 0]}}
        # core reads no other of them
        if format in ("splat", "spz", "spz 2") and "File3DToSplat" in object_info:
            prompt["splat"] = node(object_info, "File3DToSplat", model_3d=["other", 0])
            prompt["count"] = node(object_info, "GetSplatCount", splat=["splat", 0])
        run = succeeded(comfyui.run(prompt))
        plain, other = saved(comfyui, run), saved(comfyui, run, "other")
        file = f"output/{other.relative_to(comfyui.output).as_posix()}"
        prompt = {
            "load": {"class_type": PACK + "LoadGaussians", "inputs": {"file": file}},
            "save": node(
                object_info, "SaveGaussians", gaussians=["load", 0], filename_prefix="nodes/again"
            ),
        }
        again = saved(comfyui, succeeded(comfyui.run(prompt)))
        assert again.suffix == ".ply"
        one, two = columns(plain)[:, :3], columns(again)[:, :3]
        # compressed PLY has another order
        assert np.abs(np.sort(one, 0) - np.sort(two, 0)).max() < 0.01

    def test_an_older_prompt_without_the_format_writes_a_ply(self, comfyui, graph):
        prompt = graph()
        prompt["save"]["inputs"].pop("format", None)
        assert saved(comfyui, succeeded(comfyui.run(prompt))).suffix == ".ply"

    def test_changed_file_is_read_again(self, comfyui, graph, object_info):
        source = saved(comfyui, succeeded(comfyui.run(graph(optimize={"seed": fresh_seed()}))))
        place = comfyui.base / "input" / "3d" / "changing.ply"
        place.parent.mkdir(exist_ok=True)
        prompt = {
            "load": {
                "class_type": PACK + "LoadGaussians",
                "inputs": {"file": "input/3d/changing.ply"},
            },
            "save": node(
                object_info,
                "SaveGaussians",
                gaussians=["load", 0],
                filename_prefix="nodes/changing",
            ),
        }
        place.write_bytes(source.read_bytes())
        assert succeeded(comfyui.run(prompt)).started("load") is not None
        assert comfyui.run(prompt).started("load") is None
        ply = plyfile.PlyData.read(str(source))
        ply["vertex"].data["x"] += 1
        ply.write(str(place))
        assert succeeded(comfyui.run(prompt)).started("load") is not None


class TestNative:
    def test_splat_output_feeds_comfyuis_own_nodes(self, comfyui, graph, object_info):
        skip_without(object_info, "SplatToFile3D")
        prompt = graph()
        prompt["file"] = node(object_info, "SplatToFile3D", splat=["save", 1], format="ply")
        prompt["keep"] = node(
            object_info, "SaveGLB", mesh=["file", 0], filename_prefix="nodes/native"
        )
        prompt["picture"] = node(
            object_info, "RenderSplat", splat=["save", 1], width=64, height=64, frames=1
        )
        prompt["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["picture", 0]}}
        run = succeeded(comfyui.run(prompt))
        ours, native = (
            plyfile.PlyData.read(str(saved(comfyui, run, id)))["vertex"].data
            for id in ("save", "keep")
        )
        for name in ours.dtype.names:
            assert np.allclose(ours[name], native[name], atol=1e-4), name

    def test_ply_output_feeds_comfyuis_own_nodes(self, comfyui, graph, object_info):
        skip_without(object_info, "File3DToSplat")
        prompt = graph()
        prompt["splat"] = node(object_info, "File3DToSplat", model_3d=["save", 0])
        prompt["count"] = node(object_info, "GetSplatCount", splat=["splat", 0])
        prompt["view"] = {"class_type": "Preview3D", "inputs": {"model_file": ["save", 0]}}
        succeeded(comfyui.run(prompt))

    def test_mesh_outputs_feed_comfyuis_own_nodes(self, comfyui, graph, object_info):
        prompt = graph(optimize={"lr_opacities": 0.0})
        prompt["start"]["inputs"] |= {"opacity": 0.9, "scale": 0.1}  # a solid ball
        prompt["mesh"] = node(object_info, "ExportMesh", gaussians=["optimize", 0], resolution=32)
        prompt["native"] = node(
            object_info, "SaveGLB", mesh=["mesh", 1], filename_prefix="nodes/mesh"
        )
        prompt["view"] = {"class_type": "Preview3D", "inputs": {"model_file": ["mesh", 0]}}
        run = succeeded(comfyui.run(prompt))
        assert saved(comfyui, run, "native").stat().st_size > 1000

    def test_a_texture_reaches_the_file_and_comfyuis_own_mesh(self, comfyui, graph, object_info):
        pytest.importorskip("xatlas")
        prompt = graph(optimize={"lr_opacities": 0.0})
        prompt["start"]["inputs"] |= {"opacity": 0.9, "scale": 0.1}  # a solid ball
        options = {
            "resolution": 32,
            "format": "obj",
            "texture_size": 128,
            "scale": 100.0,
            "up_axis": "Z",
        }
        prompt["mesh"] = node(object_info, "ExportMesh", gaussians=["optimize", 0], **options)
        prompt["native"] = node(
            object_info, "SaveGLB", mesh=["mesh", 1], filename_prefix="nodes/texture"
        )
        run = succeeded(comfyui.run(prompt))
        ours, native = (
            trimesh.load(saved(comfyui, run, id), process=False, force="mesh")
            for id in ("mesh", "native")
        )
        assert (
            ours.visual.material.image.size
            == native.visual.material.baseColorTexture.size
            == (128, 128)
        )
        np.testing.assert_allclose(
            ours.vertices, 100 * native.vertices[:, [0, 2, 1]] * [1, -1, 1], atol=1e-3
        )
        np.testing.assert_allclose(ours.visual.uv, native.visual.uv, atol=1e-5)

    @pytest.mark.parametrize("format", ["glb", "stl"])
    def test_a_normal_map_reaches_the_file_that_can_carry_it(
        self, comfyui, graph, object_info, format
    ):
        pytest.importorskip("xatlas")
        pytest.importorskip("fast_simplification")
        prompt = {"start": graph()["start"]}
        prompt["start"]["inputs"] |= {"opacity": 0.9, "scale": 0.1}  # a solid ball
        options = {
            "resolution": 32,
            "faces": 500,
            "texture_size": 128,
            "normal_map": True,
            "format": format,
        }
        prompt["mesh"] = node(object_info, "ExportMesh", gaussians=["start", 0], **options)
        mesh = trimesh.load(
            saved(comfyui, succeeded(comfyui.run(prompt)), "mesh"), process=False, force="mesh"
        )
        assert 400 < len(mesh.faces) < 800
        if format == "glb":
            picture = np.asarray(mesh.visual.material.normalTexture.convert("RGB"))
            assert picture.shape == (128, 128, 3) and picture.mean((0, 1)) == pytest.approx(
                [128, 128, 250], abs=6
            )
            assert picture[..., :2].std() > 1

    def test_prompts_from_before_there_were_formats_still_export(self, comfyui, graph, object_info):
        prompt = graph(optimize={"lr_opacities": 0.0})
        prompt["start"]["inputs"] |= {"opacity": 0.9, "scale": 0.1}
        prompt["mesh"] = node(object_info, "ExportMesh", gaussians=["optimize", 0], resolution=32)
        for name in ("format", "texture_size", "scale", "up_axis", "normal_map"):
            prompt["mesh"]["inputs"].pop(name, None)
        run = succeeded(comfyui.run(prompt))
        assert saved(comfyui, run, "mesh").suffix == ".glb"

    def test_views_masks_and_depth_are_pictures(self, comfyui, graph, object_info):
        prompt = graph()
        prompt["render"] = node(
            object_info, "RenderViews", gaussians=["optimize", 0], views=3, size=48, start=90.0
        )
        prompt["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": ["render", 1]}}
        for id, link in (
            ("images", ["render", 0]),
            ("masks", ["mask", 0]),
            ("depth", ["render", 2]),
        ):
            prompt[id] = {"class_type": "PreviewImage", "inputs": {"images": link}}
        run = succeeded(comfyui.run(prompt))
        for id in ("images", "masks", "depth"):
            assert len([file for file in run.files if file["node"] == id]) == 3


def test_optimize_says_how_far_it_is(comfyui, graph):
    run = succeeded(comfyui.run(graph(optimize={"steps": 4, "seed": fresh_seed()})))
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


def skip_without(object_info, name):
    if name not in object_info:
        pytest.skip(f"this ComfyUI has no {name} yet")


def newest(folder, suffix):
    return max(folder.glob(f"*{suffix}"), key=lambda file: file.stat().st_mtime_ns)


def record(path):
    """What a saved training says about itself, from the safetensors header."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["training"])

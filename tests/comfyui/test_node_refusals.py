"""What the nodes refuse, and what they say then."""

from __future__ import annotations

import math

import pytest
from harness.nodes import (
    PACK,
    node,
)
from harness.server import PromptRefused
from tiny_prior import write_tiny_prior


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
            ("optimize", {"steps": 0}, "steps is 0"),
            ("optimize", {"steps": 10, "schedule_steps": 5}, "schedule_steps is 5, but 10 steps"),
            ("settings", {"background": "plaid"}, "background"),
            (
                "save",
                {"filename_prefix": "../../elsewhere"},
                "leads out of ComfyUI's output folder",
            ),
            ("save", {"filename_prefix": "folder/"}, "holds no file name"),
            ("save", {"filename_prefix": "a" * 250}, "its name takes 250 bytes"),
            ("save", {"filename_prefix": "mug\0"}, "holds a sign that no name can have"),
            ("save", {"filename_prefix": "mug\ud800"}, "holds a sign that no name can have"),
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
            ({"t_start": 500, "t_end": 600}, "t_end 600 is above t_start 500"),
            ({"t_max": 150}, "t_max 150"),
            ({"clip_start": 0.0}, "Set both to 0"),
            ({"perturb": 0}, "perturb"),
            ({"guidance_start": -0.5}, "guidance_start"),
            (
                {"guidance_end": float("nan")},
                "guidance_end is nan; choose a value within 0.0..1000.0",
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
            ({"filename_prefix": "\u7ea2" * 90}, "its name takes 270 bytes"),
            ({"filename_prefix": "a\0b/mug"}, "holds a sign that no name can have"),
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
                "settings",
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

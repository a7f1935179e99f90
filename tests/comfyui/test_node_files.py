"""What the nodes save, load and hand to ComfyUI's own nodes."""

from __future__ import annotations

import numpy as np
import plyfile
import pytest
import trimesh
from harness.nodes import (
    PACK,
    columns,
    declared_inputs,
    fresh_seed,
    node,
    optimize,
    record,
    saved,
    skip_without,
    succeeded,
)


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
        prompt = graph(settings={"lr_opacities": 0.0})
        prompt["start"]["inputs"] |= {"opacity": 0.9, "scale": 0.1}  # a solid ball
        prompt["mesh"] = node(
            object_info, "ExportMesh", gaussians=["optimize", 0], resolution=32, texture_size=64
        )
        prompt["native"] = node(
            object_info, "SaveGLB", mesh=["mesh", 1], filename_prefix="nodes/mesh"
        )
        prompt["view"] = {"class_type": "Preview3D", "inputs": {"model_file": ["mesh", 0]}}
        run = succeeded(comfyui.run(prompt))
        assert saved(comfyui, run, "native").stat().st_size > 1000

    def test_a_texture_reaches_the_file_and_comfyuis_own_mesh(self, comfyui, graph, object_info):
        pytest.importorskip("xatlas")
        prompt = graph(settings={"lr_opacities": 0.0})
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
        prompt = graph(settings={"lr_opacities": 0.0})
        prompt["start"]["inputs"] |= {"opacity": 0.9, "scale": 0.1}
        prompt["mesh"] = node(
            object_info, "ExportMesh", gaussians=["optimize", 0], resolution=32, texture_size=64
        )
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

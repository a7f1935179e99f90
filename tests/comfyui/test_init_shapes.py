"""Init from Mesh and Init from Splat in a running ComfyUI."""

from __future__ import annotations

import numpy as np
import plyfile
import pytest
import torch
import trimesh
from harness.server import PromptRefused

from distill3d.kernels.files.export import save_mesh
from distill3d.kernels.files.formats import load_gaussians
from distill3d.kernels.meshes.mesh import Mesh

MESH, SPLAT = "Distill3D_InitMesh", "Distill3D_InitSplat"
INPUTS = {
    "file": "(the mesh input)", "count": 2000, "seed": 3, "normalise": False, "turn": 0.0, "up_axis": "Y",
    "opacity": 0.5,
}  # fmt: skip


def save(id, name):
    values = {"gaussians": [id, 0], "filename_prefix": f"shapes/{name}", "training": False}
    return {"class_type": "Distill3D_SaveGaussians", "inputs": values}


def saved(comfyui, run, id="save"):
    assert run.status == "success", run.error
    (record,) = (file for file in run.files if file["node"] == id)
    return comfyui.output / record["subfolder"] / record["filename"]


def columns(path, *names):
    rows = plyfile.PlyData.read(str(path))["vertex"].data
    return np.stack([rows[name] for name in names or rows.dtype.names], -1)


def arrow():
    """A blue box towards +Z of a red one, off the middle: which side is where can be seen from
    places and colours.
    """
    parts = []
    for at, color in (((0.1, 0.2, 0.0), (1.0, 0, 0)), ((0.1, 0.2, 0.3), (0, 0, 1.0))):
        box = trimesh.creation.box((0.2, 0.2, 0.2), trimesh.transformations.translation_matrix(at))
        vertices = torch.tensor(box.vertices).float()
        parts.append(
            Mesh(
                vertices,
                torch.tensor(box.faces),
                torch.tensor(color).expand(len(vertices), 3).clone(),
            )
        )
    faces = torch.cat([parts[0].faces, parts[1].faces + len(parts[0].vertices)])
    return Mesh(torch.cat([p.vertices for p in parts]), faces, torch.cat([p.colors for p in parts]))


@pytest.fixture(scope="module")
def files(comfyui):
    """Meshes in input/3d by their names in the list, a Z-up one among them, and a point cloud."""
    folder = comfyui.base / "input" / "3d"
    folder.mkdir(parents=True, exist_ok=True)
    save_mesh(arrow(), folder / "arrow.glb")
    save_mesh(arrow(), folder / "arrow.obj", up_axis="Z")
    trimesh.PointCloud(np.random.default_rng(0).uniform(-3, 3, (500, 3))).export(
        folder / "points.ply"
    )
    return {name: f"input/3d/{name}" for name in ("arrow.glb", "arrow.obj", "points.ply")}


def middles(path):
    """Where the red and the blue half are, in the splat file's frame turned back to ours."""
    places, colors = (
        columns(path, "x", "y", "z") * [1, -1, -1],
        columns(path, "f_dc_0", "f_dc_1", "f_dc_2"),
    )
    return [places[colors[:, channel] > 0].mean(0) for channel in (0, 2)]


@pytest.mark.parametrize(("name", "up_axis"), [("arrow.glb", "Y"), ("arrow.obj", "Z")])
def test_a_file_comes_out_the_right_way_up_in_its_colours_and_comes_out_again(
    comfyui, files, name, up_axis
):
    inputs = INPUTS | {"file": files[name], "up_axis": up_axis}
    prompt = {"start": {"class_type": MESH, "inputs": inputs}, "save": save("start", "file")}
    first = saved(comfyui, comfyui.run(prompt))
    red, blue = middles(first)
    np.testing.assert_allclose(red, [0.1, 0.2, 0.0], atol=0.01)
    np.testing.assert_allclose(blue, [0.1, 0.2, 0.3], atol=0.01)
    assert len(columns(first)) == 2000
    comfyui.free()
    assert saved(comfyui, comfyui.run(prompt)).read_bytes() == first.read_bytes()


def test_it_turns_and_fills_the_cube_when_asked(comfyui, files):
    inputs = INPUTS | {"file": files["arrow.glb"], "normalise": True, "turn": 90.0}
    run = comfyui.run(
        {"start": {"class_type": MESH, "inputs": inputs}, "save": save("start", "turned")}
    )
    red, blue = middles(saved(comfyui, run))
    # 0.5 long, so twice as large, and +Z went to +X
    np.testing.assert_allclose(red, [-0.3, 0, 0], atol=0.01)
    np.testing.assert_allclose(blue, [0.3, 0, 0], atol=0.01)


def test_a_point_cloud_gives_a_gaussian_a_point(comfyui, files):
    inputs = INPUTS | {"file": files["points.ply"], "normalise": True}
    run = comfyui.run(
        {"start": {"class_type": MESH, "inputs": inputs}, "save": save("start", "points")}
    )
    places = columns(saved(comfyui, run), "x", "y", "z")
    assert len(places) == 500
    assert np.ptp(places, axis=0).max() == pytest.approx(1, abs=1e-3)


def test_files_are_listed_without_splats_and_read_again_when_they_change(comfyui, files):
    ball = {"count": 200, "radius": 0.3, "seed": 0, "scale": 0.05, "opacity": 0.9}
    start = {"class_type": "Distill3D_InitGaussians", "inputs": ball}
    splat = saved(comfyui, comfyui.run({"start": start, "save": save("start", "splat")}))
    spec = comfyui.object_info()[MESH]["input"]["required"]["file"]
    listed = spec[1].get("options", spec[0])
    assert listed[0] == INPUTS["file"] and set(files.values()) <= set(listed)
    assert f"output/{splat.relative_to(comfyui.output).as_posix()}" not in listed

    place = comfyui.base / "input" / "3d" / "changing.ply"
    save_mesh(arrow(), place)
    inputs = INPUTS | {"file": "input/3d/changing.ply"}
    prompt = {"start": {"class_type": MESH, "inputs": inputs}, "save": save("start", "changing")}
    assert comfyui.run(prompt).started("start") is not None
    assert comfyui.run(prompt).started("start") is None
    save_mesh(arrow(), place, scale=2.0)
    assert comfyui.run(prompt).started("start") is not None
    place.write_bytes(splat.read_bytes())
    run = comfyui.run(prompt)
    assert run.status == "error" and "changing.ply holds Gaussian splats, not a mesh" in run.error


def ball_to_mesh():
    ball = {"count": 300, "radius": 0.3, "seed": 0, "scale": 0.1, "opacity": 0.9}
    export = {
        "gaussians": ["ball", 0],
        "filename_prefix": "shapes/ball",
        "resolution": 32,
        "faces": 0,
        "views": 16,
    }
    export |= {
        "alpha_min": 0.5,
        "smoothing": 5,
        "component_share": 0.02,
        "format": "glb",
        "texture_size": 64,
    }
    return {
        "ball": {"class_type": "Distill3D_InitGaussians", "inputs": ball},
        "mesh": {"class_type": "Distill3D_ExportMesh", "inputs": export},
    }


def test_a_mesh_of_another_node_comes_with_its_colours(comfyui):
    start = {"class_type": MESH, "inputs": INPUTS | {"mesh": ["mesh", 1]}}
    prompt = ball_to_mesh() | {"start": start, "save": save("start", "native")}
    path = saved(comfyui, comfyui.run(prompt))
    radii = np.linalg.norm(columns(path, "x", "y", "z"), axis=-1)
    assert radii.min() > 0.25 and radii.max() < 0.5
    assert columns(path, "f_dc_0").std() > 0.01  # the grey of the ball is noisy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "There is no mesh: choose a file, or link one"),
        ({"file": "input/3d/none.glb"}, "does not exist"),
        ({"file": "output/../../a.glb"}, "leads out of output/"),
        ({"file": "input/3d/a.png"}, "none of .glb, .gltf, .obj, .ply and .stl; choose a mesh"),
        ({"file": "input/3d/arrow.glb", "up_axis": "X"}, "up_axis is 'X'; choose one of 'Y', 'Z'"),
        ({"file": "input/3d/arrow.glb", "count": 0}, "count"),
    ],
)
def test_refused_before_anything_runs(comfyui, files, values, message):
    start = {"class_type": MESH, "inputs": INPUTS | values}
    with pytest.raises(PromptRefused) as refused:
        comfyui.queue({"start": start, "save": save("start", "refused")})
    assert message in str(refused.value)


def test_a_file_and_a_mesh_at_once_are_refused(comfyui, files):
    start = {
        "class_type": MESH,
        "inputs": INPUTS | {"file": files["arrow.glb"], "mesh": ["mesh", 1]},
    }
    prompt = ball_to_mesh() | {"start": start, "save": save("start", "refused")}
    # Export Mesh writes a file, and that much is accepted
    answer = comfyui.post("/prompt", {"prompt": prompt})
    details = [error["details"] for error in answer["node_errors"]["start"]["errors"]]
    assert any("a mesh is linked too. Set file to '(the mesh input)'" in text for text in details)
    comfyui.interrupt(answer["prompt_id"])


class TestSplat:
    @pytest.fixture
    def prompt(self, object_info, files):
        if SPLAT not in object_info:
            pytest.skip("this ComfyUI has no SPLAT yet")

        def build(**inputs):
            values = INPUTS | {"file": files["arrow.glb"]}
            splat = {"splat": ["save", 1], "index": 0, "normalise": False, "turn": 0.0} | inputs
            return {
                "start": {"class_type": MESH, "inputs": values},
                "save": save("start", "before"),
                "back": {"class_type": SPLAT, "inputs": splat},
                "save back": save("back", "after"),
            }

        return build

    def test_there_and_back_it_is_the_same_cloud(self, comfyui, prompt):
        run = comfyui.run(prompt())
        one, two = (columns(saved(comfyui, run, id)) for id in ("save", "save back"))
        np.testing.assert_allclose(two, one, atol=2e-6, rtol=2e-6)

    def test_it_turns_and_fills_the_cube_when_asked(self, comfyui, prompt):
        red, blue = middles(
            saved(comfyui, comfyui.run(prompt(normalise=True, turn=90.0)), "save back")
        )
        np.testing.assert_allclose([red, blue], [[-0.3, 0, 0], [0.3, 0, 0]], atol=0.01)

    @pytest.mark.parametrize(
        ("format", "means", "log_scales"),
        [("ply", 1e-5, 1e-5), ("splat", 1e-5, 1e-5), ("spz", 2e-4, 0.035), ("spz 2", 2e-4, 0.035)],
    )
    def test_core_reads_every_format_that_it_knows_and_feeds_it(
        self, comfyui, prompt, format, means, log_scales
    ):
        asked = prompt(splat=["core", 0])
        asked["other"] = save("start", "other")
        asked["other"]["inputs"]["format"] = format
        asked["core"] = {"class_type": "File3DToSplat", "inputs": {"model_3d": ["other", 0]}}
        run = comfyui.run(asked)
        one, two = (load_gaussians(saved(comfyui, run, id)) for id in ("save", "save back"))
        torch.testing.assert_close(two.means, one.means, atol=means, rtol=0)
        torch.testing.assert_close(two.log_scales, one.log_scales, atol=log_scales, rtol=0)
        torch.testing.assert_close(two.opacities, one.opacities, atol=3e-3, rtol=0)
        torch.testing.assert_close(two.colors, one.colors, atol=5e-3, rtol=0)
        a, b = (torch.nn.functional.normalize(cloud.quats, dim=-1) for cloud in (one, two))
        assert float((a * b).sum(-1).abs().min()) > 0.995

    def test_an_index_beyond_the_batch_is_named(self, comfyui, prompt):
        run = comfyui.run(prompt(index=3))
        assert run.status == "error" and "holds 1 clouds; there is none at index 3" in run.error

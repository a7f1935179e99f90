"""Shap-E's mesh as Gaussians: a tiny pipeline of random weights, and one whose field is a known
shape.
"""

from __future__ import annotations

import functools
import json
import math
import shutil

import pytest
import torch
from kit import seeded
from tiny_shap_e import fill_cubes, write_tiny_shap_e

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.init.shap_e import is_shap_e, load_shap_e, shap_e_mesh
from distill3d.kernels.init.surface import from_mesh
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.placing import upright
from distill3d.kernels.rasterizers.rasterize import render

GRID = 40
RED, GREEN, BLUE, GRAY = (0.9, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.9), (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shap-e")
    write_tiny_shap_e(folder)
    return folder


@pytest.fixture
def pipeline(folder):
    pipeline = load_shap_e(folder)
    renderer = pipeline.shap_e_renderer
    renderer.decode_to_mesh = functools.partial(renderer.decode_to_mesh, grid_size=GRID)  # of 128
    return pipeline


class Cancelled(BaseException):
    """As ComfyUI's interrupt is."""


class KnownShape(torch.nn.Module):
    """In place of the renderer's network, in Shap-E's axes: a tall grey box with a red top, a green
    nose towards -Y (where the renderer's turntable begins) and a blue arm towards +X."""

    dtype = torch.float32

    def forward(self, *, position, direction, ts, nerf_level="fine", rendering_mode="nerf"):
        from diffusers.pipelines.shap_e.renderer import MLPNeRFModelOutput

        x, y, z = position.unbind(-1)
        body = torch.stack([0.3 - x.abs(), 0.3 - y.abs(), 0.8 - z.abs()]).amin(0)
        nose = torch.stack([0.25 - x.abs(), 0.35 - (y + 0.35).abs(), 0.25 - z.abs()]).amin(0)
        arm = torch.stack([0.35 - (x - 0.35).abs(), 0.15 - y.abs(), 0.15 - z.abs()]).amin(0)
        inside = torch.stack([body, nose, arm]).amax(0)[..., None]
        color = position.new_tensor(GRAY).expand(position.shape).clone()
        for region, value in ((z > 0.5, RED), (y < -0.32, GREEN), (x > 0.32, BLUE)):
            color[region] = position.new_tensor(value)
        return MLPNeRFModelOutput(
            density=1e3 * (inside > 0), signed_distance=inside, channels=color, ts=ts
        )


@pytest.fixture
def known(pipeline):
    pipeline.shap_e_renderer.mlp = KnownShape()
    return pipeline


def near(colors, value):
    return (colors - torch.tensor(value)).abs().amax(-1) < 0.1


class TestLoading:
    def test_the_parts_are_those_of_the_folder(self, folder, pipeline):
        from safetensors.torch import load_file

        saved = load_file(folder / "prior" / "diffusion_pytorch_model.safetensors")
        loaded = pipeline.prior.state_dict()
        assert saved.keys() == loaded.keys() and all(
            torch.equal(loaded[key], value) for key, value in saved.items()
        )
        assert not pipeline.prior.training and not pipeline.shap_e_renderer.training

    def test_a_half_precision_variant_is_taken(self, folder, tmp_path):
        for file in folder.rglob("*"):
            if file.is_file():
                name = file.name.replace(".safetensors", ".fp16.safetensors")
                target = tmp_path / file.relative_to(folder).parent / name
                target.parent.mkdir(exist_ok=True)
                shutil.copy(file, target)
        assert load_shap_e(tmp_path, dtype=torch.bfloat16).prior.dtype == torch.bfloat16

    def test_folders_are_told_apart(self, folder, tmp_path):
        assert is_shap_e(folder)
        tmp_path.joinpath("model_index.json").write_text(
            '{"_class_name": "StableDiffusionPipeline"}'
        )
        assert not is_shap_e(tmp_path) and not is_shap_e(tmp_path / "none")

    def test_a_folder_of_another_kind_is_named(self, tmp_path):
        with pytest.raises(ValueError, match="holds no pipeline"):
            load_shap_e(tmp_path)
        tmp_path.joinpath("model_index.json").write_text(
            json.dumps({"_class_name": "StableDiffusionPipeline"})
        )
        with pytest.raises(
            ValueError, match="holds StableDiffusionPipeline; a diffusers folder of ShapEPipeline"
        ):
            load_shap_e(tmp_path)
        with pytest.raises(ValueError, match="does not exist"):
            load_shap_e(tmp_path / "none")

    def test_weights_that_are_missing_or_no_safetensors_are_named(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "a")
        weights = tmp_path / "a" / "prior" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
        (tmp_path / "a" / "scheduler" / "scheduler_config.json").unlink()
        message = (
            r"Shap-E folder .* lacks scheduler/scheduler_config.json,"
            r" prior/diffusion_pytorch_model.safetensors. "
            r"A ShapEPipeline in .*\(.bin and .ckpt files are not read\)"
        )
        with pytest.raises(ValueError, match=message):
            load_shap_e(tmp_path / "a")


class TestMesh:
    def test_the_seed_decides(self, pipeline):
        first, again, other = (
            shap_e_mesh(pipeline, "a mug", seeded(seed), steps=3) for seed in (0, 0, 1)
        )
        assert torch.equal(first.vertices, again.vertices) and torch.equal(
            first.colors, again.colors
        )
        assert first.vertices.shape != other.vertices.shape or not torch.equal(
            first.vertices, other.vertices
        )

    def test_it_works_as_comfyui_runs_nodes(self, folder):
        with torch.inference_mode():
            pipeline = load_shap_e(folder)
            renderer = pipeline.shap_e_renderer
            renderer.decode_to_mesh = functools.partial(renderer.decode_to_mesh, grid_size=GRID)
            assert len(shap_e_mesh(pipeline, "a mug", seeded(), steps=1).faces)

    def test_every_call_of_the_denoiser_is_told(self, pipeline):
        calls = []
        shap_e_mesh(pipeline, "a mug", seeded(), steps=3, on_call=lambda *call: calls.append(call))
        assert calls[:5] == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
        assert set(calls[5:]) == {(5, 5)}  # the renderer's

    def test_it_can_be_cancelled_and_used_again(self, pipeline):
        def cancel(done, calls):
            if done >= 2:
                raise Cancelled

        with pytest.raises(Cancelled):
            shap_e_mesh(pipeline, "a mug", seeded(), steps=3, on_call=cancel)
        shap_e_mesh(pipeline, "a mug", seeded(), steps=3)

    def test_an_empty_mesh_is_named(self, known):
        known.shap_e_renderer.mlp.forward = lambda **inputs: KnownShape.forward(
            known.shap_e_renderer.mlp, **inputs | {"position": inputs["position"] + 9}
        )
        with pytest.raises(ValueError, match=r"made an empty mesh of 'a mug'. Choose another seed"):
            shap_e_mesh(known, "a mug", seeded(), steps=1)

    def test_a_prompt_beyond_its_tokens_is_refused(self, pipeline):
        with pytest.raises(ValueError, match=r"Shap-E reads 77. Shorten it"):
            shap_e_mesh(pipeline, "a mug " * 40, seeded(), steps=1)


class TestAxes:
    def test_top_front_side_and_colours_stay(self, known):
        cloud = from_mesh(shap_e_mesh(known, "a mug", seeded(), steps=1), 4000, seeded())
        places = {name: cloud.means[near(cloud.colors, value)] for name, value in (
            ("red", RED), ("green", GREEN), ("blue", BLUE), ("gray", GRAY))}  # fmt: skip
        assert all(len(found) > 100 for found in places.values())
        assert places["red"][:, 1].min() > 0.28
        assert places["green"][:, 2].min() > 0.05
        assert places["blue"][:, 0].min() > 0.05
        # all else is where two colours meet
        assert sum(map(len, places.values())) > 0.9 * len(cloud)

    def test_it_fills_the_cube_around_the_origin(self, known):
        cloud = from_mesh(shap_e_mesh(known, "a mug", seeded(), steps=1), 4000, seeded())
        extent = torch.stack([cloud.means.amin(0), cloud.means.amax(0)])
        torch.testing.assert_close(extent[:, 1], torch.tensor([-0.5, 0.5]), atol=0.02, rtol=0)
        torch.testing.assert_close(extent.mean(0), torch.zeros(3), atol=0.02, rtol=0)

    @pytest.mark.parametrize(
        ("frame", "azimuth"), [(0, 0.0), (4, -4 * 360 / 19), (14, -14 * 360 / 19)]
    )
    def test_it_looks_as_in_the_turntable_of_shap_es_own_renderer(self, known, frame, azimuth):
        size, elevation = 64, math.degrees(math.atan(0.5))
        renderer, blank = known.shap_e_renderer, torch.zeros(1, 32, 16)
        theirs = renderer.decode_to_image(
            blank, "cpu", size=size, n_coarse_samples=48, n_fine_samples=48
        )[frame]
        cloud = from_mesh(shap_e_mesh(known, "a mug", seeded(), steps=1), 8000, seeded(), None, 5.0)
        ours = render(cloud, orbit(azimuth, elevation, 4.0, math.degrees(0.7), size), 1.0).color[0]
        assert (ours - theirs).abs().mean() < 0.03

    def test_a_turn_moves_the_front_counter_clockwise(self):
        front, top = torch.tensor([0.0, -1, 0]), torch.tensor([0.0, 0, 1])
        torch.testing.assert_close(upright(front, "Z"), torch.tensor([0.0, 0, 1]))
        torch.testing.assert_close(upright(top, "Z", 90), torch.tensor([0.0, 1, 0]))
        torch.testing.assert_close(
            upright(front, "Z", 90), torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0
        )
        camera = orbit(30.0, 0.0, 2.0)  # azimuth 30 sees what was turned by 30
        torch.testing.assert_close(
            upright(front, "Z", 30), camera.positions[0] / 2, atol=1e-6, rtol=0
        )


def test_the_stand_in_for_marching_cubes_cuts_where_the_field_is_zero():
    from diffusers.pipelines.shap_e.renderer import MeshDecoder

    decoder = MeshDecoder()
    fill_cubes(decoder)
    axis = torch.linspace(-1, 1, 21)
    radius = torch.cartesian_prod(axis, axis, axis).norm(dim=-1).view(21, 21, 21)
    mesh = decoder(0.6 - radius, torch.tensor([-1.0] * 3), torch.tensor([2.0] * 3))
    torch.testing.assert_close(
        mesh.verts.norm(dim=-1), torch.full((len(mesh.verts),), 0.6), atol=0.01, rtol=0
    )
    Mesh(mesh.verts, mesh.faces, torch.zeros_like(mesh.verts)).check()

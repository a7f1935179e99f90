"""Pictures put onto a mesh and onto a splat: the seen side takes their colours, the other keeps its
own, and what stands before a surface is not painted through.
"""

from dataclasses import replace

import pytest
import torch
import trimesh
from mesh_balls import ball

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.gaussians.cloud import SH_C0
from distill3d.kernels.init.surface import from_mesh
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.project import project_onto_cloud, project_onto_mesh
from distill3d.kernels.meshes.rasterize import render_mesh
from distill3d.kernels.meshes.unwrap import unwrap

BLUE = (0.1, 0.2, 0.9)
FRONT = orbit(torch.tensor([0.0]), 0.0, 2.0, 40.0, 128)


def picture_of(mesh, cameras=FRONT):
    seen = render_mesh(mesh, cameras, 0.0)
    return seen.color / seen.alpha.clamp_min(1e-3), seen.alpha


def test_the_seen_side_of_a_mesh_takes_the_picture_and_the_other_keeps_its_colour():
    red, blue = ball(rounds=4), ball(color=BLUE, rounds=4)
    painted, share = project_onto_mesh(red, *picture_of(blue), FRONT)
    near, far = red.vertices[:, 2] > 0.31, red.vertices[:, 2] < 0.02
    assert torch.allclose(
        painted.colors[near], torch.tensor(BLUE).expand(int(near.sum()), 3), atol=0.01
    )
    assert torch.equal(painted.colors[far], red.colors[far])
    assert float(share[near].min()) == 1 and float(share[far].max()) == 0
    between = (share > 0.01) & (share < 0.99)
    assert bool(between.any())  # no sharp seam


def test_what_stands_before_a_surface_is_not_painted_onto_it():
    front, back = ball(0.15, rounds=3), ball(0.15, (0.5, 0.5, 0.5), rounds=3)
    places = torch.cat([front.vertices + torch.tensor([0, 0, 0.3]), back.vertices])
    two = Mesh(
        places,
        torch.cat([front.faces, back.faces + len(front.vertices)]),
        torch.cat([front.colors, back.colors]),
    )
    blue = torch.tensor(BLUE).expand(1, 128, 128, 3)
    _, alpha = picture_of(two)
    _, share = project_onto_mesh(two, blue, alpha, FRONT)
    hidden = share[len(front.vertices) :][back.vertices[:, :2].norm(dim=-1) < 0.1]
    assert float(hidden.max()) == 0 and float(share[: len(front.vertices)].max()) == 1


@pytest.mark.parametrize("views", [(0.0,), (0.0, 90.0, 180.0, 270.0)])
def test_a_texture_takes_the_pictures_on_its_own_texels(views):
    pytest.importorskip("xatlas")
    red = unwrap(ball(rounds=4), 128)
    red = replace(red, texture=torch.tensor([0.9, 0.2, 0.1]).expand(128, 128, 3).clone())
    cameras = orbit(torch.tensor(views), 0.0, 2.0, 40.0, 128)
    painted, share = project_onto_mesh(
        red, *picture_of(ball(color=BLUE, rounds=4), cameras), cameras
    )
    around = orbit(torch.tensor([0.0, 90.0, 180.0]), 0.0, 2.0, 40.0, 64)
    seen = render_mesh(painted, around, 0.0).color[:, 32, 32]
    assert torch.allclose(seen[0], torch.tensor(BLUE), atol=0.02)
    if len(views) == 4:
        assert torch.allclose(seen, torch.tensor(BLUE).expand(3, 3), atol=0.02)
    else:
        assert torch.allclose(seen[2], torch.tensor([0.9, 0.2, 0.1]), atol=0.02)
    assert share.shape == (128, 128) and 0 < float(share.mean()) < 1


def test_the_background_beside_an_object_is_not_painted_onto_its_rim():
    """A cube's face looks at the camera up to its edges, beside which the picture is green."""
    shape = trimesh.creation.box((0.63, 0.63, 0.63)).subdivide().subdivide().subdivide()
    vertices = torch.tensor(shape.vertices).float()
    faces = torch.tensor(shape.faces).long()
    red, blue = (
        Mesh(size * vertices, faces, torch.tensor(color).expand(len(vertices), 3).clone())
        for size, color in ((0.99, (0.9, 0.2, 0.1)), (1.0, BLUE))  # its corners half a pixel inside
    )
    seen = render_mesh(blue, FRONT, torch.tensor([0.0, 1.0, 0.0]))
    painted, share = project_onto_mesh(red, seen.color, seen.alpha, FRONT)
    assert float(share.max()) == 1 and float(painted.colors[:, 1].max()) < 0.21


def test_the_seen_side_of_a_splat_takes_the_picture():
    cloud = from_mesh(ball(rounds=4), 3000, size=None, opacity_logit=3.0)
    painted, share = project_onto_cloud(cloud, *picture_of(ball(color=BLUE, rounds=4)), FRONT)
    colors = 0.5 + SH_C0 * painted.sh[:, 0]
    near, far = cloud.means[:, 2] > 0.3, cloud.means[:, 2] < -0.1
    assert torch.allclose(colors[near].mean(0), torch.tensor(BLUE), atol=0.05)
    assert torch.equal(painted.sh[far], cloud.sh[far]) and float(share[far].max()) == 0


def test_what_no_picture_sees_takes_the_nearest_colour_where_asked():
    red, blue = ball(rounds=4), ball(color=BLUE, rounds=4)
    painted, share = project_onto_mesh(red, *picture_of(blue), FRONT, "nearest")
    assert torch.allclose(painted.colors, torch.tensor(BLUE).expand_as(painted.colors), atol=0.02)
    assert 0.1 < float((share > 0.5).float().mean()) < 0.5
    cloud = from_mesh(red, 2000, size=None, opacity_logit=3.0)
    splat, _ = project_onto_cloud(cloud, *picture_of(blue), FRONT, "nearest")
    colors = 0.5 + SH_C0 * splat.sh[:, 0]
    assert torch.allclose(colors, torch.tensor(BLUE).expand_as(colors), atol=0.05)
    with pytest.raises(ValueError, match="unseen is 'far'; choose one of keep, nearest"):
        project_onto_mesh(red, *picture_of(blue), FRONT, "far")

"""The mesh rasterizer against plain geometry, its backends against each other, its gradients
against differences.
"""

import math
from dataclasses import replace

import pytest
import torch

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.meshes import raster
from distill3d.kernels.meshes.coverage import cover
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.rasterize import edges_of, render_mesh
from distill3d.kernels.toybox.meshes import mesh as toy_mesh


def square(half=0.3, z=0.0, dtype=torch.float64):
    """Faces the front camera; its colours are linear in x and y."""
    corners = torch.tensor([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=dtype)
    colors = torch.tensor([[0, 0, 0.5], [1, 0, 0.5], [1, 1, 0.5], [0, 1, 0.5]], dtype=dtype)
    return Mesh(
        corners * half + torch.tensor([0, 0, z]), torch.tensor([[0, 1, 2], [0, 2, 3]]), colors
    )


def front(size=32, dtype=torch.float64):
    return orbit(0.0, 0.0, 2.0, 40.0, size).to("cpu", dtype)


def soup(count=60, seed=3):
    draw = torch.Generator().manual_seed(seed)
    places = torch.rand(count, 3, 3, generator=draw, dtype=torch.float64) - 0.5
    places[::7] *= 6  # some reach behind the camera
    return Mesh(
        places.view(-1, 3),
        torch.arange(3 * count).view(-1, 3),
        torch.rand(3 * count, 3, generator=draw).double(),
    )


def camera_space(mesh, cameras):
    rotation = cameras.viewmats[:, :3, :3]
    return mesh.vertices @ rotation.transpose(1, 2) + cameras.viewmats[:, None, :3, 3]


def test_torch_keeps_as_many_threads_as_it_had():
    """Else the same run has other numbers after a mesh than before it."""
    pytest.importorskip("numba")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            mesh = soup()
            cover(camera_space(mesh, front()), mesh.faces, front(), "numba")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("pixels", [2_000_000, 500])
def test_backends_find_the_same_faces(backend, pixels, monkeypatch):
    if backend == "numba":
        pytest.importorskip("numba")
    monkeypatch.setattr(raster, "AT_ONCE", pixels)
    cameras = orbit(
        torch.tensor([20.0, 140.0, 260.0]), torch.tensor([10.0, -20.0, 60.0]), 1.3, 50.0, (41, 29)
    )
    cameras, mesh = cameras.to("cpu", torch.float64), soup()
    places = camera_space(mesh, cameras)
    truth = cover(places, mesh.faces, cameras, "reference")
    assert 0.2 < (truth >= 0).double().mean() < 1 and len(truth.unique()) > 20
    assert torch.equal(cover(places, mesh.faces, cameras, backend), truth)
    behind = (places[..., 2][:, mesh.faces].amin(-1) < raster.NEAR).any(0)
    assert (
        behind.any()
        and not torch.isin(
            truth[0], (places[0, :, 2][mesh.faces].amin(-1) < raster.NEAR).nonzero()
        ).any()
    )


def test_colours_and_depth_are_those_of_the_plane_seen_in_perspective():
    mesh = square(half=1.3)  # fills the picture
    cameras = orbit(25.0, 12.0, 2.0, 40.0, 24).to("cpu", torch.float64)
    seen = render_mesh(mesh, cameras)
    matrix = cameras.intrinsics[0]
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    rays = torch.stack(
        [(x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1], torch.ones_like(x)],
        -1,
    )
    world = rays.double() @ cameras.viewmats[0, :3, :3]
    distance = -cameras.positions[0, 2] / world[..., 2]
    hit = cameras.positions[0] + distance[..., None] * world
    torch.testing.assert_close(seen.depth[0, ..., 0], distance)
    torch.testing.assert_close(seen.color[0, ..., 0], 0.5 + hit[..., 0] / 2.6)
    torch.testing.assert_close(seen.color[0, ..., 1], 0.5 + hit[..., 1] / 2.6)
    torch.testing.assert_close(seen.normal[0], torch.tensor([0.0, 0, 1]).double().expand(24, 24, 3))


def test_the_nearer_of_two_squares_is_seen_and_the_background_beside_them():
    far, near = square(0.5, -0.2), square(0.2, 0.2)
    both = Mesh(
        torch.cat([far.vertices, near.vertices]), torch.cat([far.faces, near.faces + 4]),
        torch.cat([torch.zeros(4, 3), torch.ones(4, 3)]).double(),
    )  # fmt: skip
    seen = render_mesh(both, front(), background=torch.tensor([0.0, 1.0, 0.0]))
    assert seen.color[0, 16, 16].tolist() == [1, 1, 1] and seen.depth[
        0, 16, 16
    ].item() == pytest.approx(1.8)
    assert seen.color[0, 16, 7].abs().max() < 1e-12 and seen.color[0, 0, 0].tolist() == [0, 1, 0]
    assert seen.alpha[0, 0, 0] == 0 and seen.depth[0, 0, 0] == 0


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.7])
def test_silhouettes_cover_what_the_square_covers_and_pull_at_its_size(angle):
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    scale = torch.tensor(1.013, dtype=torch.float64, requires_grad=True)
    mesh, cameras = square(), front(48)
    seen = render_mesh(replace(mesh, vertices=scale * (mesh.vertices @ turn.T)), cameras)
    side = 2 * 0.3 * cameras.intrinsics[0, 0, 0].item() / 2.0  # pixels at scale 1
    area = seen.alpha.sum()
    assert area.item() == pytest.approx((1.013 * side) ** 2, rel=0.01)
    (pull,) = torch.autograd.grad(area, scale)
    assert pull.item() == pytest.approx(2 * 1.013 * side**2, rel=0.08)


def test_antialiasing_comes_close_to_a_finer_picture_where_faces_are_smaller_than_pixels():
    vertices, faces = toy_mesh("teapot", 48)
    mesh = Mesh(vertices, faces, torch.full_like(vertices, 0.8))
    cameras = orbit(torch.tensor([30.0, 200.0]), 15.0, 2.0, 40.0, 64)
    fine = render_mesh(mesh, cameras.resize(512), antialias=False).alpha.permute(0, 3, 1, 2)
    fine = torch.nn.functional.avg_pool2d(fine, 8).permute(0, 2, 3, 1)
    error = [
        (render_mesh(mesh, cameras, antialias=on).alpha - fine).abs().mean().item()
        for on in (False, True)
    ]
    assert error[1] < 0.7 * error[0]


def test_gradients_are_those_of_finite_differences_inside_and_at_silhouettes():
    mesh, cameras = square(0.31), orbit(20.0, 10.0, 2.0, 40.0, 12).to("cpu", torch.float64)
    weights = torch.rand(
        1, 12, 12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def value(vertices, colors):
        return (weights * render_mesh(Mesh(vertices, mesh.faces, colors), cameras).color).sum()

    inputs = mesh.vertices.clone().requires_grad_(), mesh.colors.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, inputs, eps=1e-7, atol=1e-4)
    assert torch.autograd.grad(value(*inputs), inputs[0])[0].abs().min() > 0


def test_edges_know_the_faces_on_both_sides():
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6]])
    edges, beside = edges_of(faces)
    known = {tuple(e): tuple(b) for e, b in zip(edges.tolist(), beside.tolist(), strict=True)}
    assert known[(0, 2)] == (0, 1) and known[(0, 1)] == (0, -1) and len(known) == 8


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match="backend 'opengl' is unknown; choose one of auto, reference, torch, numba"
    ):
        render_mesh(square(), front(), backend="opengl")
    with pytest.raises(ValueError, match="background has shape"):
        render_mesh(square(), front(), background=torch.zeros(2))

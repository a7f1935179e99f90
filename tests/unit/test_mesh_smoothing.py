"""What keeps a mesh that moves in shape: welded seams, smoothing, penalties."""

from dataclasses import replace

import pytest
import torch
from mesh_balls import ball

from distill3d.kernels.meshes.cleanup import weld
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.rasterize import edges_of
from distill3d.kernels.meshes.smoothing import Smoothing, chebyshev
from distill3d.kernels.run.mesh_penalties import laplacian, normal_consistency


def test_welding_closes_the_seams_of_a_texture_and_drops_what_collapses():
    whole = ball()
    apart = Mesh(whole.vertices[whole.faces].view(-1, 3), torch.arange(3 * len(whole.faces)).view(-1, 3),
                 whole.colors[whole.faces].view(-1, 3))  # fmt: skip
    closed = weld(apart)
    assert len(closed.vertices) == len(whole.vertices) and (edges_of(closed.faces)[1] >= 0).all()
    assert closed.volume == pytest.approx(whole.volume, rel=1e-6)
    torch.testing.assert_close(closed.colors, whole.colors)
    assert torch.equal(weld(whole).vertices, whole.vertices) and torch.equal(
        weld(whole).faces, whole.faces
    )
    point = replace(whole, faces=torch.cat([whole.faces, torch.tensor([[0, 0, 1]])]))
    assert len(weld(point).faces) == len(whole.faces)


def test_smoothing_keeps_a_resting_mesh_and_spreads_a_pull():
    mesh = ball(rounds=2)
    smoothing = Smoothing(edges_of(mesh.faces)[0], len(mesh.vertices), 10.0)
    u = smoothing.unsmooth(mesh.vertices)
    torch.testing.assert_close(smoothing(u), mesh.vertices, atol=1e-5, rtol=0)
    pulled = u.clone()
    pulled[0, 0] += 1.0
    moved = (smoothing(pulled) - mesh.vertices)[:, 0]
    assert (
        moved[0] == moved.max() < 0.2
        and (moved > 0).all()
        and moved.sum() == pytest.approx(1.0, abs=1e-3)
    )
    inputs = u[:6].double()
    small = Smoothing(torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]), 6, 2.0)
    assert torch.autograd.gradcheck(small, inputs.requires_grad_())


@pytest.mark.parametrize("strength", [0.1, 10.0, 1000.0])
def test_the_iteration_of_other_devices_agrees_with_the_direct_solution(strength):
    mesh = ball(rounds=3)
    smoothing = Smoothing(edges_of(mesh.faces)[0], len(mesh.vertices), strength)
    pull = torch.randn(len(mesh.vertices), 3, generator=torch.Generator().manual_seed(0))
    exact, found = smoothing.solve(pull), chebyshev(smoothing.matrix, pull, smoothing.largest)
    assert (found - exact).norm() < 3e-6 * exact.norm()
    exact = mesh.vertices
    found = chebyshev(smoothing.matrix, smoothing.unsmooth(exact), smoothing.largest)
    torch.testing.assert_close(found, exact, atol=2e-5, rtol=0)
    spectrum = torch.linalg.eigvalsh(smoothing.matrix.to_dense().double())
    assert spectrum[0] > 1 - 1e-3 and spectrum[-1] <= smoothing.largest * (1 + 1e-6)


def test_penalties_are_zero_on_what_is_flat_and_grow_with_a_spike():
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    flat = torch.cat([grid, torch.zeros(9, 1)], 1)
    faces = torch.tensor(
        [[i * 3 + j, (i + 1) * 3 + j, i * 3 + j + 1] for i in range(2) for j in range(2)]
        + [
            [(i + 1) * 3 + j, (i + 1) * 3 + j + 1, i * 3 + j + 1]
            for i in range(2)
            for j in range(2)
        ]
    )
    edges, beside = edges_of(faces)
    spike = flat.clone()
    spike[4, 2] = 1.0
    assert (
        normal_consistency(flat, faces, beside) == 0
        and normal_consistency(spike, faces, beside) > 0.1
    )
    assert laplacian(spike, edges) > laplacian(flat, edges) + 0.1

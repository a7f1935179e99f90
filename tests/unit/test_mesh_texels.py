"""Textures in renders of a mesh."""

import math
from dataclasses import replace

import pytest
import torch

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.rasterize import render_mesh
from distill3d.kernels.meshes.texels import downsample, level_of_detail, texels


def square(texture):
    """One world unit wide, facing the front, the texture upright on it."""
    vertices = torch.tensor(
        [[-0.5, 0.5, 0.0], [-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.5, 0.5, 0.0]]
    )
    uvs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.zeros(4, 3), uvs, texture)


def test_texels_lie_in_the_middle_of_their_squares_and_mix_in_between():
    texture = torch.arange(6.0).view(2, 3, 1)
    uvs = torch.tensor([[1 / 6, 0.25], [5 / 6, 0.75], [1 / 3, 0.5], [-1.0, 2.0]])
    assert texels(texture, uvs)[:, 0].tolist() == pytest.approx([0, 5, 2, 3], abs=1e-5)


def test_texels_have_the_gradients_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(4, 5, 2, generator=generator, dtype=torch.float64).requires_grad_()
    uvs = (0.15 + 0.7 * torch.rand(6, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(texels, (texture, uvs))


def test_a_render_shows_the_texture_upright_and_hands_its_gradient_on():
    texture = torch.zeros(2, 2, 3)
    texture[0, 0, 0], texture[0, 1, 1], texture[1, 0, 2] = 1.0, 1.0, 1.0  # red green / blue black
    texture.requires_grad_()
    color = render_mesh(square(texture), orbit(0.0, 0.0, 2.0, 40.0, 64), 0.5).color[0]
    assert [
        color[row, column].argmax().item() for row, column in ((16, 16), (16, 47), (47, 16))
    ] == [0, 1, 2]
    assert color[47, 47].max() < 0.3
    (gradient,) = torch.autograd.grad(color[:32, :32].sum(), texture)
    assert gradient[0, 0].min() > gradient[1, 1].max() > 0


@pytest.mark.parametrize("size", [16, 32, 64, 128, 512])
@pytest.mark.parametrize("pixels", [32, 64])
def test_a_texel_is_about_as_large_as_a_pixel_at_the_level_of_detail(size, pixels):
    # of the square at distance 2 under 40 degrees
    across = pixels / 2 / math.tan(math.radians(20)) / 2
    level = level_of_detail(
        square(torch.zeros(size, size, 3)), orbit(torch.tensor([0.0, 90.0]), 0.0, 2.0, 40.0, pixels)
    )
    assert level == 0 or across / 2**0.5 < size / 2**level < across * 2**0.5
    assert level > 0 or size < across * 2**0.5


def test_a_texture_that_cannot_be_halved_stays_and_colours_alone_need_no_level():
    cameras = orbit(0.0, 0.0, 2.0, 40.0, 32)
    assert level_of_detail(square(torch.zeros(255, 512, 3)), cameras) == 0
    assert level_of_detail(replace(square(torch.zeros(512, 512, 3)), texture=None), cameras) == 0


def test_halving_averages_and_spreads_gradients_evenly():
    texture = torch.arange(16.0).view(4, 4, 1).requires_grad_()
    assert downsample(texture, 0) is texture
    small = downsample(texture, 1)
    assert small[..., 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    (gradient,) = torch.autograd.grad(small[0, 1].sum(), texture)
    assert gradient[:2, 2:].eq(0.25).all() and gradient.sum() == 1

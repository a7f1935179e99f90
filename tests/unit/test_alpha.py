"""Renders' alpha before priors whose encoder takes it: the silhouette is judged too."""

import torch

from distill3d.kernels.priors.view_conditioning import FAINT, encoder_input


class Prior:
    takes_alpha = True


def test_alpha_goes_in_where_the_encoder_takes_it_and_nowhere_else():
    color, alpha, grounds = torch.rand(2, 4, 5, 3), torch.rand(2, 4, 5, 1), torch.rand(2, 3)
    given = encoder_input(Prior(), color, alpha, grounds)
    assert torch.equal(given[:, 3], alpha[..., 0])
    assert torch.equal(encoder_input(object(), color, alpha, grounds), color.permute(0, 3, 1, 2))


def test_a_picture_with_alpha_laid_on_another_ground_is_the_render_on_that_ground():
    shares = torch.tensor([0.0, FAINT, 0.1, 0.5, 1.0]).expand(2, 4, 5)[..., None]
    own, grounds, other = torch.rand(2, 4, 5, 3), torch.rand(2, 3), torch.rand(2, 3)
    on, elsewhere = (own * shares + g[:, None, None] * (1 - shares) for g in (grounds, other))
    given = encoder_input(Prior(), on, shares, grounds).permute(0, 2, 3, 1)
    colors, alpha = given[..., :3], given[..., 3:]
    laid = colors * alpha + other[:, None, None] * (1 - alpha)
    torch.testing.assert_close(laid, elsewhere, atol=1e-6, rtol=1e-5)
    assert torch.equal(colors[:, :, 0], grounds[:, None].expand(2, 4, 3))


def test_the_colours_of_a_faint_pixel_get_a_gradient_with_an_end():
    color, alpha = torch.full((1, 1, 1, 3), 0.5, requires_grad=True), torch.full((1, 1, 1, 1), 1e-9)
    encoder_input(Prior(), color, alpha, torch.full((1, 3), 0.5)).sum().backward()
    assert float(color.grad.max()) <= 1 / FAINT + 1e-3

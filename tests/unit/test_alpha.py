"""Renders' alpha before priors whose encoder takes it: the silhouette is judged too."""

import torch

from distill3d.kernels.priors.view_conditioning import encoder_input


class Prior:
    takes_alpha = True


def test_alpha_goes_in_where_the_encoder_takes_it_and_nowhere_else():
    color, alpha = torch.rand(2, 4, 5, 3), torch.rand(2, 4, 5, 1)
    given = encoder_input(Prior(), color, alpha)
    assert torch.equal(given, torch.cat([color, alpha], -1).permute(0, 3, 1, 2))
    assert torch.equal(encoder_input(object(), color, alpha), color.permute(0, 3, 1, 2))

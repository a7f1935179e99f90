"""Renders' alpha before priors whose encoder takes it: the silhouette is judged too."""

import torch

from distill3d.kernels.priors.seeing import shown


class Prior:
    takes_alpha = True


def test_alpha_goes_in_where_the_encoder_takes_it_and_nowhere_else():
    color, alpha = torch.rand(2, 4, 5, 3), torch.rand(2, 4, 5, 1)
    seen = shown(Prior(), color, alpha)
    assert torch.equal(seen, torch.cat([color, alpha], -1).permute(0, 3, 1, 2))
    assert torch.equal(shown(object(), color, alpha), color.permute(0, 3, 1, 2))

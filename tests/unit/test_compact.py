"""The viewer's messages: what arrives is the cloud, up to the quantisation, thinned where it is
large.
"""

from __future__ import annotations

import math

import pytest
import torch

from distill3d.kernels.files.compact import LOG_SPAN, MARK, ROW, focus, pack, unpack
from distill3d.kernels.gaussians.cloud import SH_C0, Gaussians


def cloud(n: int, seed: int = 0, degree: int = 0) -> Gaussians:
    draw = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(n, 3, generator=draw) * 0.3,
        log_scales=torch.randn(n, 3, generator=draw) * 0.5 - 4,
        quats=torch.randn(n, 4, generator=draw) * 3,
        opacity_logits=torch.randn(n, generator=draw),
        sh=(torch.rand(n, (degree + 1) ** 2, 3, generator=draw) - 0.5) / SH_C0,
    )


def test_a_message_holds_the_cloud_to_the_steps_of_its_numbers():
    sent = cloud(500, degree=2)
    message = pack(sent, 1000, step=7)
    got, about = unpack(message)
    assert (about["shown"], about["count"], about["step"]) == (500, 500, 7)
    box = sent.means.amax(0) - sent.means.amin(0)
    assert ((got.means - sent.means).abs() <= 0.51 * box / 65535 + 1e-6).all()
    span = sent.log_scales.max() - sent.log_scales.min()
    assert ((got.log_scales - sent.log_scales).abs() <= 0.51 * span / 255 + 1e-5).all()
    assert (got.colors - sent.colors).abs().max() < 0.51 / 255
    assert (got.opacities - sent.opacities).abs().max() < 0.51 / 255
    units = torch.nn.functional.normalize(sent.quats, dim=1)
    assert (got.quats - units).abs().max() < 0.51 / 127
    assert len(message) < 17 * 500 + 400 and message[:4] == MARK


def test_planes_start_at_a_multiple_of_four_so_that_a_page_can_view_them_in_place():
    for step in (1, 10, 100, 1000):
        message = pack(cloud(3), 10, step=step)
        assert (len(message) - ROW * 3) % 4 == 0


def test_a_large_cloud_is_thinned_evenly_and_covers_as_much():
    sent = cloud(1000)
    got, about = unpack(pack(sent, 250))
    assert (len(got), about["count"], about["shown"]) == (250, 1000, 250)
    assert torch.allclose(got.means, sent.means[::4], atol=1e-3)
    area = lambda c: (2 * c.log_scales.mean(1)).exp().sum()  # noqa: E731
    kept = (2 * sent.log_scales[::4].mean(1)).exp().sum()
    assert math.isclose(float(area(got)), float(4 * kept), rel_tol=0.05)


def test_scales_too_small_to_be_seen_do_not_coarsen_the_others():
    sent = cloud(50)
    sent.log_scales[0] = -60.0
    got, about = unpack(pack(sent, 50))
    assert about["logs"][1] - about["logs"][0] == pytest.approx(LOG_SPAN)
    assert ((got.log_scales - sent.log_scales)[1:].abs() <= 0.51 * LOG_SPAN / 255 + 1e-5).all()


def test_one_gaussian_and_flat_clouds_are_packed():
    sent = cloud(1)
    got, about = unpack(pack(sent, 5))
    assert torch.allclose(got.means, sent.means, atol=1e-5) and about["radius"] == 0
    sent = cloud(20)
    sent.means[:, 1] = 0.25
    assert torch.allclose(unpack(pack(sent, 20))[0].means, sent.means, atol=1e-4)


def test_a_camera_is_told_to_look_at_the_object_and_not_at_strays_haze_or_the_sky():
    sent = cloud(400)
    sent.opacity_logits[:] = 2.0
    sent.means[:200] = sent.means[:200] * 0.1 + torch.tensor([1.0, 2.0, 3.0])
    sent.means[200:] *= 50
    sky = torch.arange(400) >= 200
    for there in (
        Gaussians(**sent.tensors(), anchored=sky),
        Gaussians(**sent.tensors() | {"opacity_logits": torch.where(sky, -6.0, 2.0)}),
    ):
        centre, radius = focus(there)
        assert (
            torch.allclose(centre, torch.tensor([1.0, 2.0, 3.0]), atol=0.05)
            and 0.03 < radius < 0.15
        )
    assert focus(Gaussians(**sent.tensors() | {"opacity_logits": torch.full((400,), -9.0)}))[1] > 1


def test_what_is_no_message_is_refused():
    message = pack(cloud(4), 4)
    for bad in (b"", b"ply\n", message[:-1], message + b"0", message[:10]):
        with pytest.raises(ValueError):
            unpack(bad)

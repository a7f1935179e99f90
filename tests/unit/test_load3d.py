"""ComfyUI's LOAD3D_CAMERA against our cameras."""

from __future__ import annotations

import math

import pytest
import torch

from distill3d.kernels.cameras.load3d import ListedSampler, from_load3d, to_load3d
from distill3d.kernels.cameras.pinhole import orbit

AZIMUTHS, ELEVATIONS = torch.tensor([0.0, 90, 200, -60, 30]), torch.tensor([0.0, 20, -40, 89, -90])


def xyz(*values):
    return dict(zip("xyzw", values, strict=False))


def camera(**more):
    return {
        "position": xyz(0, 0, 2),
        "target": xyz(0, 0, 0),
        "zoom": 1,
        "cameraType": "perspective",
    } | more


def test_there_and_back_is_the_same_camera():
    cameras = orbit(AZIMUTHS, ELEVATIONS, 2.5, 50.0, (96, 64), torch.tensor([0.1, -0.2, 0.3]))
    back = from_load3d(to_load3d(cameras), (96, 64))
    torch.testing.assert_close(back.viewmats, cameras.viewmats, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.intrinsics, cameras.intrinsics, atol=1e-3, rtol=0)
    torch.testing.assert_close(back.distances, cameras.distances, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.elevations, cameras.elevations, atol=0.05, rtol=0)
    torch.testing.assert_close(back.azimuths[:4], cameras.azimuths[:4], atol=0.01, rtol=0)


def test_the_front_is_seen_from_z_without_a_turn():
    (info,) = to_load3d(orbit(0.0, 0.0, 2.0, 40.0, 64))
    assert info["position"] == pytest.approx(xyz(0, 0, 2), abs=1e-6)
    assert info["target"] == pytest.approx(xyz(0, 0, 0), abs=1e-6)
    assert {key: abs(value) for key, value in info["quaternion"].items()} == pytest.approx(
        xyz(0, 0, 0, 1)
    )
    assert info["fov"] == pytest.approx(40)
    expected = orbit(0.0, 0.0, 2.0, 40.0, 64)
    for given in (camera(fov=40), camera(fov=40, quaternion=xyz(0, 0, 0, 1))):
        torch.testing.assert_close(
            from_load3d(given, 64).viewmats, expected.viewmats, atol=1e-6, rtol=0
        )


def test_zoom_is_a_longer_focal_length_and_roll_turns_the_picture():
    plain, near = from_load3d(camera(fov=40), 64), from_load3d(camera(fov=40, zoom=2), 64)
    torch.testing.assert_close(near.intrinsics[0, 0, 0], 2 * plain.intrinsics[0, 0, 0])
    half = math.sqrt(0.5)
    rolled = from_load3d(
        camera(quaternion=xyz(0, 0, half, half)), 64
    )  # its right is the world's up
    assert rolled.viewmats[0, :3, :3] @ torch.tensor([0.0, 1, 0]) == pytest.approx(
        [1, 0, 0], abs=1e-6
    )


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ([], "holds 0 cameras"),
        (camera(cameraType="orthographic"), r"cameras\[0\] is orthographic"),
        ([camera(), camera(position=xyz(0, 0))], r"cameras\[1\] has no whole position"),
        (camera(position=xyz(0, 0, 0)), "stands at its target"),
        (camera(fov=500), "fov 500"),
        (camera(target=xyz(0, math.nan, 0)), r"target is \[0.0, nan"),
        ([3], r"cameras\[0\] is int"),
    ],
)
def test_what_is_no_camera_is_named(infos, message):
    with pytest.raises(ValueError, match=message):
        from_load3d(infos, 64)


def test_a_list_trains_on_every_camera_before_any_comes_twice():
    cameras = orbit(torch.arange(6) * 60.0, 10.0, 2.0, 40.0, 32)
    sampler = ListedSampler(tuple(to_load3d(cameras)))
    sampler.check()
    seen = sampler.sample(6, 32, torch.Generator().manual_seed(0))
    assert sorted(round(a) % 360 for a in seen.azimuths.tolist()) == [0, 60, 120, 180, 240, 300]
    again = sampler.sample(6, 32, torch.Generator().manual_seed(0))
    assert torch.equal(seen.viewmats, again.viewmats)
    assert sampler.usual_look == pytest.approx((2.0, 40.0), abs=1e-3)
    with pytest.raises(ValueError, match="needs 4 views at equal steps"):
        sampler.check(4)

import math

import pytest
import torch
from kit import seeded

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import orbit, sphere, turntable


def project(cameras, point):
    """Pixel [V,2] and depth [V] of a world point, straight from the matrices."""
    p = torch.tensor([*point, 1.0], dtype=cameras.viewmats.dtype)
    x, y, z = (cameras.viewmats @ p)[:, :3].unbind(-1)
    k = cameras.intrinsics
    return torch.stack([k[:, 0, 0] * x / z + k[:, 0, 2], k[:, 1, 1] * y / z + k[:, 1, 2]], -1), z


@pytest.mark.parametrize(
    ("azimuth", "elevation", "position"),
    [
        (0, 0, (0, 0, 2)),
        (90, 0, (2, 0, 0)),
        (180, 0, (0, 0, -2)),
        (-90, 0, (-2, 0, 0)),
        (0, 90, (0, 2, 0)),
        (0, -90, (0, -2, 0)),
    ],
)
def test_the_camera_stands_where_the_angles_say(azimuth, elevation, position):
    cameras = orbit(azimuth, elevation, 2.0)
    torch.testing.assert_close(
        cameras.positions[0], torch.tensor(position, dtype=torch.float32), atol=1e-6, rtol=0
    )


def test_the_target_lands_in_the_middle_at_the_distance():
    target = torch.tensor([0.1, -0.2, 0.3])
    cameras = orbit(
        torch.tensor([0.0, 33.0, -120.0]),
        torch.tensor([0.0, 70.0, -5.0]),
        2.5,
        size=(64, 48),
        target=target,
    )
    pixel, depth = project(cameras, target.tolist())
    torch.testing.assert_close(pixel, torch.tensor([32.0, 24.0]).expand(3, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(depth, torch.full((3,), 2.5))


def test_one_angle_and_many_targets_give_many_cameras():
    targets = torch.tensor([[0.0, 0, 0], [0.1, 0.2, 0.3]])
    cameras = orbit(0, 0, 2.0, target=targets)
    torch.testing.assert_close(cameras.positions, targets + torch.tensor([0.0, 0, 2]))
    assert len(cameras) == len(cameras.distances) == 2


def test_a_known_point_lands_on_its_pixel():
    # fov 90 at 100 px: focal length 50 px. From the front, +X is right and +Y is up; 1.5 away from
    # the plane z = 0.5.
    cameras = orbit(0, 0, 2.0, fov_y=90, size=100)
    pixel, depth = project(cameras, (0.3, 0.6, 0.5))
    torch.testing.assert_close(pixel[0], torch.tensor([50 + 50 * 0.3 / 1.5, 50 - 50 * 0.6 / 1.5]))
    assert depth.item() == pytest.approx(1.5)


def test_from_azimuth_90_the_front_is_on_the_left():
    pixel, _ = project(orbit(90, 0, 2.0, size=100), (0, 0, 0.5))  # the front faces +Z
    assert pixel[0, 0] < 40
    assert pixel[0, 1].item() == pytest.approx(50, abs=1e-4)


def test_straight_above_the_front_is_at_the_bottom():
    cameras = orbit(0, 90, 2.0, size=100)
    assert torch.isfinite(cameras.viewmats).all()
    pixel, _ = project(cameras, (0, 0, 0.5))
    assert pixel[0, 1] > 60
    assert pixel[0, 0].item() == pytest.approx(50, abs=1e-4)


def test_view_matrices_are_rigid_and_right_handed_everywhere():
    azimuths, elevations = torch.meshgrid(
        torch.arange(-360.0, 361, 45), torch.arange(-90.0, 91, 15), indexing="ij"
    )
    cameras = orbit(azimuths.double().flatten(), elevations.double().flatten(), 2.0)
    rotation = cameras.viewmats[:, :3, :3]
    eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), eye)
    torch.testing.assert_close(
        torch.linalg.det(rotation), torch.ones(len(cameras), dtype=torch.float64)
    )
    assert (rotation[:, 1, 1] <= 1e-12).all()  # world up never points down in the picture
    assert cameras.viewmats.dtype == torch.float64
    assert ((cameras.azimuths >= -180) & (cameras.azimuths < 180)).all()


def test_resize_keeps_the_picture():
    cameras = orbit(torch.tensor([10.0, 20.0]), 5.0, 2.0, size=(100, 80))
    larger = cameras.resize((200, 160))
    assert (larger.width, larger.height) == (200, 160)
    torch.testing.assert_close(
        project(larger, (0.2, 0.1, 0))[0], 2 * project(cameras, (0.2, 0.1, 0))[0]
    )


def test_indexing_gives_batches():
    cameras = turntable(6)
    assert len(cameras[1]) == 1
    assert len(cameras[-1]) == 1
    assert cameras[2:4].azimuths.tolist() == [120.0, -180.0]
    torch.testing.assert_close(cameras[torch.tensor([5, 0])].positions, cameras.positions[[5, 0]])
    assert len(cameras[torch.tensor([True, False, True, False, False, False])]) == 2
    assert sum(len(camera) for camera in cameras) == 6
    with pytest.raises(IndexError, match="camera 6 of 6"):
        cameras[6]


def test_a_turntable_turns_from_front_to_plus_x():
    positions = turntable(4, elevation=0, distance=3).positions
    expected = torch.tensor([[0.0, 0, 3], [3, 0, 0], [0, 0, -3], [-3, 0, 0]])
    torch.testing.assert_close(positions, expected, atol=1e-5, rtol=0)


def test_the_sphere_is_covered_evenly():
    directions = sphere(200, distance=1.0).positions
    assert directions.mean(0).norm() < 0.02
    # Second moments of the uniform distribution on the sphere: a third of the identity.
    torch.testing.assert_close(directions.T @ directions / 200, torch.eye(3) / 3, atol=0.01, rtol=0)


def test_sampled_azimuths_fall_one_in_each_sector():
    sampler = OrbitSampler(target_jitter=0)
    for seed in range(20):
        azimuths = sampler.sample(8, 32, seeded(seed)).azimuths
        # There is one phase for which every sector of 45 degrees holds one view, so no sorted gap
        # reaches 90.
        ordered = torch.sort(azimuths % 360).values
        gaps = torch.diff(ordered, append=ordered[:1] + 360)
        assert gaps.max() < 90
    phases = torch.cat([sampler.sample(1, 32, seeded(seed)).azimuths for seed in range(64)])
    assert phases.min() < -120 and phases.max() > 120


def test_samples_stay_in_their_ranges_and_overhead_views_have_their_share():
    cameras = OrbitSampler(fov_y_min=30, fov_y_max=50, overhead_share=0.25).sample(
        4000, 64, seeded()
    )
    above = cameras.elevations >= 60
    assert 0.22 < above.float().mean() < 0.28
    assert (cameras.elevations[above] <= 85).all()
    assert ((cameras.elevations[~above] >= -10) & (cameras.elevations[~above] <= 45)).all()
    assert ((cameras.distances >= 1.97) & (cameras.distances <= 2.03)).all()
    fov = 2 * torch.rad2deg(torch.atan(32 / cameras.intrinsics[:, 1, 1]))
    assert fov.min() >= 29.99 and fov.max() <= 50.01 and fov.std() > 4


def test_the_target_jitters_within_its_bound():
    cameras = OrbitSampler(target_jitter=0.05).sample(500, 64, seeded())
    a, e = torch.deg2rad(cameras.azimuths), torch.deg2rad(cameras.elevations)
    backward = torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], -1)
    targets = cameras.positions - cameras.distances[:, None] * backward
    assert targets.abs().max() < 0.0501
    assert targets.std(0).min() > 0.02


def test_the_same_generator_gives_the_same_cameras():
    one, two = (OrbitSampler().sample(4, 32, seeded(7)) for _ in range(2))
    assert torch.equal(one.viewmats, two.viewmats)
    assert not torch.equal(one.viewmats, OrbitSampler().sample(4, 32, seeded(8)).viewmats)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"elevation_min": 50}, "elevation_min 50 is above elevation_max 45. Swap"),
        ({"elevation_max": 91}, "elevation_max is 91"),
        ({"distance_min": 0}, "distance_min is 0"),
        ({"distance_min": 3}, "distance_min 3 is above distance_max 2.03"),
        ({"overhead_share": 1.5}, "overhead_share is 1.5"),
        ({"fov_y_max": math.nan}, "fov_y_max is nan"),
        ({"target_jitter": -1}, "target_jitter is -1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        OrbitSampler(**settings).check()
    with pytest.raises(ValueError, match=message):
        OrbitSampler(**settings).sample(4, 32, seeded())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orbit(0, 100, 2.0), "elevations holds 100"),
        (lambda: orbit(0, 0, 0.0), "distances holds 0"),
        (lambda: orbit(math.nan, 0, 1.0), "azimuths holds nan"),
        (lambda: orbit(0, 0, 1.0, fov_y=180), "fov_y holds 180"),
        (lambda: orbit(0, 0, 1.0, size=0), "0 x 0 pixels"),
        (lambda: turntable(0), "n is 0"),
        (lambda: OrbitSampler().sample(0, 32, seeded()), "count is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

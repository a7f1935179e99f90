"""Cameras as a multi-view prior is told them, and orbits in rigs of four."""

import math

import pytest
import torch
from kit import seeded

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import orbit, turntable
from distill3d.kernels.losses.base import Views
from distill3d.kernels.priors.diffusers.multiview import (
    camera_rows,
)


# Each row: our azimuth and elevation, and the columns right, up, backward in MVDream's axes
# (Blender's, front at +x).
@pytest.mark.parametrize(
    ("azimuth", "elevation", "right", "up", "backward"),
    [
        (0, 0, (0, 1, 0), (0, 0, 1), (1, 0, 0)),
        (90, 0, (-1, 0, 0), (0, 0, 1), (0, 1, 0)),
        (180, 0, (0, -1, 0), (0, 0, 1), (-1, 0, 0)),
        (-90, 0, (1, 0, 0), (0, 0, 1), (0, -1, 0)),
        (0, 30, (0, 1, 0), (-0.5, 0, math.sqrt(0.75)), (math.sqrt(0.75), 0, 0.5)),
    ],
)
def test_cameras_are_told_in_the_models_own_axes(azimuth, elevation, right, up, backward):
    row = camera_rows(orbit(float(azimuth), float(elevation), 3.7))[0].view(4, 4)
    expected = torch.eye(4)
    # it stands on the unit sphere
    for column, values in enumerate((right, up, backward, backward)):
        expected[:3, column] = torch.tensor(values)
    torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)


def test_a_rigs_shift_is_not_told():
    still, shifted = (
        camera_rows(orbit(20.0, 10.0, 2.0, target=torch.tensor(at)))
        for at in ([0.0] * 3, [0.3, 0, -0.2])
    )
    torch.testing.assert_close(still, shifted)


def test_orbits_come_in_rigs_of_four():
    sampler = OrbitSampler(fov_y_min=30, fov_y_max=50, target_jitter=0.1)
    cameras = sampler.sample(12, 16, seeded(3), views_per_group=4)
    for rig in (cameras[first : first + 4] for first in (0, 4, 8)):
        steps = torch.remainder(rig.azimuths.roll(-1) - rig.azimuths, 360)
        torch.testing.assert_close(steps, torch.full((4,), 90.0), atol=1e-3, rtol=0)
        assert all(
            len(value.unique(dim=0)) == 1
            for value in (rig.elevations, rig.distances, rig.intrinsics)
        )
        middle = rig.positions.mean(0) - torch.tensor([0, 1, 0]) * float(
            rig.elevations[0].deg2rad().sin() * rig.distances[0]
        )
        for view in range(4):  # all look at the one, shifted target
            seen = rig.viewmats[view, :3, :3] @ middle + rig.viewmats[view, :3, 3]
            torch.testing.assert_close(seen[:2], torch.zeros(2), atol=1e-5, rtol=0)
    first = torch.remainder(cameras.azimuths[::4], 90)
    apart = torch.remainder(first[:, None] - first[None], 90)[~torch.eye(3, dtype=torch.bool)]
    assert cameras.elevations.unique().numel() == 3 and (apart > 1).all()


def test_rigs_are_spread_over_a_quarter_turn():
    for seed in range(20):
        phases = (
            torch.remainder(
                OrbitSampler().sample(16, 16, seeded(seed), views_per_group=4).azimuths[::4], 90
            )
            .sort()
            .values
        )
        gaps = torch.cat([phases[1:], phases[:1] + 90]) - phases
        assert gaps.max() < 2 * 90 / 4


def test_single_views_are_drawn_as_before():
    draws = torch.rand(6, 8, generator=seeded(5))
    azimuths = 360.0 * (draws[0, 0] + (torch.arange(5) + draws[1:, 0]) / 5)
    found = OrbitSampler().sample(5, 16, seeded(5), views_per_group=1)
    assert torch.equal(found.azimuths, torch.remainder(azimuths + 180, 360) - 180)


def test_turntable_orders_its_views_by_rigs():
    assert turntable(8, views_per_group=4).azimuths.tolist() == [
        0,
        90,
        -180,
        -90,
        45,
        135,
        -135,
        -45,
    ]
    assert turntable(4, views_per_group=4).azimuths.tolist() == turntable(4).azimuths.tolist()


def test_views_of_a_group_share_what_is_drawn():
    values = torch.arange(8)
    assert (
        Views(None, None, None, 0, 1, views_per_group=4).alike(values).tolist() == [0] * 4 + [4] * 4
    )
    assert Views(None, None, None, 0, 1).alike(values) is values

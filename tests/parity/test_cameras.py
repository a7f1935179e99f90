"""Cameras against Consistent3D's and LucidDreamer's own code."""

import math

import pytest
import torch
from replay import DTYPES, Numbers, close

from distill3d.kernels.cameras.orbit import (
    OrbitSampler,
    Widening,
    sector_azimuths,
    sphere_elevations,
)
from distill3d.kernels.cameras.pinhole import aimed, orbit

# their world has Z upwards and the front at +X, the pack's Y upwards and the front at +Z
AXES = [1, 2, 0]


def uniform(share, ends):
    return ends[0] + share * (ends[1] - ends[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [0, 1])
def test_a_batch_of_cameras_is_consistent3ds(dtype, batch):
    file = Numbers("cameras_consistent3d", dtype)
    settings, part = file.settings, file.part(f"{batch}.")
    azimuths = sector_azimuths(part["draw.azimuth"], settings["n_views"])
    ends, share = settings["elevation_range"], part["draw.elevation"]
    if part["sphere"]:
        elevations = sphere_elevations(share, *ends, law="consistent3d")
    else:
        elevations = uniform(share, ends)
    distances = uniform(part["draw.distance"], settings["camera_distance_range"])
    close("cameras_consistent3d", azimuths, part["azimuths"])
    close("cameras_consistent3d", elevations, part["elevations"])
    close("cameras_consistent3d", distances, part["distances"])
    exact = orbit(azimuths, elevations, distances)
    moved = (2 * part["draw.position"] - 1) * settings["camera_perturb"]
    cameras = aimed(
        exact,
        exact.positions + moved[:, AXES],
        (part["draw.center"] * settings["center_perturb"])[:, AXES],
        (part["draw.up"] * settings["up_perturb"])[:, AXES] + exact.positions.new_tensor([0, 1, 0]),
    )
    to_world = torch.linalg.inv(cameras.viewmats.double()).to(dtype)
    official = part["c2w"][:, AXES]
    close("cameras_consistent3d", to_world[:, :3, 3], official[:, :, 3])
    axes = to_world[:, :3, :3] * to_world.new_tensor([1, -1, -1])  # OpenGL's to OpenCV's
    close("cameras_consistent3d", axes, official[:, :, :3])


def test_eight_views_are_two_from_the_front_four_from_the_sides_two_from_the_back():
    sampler, generator = OrbitSampler(azimuth_sectors=4), torch.Generator().manual_seed(0)
    for _ in range(20):
        azimuths = sampler.sample(8, 16, generator).azimuths
        front, back = azimuths.abs() < 45, azimuths.abs() > 135
        assert (int(front.sum()), int(back.sum())) == (2, 2)


def test_half_of_the_batches_have_elevations_on_the_sphere():
    sampler = OrbitSampler(overhead_share=0, sphere_share=0.5, sphere_law="consistent3d")
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([sampler.sample(8, 16, generator).elevations for _ in range(500)])
    # as measured of the official code: mean 14.5, 13.7 % above 30 degrees
    assert float(found.mean()) == pytest.approx(14.5, abs=0.8)
    assert float((found > 30).float().mean()) == pytest.approx(0.137, abs=0.03)


def test_elevations_on_the_sphere_are_even_in_area():
    share = torch.linspace(0, 1, 11, dtype=torch.float64)
    sines = torch.deg2rad(sphere_elevations(share, -30.0, 90.0)).sin()
    torch.testing.assert_close(sines, -0.5 + 1.5 * share)


def test_ranges_widen_as_luciddreamers():
    file = Numbers("widening_cameras")
    sampler = OrbitSampler(
        distance_min=5.2,
        distance_max=5.5,
        fov_y_min=math.degrees(0.32),
        fov_y_max=math.degrees(0.60),
        widening=Widening(),
    )
    for k, iteration in enumerate(file["iteration"].tolist()):
        now = sampler.at(int(iteration) - 1)
        found = (now.distance_min, now.distance_max, now.fov_y_min, now.fov_y_max)
        names = ("distance_min", "distance_max", "fov_min", "fov_max")
        official = [float(file[name][k]) for name in names]
        assert found[:2] == pytest.approx(official[:2], rel=1e-12)
        assert [math.radians(v) for v in found[2:]] == pytest.approx(official[2:], rel=1e-12)


def test_jitters_move_the_camera_where_it_looks_and_what_is_up():
    generator = torch.Generator().manual_seed(0)
    exact = OrbitSampler(target_jitter=0).sample(64, 16, generator)
    generator.manual_seed(0)
    jittered = OrbitSampler(
        target_jitter=0, position_jitter=0.1, look_jitter=0.2, up_jitter=0.02
    ).sample(64, 16, generator)
    assert torch.equal(exact.azimuths, jittered.azimuths)
    moved = jittered.positions - exact.positions
    assert 0.09 < float(moved.abs().max()) <= 0.1 + 1e-5
    rotations = jittered.viewmats[:, :3, :3]
    eye = torch.eye(3).expand(64, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, eye, atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotations) > 0.99).all()


def test_one_field_of_view_serves_a_batch():
    sampler = OrbitSampler(fov_y_min=18, fov_y_max=34, shared_fov=True)
    cameras = sampler.sample(6, 16, torch.Generator().manual_seed(0))
    assert len(cameras.intrinsics[:, 0, 0].unique()) == 1

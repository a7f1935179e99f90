import math
from dataclasses import replace

import pytest
import torch
from kit import seeded

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.cameras.scene import SceneSampler, joined, look_around


@pytest.mark.parametrize(
    ("azimuth", "elevation", "ahead"),
    [
        (0, 0, (0, 0, 1)),
        (90, 0, (1, 0, 0)),
        (-90, 0, (-1, 0, 0)),
        (180, 0, (0, 0, -1)),
        (37, 90, (0, 1, 0)),
    ],
)
def test_outward_cameras_look_towards_their_angles(azimuth, elevation, ahead):
    place = torch.tensor([0.1, -0.05, 0.2])
    cameras = look_around(float(azimuth), float(elevation), place, 65, 32)
    torch.testing.assert_close(
        cameras.viewmats[0, 2, :3], torch.tensor(ahead).float(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(cameras.positions[0], place)
    assert cameras.viewmats[0, 1, 1] <= 1e-6  # the picture's down is not up in the world
    assert (
        cameras.azimuths.item() == (azimuth + 180) % 360 - 180
        and cameras.elevations.item() == elevation
    )
    assert cameras.outward.tolist() == [True]
    assert 32 / 2 / cameras.intrinsics[0, 1, 1] == pytest.approx(math.tan(math.radians(32.5)))


def test_one_place_serves_many_directions_and_the_other_way_round():
    assert len(look_around(torch.arange(5) * 72.0, 3.0, torch.zeros(3))) == 5
    cameras = look_around(10.0, 3.0, torch.rand(4, 3, generator=seeded()))
    assert all(
        len(v) == 4
        for v in (cameras.azimuths, cameras.elevations, cameras.distances, cameras.outward)
    )


def test_joined_cameras_know_which_look_outward_and_so_do_parts_of_them():
    cameras = joined(
        [
            orbit(torch.arange(3) * 10.0, 5.0, 2.0, 40, 16),
            look_around(torch.tensor([1.0, 2.0]), 0.0, torch.zeros(3), 65, 16),
        ]
    )
    assert cameras.outward.tolist() == [False] * 3 + [True] * 2
    assert cameras[1:4].outward.tolist() == [False, False, True] and cameras[
        -1
    ].outward.tolist() == [True]
    double = cameras.to("cpu", torch.float64).resize(8)
    assert double.outward.dtype == torch.bool and double.viewmats.dtype == torch.float64
    assert orbit(0.0, 0.0, 2.0).to("cpu", torch.float64)[0].outward is None


def test_a_scenes_sampler_stays_in_its_ranges_and_stratifies_both_kinds():
    sampler = SceneSampler(outward_share=0.25, target_jitter=0.0)
    cameras = sampler.sample(400, 16, seeded())
    out = cameras.outward
    assert out.sum() in (100, 101) and len(cameras) == 400
    inward, outward = cameras[~out], cameras[out]
    assert 0 <= inward.elevations.min() < 2 and 38 < inward.elevations.max() <= 40
    assert 2.45 <= inward.distances.min() < inward.distances.max() <= 2.55
    assert -10 <= outward.elevations.min() < -8 and 23 < outward.elevations.max() <= 25
    assert 0.05 < outward.positions.abs().max() <= 0.06
    assert inward.intrinsics[0, 0, 0] == pytest.approx(8 / math.tan(math.radians(20)))
    assert outward.intrinsics[0, 0, 0] == pytest.approx(8 / math.tan(math.radians(32.5)))
    for some in (inward, outward):
        turns = some.azimuths.remainder(360).sort().values
        assert (turns.diff() < 2 * 360 / len(some) + 1e-3).all()


def test_small_batches_have_the_share_on_average():
    counts = [
        int(SceneSampler(outward_share=0.3).sample(4, 8, seeded(i)).outward.sum())
        for i in range(300)
    ]
    assert set(counts) == {1, 2} and sum(counts) / 300 == pytest.approx(1.2, abs=0.08)
    assert not SceneSampler(outward_share=0.0).sample(4, 8, seeded()).outward.any()
    assert SceneSampler(outward_share=1.0).sample(4, 8, seeded()).outward.all()


def test_the_generator_decides():
    one, two = (SceneSampler().sample(4, 8, seeded(3)) for _ in range(2))
    assert torch.equal(one.viewmats, two.viewmats)
    assert not torch.equal(one.viewmats, SceneSampler().sample(4, 8, seeded(4)).viewmats)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outward_share": 1.5}, "outward_share is 1.5; choose a value within 0..1"),
        (
            {"outward_elevation_min": 30},
            "outward_elevation_min 30 is above outward_elevation_max 25. Swap",
        ),
        ({"distance_min": 3}, "distance_min 3 is above"),
        ({"fov_y": math.nan}, "fov_y is nan"),
    ],
)
def test_ranges_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SceneSampler(**settings).sample(4, 8, seeded())
    with pytest.raises(ValueError, match="count is 0"):
        SceneSampler().sample(0, 8, seeded())


def test_preview_cameras_stand_at_the_middle_of_the_ranges():
    for sampler in (
        SceneSampler(distance_min=2.0, distance_max=3.0),
        OrbitSampler(distance_min=2.0, distance_max=3.0),
    ):
        cameras = sampler.from_angles(torch.tensor([0.0, 90.0]), 15.0, 16)
        wanted = orbit(torch.tensor([0.0, 90.0]), 15.0, 2.5, 40.0, 16)
        assert torch.equal(cameras.viewmats, wanted.viewmats) and torch.equal(
            cameras.intrinsics, wanted.intrinsics
        )
    assert replace(cameras).outward is None

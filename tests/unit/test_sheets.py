"""Views in words and sheets of several views: the cameras are those that the models' makers
published, and a sheet is cut in their order.
"""

import math

import pytest
import torch

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.cameras.sheets import SHEETS, cut, grid_of
from distill3d.kernels.cameras.sides import parse_views

# Copied by hand from each source, see Sheet.source: (azimuth, elevation) in degrees, row by row.
PUBLISHED = {
    "Zero123++ 1.2": [(30, 20), (90, -10), (150, 20), (210, -10), (270, 20), (330, -10)],
    "Zero123++ 1.1": [(30, 30), (90, -20), (150, 30), (210, -20), (270, 30), (330, -20)],
    "multiple angles": [(45 * i, 0) for i in range(8)],
    "four sides": [(0, 0), (90, 0), (180, 0), (270, 0)],
}


def mvdream_camera(elevation, azimuth):
    """The place of a camera by the closed form of MVDream's camera_utils: on the unit sphere, its
    world turned into Blender's, z up; after numbers of bytedance/MVDream."""
    e, a = math.radians(elevation), math.radians(azimuth)
    x, y, z = math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)
    return torch.tensor([x, -z, y])


@pytest.mark.parametrize("name", PUBLISHED)
def test_cameras_of_a_sheet_are_the_published_angles(name):
    sheet = SHEETS[name]
    cameras = sheet.cameras(64)
    azimuths, elevations = (torch.tensor(v).float() for v in zip(*PUBLISHED[name], strict=True))
    wanted = orbit(azimuths, elevations, sheet.distance, sheet.fov_y, 64)
    assert torch.allclose(cameras.viewmats, wanted.viewmats, atol=1e-6)
    assert torch.allclose(cameras.intrinsics, wanted.intrinsics)


def test_zero123_plus_looks_with_30_degrees_at_a_sphere_that_just_fits_and_1_1_as_zero_1_to_3():
    new, old = SHEETS["Zero123++ 1.2"], SHEETS["Zero123++ 1.1"]
    assert new.fov_y == 30 and new.distance * math.tan(math.radians(15)) == pytest.approx(0.5)
    assert old.fov_y == pytest.approx(49.13434264120263)


def test_mvdream_begins_at_the_front_of_its_blender_world_and_goes_on_as_its_code_does():
    """Its script's defaults: elevation 15, azimuth from 90 on, by 90. Its front is +x, so that its
    x, y, z are our z, x, y."""
    places = SHEETS["MVDream"].cameras(64).positions
    for place, azimuth in zip(places, (90, 180, 270, 360), strict=True):
        x, y, z = mvdream_camera(15, azimuth)
        ours = torch.stack([y, z, x])
        assert torch.allclose(place / place.norm(), ours, atol=1e-5)


def test_every_sheet_has_a_camera_for_each_cell_and_says_where_it_is_from():
    for sheet in SHEETS.values():
        assert all(rows * columns == len(sheet.azimuths) for rows, columns in sheet.grids)
        assert len(sheet.azimuths) == len(sheet.elevations) and len(sheet.source) > 10


def test_a_sheet_is_cut_row_by_row_and_its_shape_tells_its_grid():
    cells = torch.rand(6, 4, 5, 3)
    sheet = torch.cat([torch.cat(list(cells[row * 2 : row * 2 + 2]), 1) for row in range(3)], 0)
    assert torch.equal(cut(sheet, 3, 2), cells)
    uneven = torch.cat([sheet, torch.zeros(1, 10, 3)], 0)
    assert torch.equal(cut(uneven, 3, 2), cells)
    assert grid_of(SHEETS["MVDream"], 1024, 256) == (1, 4)
    assert grid_of(SHEETS["MVDream"], 512, 512) == (2, 2)
    assert grid_of(SHEETS["multiple angles"], 2048, 256) == (1, 8)
    with pytest.raises(ValueError, match="10 x 12 pixels and cannot be cut into 20 rows"):
        cut(sheet, 20, 2)


def test_views_are_sides_or_angles():
    assert parse_views("front, Back 15,left,right;overhead") == [
        (0, 0), (180, 15), (90, 0), (-90, 0), (0, 90),
    ]  # fmt: skip
    assert parse_views(" 30 20\n-90 -10,") == [(30, 20), (-90, -10)]
    for text, told in {
        "": "view 1 is ''", "front,,back": "view 2 is ''", "front 1 2": "write a side",
        "top": "side or azimuth 'top'.*front, back", "front up": "elevation 'up'",
        "front 91": "elevation '91'", "400": "azimuth '400'", "nan": "azimuth 'nan'",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=told):
            parse_views(text)

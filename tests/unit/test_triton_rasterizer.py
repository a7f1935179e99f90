"""The Triton rasterizer in Triton's interpreter, on small scenes: it takes 20 ms per Gaussian and
tile.

Without the interpreter, on a machine with a GPU, test_rasterize_backends.py has the tests.
"""

import pytest
import torch
from splat_scenes import DEFAULTS, assert_near, cameras_of, cloud_of, outcome, outcome_with

pytest.importorskip("triton", reason="needs the package triton")

from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.projection import ALPHA_MIN, project
from distill3d.kernels.rasterizers.triton import binning as triton_binning
from distill3d.kernels.rasterizers.triton import rasterize as triton_raster
from distill3d.kernels.rasterizers.triton import ready as triton_ready

pytestmark = pytest.mark.slow(reason="Triton's interpreter")

if triton_ready.home() != "cpu":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

# At most 2 x 2 tiles.
SMALL = {"count": 14, "width": 21, "height": 10}
SMALL_SCENES = {
    "mixed": {},
    "harmonics, antialiased, without depth": {
        "degree": 3,
        "scale": -4.0,
        "count": 20,
        "options": {"antialiased": True, "depth": False},
    },
    "antialiased": {"scale": -3.5, "options": {"antialiased": True}},
    "one pixel": {"width": 1, "height": 1, "count": 12, "logit": -2.0},
    "large": {"scale": -0.5, "logit": -3.0, "count": 8},
    "faint": {"logit": -4.5, "scale": -1.5},
    "clamped": {"logit": 5.0},
    "saturated": {"count": 60, "scale": -1.5, "logit": 4.0, "width": 12, "height": 6},
}


@pytest.fixture
def poisoned():
    """Memory that nobody has written holds NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("scene", SMALL_SCENES)
def test_the_kernels_agree_with_the_reference(scene, poisoned):
    settings = DEFAULTS | SMALL | SMALL_SCENES[scene]
    views = 1 if scene == "saturated" else 2
    tolerance = 1e-3 if scene == "saturated" else 5e-5
    picture, gradients = outcome_with(settings, "triton", "cpu", torch.float32, views)
    truth, true_gradients = outcome_with(settings, "reference", "cpu", torch.float64, views)
    assert truth.visible.any()
    for name in ("color", "alpha", "depth", "means2d"):
        assert_near(name, getattr(picture, name), getattr(truth, name), tolerance)
    assert (picture.visible == truth.visible).all()
    for name, gradient in gradients.items():
        assert_near(f"gradient of {name}", gradient, true_gradients[name], 10 * tolerance)


def test_what_lies_behind_a_full_tile_has_no_gradient_and_what_lies_before_it_has(poisoned):
    # 40 sheets that fill the picture's one tile; after 16 of them it is seen to be full, and the
    # list is left.
    n = 40
    means = torch.zeros(n, 3, dtype=torch.float64)
    means[:, 2] = torch.linspace(-0.5, 0.5, n).flip(0)
    log_scales = torch.tensor([1.0, 1.5, -4.0], dtype=torch.float64).repeat(n, 1)
    quats = torch.tensor([1.0, 0.1, 0.2, -0.1], dtype=torch.float64).repeat(n, 1)
    sh = torch.randn(n, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cloud = Gaussians(means, log_scales, quats, torch.full((n,), 1.0, dtype=torch.float64), sh)
    cameras = cameras_of(8, 5, count=1)
    _, gradients = outcome(cloud, cameras, "triton", "cpu", torch.float32, {})
    _, true_gradients = outcome(cloud, cameras, "reference", "cpu", torch.float64, {})
    for name, gradient in gradients.items():
        # 1e-4 of the light is missing
        assert_near(f"gradient of {name}", gradient, true_gradients[name], 1e-2)
    opacity = gradients["opacity_logits"]
    assert (opacity[:6] != 0).all() and (opacity[16:] == 0).all()


def test_a_gaussian_is_listed_where_it_shows_and_hardly_anywhere_else():
    settings = DEFAULTS | {"count": 200, "scale": -3.0, "width": 61, "height": 43}
    cloud = cloud_of(**settings).to("cpu", torch.float32)
    cloud.log_scales[:, 0] += 1.5  # needles: much of their boxes is empty
    cameras = cameras_of(settings["width"], settings["height"], 2).to("cpu", torch.float32)
    screens = triton_raster._Screens(cloud, cameras, False, False)
    parameters = (cloud.means, cloud.log_scales, cloud.quats, cloud.opacity_logits)
    means2d, shapes, depths, boxes, counts, _ = triton_raster._Project.apply(*parameters, screens)
    tile = screens.tile
    lists = triton_raster.bin_pairs(
        means2d, shapes, depths, boxes, counts, screens.columns, screens.rows, tile
    )
    shown = dense_alphas(project(cloud, cameras), 61, 43) >= ALPHA_MIN  # [V,N,H,W]
    padding = (0, -61 % tile["TILE_W"], 0, -43 % tile["TILE_H"])
    blocks = torch.nn.functional.pad(shown, padding).unfold(2, tile["TILE_H"], tile["TILE_H"])
    # [V,N,rows,columns]
    wanted = blocks.unfold(3, tile["TILE_W"], tile["TILE_W"]).flatten(4).any(-1)
    listed = torch.zeros_like(wanted)
    lengths = lists.offsets.diff()
    tiles = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    view, row, column = (
        tiles // wanted[0, 0].numel(),
        tiles // screens.columns % screens.rows,
        tiles % screens.columns,
    )
    pairs = lists.entries[: len(tiles)]
    assert (pairs // 200 == view).all()
    listed[view, pairs % 200, row, column] = True
    assert (listed | ~wanted).all()
    assert listed.sum() == len(tiles) < 1.05 * wanted.sum()
    assert wanted.sum() < 0.8 * counts.sum()  # the scene has something to leave out
    depth = depths.flatten()[pairs]
    assert ((depth.diff() >= 0) | (tiles.diff() > 0)).all()


def dense_alphas(projection, width, height):
    """Alpha of every Gaussian at every pixel [V,N,H,W]."""
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    dx = (x - projection.means2d[..., :1])[:, :, None, :]
    dy = (y - projection.means2d[..., 1:])[:, :, :, None]
    a, b, c = (k[..., None, None] for k in projection.conics.unbind(-1))
    alpha = projection.opacities[..., None, None] * torch.exp(
        -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
    )
    return torch.where(projection.visible[..., None, None], alpha, 0.0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the numpy under the interpreter
@pytest.mark.parametrize(
    "log_scale", [float("nan"), 45.0], ids=["not a number", "beyond all numbers"]
)
def test_a_gaussian_whose_conic_is_no_number_spoils_no_other(log_scale, poisoned):
    settings = DEFAULTS | SMALL | {"count": 9}
    cloud, cameras = cloud_of(**settings), cameras_of(settings["width"], settings["height"], 1)
    cloud.means[0] = 0.1  # before the camera
    cloud.log_scales[0, 1] = log_scale
    cloud.sh[0] = float("nan")
    picture, gradients = outcome(cloud, cameras, "triton", "cpu", torch.float32, {})
    others = cloud.map(lambda tensor: tensor[1:])
    truth, true_gradients = outcome(others, cameras, "reference", "cpu", torch.float64, {})
    assert not picture.visible[0, 0]
    for name in ("color", "alpha", "depth"):
        assert_near(name, getattr(picture, name), getattr(truth, name), 5e-5)
    for name in cloud.tensors():
        assert_near(f"gradient of {name}", gradients[name][1:], true_gradients[name], 5e-4)


def test_more_tiles_than_a_short_key_counts_change_nothing(monkeypatch):
    settings = DEFAULTS | SMALL | {"count": 8}
    short, gradients = outcome_with(settings, "triton", "cpu", torch.float32, 2)
    monkeypatch.setattr(triton_binning, "SMALL", 7)
    long, same = outcome_with(settings, "triton", "cpu", torch.float32, 2)
    assert torch.equal(short.color, long.color)
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)


def test_the_check_at_first_use_finds_nothing_wrong_and_names_what_is(monkeypatch):
    assert triton_ready.ready()  # which other tests of this process may have asked
    harmonics = triton_raster.view_colors
    monkeypatch.setattr(triton_raster, "view_colors", lambda *given: 1.01 * harmonics(*given))
    wrong = triton_ready.mismatched_kernels("cpu")
    assert "color" in wrong and "gradient of sh" in wrong and "alpha" not in wrong

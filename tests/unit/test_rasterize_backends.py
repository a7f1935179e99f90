"""Every backend against the dense reference in float64: values and gradients.

On a machine with a CUDA GPU, ``pytest tests/unit/test_rasterize_backends.py -k cuda`` runs the same checks there.
Without one, the Triton kernels run in Triton's interpreter, on small scenes: it takes 20 ms per Gaussian and tile.
"""

import math
from functools import lru_cache

import pytest
import torch

from distill3d.kernels.gaussians.cameras import Cameras
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.projection import ALPHA_MIN, project
from distill3d.kernels.gaussians.rasterize import available, home, render

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
no_numba = pytest.mark.skipif(not available("numba"), reason="needs numba")
no_gsplat = pytest.mark.skipif(not available("gsplat"), reason="needs gsplat and a CUDA GPU")
interpreted = available("triton") and home("triton") == "cpu"
no_interpreter = pytest.mark.skipif(not interpreted, reason="needs Triton and its interpreter, TRITON_INTERPRET=1")
no_triton = pytest.mark.skipif(
    not (available("triton") and torch.cuda.is_available()) or interpreted, reason="needs Triton and a CUDA GPU"
)
# backend, device, dtype, largest error relative to the largest value
SUBJECTS = [
    pytest.param(("torch", "cpu", torch.float64, 1e-11), id="torch-float64"),
    pytest.param(("torch", "cpu", torch.float32, 5e-5), id="torch"),
    pytest.param(("numba", "cpu", torch.float32, 2e-4), id="numba", marks=no_numba),
    pytest.param(("numba", "cpu", torch.float64, 1e-11), id="numba-float64", marks=no_numba),
    pytest.param(("torch", "cuda", torch.float64, 1e-11), id="torch-cuda-float64", marks=no_gpu),
    pytest.param(("torch", "cuda", torch.float32, 1e-4), id="torch-cuda", marks=no_gpu),
    pytest.param(("triton", "cuda", torch.float32, 1e-4), id="triton-cuda", marks=no_triton),
    # A contribution at the threshold of 1/255 may fall either way in its fast arithmetic.
    pytest.param(("gsplat", "cuda", torch.float32, 1e-2), id="gsplat-cuda", marks=no_gsplat),
]
# What a scene changes: the number of Gaussians, log scale, opacity logit, SH degree, picture and options of render().
# All scales are anisotropic: a round Gaussian has no gradient with respect to its quaternion.
DEFAULTS = {"count": 120, "scale": -2.8, "logit": 0.0, "degree": 0, "width": 40, "height": 27, "options": {}}
SCENES = {
    "mixed": {},
    "harmonics": {"degree": 3},
    "antialiased": {"scale": -4.0, "options": {"antialiased": True}},
    "without depth": {"options": {"depth": False}},
    "smaller than a tile": {"width": 7, "height": 5},
    "one pixel": {"width": 1, "height": 1, "count": 30, "logit": -2.0},
    "taller than wide": {"width": 9, "height": 70},
    "large": {"scale": -0.5, "logit": -3.0},
    "faint": {"logit": -4.5},
    "clamped": {"count": 40, "logit": 5.0},
    "saturated": {"count": 500, "scale": -1.8, "logit": 2.0},
}
# The same for the interpreter, at most 2 x 2 tiles.
SMALL = {"count": 14, "width": 21, "height": 10}
SMALL_SCENES = {
    "mixed": {},
    "harmonics, antialiased, without depth": {
        **{"degree": 3, "scale": -4.0, "count": 20},
        "options": {"antialiased": True, "depth": False},
    },
    "antialiased": {"scale": -3.5, "options": {"antialiased": True}},
    "one pixel": {"width": 1, "height": 1, "count": 12, "logit": -2.0},
    "large": {"scale": -0.5, "logit": -3.0, "count": 8},
    "faint": {"logit": -4.5, "scale": -1.5},
    "clamped": {"logit": 5.0},
    "saturated": {"count": 60, "scale": -1.5, "logit": 4.0, "width": 12, "height": 6},
}


def cloud_of(count, scale, logit, degree, **_):
    """Gaussians around the origin, some of them behind the cameras at distance 2."""
    generator = torch.Generator().manual_seed(count + degree)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = normal(count, 3) * 0.35
    means[::10] *= 8
    return Gaussians(
        means=means,
        log_scales=normal(count, 3) * 0.5 + scale,
        quats=normal(count, 4),
        opacity_logits=normal(count) + logit,
        sh=normal(count, (degree + 1) ** 2, 3) * 0.5,
    )


def cameras_of(width, height, count=3, **_):
    """Cameras on a ring, the principal point off the centre."""
    azimuths = torch.arange(count, dtype=torch.float64) * (2 * math.pi / 3) + 0.3
    zeros, ones = torch.zeros_like(azimuths), torch.ones_like(azimuths)
    back = torch.stack((azimuths.sin(), 0.3 * ones, azimuths.cos()), 1)
    back = torch.nn.functional.normalize(back, dim=1)
    right = torch.stack((azimuths.cos(), zeros, -azimuths.sin()), 1)
    rotation = torch.stack((right, torch.linalg.cross(right, back), -back), 1)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3] = -(rotation @ (2 * back)[..., None])[..., 0]
    focal = 1.3 * max(width, height)
    k = torch.tensor([[focal, 0, 0.5 * width + 0.3], [0, 1.1 * focal, 0.5 * height - 0.2], [0, 0, 1]])
    return Cameras(viewmats, k.repeat(count, 1, 1), width, height, azimuths, zeros, 2 * ones)


def outcome(cloud, cameras, backend, device, dtype, options):
    """The rendering and the gradients of the cloud and of means2d for one fixed random loss."""
    cloud = cloud.to(device, dtype).map(lambda t: t.detach().requires_grad_())
    on_device = (t.to(device, dtype) for t in (cameras.viewmats, cameras.intrinsics))
    rest = (t.to(device) for t in (cameras.azimuths, cameras.elevations, cameras.distances))
    cameras = Cameras(*on_device, cameras.width, cameras.height, *rest)
    generator = torch.Generator().manual_seed(7)
    background = torch.rand(len(cameras), 3, generator=generator, dtype=torch.float64)
    picture = render(cloud, cameras, background.to(device, dtype), backend, **options)
    picture.means2d.retain_grad()
    loss = 0.0
    for image in (picture.color, picture.alpha, picture.depth):
        weight = torch.randn(image.shape, generator=generator, dtype=torch.float64)
        loss = loss + (image * weight.to(device, dtype)).sum()
    loss.backward()
    gradients = {name: tensor.grad for name, tensor in cloud.tensors().items()}
    return picture, gradients | {"means2d": picture.means2d.grad}


def outcome_of(scene, backend, device, dtype):
    return outcome_with(DEFAULTS | SCENES[scene], backend, device, dtype)


def outcome_with(settings, backend, device, dtype, views=3):
    cloud, cameras = cloud_of(**settings), cameras_of(settings["width"], settings["height"], views)
    return outcome(cloud, cameras, backend, device, dtype, settings["options"])


@lru_cache(maxsize=1)
def true_outcome_of(scene):
    return outcome_of(scene, "reference", "cpu", torch.float64)


def assert_near(name, value, truth, tolerance):
    assert value.shape == truth.shape
    error = (value.detach().cpu().double() - truth.detach()).abs().max().item()
    size = truth.detach().abs().max().item()
    assert error <= tolerance * max(size, 1e-3), f"{name}: off by {error:.2e}, the largest value is {size:.2e}"


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("scene", SCENES)  # the outer loop, so that each truth is computed once
def test_backend_agrees_with_the_reference(subject, scene):
    backend, device, dtype, tolerance = subject
    if backend == "gsplat" and scene == "clamped":
        pytest.skip("gsplat clamps alpha at 0.999")
    if backend == "gsplat" and scene == "one pixel":
        pytest.skip("one contribution at the threshold, which may fall either way, is a quarter of the gradient")
    if scene == "saturated" and dtype == torch.float32:
        tolerance *= 20  # what lies behind the last 1e-4 of the light is dropped by some backends
    picture, gradients = outcome_of(scene, backend, device, dtype)
    truth, true_gradients = true_outcome_of(scene)
    assert truth.visible.any() and not truth.visible.all()
    for name in ("color", "alpha", "depth"):
        assert_near(name, getattr(picture, name), getattr(truth, name), tolerance)
    if backend != "gsplat":  # it leaves means2d of what it culls undefined, and rounds its boxes up
        assert_near("means2d", picture.means2d, truth.means2d, tolerance)
        assert (picture.visible.cpu() == truth.visible).all()
    for name, gradient in gradients.items():
        assert_near(f"gradient of {name}", gradient, true_gradients[name], 10 * tolerance)


@pytest.fixture
def poisoned():
    """Memory that nobody has written holds NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@no_interpreter
@pytest.mark.parametrize("scene", SMALL_SCENES)
def test_the_triton_kernels_agree_with_the_reference_in_the_interpreter(scene, poisoned):
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


@no_interpreter
def test_what_lies_behind_a_full_tile_has_no_gradient_and_what_lies_before_it_has(poisoned):
    # 40 sheets that fill the picture's one tile; after 16 of them it is seen to be full, and the list is left.
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
        assert_near(f"gradient of {name}", gradient, true_gradients[name], 1e-2)  # 1e-4 of the light is missing
    opacity = gradients["opacity_logits"]
    assert (opacity[:6] != 0).all() and (opacity[16:] == 0).all()


@no_interpreter
def test_triton_lists_a_gaussian_where_it_shows_and_hardly_anywhere_else():
    from distill3d.kernels.gaussians import triton_raster

    settings = DEFAULTS | {"count": 200, "scale": -3.0, "width": 61, "height": 43}
    cloud = cloud_of(**settings).to("cpu", torch.float32)
    cloud.log_scales[:, 0] += 1.5  # needles: much of their boxes is empty
    cameras = cameras_of(settings["width"], settings["height"], 2).to("cpu", torch.float32)
    screens = triton_raster._Screens(cloud, cameras, False, False)
    parameters = (cloud.means, cloud.log_scales, cloud.quats, cloud.opacity_logits)
    means2d, shapes, depths, boxes, counts, _ = triton_raster._Project.apply(*parameters, screens)
    tile = screens.tile
    lists = triton_raster.bin_pairs(means2d, shapes, depths, boxes, counts, screens.columns, screens.rows, tile)
    shown = dense_alphas(project(cloud, cameras), 61, 43) >= ALPHA_MIN  # [V,N,H,W]
    padding = (0, -61 % tile["TILE_W"], 0, -43 % tile["TILE_H"])
    blocks = torch.nn.functional.pad(shown, padding).unfold(2, tile["TILE_H"], tile["TILE_H"])
    wanted = blocks.unfold(3, tile["TILE_W"], tile["TILE_W"]).flatten(4).any(-1)  # [V,N,rows,columns]
    listed = torch.zeros_like(wanted)
    lengths = lists.offsets.diff()
    tiles = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    view, row, column = tiles // wanted[0, 0].numel(), tiles // screens.columns % screens.rows, tiles % screens.columns
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
    alpha = projection.opacities[..., None, None] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
    return torch.where(projection.visible[..., None, None], alpha, 0.0)


@no_interpreter
def test_a_gaussian_that_is_not_a_number_spoils_no_other(poisoned):
    settings = DEFAULTS | SMALL | {"count": 9}
    cloud, cameras = cloud_of(**settings), cameras_of(settings["width"], settings["height"], 1)
    cloud.log_scales[0, 1] = float("nan")
    cloud.sh[0] = float("nan")
    picture, gradients = outcome(cloud, cameras, "triton", "cpu", torch.float32, {})
    others = cloud.map(lambda tensor: tensor[1:])
    truth, true_gradients = outcome(others, cameras, "reference", "cpu", torch.float64, {})
    assert not picture.visible[0, 0]
    for name in ("color", "alpha", "depth"):
        assert_near(name, getattr(picture, name), getattr(truth, name), 5e-5)
    for name in cloud.tensors():
        assert_near(f"gradient of {name}", gradients[name][1:], true_gradients[name], 5e-4)


@no_interpreter
def test_more_tiles_than_a_short_key_counts_change_nothing(monkeypatch):
    from distill3d.kernels.gaussians import triton_binning

    settings = DEFAULTS | SMALL | {"count": 8}
    short, gradients = outcome_with(settings, "triton", "cpu", torch.float32, 2)
    monkeypatch.setattr(triton_binning, "SMALL", 7)
    long, same = outcome_with(settings, "triton", "cpu", torch.float32, 2)
    assert torch.equal(short.color, long.color)
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)


@no_interpreter
def test_the_check_at_first_use_finds_nothing_wrong_and_names_what_is(monkeypatch):
    from distill3d.kernels.gaussians import triton_raster, triton_ready

    assert triton_ready.disagreeing("cpu") == []
    harmonics = triton_raster.view_colors
    monkeypatch.setattr(triton_raster, "view_colors", lambda *given: 1.01 * harmonics(*given))
    wrong = triton_ready.disagreeing("cpu")
    assert "color" in wrong and "gradient of sh" in wrong and "alpha" not in wrong


def test_the_clamped_and_saturated_scenes_are_what_they_are_named_for():
    clamped = cloud_of(**DEFAULTS | SCENES["clamped"])
    assert (clamped.opacities > 0.99).float().mean() > 0.5
    settings = DEFAULTS | SCENES["saturated"]
    alpha = render(cloud_of(**settings), cameras_of(settings["width"], settings["height"]), backend="torch").alpha
    assert (alpha > 1 - 1e-4).float().mean() > 0.2


def test_the_tiled_backend_passes_gradcheck():
    settings = DEFAULTS | {"count": 12, "degree": 1, "width": 11, "height": 6}
    cloud, cameras = cloud_of(**settings), cameras_of(settings["width"], settings["height"], count=2)
    keys = list(cloud.tensors())

    def pictures(*tensors):
        moved = Gaussians(**dict(zip(keys, tensors, strict=True)))
        picture = render(moved, cameras, 0.3, "torch", antialiased=True)
        return picture.color, picture.alpha, picture.depth

    inputs = [tensor.requires_grad_() for tensor in cloud.tensors().values()]
    assert torch.autograd.gradcheck(pictures, inputs, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize(
    ("backend", "n"),
    [("torch", 302), pytest.param("numba", 302, marks=no_numba), pytest.param("triton", 62, marks=no_interpreter)],
)
def test_gaussians_in_front_of_many_opaque_ones_keep_their_gradients(backend, n):
    # A wall of 300 layers fills one side of the picture: its pixels are done long before their neighbours', and the
    # transmittance behind it, 0.1^300, is no longer a float32.
    means = torch.zeros(n, 3, dtype=torch.float64)
    means[:, 2] = torch.linspace(0.5, -0.5, n)
    means[:, 0] = 0.25
    means[1::30, 0] = -0.25
    log_scales = torch.tensor([-2.5, -1.0, -4.0], dtype=torch.float64).repeat(n, 1)
    quats = torch.tensor([1.0, 0.1, 0.2, -0.1], dtype=torch.float64).repeat(n, 1)
    sh = torch.randn(n, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cloud = Gaussians(means, log_scales, quats, torch.full((n,), 2.2, dtype=torch.float64), sh)
    cameras = cameras_of(16, 16, count=1)
    picture, gradients = outcome(cloud, cameras, backend, "cpu", torch.float32, {})
    truth, true_gradients = outcome(cloud, cameras, "reference", "cpu", torch.float64, {})
    assert_near("color", picture.color, truth.color, 2e-4)
    for name, gradient in gradients.items():
        assert_near(f"gradient of {name}", gradient, true_gradients[name], 1e-3)


@pytest.mark.parametrize("backend", ["torch", pytest.param("numba", marks=no_numba)])
@pytest.mark.parametrize("threads", [1, 3])
def test_cpu_results_repeat_bit_for_bit(backend, threads):
    # Coinciding depths included: pairs of Gaussians share a mean.
    settings = DEFAULTS | {"count": 600, "degree": 1, "width": 61, "height": 50}
    cloud = cloud_of(**settings)
    cloud.means[1::2] = cloud.means[::2]
    cameras = cameras_of(settings["width"], settings["height"])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, gradients = outcome(cloud, cameras, backend, "cpu", torch.float32, {})
        for _ in range(3):
            again, new = outcome(cloud, cameras, backend, "cpu", torch.float32, {})
            assert torch.equal(first.color, again.color) and torch.equal(first.depth, again.depth)
            assert all(torch.equal(gradients[name], new[name]) for name in gradients)
    finally:
        torch.set_num_threads(before)


@no_triton
def test_triton_results_repeat_bit_for_bit_on_cuda():
    settings = DEFAULTS | {"count": 20000, "scale": -4.0, "degree": 1, "width": 500, "height": 333}
    cloud = cloud_of(**settings)
    cloud.means[1::2] = cloud.means[::2]
    cameras = cameras_of(settings["width"], settings["height"])
    first, gradients = outcome(cloud, cameras, "triton", "cuda", torch.float32, {})
    for _ in range(5):
        again, new = outcome(cloud, cameras, "triton", "cuda", torch.float32, {})
        assert torch.equal(first.color, again.color) and torch.equal(first.depth, again.depth)
        assert all(torch.equal(gradients[name], new[name]) for name in gradients)


@no_numba
def test_numba_results_do_not_depend_on_the_number_of_threads():
    cloud, cameras = cloud_of(**DEFAULTS | {"count": 1500, "scale": -4.0}), cameras_of(40, 67)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            results.append(outcome(cloud, cameras, "numba", "cpu", torch.float32, {}))
        finally:
            torch.set_num_threads(before)
    for picture, gradients in results[1:]:
        assert torch.equal(picture.color, results[0][0].color)
        assert all(torch.equal(gradients[name], results[0][1][name]) for name in gradients)


@pytest.mark.parametrize("backend", ["torch", pytest.param("numba", marks=no_numba)])
def test_a_loss_on_one_layer_alone_has_the_same_gradients(backend):
    cloud, cameras = cloud_of(**DEFAULTS), cameras_of(20, 13, count=1)

    def gradients(name, layer, dtype):
        leaf = cloud.to("cpu", dtype).map(lambda t: t.detach().requires_grad_())
        picture = render(leaf, cameras, 0.5, name)
        weight = torch.linspace(0, 1, 20, dtype=dtype)[:, None]
        (getattr(picture, layer) * weight).sum().backward()
        return {key: tensor.grad for key, tensor in leaf.tensors().items() if tensor.grad is not None}

    for layer in ("color", "alpha", "depth"):
        truth = gradients("reference", layer, torch.float64)
        for key, gradient in gradients(backend, layer, torch.float32).items():
            assert_near(f"{layer}: {key}", gradient, truth.get(key, torch.zeros_like(gradient).double()), 1e-3)

"""Every backend against the dense reference in float64: values and gradients.

On a machine with a CUDA GPU, ``pytest tests/unit/test_rasterize_backends.py -k cuda`` runs the same
checks there. Without one, test_triton_rasterizer.py runs the Triton kernels in Triton's
interpreter.
"""

import os
import platform
import subprocess
import sys
from functools import lru_cache

import pytest
import torch
from splat_scenes import DEFAULTS, assert_near, cameras_of, cloud_of, outcome, outcome_with

from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.rasterize import available, home, render

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
no_numba = pytest.mark.skipif(not available("numba"), reason="needs numba")
no_gsplat = pytest.mark.skipif(not available("gsplat"), reason="needs gsplat and a CUDA GPU")
interpreted = available("triton") and home("triton") == "cpu"
no_interpreter = pytest.mark.skipif(
    not interpreted, reason="needs Triton and its interpreter, TRITON_INTERPRET=1"
)
no_triton = pytest.mark.skipif(
    not (available("triton") and torch.cuda.is_available()) or interpreted,
    reason="needs Triton and a CUDA GPU",
)
# backend, device, dtype, largest error relative to the largest value
SUBJECTS = [
    pytest.param(("torch", "cpu", torch.float64, 1e-11), id="torch-float64"),
    pytest.param(("torch", "cpu", torch.float32, 5e-5), id="torch"),
    pytest.param(("numba", "cpu", torch.float32, 2e-4), id="numba", marks=no_numba),
    pytest.param(("numba", "cpu", torch.float64, 1e-11), id="numba-float64", marks=no_numba),
    pytest.param(("torch", "cuda", torch.float64, 1e-11), id="torch-cuda-float64", marks=no_gpu),
    pytest.param(("torch", "cuda", torch.float32, 1e-4), id="torch-cuda", marks=no_gpu),
    # stops at 1e-4 of light
    pytest.param(("triton", "cuda", torch.float32, 5e-4), id="triton-cuda", marks=no_triton),
    # A contribution at the threshold of 1/255 may fall either way in its fast arithmetic.
    pytest.param(("gsplat", "cuda", torch.float32, 1e-2), id="gsplat-cuda", marks=no_gsplat),
]
SCENES = {
    "mixed": {},
    "harmonics": {"degree": 3},
    "harmonics of degree 1": {"degree": 1},
    "harmonics of degree 2": {"degree": 2},
    "needles over many tiles": {"scale": -3.0, "spread": 1.5, "width": 150, "height": 101},
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


def outcome_of(scene, backend, device, dtype):
    return outcome_with(DEFAULTS | SCENES[scene], backend, device, dtype)


@lru_cache(maxsize=1)
def true_outcome_of(scene):
    return outcome_of(scene, "reference", "cpu", torch.float64)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("scene", SCENES)  # the outer loop, so that each truth is computed once
def test_backend_agrees_with_the_reference(subject, scene):
    backend, device, dtype, tolerance = subject
    if backend == "gsplat" and scene == "clamped":
        pytest.skip("gsplat clamps alpha at 0.999")
    if backend == "gsplat" and scene == "one pixel":
        pytest.skip(
            "one contribution at the threshold, which may fall either way, is a quarter of the"
            " gradient"
        )
    if scene == "saturated" and dtype == torch.float32:
        tolerance *= 20  # what lies behind the last 1e-4 of the light is dropped by some backends
    picture, gradients = outcome_of(scene, backend, device, dtype)
    truth, true_gradients = true_outcome_of(scene)
    assert truth.visible.any() and not truth.visible.all()
    for name in ("color", "alpha", "depth"):
        found, expected = getattr(picture, name), getattr(truth, name)
        # where alpha is small, one contribution more is another depth
        if name == "depth" and backend == "gsplat":
            found, expected = found * picture.alpha, expected * truth.alpha
        assert_near(name, found, expected, tolerance)
    if backend != "gsplat":  # it leaves means2d of what it culls undefined, and rounds its boxes up
        assert_near("means2d", picture.means2d, truth.means2d, tolerance)
        assert (picture.visible.cpu() == truth.visible).all()
    for name, gradient in gradients.items():
        assert_near(f"gradient of {name}", gradient, true_gradients[name], 10 * tolerance)


def test_the_clamped_and_saturated_scenes_are_what_they_are_named_for():
    clamped = cloud_of(**DEFAULTS | SCENES["clamped"])
    assert (clamped.opacities > 0.99).float().mean() > 0.5
    settings = DEFAULTS | SCENES["saturated"]
    alpha = render(
        cloud_of(**settings), cameras_of(settings["width"], settings["height"]), backend="torch"
    ).alpha
    assert (alpha > 1 - 1e-4).float().mean() > 0.2


def test_the_tiled_backend_passes_gradcheck():
    settings = DEFAULTS | {"count": 12, "degree": 1, "width": 11, "height": 6}
    cloud, cameras = (
        cloud_of(**settings),
        cameras_of(settings["width"], settings["height"], count=2),
    )
    keys = list(cloud.tensors())

    def pictures(*tensors):
        moved = Gaussians(**dict(zip(keys, tensors, strict=True)))
        picture = render(moved, cameras, 0.3, "torch", antialiased=True)
        return picture.color, picture.alpha, picture.depth

    inputs = [tensor.requires_grad_() for tensor in cloud.tensors().values()]
    assert torch.autograd.gradcheck(
        pictures, inputs, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True
    )


@pytest.mark.parametrize(
    ("backend", "n"),
    [
        ("torch", 302),
        pytest.param("numba", 302, marks=no_numba),
        pytest.param("triton", 62, marks=no_interpreter),
    ],
)
def test_gaussians_in_front_of_many_opaque_ones_keep_their_gradients(backend, n):
    # A wall of 300 layers fills one side of the picture: its pixels are done long before their
    # neighbours', and the transmittance behind it, 0.1^300, is no longer a float32.
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


@pytest.mark.nightly(reason="compiles all anew; test_numba_lanes.py has the lanes themselves")
@no_numba
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the vectors have this width anyway"
)
def test_numba_agrees_with_the_reference_on_a_processor_without_avx512(tmp_path):
    shorter = {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+popcnt",
    }
    names = (
        "test_backend_agrees_with_the_reference and numba and not float64 and (mixed or needles or"
        " antialiased)"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-q",
        "-k",
        names,
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command,
        env={**os.environ, **shorter, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("backend", ["torch", pytest.param("numba", marks=no_numba)])
def test_a_loss_on_one_layer_alone_has_the_same_gradients(backend):
    cloud, cameras = cloud_of(**DEFAULTS), cameras_of(20, 13, count=1)

    def gradients(name, layer, dtype):
        leaf = cloud.to("cpu", dtype).map(lambda t: t.detach().requires_grad_())
        picture = render(leaf, cameras, 0.5, name)
        weight = torch.linspace(0, 1, 20, dtype=dtype)[:, None]
        (getattr(picture, layer) * weight).sum().backward()
        return {
            key: tensor.grad for key, tensor in leaf.tensors().items() if tensor.grad is not None
        }

    for layer in ("color", "alpha", "depth"):
        truth = gradients("reference", layer, torch.float64)
        for key, gradient in gradients(backend, layer, torch.float32).items():
            assert_near(
                f"{layer}: {key}",
                gradient,
                truth.get(key, torch.zeros_like(gradient).double()),
                1e-3,
            )

"""Which rasterizer is chosen, what it refuses, and how a compilation is told of."""

import sys
import threading

import pytest
import torch
from gaussian_blobs import blobs, facing_cameras

from distill3d.kernels.rasterizers import rasterize
from distill3d.kernels.rasterizers.rasterize import (
    BACKENDS,
    available,
    choose,
    fast_backends,
    render,
)


def test_an_unknown_backend_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'opengl'.*auto, reference, torch, numba, triton, gsplat"
    ):
        render(blobs([[0.0, 0, 0]]), facing_cameras(), backend="opengl")
    with pytest.raises(ValueError, match="'opengl'"):
        available("opengl")
    assert [available(name) for name in BACKENDS[:3]] == [True, True, True]


def test_a_backend_for_another_device_is_refused():
    with pytest.raises(ValueError, match="'gsplat' renders clouds on cuda"):
        render(blobs([[0.0, 0, 0]]), facing_cameras(), backend="gsplat")


def test_without_numba_the_cpu_gets_the_torch_backend(monkeypatch):
    # Whatever goes wrong inside numba's import counts, not only its absence.
    for name in [
        name for name in sys.modules if name.startswith("distill3d.kernels.rasterizers.numba")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    rasterize.numba_backend.cache_clear()
    try:
        assert choose("cpu") == "torch" and not available("numba")
        assert render(blobs([[0.0, 0, 0]]), facing_cameras()).alpha.max() > 0
        with pytest.raises(ValueError, match="'numba' cannot be imported"):
            render(blobs([[0.0, 0, 0]]), facing_cameras(), backend="numba")
    finally:
        rasterize.numba_backend.cache_clear()


def test_a_device_without_a_backend_of_its_own_gets_torch():
    assert choose("mps") == "torch"
    if not torch.cuda.is_available():
        assert choose("cuda") == "torch"


@pytest.fixture
def graphics_card(monkeypatch):
    """As if there were a CUDA device, Triton and gsplat, whose code is compiled if
    ``graphics_card["compiled"]``.
    """
    state = {"compiled": True}
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(rasterize.gsplat_raster, "present", lambda: True)
    monkeypatch.setattr(rasterize.gsplat_raster, "compiled", lambda: state["compiled"])
    monkeypatch.setattr(rasterize.triton_ready, "present", lambda: True)
    return state


def test_a_graphics_card_gets_gsplat_if_it_is_compiled_and_else_triton(graphics_card):
    assert fast_backends("cuda") == ["gsplat", "triton"] and choose("cuda") == "gsplat"
    graphics_card["compiled"] = False
    assert fast_backends("cuda:1") == ["triton", "gsplat"] and choose("cuda") == "triton"
    assert "triton" not in fast_backends("cpu")


def test_only_gsplat_that_is_not_compiled_yet_compiles_at_its_first_picture(
    graphics_card, monkeypatch
):
    assert not rasterize.compiles("gsplat", "cuda") and not rasterize.compiles("auto", "cuda")
    graphics_card["compiled"] = False
    assert rasterize.compiles("gsplat", "cuda:0") and not rasterize.compiles("gsplat", "cpu")
    assert not rasterize.compiles("auto", "cuda") and not rasterize.compiles("triton", "cuda")
    monkeypatch.setattr(rasterize.triton_ready, "present", lambda: False)
    assert rasterize.compiles("auto", "cuda")


def test_compilation_is_told_of_every_second_and_can_be_left_alone(monkeypatch):
    seconds, done = [], threading.Event()
    monkeypatch.setattr(rasterize.gsplat_raster, "ready", lambda: done.wait(30))

    def told(passed):
        seconds.append(passed)
        if len(seconds) == 2:
            done.set()

    rasterize.gsplat_raster.compile_beside(told)
    assert len(seconds) >= 2 and seconds == sorted(seconds) and 1.5 < seconds[1] < 20

    class Interrupt(BaseException):
        pass

    def interrupted(passed):
        raise Interrupt

    done.clear()
    with pytest.raises(Interrupt):
        rasterize.gsplat_raster.compile_beside(interrupted)
    done.set()


def test_what_fails_at_first_use_is_passed_over_by_auto_and_refused_by_name(
    graphics_card, monkeypatch
):
    device = torch.device("cuda")
    monkeypatch.setattr(rasterize.gsplat_raster, "ready", lambda: False)
    monkeypatch.setattr(rasterize.triton_ready, "ready", lambda: False)
    assert rasterize.resolve("auto", device, torch.float32) is rasterize.rasterize_tiled
    for name in ("triton", "gsplat"):
        with pytest.raises(ValueError, match=f"backend '{name}' cannot be used here"):
            rasterize.resolve(name, device, torch.float32)
        assert rasterize.resolve(name, device, torch.float64) is rasterize.rasterize_tiled
    with pytest.raises(ValueError, match="'triton' renders clouds on cuda"):
        rasterize.resolve("triton", torch.device("cpu"), torch.float32)
    monkeypatch.setattr(rasterize.gsplat_raster, "ready", lambda: True)
    assert (
        rasterize.resolve("auto", device, torch.float32) is rasterize.gsplat_raster.rasterize_gsplat
    )


def test_gsplat_counts_as_compiled_once_its_library_lies_where_gsplat_looks(monkeypatch, tmp_path):
    gsplat = rasterize.gsplat_raster
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(gsplat, "present", lambda: True)
    monkeypatch.setattr(gsplat, "find_spec", lambda name: None)
    gsplat.compiled.cache_clear()
    try:
        assert not gsplat.compiled()
        (library,) = tmp_path.rglob("gsplat_cuda")
        library.joinpath("gsplat_cuda.so").touch()
        gsplat.compiled.cache_clear()
        assert gsplat.compiled()
    finally:
        gsplat.compiled.cache_clear()

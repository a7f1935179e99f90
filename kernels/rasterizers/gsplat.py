"""Adapter to gsplat's CUDA rasterizer (Ye et al. 2024; pip package gsplat, 1.5 or later).

gsplat is not imported before it is needed: its first use compiles its CUDA code, which takes
minutes. It differs from the other backends in that alpha is clamped at 0.999 instead of ALPHA_MAX,
a pixel stops before less than 1e-4 of the light is left, and gradients are summed in no fixed
order.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import torch
from filelock import FileLock

from ..cameras.pinhole import Cameras
from ..gaussians.cloud import Gaussians
from ..gaussians.sh import view_colors
from .projection import BLUR, NEAR, Layers

log = logging.getLogger(__name__)


def rasterize_gsplat(
    gaussians: Gaussians, cameras: Cameras, antialiased: bool, depth: bool
) -> Layers:
    """Render a float32 cloud on a CUDA device."""
    from gsplat import rasterization

    picture, alpha, meta = rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=view_colors(gaussians, cameras).expand(len(cameras), len(gaussians), 3).contiguous(),
        viewmats=cameras.viewmats.to(gaussians.means).contiguous(),
        Ks=cameras.intrinsics.to(gaussians.means).contiguous(),
        width=cameras.width,
        height=cameras.height,
        near_plane=NEAR,
        eps2d=BLUR,
        packed=False,  # the packed form has no [V,N] means2d
        render_mode="RGB+D" if depth else "RGB",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    radii = meta["radii"]  # [V,N,2], or [V,N] before gsplat 1.5
    visible = (radii > 0).all(-1) if radii.dim() == 3 else radii > 0
    return Layers(
        picture[..., :3], alpha, picture[..., 3:] if depth else None, meta["means2d"], visible
    )


@lru_cache(maxsize=1)
def present() -> bool:
    """Whether gsplat is installed and either compiled already or can be compiled here. Compiles
    nothing.
    """
    try:
        if not torch.cuda.is_available() or find_spec("gsplat") is None:
            return False
        if find_spec("gsplat.csrc") is not None:
            return True
        # gsplat 1.5.3 hands a GCC option to Microsoft's compiler, which refuses it.
        return os.name != "nt" and has_compiler()
    except Exception:  # a broken installation fails in ways of its own
        log.warning(
            "gsplat is installed but cannot be imported; rendering without it.", exc_info=True
        )
        return False


@lru_cache(maxsize=1)
def compiled() -> bool:
    """Whether gsplat is present and its first use will find its CUDA code compiled."""
    if not present():
        return False
    try:
        from torch.utils.cpp_extension import _get_build_directory

        # Where gsplat looks; it takes any library of that name as the finished build.
        folder = Path(_get_build_directory("gsplat_cuda", verbose=False))
        built = any((folder / f"gsplat_cuda{ending}").exists() for ending in (".so", ".lib"))
        return built or find_spec("gsplat.csrc") is not None
    except Exception:  # a private function of torch, which may go
        return False


def has_compiler() -> bool:
    """Whether nvcc and ninja, with which gsplat compiles itself, are here."""
    from torch.utils.cpp_extension import CUDA_HOME, is_ninja_available

    nvcc = shutil.which("nvcc") or (
        CUDA_HOME and shutil.which("nvcc", path=str(Path(CUDA_HOME, "bin")))
    )
    return bool(nvcc) and is_ninja_available()


@lru_cache(maxsize=1)
def ready() -> bool:
    """Load gsplat's CUDA code, compiling it if this is its first use. False, with the reason
    logged, if that fails.
    """
    if not present():
        return False
    try:
        if not compiled():
            log.warning("Compiling gsplat for this machine, once; it takes one to five minutes.")
        from torch.utils.cpp_extension import get_default_build_root

        # gsplat empties its build folder before it compiles: a second process would pull it away
        # under the first.
        root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "distill3d-gsplat.lock"):
            from gsplat.cuda._backend import _C
    except Exception:
        log.warning("gsplat could not be compiled; rendering without it.", exc_info=True)
        return False
    compiled.cache_clear()
    return _C is not None


def compile_beside(on_second: Callable[[float], None]) -> None:
    """`ready` in a thread, with ``on_second(seconds so far)`` called in this one every second while
    it runs.

    What ``on_second`` raises comes through at once, an interrupt for one; the compilation then goes
    on by itself.
    """
    thread, began = Thread(target=ready, daemon=True), time.monotonic()
    thread.start()
    while thread.is_alive():
        thread.join(1.0)
        if thread.is_alive():
            on_second(time.monotonic() - began)

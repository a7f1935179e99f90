"""One function that renders a Gaussian cloud, whichever backend does the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..gaussians.cloud import Gaussians
from . import gsplat as gsplat_raster
from .projection import Layers
from .reference import rasterize_reference
from .tiled import rasterize_tiled
from .triton import ready as triton_ready

BACKENDS = ("auto", "reference", "torch", "numba", "triton", "gsplat")
Backend = Callable[[Gaussians, Cameras, bool, bool], Layers]


@dataclass(frozen=True)
class Rendering:
    """V pictures of a cloud of N Gaussians, differentiable with respect to its five tensors.

    Args:
        color: [V,H,W,3] composited on the background
        alpha: [V,H,W,1] 0..1
        depth: [V,H,W,1] expected distance along the optical axis, world units; 0 where alpha is 0
        means2d: [V,N,2] pixels, part of the graph: retain_grad() on it gives densification its
            gradients
        visible: [V,N] bool
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    means2d: Tensor
    visible: Tensor


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Tensor | float = 0.5,
    backend: str = "auto",
    antialiased: bool = False,
    depth: bool = True,
) -> Rendering:
    """Render the cloud from every camera (3DGS, Kerbl et al. 2023).

    ``background``: a grey, a colour [3] or one colour per camera [V,3]. ``antialiased`` keeps thin
    Gaussians from growing with the pixel (Mip-Splatting). With ``depth`` False the depth is all
    zeros and costs nothing. ``backend``: one of BACKENDS; "auto" takes the fastest that works on
    the cloud's device. All agree within rounding, except that numba, triton and gsplat stop once
    less than 1e-4 of the light is left. These three take float32; a float64 cloud is rendered by
    "torch" instead. Raises ValueError on tensors, backgrounds, devices or backend names that do not
    fit together.
    """
    check_inputs(gaussians, cameras)
    backdrop = background_rows(background, gaussians.means, len(cameras))
    rasterize = resolve(backend, gaussians.device, gaussians.means.dtype)
    layers = rasterize(gaussians, cameras, antialiased, depth)
    color = layers.color + (1 - layers.alpha) * backdrop
    if layers.depth is None:
        distance = layers.alpha.new_zeros(()).expand_as(layers.alpha)
    else:
        drawn = layers.alpha > 0
        distance = torch.where(drawn, layers.depth / torch.where(drawn, layers.alpha, 1.0), 0.0)
    return Rendering(color, layers.alpha, distance, layers.means2d, layers.visible)


def available(backend: str) -> bool:
    """Whether the backend can run on this machine. Compiles nothing. Raises ValueError on an
    unknown name.
    """
    check_backend(backend)
    if backend == "numba":
        return not isinstance(numba_backend(), Exception)
    if backend == "triton":
        return triton_ready.present()
    return backend != "gsplat" or gsplat_raster.present()


def choose(device: torch.device | str) -> str:
    """The name of the backend that "auto" tries first for a float32 cloud on this device."""
    return (*fast_backends(device), "torch")[0]


def fast_backends(device: torch.device | str) -> list[str]:
    """The available backends made for this device, fastest first; gsplat last where it would have
    to compile.
    """
    kind = torch.device(device).type
    names = {"cuda": ["triton", "gsplat"], "cpu": ["numba"]}.get(kind, [])
    if kind == "cuda" and gsplat_raster.compiled():
        names.reverse()
    return [name for name in names if available(name) and home(name) == kind]


def compiles(backend: str, device: torch.device | str) -> bool:
    """Whether the first render of a float32 cloud there begins with gsplat's compilation, which
    takes minutes.
    """
    chosen = choose(device) if backend == "auto" else backend
    on_gpu = torch.device(device).type == "cuda"
    return (
        on_gpu and chosen == "gsplat" and gsplat_raster.present() and not gsplat_raster.compiled()
    )


def home(backend: str) -> str | None:
    """The type of the only device that the backend runs on; None: it runs on any."""
    return {"numba": "cpu", "triton": triton_ready.home(), "gsplat": "cuda"}.get(backend)


def resolve(backend: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The function behind a backend's name for this device and dtype.

    Raises ValueError for a backend that is unknown, or cannot run there.
    """
    check_backend(backend)
    if backend == "reference":
        return rasterize_reference
    wanted = home(backend)
    if wanted not in (None, device.type):
        raise ValueError(
            f"backend {backend!r} renders clouds on {wanted}, this one is on {device}; use 'auto'"
            " or 'torch'."
        )
    if backend == "torch" or dtype != torch.float32:
        return rasterize_tiled
    if backend != "auto":
        rasterize = LOADERS[backend]()
        if isinstance(rasterize, Exception):
            raise ValueError(str(rasterize)) from rasterize
        return rasterize
    loaded = (LOADERS[name]() for name in fast_backends(device))
    return next(
        (rasterize for rasterize in loaded if not isinstance(rasterize, Exception)), rasterize_tiled
    )


@lru_cache(maxsize=1)
def numba_backend() -> Backend | Exception:
    """The numba rasterizer, or why it cannot be imported (numba often fails on a NumPy newer than
    itself).
    """
    try:
        from .numba.rasterize import rasterize_numba
    except Exception as error:
        return ImportError(
            f"backend 'numba' cannot be imported ({error}); use 'auto', or pip install numba."
        )
    return rasterize_numba


def triton_backend() -> Backend | Exception:
    """The Triton rasterizer, or why it cannot be used."""
    if not triton_ready.ready():
        return RuntimeError(
            "backend 'triton' cannot be used here: it needs the package triton (on Windows"
            " triton-windows) and a GPU that it compiles for; the log says what failed. Use 'auto'"
            " or 'torch'."
        )
    from .triton.rasterize import rasterize_triton

    return rasterize_triton


def gsplat_backend() -> Backend | Exception:
    """The gsplat rasterizer, compiled now if it is not yet, or why it cannot be used."""
    if not gsplat_raster.ready():
        return RuntimeError(
            "backend 'gsplat' cannot be used here: it needs the gsplat package, compiled or with"
            " nvcc and ninja to compile it; the log says what failed. Use 'auto' or 'torch'."
        )
    return gsplat_raster.rasterize_gsplat


LOADERS: dict[str, Callable[[], Backend | Exception]] = {
    "numba": numba_backend,
    "triton": triton_backend,
    "gsplat": gsplat_backend,
}


def check_backend(backend: str) -> None:
    """Raises ValueError unless the name is one of BACKENDS."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}.")


def check_inputs(gaussians: Gaussians, cameras: Cameras) -> None:
    """Raise ValueError on shapes, dtypes or devices that do not fit (values are not looked at: that
    costs time).
    """
    means = gaussians.means
    if means.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"gaussians.means has dtype {means.dtype}; the rasterizers take float32 or float64."
            " Convert it."
        )
    n = means.shape[0]
    harmonics = (
        gaussians.sh.shape[1]
        if gaussians.sh.dim() == 3 and gaussians.sh.shape[1] in (1, 4, 9, 16)
        else 1
    )
    shapes = {
        "means": (n, 3),
        "log_scales": (n, 3),
        "quats": (n, 4),
        "opacity_logits": (n,),
        "sh": (n, harmonics, 3),
    }
    for name, value in gaussians.tensors().items():
        if tuple(value.shape) != shapes[name]:
            raise ValueError(
                f"gaussians.{name} has shape {tuple(value.shape)}, expected {shapes[name]}."
            )
        if value.dtype != means.dtype or value.device != means.device:
            raise ValueError(
                f"gaussians.{name} is {value.dtype} on {value.device}, but gaussians.means is"
                f" {means.dtype} on {means.device}; move the whole cloud with gaussians.to(device,"
                " dtype)."
            )
    if n == 0:
        raise ValueError(
            "gaussians holds 0 Gaussians; at least 1 is needed. Initialise it with more points."
        )
    if cameras.viewmats.dim() != 3 or cameras.viewmats.shape[1:] != (4, 4) or len(cameras) == 0:
        raise ValueError(
            f"cameras.viewmats has shape {tuple(cameras.viewmats.shape)}, expected (V, 4, 4) with V"
            " >= 1."
        )
    if cameras.intrinsics.shape != (len(cameras), 3, 3):
        raise ValueError(
            f"cameras.intrinsics has shape {tuple(cameras.intrinsics.shape)}, expected"
            f" ({len(cameras)}, 3, 3)."
        )
    if cameras.width < 1 or cameras.height < 1:
        raise ValueError(
            f"cameras are {cameras.width} x {cameras.height} pixels; both sides must be at least 1."
        )
    if cameras.viewmats.device != means.device:
        raise ValueError(
            f"cameras are on {cameras.viewmats.device}, the Gaussians on {means.device}; use"
            " cameras.to(...) first."
        )


def background_rows(background: Tensor | float, like: Tensor, views: int) -> Tensor:
    """The background as [V or 1,1,1,3 or 1], ready to multiply a picture.

    Raises ValueError for any other shape than a number, [3] and [``views``,3].
    """
    value = torch.as_tensor(background, dtype=like.dtype, device=like.device)
    if value.dim() == 0:
        return value.view(1, 1, 1, 1)
    if value.shape in ((3,), (views, 3)):
        return value.view(-1, 1, 1, 3)
    raise ValueError(
        f"background has shape {tuple(value.shape)}; give one grey, a colour (3,) or one colour "
        f"per camera ({views}, 3)."
    )

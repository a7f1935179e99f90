"""The Gaussian cloud in the 3DGS parametrisation (Kerbl et al. 2023), Y-up world."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

SH_C0 = 0.28209479177387814  # Y_00, the constant spherical harmonic


@dataclass(frozen=True)
class Gaussians:
    """A cloud of N anisotropic Gaussians. Immutable by convention: functions return new clouds.

    World: right-handed, Y up, the object inside the cube [-0.5, 0.5]^3, its front facing +Z.
    ``training`` carries optimizer moments, generators, loss state and the step count of
    `kernels.run.optimize` (None for a cloud that was never optimized or came from a file).

    Args:
        means: [N,3] world units
        log_scales: [N,3] natural log of the standard deviation along each local axis, world units
        quats: [N,4] wxyz, local to world, any non-zero length
        opacity_logits: [N] sigmoid gives the opacity in 0..1
        sh: [N,K,3] spherical harmonics, K = (degree+1)^2, colour = 0.5 + sum Y_k sh_k, sRGB
        anchored: [N] bool: of these `optimize` moves only the colours; None: of no one
    """

    means: Tensor
    log_scales: Tensor
    quats: Tensor
    opacity_logits: Tensor
    sh: Tensor
    anchored: Tensor | None = None
    training: Any = None

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def scales(self) -> Tensor:  # [N,3] world units
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:  # [N] 0..1
        return self.opacity_logits.sigmoid()

    @property
    def colors(self) -> Tensor:  # [N,3] the view-independent colour, not clamped
        return 0.5 + SH_C0 * self.sh[:, 0]

    @property
    def sh_degree(self) -> int:
        return int(self.sh.shape[1] ** 0.5) - 1

    @property
    def device(self) -> torch.device:
        return self.means.device

    def tensors(self) -> dict[str, Tensor]:
        """The five parameter tensors by field name, in a fixed order."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("anchored", "training")
        }

    def map(self, function: Any) -> Gaussians:
        """A new cloud with ``function`` applied to each parameter tensor; anchors and training
        state are dropped.
        """
        return Gaussians(**{k: function(v) for k, v in self.tensors().items()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Gaussians:
        """The same cloud elsewhere, anchors and training state kept."""
        moved = {k: v.to(device=device, dtype=dtype) for k, v in self.tensors().items()}
        return replace(
            self, **moved, anchored=None if self.anchored is None else self.anchored.to(device)
        )

    def check(self, name: str = "gaussians") -> Gaussians:
        """Return self, or raise ValueError that names the tensor, what is wrong with it, and the
        cure.
        """
        n = self.means.shape[0]
        shapes = {"means": (n, 3), "log_scales": (n, 3), "quats": (n, 4), "opacity_logits": (n,)}
        for key, shape in shapes.items():
            if tuple(getattr(self, key).shape) != shape:
                raise ValueError(
                    f"{name}.{key} has shape {tuple(getattr(self, key).shape)}, expected {shape}."
                )
        if self.anchored is not None and (
            self.anchored.shape != (n,) or self.anchored.dtype != torch.bool
        ):
            raise ValueError(
                f"{name}.anchored is {self.anchored.dtype} of shape {tuple(self.anchored.shape)},"
                f" expected bool ({n},)."
            )
        if (
            self.sh.dim() != 3
            or self.sh.shape[0] != n
            or self.sh.shape[1] not in (1, 4, 9, 16)
            or self.sh.shape[2] != 3
        ):
            raise ValueError(
                f"{name}.sh has shape {tuple(self.sh.shape)}, expected ({n}, 1|4|9|16, 3)."
            )
        if n == 0:
            raise ValueError(
                f"{name} holds 0 Gaussians; at least 1 is needed. Initialise it with more points."
            )
        for key, value in self.tensors().items():
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                raise ValueError(
                    f"{name}.{key} holds {bad} values that are NaN or infinite; remove those"
                    " Gaussians first."
                )
        return self

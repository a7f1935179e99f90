"""Densification by either strategy from one set of numbers."""

from __future__ import annotations

from typing import Any

from ..gaussians.densify import Densify
from ..gaussians.mcmc import MCMC
from .settings import OptimizeSettings

STRATEGIES = ("gradients", "MCMC")
LEAST_OPACITY = 1e-6  # of MCMC, which shares opacities out and cannot share none
_GRADIENTS = Densify()


def growth(
    densify: bool = True,
    max_gaussians: int = OptimizeSettings.max_gaussians,
    densify_every: int = _GRADIENTS.every,
    densify_stop: float = _GRADIENTS.stop,
    densify_grow: float = _GRADIENTS.grow_share,
    prune_opacity: float = _GRADIENTS.prune_opacity,
    strategy: str = STRATEGIES[0],
    densify_start: float = _GRADIENTS.start,
    **own: Any,
) -> dict[str, Any]:
    """Fields of OptimizeSettings. The shares are of the schedule; ``own``: of the gradients'
    strategy alone, as `Densify` names them. Raises ValueError for what does not fit.
    """
    chosen: Densify | MCMC
    if strategy == "MCMC":
        chosen = MCMC(
            every=densify_every,
            start=min(densify_start, densify_stop),
            stop=densify_stop,
            growth=1 + densify_grow,
            min_opacity=max(prune_opacity, LEAST_OPACITY),
            count_max=max_gaussians,
        )
    else:
        chosen = Densify(
            every=densify_every,
            start=min(densify_start, densify_stop),
            stop=densify_stop,
            grow_share=densify_grow,
            prune_opacity=prune_opacity,
            count_min=min(_GRADIENTS.count_min, max_gaussians),
            count_max=max_gaussians,
            **own,
        )
    chosen.check()
    return {"densify": chosen if densify else None, "max_gaussians": max_gaussians}

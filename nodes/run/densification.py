"""Densification."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.gaussians.densify import Densify
from ...kernels.gaussians.mcmc import MCMC
from ...kernels.run.settings import OptimizeSettings
from ..shared import types
from ..shared.presets import preset_input
from .inputs import SETTINGS

DEFAULTS = OptimizeSettings()
GROWTH = Densify()
STRATEGIES = ("gradients", "MCMC")
LEAST_OPACITY = 1e-6  # of MCMC, which shares opacities out and cannot share none
STANDARD: dict[str, Any] = {
    "densify": True,
    "max_gaussians": DEFAULTS.max_gaussians,
    "densify_every": GROWTH.every,
    "densify_stop": GROWTH.stop,
    "densify_grow": GROWTH.grow_share,
    "prune_opacity": GROWTH.prune_opacity,
    "strategy": "gradients",
}
PRESETS = {
    "short runs": STANDARD,
    "off": STANDARD | {"densify": False},
    "Stable Diffusion": STANDARD | {"max_gaussians": 200_000, "densify_every": 100},
    "LucidDreamer": STANDARD
    | {"max_gaussians": 500_000, "densify_every": 100, "densify_grow": 1.0, "prune_opacity": 0.005},
}


def _share(
    id: str, default: float, tooltip: str, high: float = 1.0, step: float = 0.01
) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=default,
        min=0.0,
        max=high,
        step=step,
        round=0.0001,
        advanced=True,
        tooltip=tooltip,
    )


class Densification(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_Densification",
            display_name="Densification",
            category=SETTINGS,
            description=(
                "How Optimize adds Gaussians where they are wanted and drops those that fade."
                " Without this node Optimize takes this node's defaults: it densifies."
            ),
            search_aliases=["densify", "prune", "split", "clone", "adaptive density control"],
            inputs=[
                preset_input(
                    PRESETS,
                    "short runs: some hundred steps. off: their number stays, as the embedded prior"
                    " wants it. Stable Diffusion: thousands of steps. LucidDreamer: as near to its"
                    " code as this strategy comes, which has a growth share where that has a"
                    " threshold.",
                ),
                io.Boolean.Input(
                    "densify",
                    default=True,
                    tooltip=(
                        "Split and clone Gaussians where the renderings still change, drop those"
                        " that fade (3D Gaussian Splatting). Off: their number stays. Embedded"
                        " prior: off. LucidDreamer: on, and opacities fall to 0.01 every 300 steps,"
                        " which no input does here."
                    ),
                ),
                io.Int.Input(
                    "max_gaussians",
                    default=DEFAULTS.max_gaussians,
                    min=1,
                    max=10_000_000,
                    tooltip=(
                        "There are never more than this many, and a cloud of more is refused."
                        " Embedded prior: 20,000; with Stable Diffusion 100,000 to 500,000"
                        " (LucidDreamer has no cap)."
                    ),
                ),
                io.Int.Input(
                    "densify_every",
                    default=GROWTH.every,
                    min=1,
                    max=1_000_000,
                    advanced=True,
                    tooltip=(
                        "Steps between rounds of densification. LucidDreamer, 3D Gaussian Splatting"
                        " and 3DGS-MCMC: 100."
                    ),
                ),
                _share(
                    "densify_stop",
                    GROWTH.stop,
                    "Share of the schedule, 0..1, after which Gaussians neither multiply nor go."
                    " LucidDreamer: 0.6, 3DGS-MCMC: 0.83.",
                ),
                _share(
                    "densify_grow",
                    GROWTH.grow_share,
                    "Most of the Gaussians that one round doubles, share 0..1; of strategy MCMC the"
                    " share by which it enlarges the cloud. LucidDreamer: 1, above a threshold;"
                    " 3DGS-MCMC: 0.05.",
                ),
                _share(
                    "prune_opacity",
                    GROWTH.prune_opacity,
                    "A round removes Gaussians fainter than this, 0..1; of strategy MCMC it moves"
                    " them. LucidDreamer and 3DGS-MCMC: 0.005.",
                    high=0.9,
                    step=0.001,
                ),
                io.Combo.Input(
                    "strategy",
                    options=list(STRATEGIES),
                    default=STRATEGIES[0],
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Where Gaussians are added. gradients: where the renderings still change"
                        " (LucidDreamer). MCMC: faint ones move to opaque ones, new ones join them,"
                        " and noise lets faint ones wander; none goes (3DGS-MCMC)."
                    ),
                ),
            ],
            outputs=[
                types.Densification.Output(display_name="densification", tooltip="For Optimize.")
            ],
        )

    @classmethod
    def execute(cls, preset: str, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(growth(**settings))


def growth(
    densify: bool,
    max_gaussians: int,
    densify_every: int,
    densify_stop: float,
    densify_grow: float,
    prune_opacity: float,
    strategy: str = STRATEGIES[0],
) -> dict[str, Any]:
    """Fields of OptimizeSettings. Raises ValueError for what does not fit."""
    chosen: Densify | MCMC
    if strategy == "MCMC":
        chosen = MCMC(
            every=densify_every,
            start=min(MCMC.start, densify_stop),
            stop=densify_stop,
            growth=1 + densify_grow,
            min_opacity=max(prune_opacity, LEAST_OPACITY),
            count_max=max_gaussians,
        )
    else:
        chosen = Densify(
            every=densify_every,
            start=min(GROWTH.start, densify_stop),
            stop=densify_stop,
            grow_share=densify_grow,
            prune_opacity=prune_opacity,
            count_min=min(GROWTH.count_min, max_gaussians),
            count_max=max_gaussians,
        )
    chosen.check()
    return {"densify": chosen if densify else None, "max_gaussians": max_gaussians}

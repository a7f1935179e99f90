"""Densification."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.gaussians.densify import SPLIT_OPACITIES, Densify
from ...kernels.run.growth import STRATEGIES, growth
from ...kernels.run.settings import OptimizeSettings
from ..shared import types
from ..shared.presets import preset_input
from .inputs import SETTINGS

DEFAULTS = OptimizeSettings()
GROWTH = Densify()
# inputs of the gradients' strategy alone, named as there
OWN = (
    "gradient_threshold",
    "split_scale",
    "prune_scale",
    "bounds",
    "split_opacity",
    "grow_first",
    "summed_views",
    "reset_every",
    "reset_opacity",
)
STANDARD: dict[str, Any] = {
    "densify": True,
    "max_gaussians": DEFAULTS.max_gaussians,
    "densify_every": GROWTH.every,
    "densify_stop": GROWTH.stop,
    "densify_grow": GROWTH.grow_share,
    "prune_opacity": GROWTH.prune_opacity,
    "strategy": "gradients",
    "densify_start": GROWTH.start,
    **{name: getattr(GROWTH, name) for name in OWN},
}
PRESETS = {
    "short runs": STANDARD,
    "off": STANDARD | {"densify": False},
    "Stable Diffusion": STANDARD | {"max_gaussians": 200_000, "densify_every": 100},
    "LucidDreamer": STANDARD
    | {
        "max_gaussians": 500_000,
        "densify_every": 100,
        "densify_start": 0.0202,
        "densify_stop": 0.5998,
        "densify_grow": 1.0,
        "prune_opacity": 0.005,
        "gradient_threshold": 7.5e-4,
        "split_scale": 0.0105,
        "prune_scale": 0.35,
        "bounds": 1000.0,
        "split_opacity": "kept",
        "grow_first": True,
        "reset_every": 300,
    },
    "MCMC": STANDARD
    | {
        "max_gaussians": 500_000,
        "densify_every": 100,
        "densify_stop": 0.8333,
        "densify_grow": 0.05,
        "strategy": "MCMC",
        "densify_start": 0.0167,
    },
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


def _option(
    id: str, tooltip: str, low: float, high: float, step: float, round: float = 0.0001
) -> io.Float.Input:
    """An input that came later: prompts without it have its default."""
    return io.Float.Input(
        id,
        default=STANDARD[id],
        min=low,
        max=high,
        step=step,
        round=round,
        optional=True,
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
                    " wants it. Stable Diffusion: thousands of steps. LucidDreamer, MCMC: as their"
                    " code, but for a cap; switch summed_views on where the loss has reduction"
                    " sum.",
                ),
                io.Boolean.Input(
                    "densify",
                    default=True,
                    tooltip=(
                        "Split and clone Gaussians where the renderings still change, drop those"
                        " that fade (3D Gaussian Splatting). Off: their number stays. Embedded"
                        " prior: off. LucidDreamer: on."
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
                    " LucidDreamer: 0.5998, 3DGS-MCMC: 0.8333.",
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
                _option(
                    "densify_start",
                    "Share of the schedule, 0..1, before the first round. LucidDreamer: 0.0202,"
                    " 3DGS-MCMC: 0.0167.",
                    0.0,
                    1.0,
                    0.01,
                ),
                _option(
                    "gradient_threshold",
                    "Least mean gradient of a Gaussian's place on the screen that lets it double,"
                    " loss per half picture; the best densify_grow of those above do. 0: any."
                    " LucidDreamer: 7.5e-4, 3D Gaussian Splatting: 2e-4.",
                    0.0,
                    1e6,
                    0.00001,
                    0.0000001,
                ),
                _option(
                    "split_scale",
                    "A larger Gaussian is split, a smaller one cloned; standard deviation, world"
                    " units. LucidDreamer: 0.0105 (0.003 of 3.5).",
                    0.0001,
                    10.0,
                    0.001,
                ),
                _option(
                    "prune_scale",
                    "A round removes Gaussians larger than this, standard deviation, world units."
                    " LucidDreamer: 0.35 (a tenth of 3.5).",
                    0.001,
                    1000.0,
                    0.01,
                ),
                _option(
                    "bounds",
                    "A round removes Gaussians farther out than this along an axis, world units."
                    " LucidDreamer has no such bound: 1000.",
                    0.001,
                    1000.0,
                    0.01,
                ),
                io.Combo.Input(
                    "split_opacity",
                    options=list(SPLIT_OPACITIES),
                    default=GROWTH.split_opacity,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Opacity of the two that one becomes. halved: together they let as much"
                        " light through as it did. kept: each has its opacity (LucidDreamer, 3D"
                        " Gaussian Splatting)."
                    ),
                ),
                io.Boolean.Input(
                    "grow_first",
                    default=GROWTH.grow_first,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "A round adds before it removes, so that what is both too large and due is"
                        " split. LucidDreamer, 3D Gaussian Splatting: on."
                    ),
                ),
                io.Boolean.Input(
                    "summed_views",
                    default=GROWTH.summed_views,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The loss is a sum over its views: on where the loss's reduction is sum, so"
                        " that gradient_threshold measures the same. LucidDreamer: on, with that."
                    ),
                ),
                io.Int.Input(
                    "reset_every",
                    default=GROWTH.reset_every,
                    min=0,
                    max=1_000_000,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Steps between resets, which lower all opacities to reset_opacity, so that"
                        " floaters go; 0: never. LucidDreamer: 300, 3D Gaussian Splatting: 3000."
                    ),
                ),
                _option(
                    "reset_opacity",
                    "Opacity, 0..1, that a reset lowers to; above prune_opacity. LucidDreamer, 3D"
                    " Gaussian Splatting: 0.01.",
                    0.0001,
                    0.9,
                    0.001,
                ),
            ],
            outputs=[
                types.Densification.Output(display_name="densification", tooltip="For Optimize.")
            ],
        )

    @classmethod
    def execute(cls, preset: str, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(growth(**settings))

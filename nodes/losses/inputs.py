"""What the nodes of several losses have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from comfy_api.latest import io

from ...kernels.losses.base import REDUCTIONS, WEIGHTINGS, Loss
from ...kernels.losses.schedule import ANNEALS
from ...kernels.losses.timestep import TimestepLoss
from ..shared import types
from ..shared.auto import OWN, deferred, values_input
from ..shared.validation import validate

CATEGORY = "Distill3D/losses"
# What several losses say in the same words.
LEVEL = "noise level that pictures are given, timestep 0 (clean) to 999 (pure noise)"
WEIGHTS = (
    "How much a noise level t counts, w(t): 1-abar the most at high noise, one all alike,"
    " sigma/alpha so that the gradient is a difference of pictures (as latents)."
)
WEIGHT = (
    "LucidDreamer: 0.1 with reduction sum, as its code, or 0.4 with mean at 4 views; with its"
    " smaller learning rates."
)
REDUCTION = (
    "What the gradients of the views count: mean over the views, sum over them (LucidDreamer,"
    " SegmentDreamer), or elements, a mean over the latents' values too (SDI)."
)
CLIP = (
    "No value of the gradient may be larger than this, in units of the latent (the small picture"
    " that the prior works on, values about -4..4); 0 never."
)


class TimestepLossNode(io.ComfyNode):
    """A node whose inputs are the fields of a `TimestepLoss`, which it gives out."""

    settings: ClassVar[type[TimestepLoss]]

    @classmethod
    def validate_inputs(
        cls, t_min: int | None = None, t_max_start: int | None = None, t_max_end: int | None = None
    ) -> bool | str:
        ends = {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}
        return validate(cls, ends, cls.settings)

    @classmethod
    def execute(cls, values: str = OWN, **inputs: Any) -> io.NodeOutput:
        return given(cls.settings(**inputs), values)


def loss_output() -> io.Output:
    return types.Loss.Output(
        display_name="loss", tooltip="For Optimize, Refine Mesh, Combine Losses or Schedule Losses."
    )


def steps_input(
    id: str, default: int, tooltip: str, low: int = 0, high: int = 999, advanced: bool = True
) -> io.Int.Input:
    return io.Int.Input(
        id, default=default, min=low, max=high, tooltip=tooltip, advanced=advanced or None
    )


def number_input(
    id: str,
    default: float,
    tooltip: str,
    low: float = 0.0,
    high: float = 1000.0,
    step: float = 0.5,
    advanced: bool = True,
    optional: bool = False,
) -> io.Float.Input:
    return io.Float.Input(
        id, default=default, min=low, max=high, step=step, round=0.0001, tooltip=tooltip, optional=optional,
        advanced=advanced or None,
    )  # fmt: skip


def plain_inputs(defaults: TimestepLoss, guidance: str) -> list[io.Input]:
    """What a newcomer sees: guidance, explained by ``guidance``, and weight."""
    return [
        number_input(
            "guidance",
            defaults.guidance,
            "Guidance: how strongly the text pulls; 1 is the prior without a push (scale s; papers"
            f" that write w mean s - 1). {guidance}",
            advanced=False,
        ),
        number_input(
            "weight",
            defaults.weight,
            f"Factor on the gradient. {WEIGHT}",
            high=1e6,
            step=0.1,
            advanced=False,
        ),
    ]


def timestep_inputs(
    defaults: TimestepLoss,
    weighting: str,
    highest: str = "LucidDreamer: 500.",
    anneal: str = "LucidDreamer, SDI: linear.",
    share: str = "LucidDreamer: 0.3.",
) -> list[io.Input]:
    """What these losses have in common of advanced inputs; the texts name papers' values,
    ``highest`` that at the end.
    """
    return [
        io.Combo.Input(
            "weighting",
            options=list(WEIGHTINGS),
            default=defaults.weighting,
            advanced=True,
            tooltip=f"{WEIGHTS} {weighting}",
        ),
        steps_input(
            "t_min",
            defaults.t_min,
            f"Lowest {LEVEL}. Papers: 20, LucidDreamer: 21. Embedded prior: 20 to 200.",
        ),
        steps_input(
            "t_max_start", defaults.t_max_start, f"Highest {LEVEL}, at the start. Papers: 980."
        ),
        steps_input(
            "t_max_end", defaults.t_max_end, f"Highest noise level at the end, timestep. {highest}"
        ),
        io.Combo.Input(
            "t_anneal",
            options=list(ANNEALS),
            default=defaults.t_anneal,
            advanced=True,
            tooltip=(
                "How the highest noise level moves; constant keeps t_max_start, jump keeps it until"
                f" t_anneal_share is over. {anneal}"
            ),
        ),
        io.Float.Input(
            "t_anneal_share",
            default=defaults.t_anneal_share,
            min=0.001,
            max=1.0,
            step=0.05,
            advanced=True,
            tooltip=(f"Share of the run, 0..1, over which the highest noise level moves. {share}"),
        ),
        number_input("clip", defaults.clip, CLIP, high=1e6),
    ]


def choice_option(id: str, options: Sequence[str], default: str, tooltip: str) -> io.Combo.Input:
    """An input that came later: prompts without it have its default."""
    return io.Combo.Input(
        id, options=list(options), default=default, optional=True, advanced=True, tooltip=tooltip
    )


def switch_option(id: str, default: bool, tooltip: str) -> io.Boolean.Input:
    return io.Boolean.Input(id, default=default, optional=True, advanced=True, tooltip=tooltip)


def steps_option(
    id: str, default: int, tooltip: str, high: int = 999, low: int = 0
) -> io.Int.Input:
    return io.Int.Input(
        id, default=default, min=low, max=high, optional=True, advanced=True, tooltip=tooltip
    )


def reduction_option(default: str, tooltip: str = REDUCTION) -> io.Combo.Input:
    return choice_option("reduction", REDUCTIONS, default, tooltip)


def timestep_options(defaults: TimestepLoss) -> list[io.Input]:
    """At the end of each of these losses' inputs: how the authors' code does otherwise."""
    return [
        reduction_option(defaults.reduction),
        switch_option(
            "shared_t",
            defaults.shared_t,
            "One noise level for all views of a step, not one for each. LucidDreamer,"
            " SegmentDreamer: on.",
        ),
        steps_option(
            "first_step",
            defaults.first_step,
            "What the schedule counts the first step as. LucidDreamer, SegmentDreamer: 1.",
            high=1,
        ),
    ]


def auto_input() -> io.Combo.Input:
    """`values`, at the very end of a loss's inputs."""
    return values_input("guidance, timesteps, weight and weighting")


def given(loss: Loss, values: str) -> io.NodeOutput:
    """What the node of a loss gives out."""
    return io.NodeOutput(deferred(checked(loss), values))


def checked(loss: Loss) -> Loss:
    """The loss itself, or a ValueError: linked inputs were not there to be validated before the
    run.
    """
    loss.check()
    return loss

"""CDS Loss, SDS Loss and Combine Losses. VDM Loss is in `vdm`, the other losses are in
`baselines`.
"""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.base import WEIGHTINGS, Loss
from ...kernels.losses.cds import CDS, CDS_WEIGHTINGS
from ...kernels.losses.combine import Combined
from ...kernels.losses.schedule import SHAPES
from ...kernels.losses.sds import SDS
from ..shared import types
from ..shared.validation import validate

CATEGORY = "Distill3D/losses"
STAGES = {"coarse": CDS.coarse, "refine": CDS.refine, "texture": CDS.texture}
FROM_STAGE = (-1, "from preset")
# What several losses say in the same words.
LEVEL = "noise level that pictures are given, timestep 0 (clean) to 999 (pure noise)"
WEIGHTS = (
    "How much a noise level t counts, w(t): 1-abar the most at high noise, one all alike,"
    " sigma/alpha so that the gradient is a difference of pictures (as latents)."
)
CLIP = (
    "No value of the gradient may be larger than this, in units of the latent (the small picture"
    " that the prior works on, values about -4..4); 0 never."
)


def loss_output() -> io.Output:
    return types.Loss.Output(display_name="loss", tooltip="For Optimize or Combine Losses.")


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


class CDSLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_CDSLoss",
            display_name="CDS Loss",
            category=CATEGORY,
            description=(
                "Consistency Distillation Sampling (Consistent3D, CVPR 2024), after the paper's"
                " official code. A render is made noisy by one noise that stays the same for the"
                " whole run, the prior takes a step from there towards a clean picture, and what it"
                " sees there guides what it saw before. Needs the whole schedule: a run that stops"
                " early stays noisy."
            ),
            search_aliases=[
                "consistent3d",
                "consistency distillation sampling",
                "score distillation",
                "ode",
            ],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(STAGES),
                    default="coarse",
                    tooltip=(
                        "The paper's stage whose values the inputs below take where they say -1."
                        " coarse: shape from noise (t 700 -> 100). refine: geometry (300 -> 20)."
                        " texture: appearance (500 -> 20)."
                    ),
                ),
                number_input(
                    "guidance_start",
                    -1.0,
                    "Guidance at the start: how strongly the text pulls; 1 is the prior without a"
                    " push (scale s; papers that write w mean s - 1). -1: the preset's. Paper's"
                    " code: coarse and refine 101 (w = 100), texture 51 (w = 50). The embedded"
                    " prior wants about 4.",
                    low=-1.0,
                    advanced=False,
                ),
                number_input(
                    "guidance_end",
                    -1.0,
                    "Guidance at the end, linear in between. -1: the preset's. Paper's code: coarse"
                    " and texture 51 (w = 50), refine 31 (w = 30). The embedded prior wants 1.",
                    low=-1.0,
                    advanced=False,
                ),
                number_input(
                    "weight",
                    1.0,
                    "Factor on the gradient. Paper: 1 (on a NeRF); about 0.1 with LucidDreamer's"
                    " learning rates on Gaussians.",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
                steps_input(
                    "t_start",
                    -1,
                    "Lower noise level t_next at the start, timestep 0 (clean) to 999 (pure noise);"
                    " falls to t_end with the square root of the progress. -1: the preset's. Paper:"
                    " coarse 700, refine 300, texture 500.",
                    low=-1,
                ),
                steps_input(
                    "t_end",
                    -1,
                    "Lower noise level t_next at the end. The result keeps noise of about this"
                    " level. -1: the preset's. Paper: coarse 100, refine and texture 20.",
                    low=-1,
                ),
                steps_input(
                    "t_min",
                    -1,
                    "Floor of the lower noise level t_next, timestep. -1: the preset's. Paper:"
                    " coarse 100, refine and texture 20.",
                    low=-1,
                ),
                steps_input(
                    "t_max",
                    -1,
                    "Ceiling of the upper noise level t, timestep. -1: the preset's. Paper: coarse"
                    " and texture 980, refine 500.",
                    low=-1,
                ),
                steps_input(
                    "gap",
                    -1,
                    "Least distance between t and t_next, timesteps. -1: the preset's. Paper: 100.",
                    low=-1,
                ),
                steps_input(
                    "perturb",
                    -1,
                    "t lies a random 0..perturb-1 further above t_next, timesteps, drawn per view."
                    " -1: the preset's. Paper: coarse 200, refine and texture 100.",
                    low=-1,
                ),
                number_input(
                    "clip_start",
                    -1.0,
                    "No value of the gradient may be larger than this at the start, in units of the"
                    " latent; 0 in both: no limit. -1: the preset's. Paper: 2.",
                    low=-1.0,
                ),
                number_input(
                    "clip_end",
                    -1.0,
                    "The same limit at the end, linear in between. -1: the preset's. Paper: 8.",
                    low=-1.0,
                ),
                io.Combo.Input(
                    "weighting",
                    options=["from preset", *CDS_WEIGHTINGS],
                    default="from preset",
                    advanced=True,
                    tooltip=(
                        "How much a noise level t counts, c(t): uniform all alike (the paper's"
                        " coarse stage), 1-abar the most at high noise (refine, texture)."
                    ),
                ),
                io.Int.Input(
                    "noise_groups",
                    default=1,
                    min=1,
                    max=360,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Fixed noises of the run. 1: one for all views (the paper's). More: one for"
                        " each of so many equal sectors of azimuth, the first around the front, so"
                        " that sides do not share what the noise leaves in the result. Our"
                        " addition."
                    ),
                ),
                io.Boolean.Input(
                    "shared_unconditional",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Use the noisier point's unconditional estimate for both points: three"
                        " evaluations per view instead of four. Our addition and a crude"
                        " approximation: on the embedded prior at guidance 10 the direction came"
                        " out 1 to 3 times its own length off, mostly too long (lower weight)."
                    ),
                ),
                number_input(
                    "pull",
                    0.0,
                    "Share of the direction to the picture that the flow arrives at. Where no"
                    " picture of the prior varies, as in haze, CDS alone does not move; this leads"
                    " back. The more, the more the loss is SDS with a fixed noise. 0: the paper's"
                    " loss. The embedded prior wants 3. Our addition, at no further evaluation.",
                    high=100.0,
                    step=0.1,
                    optional=True,
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls,
        preset: str | None,
        t_start: int | None,
        t_end: int | None,
        t_min: int | None,
        t_max: int | None,
        gap: int | None,
        clip_start: float | None,
        clip_end: float | None,
        perturb: int | None,
        guidance_start: float | None,
        guidance_end: float | None,
        weight: float | None,
        pull: float | None = None,
    ) -> bool | str:
        given = {key: value for key, value in locals().items() if key != "cls"}
        # each compared with no other input
        alone = ("perturb", "guidance_start", "guidance_end", "weight", "pull")
        groups = [{key: value for key, value in given.items() if key not in alone}]
        groups += [{"preset": preset, key: given[key]} for key in alone]
        problems = (validate(cls, group, cds_settings) for group in groups)
        return next((problem for problem in problems if problem is not True), True)

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(cds_settings(**inputs)))


def cds_settings(preset: str, **given: Any) -> CDS:
    """The stage's settings, with what was set by hand put over them."""
    return STAGES[preset](**{key: value for key, value in given.items() if value not in FROM_STAGE})


class SDSLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SDSLoss",
            display_name="SDS Loss",
            category=CATEGORY,
            description=(
                "Score Distillation Sampling (DreamFusion 2022), the baseline: add noise to a"
                " render, ask the prior which noise it sees given the prompt, and move the object"
                " by the difference."
            ),
            search_aliases=["dreamfusion", "score distillation sampling", "baseline"],
            inputs=[
                number_input(
                    "guidance",
                    SDS().guidance,
                    "Guidance: how strongly the text pulls; 1 is the prior without a push (scale s;"
                    " papers that write w mean s - 1). DreamFusion: 101 (w = 100), and lower washes"
                    " out. The embedded prior wants about 4, with weighting sigma/alpha and t_min"
                    " 100.",
                    advanced=False,
                ),
                number_input(
                    "weight",
                    1.0,
                    "Factor on the gradient. DreamFusion: 1.",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
                io.Combo.Input(
                    "weighting",
                    options=list(WEIGHTINGS),
                    default=WEIGHTINGS[0],
                    advanced=True,
                    tooltip=f"{WEIGHTS} DreamFusion: 1-abar. LucidDreamer: sigma/alpha.",
                ),
                steps_input("t_min", 20, f"Lowest {LEVEL}. DreamFusion: 20."),
                steps_input(
                    "t_max_start", 980, f"Highest {LEVEL}, at the start. DreamFusion: 980."
                ),
                steps_input(
                    "t_max_end",
                    500,
                    "Highest noise level at the end, timestep. DreamFusion: 980; LucidDreamer:"
                    " 500.",
                ),
                io.Combo.Input(
                    "t_anneal",
                    options=list(SHAPES),
                    default="linear",
                    advanced=True,
                    tooltip=(
                        "How the highest noise level moves. constant keeps t_max_start"
                        " (DreamFusion); LucidDreamer: linear."
                    ),
                ),
                io.Float.Input(
                    "t_anneal_share",
                    default=1.0,
                    min=0.001,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip=(
                        "Share of the run, 0..1, over which the highest noise level moves."
                        " LucidDreamer: 0.3."
                    ),
                ),
                number_input("clip", 0.0, CLIP, high=1e6),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls, t_min: int | None, t_max_start: int | None, t_max_end: int | None
    ) -> bool | str:
        return validate(
            cls, {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}, SDS
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(SDS(**inputs)))


class CombineLosses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_CombineLosses",
            display_name="Combine Losses",
            category=CATEGORY,
            description=(
                "A weighted sum of two losses, which is again a loss: chain this node for more."
                " Each asks the prior for itself, so the cost adds up."
            ),
            search_aliases=["sum", "mix", "blend", "weighted"],
            inputs=[
                types.Loss.Input("loss_a", tooltip="The first loss, whichever it is."),
                types.Loss.Input("loss_b", tooltip="The second loss; the same kind again is fine."),
                number_input(
                    "weight_a",
                    1.0,
                    "Factor on the first loss; 0 leaves it out.",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
                number_input(
                    "weight_b",
                    1.0,
                    "Factor on the second loss; 0 leaves it out.",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(cls, weight_a: float | None, weight_b: float | None) -> bool | str:
        weights = {"weight_a": weight_a, "weight_b": weight_b}
        return validate(
            cls, weights, lambda weight_a, weight_b: Combined((SDS(), SDS()), (weight_a, weight_b))
        )

    @classmethod
    def execute(cls, loss_a: Loss, loss_b: Loss, weight_a: float, weight_b: float) -> io.NodeOutput:
        return io.NodeOutput(checked(Combined((loss_a, loss_b), (weight_a, weight_b))))


def checked(loss: Loss) -> Loss:
    """The loss itself, or a ValueError: linked inputs were not there to be validated before the
    run.
    """
    loss.check()
    return loss

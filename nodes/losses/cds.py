"""CDS Loss."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ...kernels.losses.cds import CDS, CDS_WEIGHTINGS
from ...kernels.losses.suited import VALUES
from ..shared.auto import OWN
from ..shared.presets import preset_input
from ..shared.validation import validate
from .inputs import (
    CATEGORY,
    WEIGHT,
    auto_input,
    given,
    loss_output,
    number_input,
    reduction_option,
    steps_input,
)

DEFAULTS = CDS()
PRESETS = {
    name: asdict(settings)
    for name, settings in {
        "coarse": CDS.coarse(),
        "refine": CDS.refine(),
        "texture": CDS.texture(),
        "embedded prior": CDS(**VALUES["losses"]["CDS"]["embedded"]),
    }.items()
}


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
                preset_input(
                    PRESETS,
                    "coarse, refine, texture: Consistent3D's stages for shape from noise (t 700 ->"
                    " 100), geometry (300 -> 20) and appearance (500 -> 20). embedded prior: for"
                    " the prior that ships with the pack.",
                ),
                number_input(
                    "guidance_start",
                    DEFAULTS.guidance_start,
                    "Guidance at the start: how strongly the text pulls; 1 is the prior without a"
                    " push (scale s; papers that write w mean s - 1). Consistent3D's code: coarse"
                    " and refine 101 (w = 100), texture 51 (w = 50). The embedded prior wants 3"
                    " or 4.",
                    advanced=False,
                ),
                number_input(
                    "guidance_end",
                    DEFAULTS.guidance_end,
                    "Guidance at the end, linear in between. Consistent3D's code: coarse and"
                    " texture 51 (w = 50), refine 31 (w = 30). The embedded prior wants 1 to 1.5.",
                    advanced=False,
                ),
                number_input(
                    "weight",
                    DEFAULTS.weight,
                    f"Factor on the gradient. Consistent3D: 1 (on a NeRF). {WEIGHT}",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
                steps_input(
                    "t_start",
                    DEFAULTS.t_start,
                    "Lower noise level t_next at the start, timestep 0 (clean) to 999 (pure noise);"
                    " falls to t_end with the square root of the progress. Consistent3D: coarse"
                    " 700, refine 300, texture 500.",
                ),
                steps_input(
                    "t_end",
                    DEFAULTS.t_end,
                    "Lower noise level t_next at the end, timestep. The result keeps noise of about"
                    " this level. Consistent3D: coarse 100, refine and texture 20.",
                ),
                steps_input(
                    "t_min",
                    DEFAULTS.t_min,
                    "Floor of the lower noise level t_next, timestep. Consistent3D: coarse 100,"
                    " refine and texture 20.",
                ),
                steps_input(
                    "t_max",
                    DEFAULTS.t_max,
                    "Ceiling of the upper noise level t, timestep. Consistent3D: coarse and texture"
                    " 980, refine 500.",
                ),
                steps_input(
                    "gap",
                    DEFAULTS.gap,
                    "Least distance between t and t_next, timesteps. Consistent3D: 100.",
                    low=1,
                ),
                steps_input(
                    "perturb",
                    DEFAULTS.perturb,
                    "t lies a random 0..perturb-1 further above t_next, timesteps, drawn per view."
                    " Consistent3D: coarse 200, refine and texture 100.",
                    low=1,
                ),
                number_input(
                    "clip_start",
                    DEFAULTS.clip_start,
                    "No value of the gradient may be larger than this at the start, in units of the"
                    " latent; 0 in both: no limit. Consistent3D: 2.",
                ),
                number_input(
                    "clip_end",
                    DEFAULTS.clip_end,
                    "The same limit at the end, linear in between. Consistent3D: 8.",
                ),
                io.Combo.Input(
                    "weighting",
                    options=list(CDS_WEIGHTINGS),
                    default=DEFAULTS.weighting,
                    advanced=True,
                    tooltip=(
                        "How much a noise level t counts, c(t): uniform all alike (Consistent3D's"
                        " coarse stage), 1-abar the most at high noise (refine, texture)."
                    ),
                ),
                io.Int.Input(
                    "noise_groups",
                    default=DEFAULTS.noise_groups,
                    min=1,
                    max=360,
                    advanced=True,
                    tooltip=(
                        "Fixed noises of the run. 1: one for all views, as in Consistent3D. More:"
                        " one for each of so many equal sectors of azimuth, the first around the"
                        " front, so that sides do not share what the noise leaves in the result."
                        " Our addition."
                    ),
                ),
                number_input(
                    "pull",
                    DEFAULTS.pull,
                    "Share of the direction to the picture that the flow arrives at. Where no"
                    " picture of the prior varies, as in haze, CDS alone does not move; this leads"
                    " back. The more, the more the loss is SDS with a fixed noise. Consistent3D: 0."
                    " The embedded prior wants 3. Our addition, at no further evaluation.",
                    high=100.0,
                    step=0.1,
                ),
                io.Boolean.Input(
                    "shared_unconditional",
                    default=DEFAULTS.shared_unconditional,
                    advanced=True,
                    tooltip=(
                        "Use the noisier point's unconditional estimate for both points: three"
                        " evaluations per view instead of four. Our addition and a crude"
                        " approximation: on the embedded prior at guidance 10 the direction came"
                        " out 1 to 3 times its own length off, mostly too long (lower weight)."
                    ),
                ),
                reduction_option(
                    DEFAULTS.reduction,
                    "What the gradients of the views count: mean over the views (Consistent3D), sum"
                    " over them (LucidDreamer), or elements, a mean over the latents' values too.",
                ),
                auto_input(),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls,
        t_start: int | None = None,
        t_end: int | None = None,
        t_min: int | None = None,
        t_max: int | None = None,
        gap: int | None = None,
        clip_start: float | None = None,
        clip_end: float | None = None,
        guidance_start: float | None = None,
        guidance_end: float | None = None,
        weight: float | None = None,
        pull: float | None = None,
    ) -> bool | str:
        given = {key: value for key, value in locals().items() if key != "cls"}
        # each compared with no other input, but checked for NaN
        alone = ("guidance_start", "guidance_end", "weight", "pull")
        groups = [{key: value for key, value in given.items() if key not in alone}]
        groups += [{key: given[key]} for key in alone]
        problems = (validate(cls, group, CDS) for group in groups)
        return next((problem for problem in problems if problem is not True), True)

    @classmethod
    def execute(cls, preset: str, values: str = OWN, **inputs: Any) -> io.NodeOutput:
        return given(CDS(**inputs), values)

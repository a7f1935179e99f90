"""CSD, NFSD, ISM, VSD, SDI and SCTD Loss: published score distillation losses to compare with."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.base import WEIGHTINGS
from ...kernels.losses.csd import CSD
from ...kernels.losses.ism import ISM
from ...kernels.losses.nfsd import NFSD
from ...kernels.losses.schedule import SHAPES
from ...kernels.losses.sctd import SCTD
from ...kernels.losses.sdi import SDI
from ...kernels.losses.timestep import TimestepLoss
from ...kernels.losses.vsd import VSD
from ..shared.validation import validate
from .basic import CATEGORY, CLIP, LEVEL, WEIGHTS, checked, loss_output, number_input, steps_input


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
            "Factor on the gradient. LucidDreamer: 0.1 with its smaller learning rates.",
            high=1e6,
            step=0.1,
            advanced=False,
        ),
    ]


def timestep_inputs(
    defaults: TimestepLoss, weighting: str, highest: str = "LucidDreamer: 500."
) -> list[io.Input]:
    """The rest of what these losses have in common; ``weighting`` and ``highest`` (at the end) name
    papers' values.
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
            "t_min", defaults.t_min, f"Lowest {LEVEL}. Papers: 20. Embedded prior: 20 to 200."
        ),
        steps_input(
            "t_max_start", defaults.t_max_start, f"Highest {LEVEL}, at the start. Papers: 980."
        ),
        steps_input(
            "t_max_end", defaults.t_max_end, f"Highest noise level at the end, timestep. {highest}"
        ),
        io.Combo.Input(
            "t_anneal",
            options=list(SHAPES),
            default=defaults.t_anneal,
            advanced=True,
            tooltip=(
                "How the highest noise level moves; constant keeps t_max_start. LucidDreamer, SDI:"
                " linear."
            ),
        ),
        io.Float.Input(
            "t_anneal_share",
            default=defaults.t_anneal_share,
            min=0.001,
            max=1.0,
            step=0.05,
            advanced=True,
            tooltip=(
                "Share of the run, 0..1, over which the highest noise level moves. LucidDreamer:"
                " 0.3."
            ),
        ),
        number_input("clip", defaults.clip, CLIP, high=1e6),
    ]


class CSDLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_CSDLoss",
            display_name="CSD Loss",
            category=CATEGORY,
            description=(
                "Classifier Score Distillation (ICLR 2024): of SDS only what guidance adds, the way"
                " from the negative text to the prompt. Steady; saturates in long runs. 2 denoiser"
                " evaluations per step and view."
            ),
            search_aliases=["classifier score distillation", "score distillation", "baseline"],
            inputs=[
                *plain_inputs(
                    CSD(), "Here it only scales the gradient, by s - 1. Embedded prior: about 20."
                ),
                *timestep_inputs(CSD(), "DreamFusion: 1-abar."),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls, t_min: int | None, t_max_start: int | None, t_max_end: int | None
    ) -> bool | str:
        return validate(
            cls, {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}, CSD
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(CSD(**inputs)))


class NFSDLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_NFSDLoss",
            display_name="NFSD Loss",
            category=CATEGORY,
            description=(
                "Noise-Free Score Distillation (ICLR 2024): SDS without the noise that over-smooths"
                " it. Give View Prompts a negative prompt of quality words (unrealistic, blurry,"
                " low quality ...); without one this is CSD above t_low. 3 denoiser evaluations per"
                " step and view."
            ),
            search_aliases=[
                "noise-free score distillation",
                "noise free",
                "score distillation",
                "baseline",
            ],
            inputs=[
                *plain_inputs(NFSD(), "NFSD: 7.5. Embedded prior: about 20."),
                *timestep_inputs(NFSD(), "DreamFusion: 1-abar."),
                steps_input(
                    "t_low",
                    NFSD().t_low,
                    "Below this timestep the null text's estimate is taken whole, above it less the"
                    " negative prompt's. NFSD: 200.",
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls, t_min: int | None, t_max_start: int | None, t_max_end: int | None
    ) -> bool | str:
        return validate(
            cls, {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}, NFSD
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(NFSD(**inputs)))


class ISMLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ISMLoss",
            display_name="ISM Loss",
            category=CATEGORY,
            description=(
                "Interval Score Matching (LucidDreamer, CVPR 2024), after its official code: the"
                " render is made noisy along the prior's own flow, not at random, and two"
                " neighbouring points are compared. 8 denoiser evaluations per step and view at"
                " t_max 980, 6 at 500."
            ),
            search_aliases=[
                "luciddreamer",
                "interval score matching",
                "ddim inversion",
                "score distillation",
            ],
            inputs=[
                *plain_inputs(ISM(), "LucidDreamer: 7.5. Embedded prior: begin with 7.5."),
                *timestep_inputs(ISM(), "LucidDreamer: sigma/alpha."),
                steps_input(
                    "gap",
                    ISM().gap,
                    "Distance of the two points compared, timesteps. LucidDreamer: 100, falling"
                    " to 80.",
                    low=1,
                ),
                steps_input(
                    "stride",
                    ISM().stride,
                    "Timesteps per step of the inversion; half of it makes the inversion cost twice"
                    " as much. LucidDreamer: 200.",
                    low=1,
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls, t_min: int | None, t_max_start: int | None, t_max_end: int | None
    ) -> bool | str:
        return validate(
            cls, {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}, ISM
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(ISM(**inputs)))


class VSDLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_VSDLoss",
            display_name="VSD Loss",
            category=CATEGORY,
            description=(
                "Variational Score Distillation (ProlificDreamer, NeurIPS 2023): a LoRA on the"
                " prior's own network learns the renders' score during the run; the prior itself"
                " stays as it is. The paper's camera embedding is left out. Needs the package peft,"
                " and memory for training. 4 denoiser evaluations per step and view, one with its"
                " backward pass."
            ),
            search_aliases=[
                "prolificdreamer",
                "variational score distillation",
                "lora",
                "score distillation",
            ],
            inputs=[
                *plain_inputs(VSD(), "ProlificDreamer: 7.5. Embedded prior: begin with 7.5."),
                *timestep_inputs(
                    VSD(),
                    "ProlificDreamer: 1-abar.",
                    "ProlificDreamer: 500, at once after a fifth of the run.",
                ),
                io.Int.Input(
                    "lora_rank",
                    default=VSD().lora_rank,
                    min=1,
                    max=1024,
                    advanced=True,
                    tooltip=(
                        "Rank of the LoRA's layers; more learns the renders more closely."
                        " ProlificDreamer's code in threestudio: 4."
                    ),
                ),
                io.Float.Input(
                    "lora_lr",
                    default=VSD().lora_lr,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=0.0000001,
                    advanced=True,
                    tooltip=(
                        "AdamW's learning rate of the LoRA; 0 freezes it, which leaves CSD."
                        " ProlificDreamer: 1e-4 over 25,000 steps. Embedded prior, some hundred"
                        " steps: begin with 1e-3."
                    ),
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls, t_min: int | None, t_max_start: int | None, t_max_end: int | None
    ) -> bool | str:
        return validate(
            cls, {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}, VSD
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(VSD(**inputs)))


class SDILoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SDILoss",
            display_name="SDI Loss",
            category=CATEGORY,
            description=(
                "Score Distillation via Inversion (NeurIPS 2024), after threestudio's code: the"
                " noise added to a render is the one that the prior itself finds by running"
                " backwards from it. Costly: 22 denoiser evaluations per step and view at timestep"
                " 980, 10 at 250; a wider stride saves most of them."
            ),
            search_aliases=[
                "score distillation via inversion",
                "reparametrized ddim",
                "ddim inversion",
            ],
            inputs=[
                *plain_inputs(
                    SDI(),
                    "SDI: 8.5 (w = 7.5). Embedded prior: begin with 7.5, and inversion_guidance 1.",
                ),
                *timestep_inputs(SDI(), "SDI: sigma/alpha.", "SDI: 250."),
                io.Boolean.Input(
                    "t_random",
                    default=SDI().t_random,
                    advanced=True,
                    tooltip=(
                        "Draw the timestep from t_min on, instead of taking the highest itself."
                        " SDI: off."
                    ),
                ),
                number_input(
                    "inversion_guidance",
                    SDI().inversion_guidance,
                    "Guidance of the inversion; below 0 it leads away from the prompt, as the "
                    "way back leads towards it. SDI: -6.5 (w = -7.5). Embedded prior: 1.",
                    low=-1000.0,
                ),
                steps_input(
                    "stride",
                    SDI().stride,
                    "Timesteps per step of the inversion, each of which costs 2 evaluations. SDI:"
                    " 100. Embedded prior: begin with 250.",
                    low=1,
                ),
                number_input(
                    "eta",
                    SDI().eta,
                    "Share of random noise in the inversion, 0..1. SDI: 0.3.",
                    high=1.0,
                    step=0.05,
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls, t_min: int | None, t_max_start: int | None, t_max_end: int | None
    ) -> bool | str:
        return validate(
            cls, {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}, SDI
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(SDI(**inputs)))


class SCTDLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SCTDLoss",
            display_name="SCTD Loss",
            category=CATEGORY,
            description=(
                "Segmented Consistency Trajectory Distillation (SegmentDreamer, ICCV 2025), after"
                " its official code: the flow is split into segments, consistency is asked for"
                " within one, and guidance is a part of its own. 5 denoiser evaluations per step"
                " and view."
            ),
            search_aliases=["segmentdreamer", "segmented consistency", "consistency distillation"],
            inputs=[
                *plain_inputs(
                    SCTD(), "It enters twice. SegmentDreamer: 7.5. Embedded prior: about 4."
                ),
                *timestep_inputs(SCTD(), "SegmentDreamer: sigma/alpha."),
                io.Int.Input(
                    "segments",
                    default=SCTD().segments,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip=(
                        "Segments between t_min and the highest timestep. SegmentDreamer: 4, its"
                        " script 5."
                    ),
                ),
                steps_input(
                    "gap",
                    SCTD().gap,
                    "Least distance of t from its segment's lower edge, timesteps; less than a"
                    " segment. SegmentDreamer: 80.",
                    low=1,
                ),
                steps_input(
                    "margin",
                    SCTD().margin,
                    "The level between the two keeps so many timesteps from either."
                    " SegmentDreamer: 10.",
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls,
        t_min: int | None,
        t_max_start: int | None,
        t_max_end: int | None,
        segments: int | None,
        gap: int | None,
        margin: int | None,
    ) -> bool | str:
        return validate(cls, {key: value for key, value in locals().items() if key != "cls"}, SCTD)

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(SCTD(**inputs)))

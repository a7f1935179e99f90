"""VDM Loss."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.base import WEIGHTINGS
from ...kernels.losses.degradation import DESIGNS, Degradation
from ...kernels.losses.schedule import SHAPES
from ...kernels.losses.vdm import VDM
from ..shared.validation import validate
from .basic import CATEGORY, CLIP, LEVEL, WEIGHTS, checked, loss_output, number_input, steps_input

DEFAULTS = VDM()
# channels per level of M_psi
WIDTHS = {"16, 32": (16, 32), "32, 64": (32, 64), "64, 128": (64, 128)}


class VDMLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_VDMLoss",
            display_name="VDM Loss",
            category=CATEGORY,
            description=(
                "Variational Distribution Mapping (VDM) with Distribution Coefficient Annealing"
                " (DCA): a small network M_psi learns during the run how renderings fall short of"
                " what the prior imagines, and the object is led past that. DreamMapping's text and"
                " code are not available to this project: this is its own documented derivation"
                " from the abstract and the figure captions, not a reproduction, and none of the"
                " numbers are the authors'."
            ),
            search_aliases=[
                "dreammapping",
                "variational distribution mapping",
                "dca",
                "score distillation",
                "csd",
            ],
            inputs=[
                number_input(
                    "guidance",
                    DEFAULTS.guidance,
                    "Guidance: how strongly the text pulls; 1 is the prior without a push (scale s;"
                    " papers that write w mean s - 1). Our derivation: 7.5 (LucidDreamer's and"
                    " VSD's value, s there too; DreamMapping's is not public); for the embedded"
                    " prior 4, or 2 in runs of 800 steps. Higher: closer to the words, more"
                    " saturated.",
                    advanced=False,
                ),
                number_input(
                    "weight",
                    DEFAULTS.weight,
                    "Factor on the gradient. LucidDreamer: 0.1 with its smaller learning rates.",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
                io.Combo.Input(
                    "dca",
                    options=list(SHAPES),
                    default=DEFAULTS.dca,
                    tooltip=(
                        "How the coefficient eta, the weight of what M_psi has learned, goes over"
                        " the noise levels: from eta_clean at timestep 0 to eta_noisy at 999."
                        " constant: eta_clean throughout (plain VDM at 1). Our derivation: linear;"
                        " the paper's function is not public."
                    ),
                ),
                number_input(
                    "eta_clean",
                    DEFAULTS.eta_clean,
                    "Weight of the distribution part at timestep 0. 1: VDM, 0: the classifier part"
                    " alone (CSD). Our choice: 1.",
                    high=10.0,
                    step=0.05,
                ),
                number_input(
                    "eta_noisy",
                    DEFAULTS.eta_noisy,
                    "Weight of the distribution part at the last timestep; less is more saturated."
                    " Our choice: 0.5.",
                    high=10.0,
                    step=0.05,
                ),
                io.Combo.Input(
                    "degradation",
                    options=list(DESIGNS),
                    default=DEFAULTS.degradation.design,
                    advanced=True,
                    tooltip=(
                        "Design of M_psi, named as in DreamMapping's Figure 6: nonlinear (the"
                        " authors' choice; the layers are ours), nonlinear_noise (with a channel of"
                        " fresh noise), linear (a 1x1 convolution per noise level)."
                    ),
                ),
                io.Combo.Input(
                    "psi_widths",
                    options=list(WIDTHS),
                    default="32, 64",
                    advanced=True,
                    tooltip=(
                        "Channels on each level of M_psi (not for linear). Too strong, and VDM"
                        " turns into SDS. Not public in the paper."
                    ),
                ),
                io.Float.Input(
                    "psi_lr",
                    default=DEFAULTS.psi_lr,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=0.0000001,
                    advanced=True,
                    tooltip=(
                        "Adam's learning rate of M_psi at the start; 0 freezes it, which leaves CSD"
                        " until the second part begins. Try 1e-4 to 3e-3. Our choice: 3e-3."
                    ),
                ),
                io.Float.Input(
                    "psi_lr_end",
                    default=DEFAULTS.psi_lr_end,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=0.0000001,
                    advanced=True,
                    tooltip="Its learning rate at the end, linear in between. Our choice: 1e-4.",
                ),
                steps_input(
                    "t_min",
                    DEFAULTS.t_min,
                    f"Lowest {LEVEL}. LucidDreamer: 20; 300 is for the embedded prior, where lower"
                    " ones leave haze.",
                ),
                steps_input(
                    "t_max_start",
                    DEFAULTS.t_max_start,
                    f"Highest {LEVEL}, at the start. LucidDreamer: 980.",
                ),
                steps_input(
                    "t_max_end",
                    DEFAULTS.t_max_end,
                    "Highest noise level at the end, timestep. LucidDreamer: 500.",
                ),
                io.Combo.Input(
                    "t_anneal",
                    options=list(SHAPES),
                    default=DEFAULTS.t_anneal,
                    advanced=True,
                    tooltip=(
                        "How the highest noise level moves; constant keeps t_max_start."
                        " LucidDreamer: linear."
                    ),
                ),
                io.Float.Input(
                    "t_anneal_share",
                    default=DEFAULTS.t_anneal_share,
                    min=0.001,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip=(
                        "Share of the run, 0..1, over which the highest noise level moves."
                        " LucidDreamer: 0.3."
                    ),
                ),
                io.Boolean.Input(
                    "shared_t",
                    default=DEFAULTS.shared_t,
                    advanced=True,
                    tooltip=(
                        "One timestep for all views of a step (LucidDreamer), so that M_psi sees"
                        " one noise level at a time."
                    ),
                ),
                io.Combo.Input(
                    "weighting",
                    options=list(WEIGHTINGS),
                    default=DEFAULTS.weighting,
                    advanced=True,
                    tooltip=f"{WEIGHTS} LucidDreamer: sigma/alpha.",
                ),
                number_input(
                    "x0_clip",
                    DEFAULTS.x0_clip,
                    "No value of the prior's estimates of the clean picture may be larger than"
                    " this, in units of the latent; 0 never. 5 tames the highest noise levels.",
                    high=1e6,
                ),
                number_input(
                    "x0_rescale",
                    DEFAULTS.x0_rescale,
                    "How far, 0..1, these estimates are brought to the spread of the render's"
                    " latent. Our choice: 0.",
                    high=1.0,
                    step=0.05,
                ),
                number_input("clip", DEFAULTS.clip, CLIP, high=1e6),
                io.Float.Input(
                    "refine_from",
                    default=DEFAULTS.refine_from,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip=(
                        "Share of the run after which a second part sharpens the object: there the"
                        " prior makes a picture of every noisy view in a few steps, and the render"
                        " is drawn to it. 1: never. Our addition, not DreamMapping's; measured on"
                        " the embedded prior only."
                    ),
                ),
                io.Int.Input(
                    "refine_steps",
                    default=DEFAULTS.refine_steps,
                    min=1,
                    max=50,
                    advanced=True,
                    tooltip=(
                        "Denoiser steps per picture in the second part; each costs as much as a"
                        " step of the first. 3 give a sharp picture, 1 a soft mean."
                    ),
                ),
                number_input(
                    "refine_guidance",
                    DEFAULTS.refine_guidance,
                    "Guidance of the second part. 1 halves its cost and loses detail.",
                ),
                steps_input(
                    "refine_t_min",
                    DEFAULTS.refine_t_min,
                    "Lowest noise level of the second part, timestep.",
                ),
                steps_input(
                    "refine_t_max",
                    DEFAULTS.refine_t_max,
                    "Highest noise level, timestep, where the second part begins; comes down to 200"
                    " above refine_t_min.",
                ),
                io.Int.Input(
                    "psi_updates",
                    default=DEFAULTS.psi_updates,
                    min=1,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Adam steps of M_psi per step. More, and it follows the renders closely,"
                        " which turns VDM into SDS. Our choice: 2; on the embedded prior 4 gained"
                        " no shape and take longer. Not public in the paper."
                    ),
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
        refine_t_min: int | None,
        refine_t_max: int | None,
    ) -> bool | str:
        first = {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}
        return validate(
            cls, first | {"refine_t_min": refine_t_min, "refine_t_max": refine_t_max}, VDM
        )

    @classmethod
    def execute(cls, degradation: str, psi_widths: str, **inputs: Any) -> io.NodeOutput:
        network = Degradation(design=degradation, widths=WIDTHS[psi_widths])
        return io.NodeOutput(checked(VDM(degradation=network, **inputs)))

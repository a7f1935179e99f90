"""VDM Loss and Degradation Map."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.base import WEIGHTINGS
from ...kernels.losses.degradation import DESIGNS, Degradation
from ...kernels.losses.schedule import ANNEALS, SHAPES
from ...kernels.losses.suited import VALUES
from ...kernels.losses.vdm import VDM
from ..shared import types
from ..shared.auto import OWN
from ..shared.presets import preset_input
from ..shared.validation import validate
from .inputs import (
    CATEGORY,
    CLIP,
    LEVEL,
    WEIGHT,
    WEIGHTS,
    auto_input,
    given,
    loss_output,
    number_input,
    reduction_option,
    steps_input,
)

DEFAULTS = VDM()
MAP = ("degradation", "psi_lr", "psi_lr_end")  # in Degradation Map
PRESETS = {
    name: {key: value for key, value in vars(settings).items() if key not in MAP}
    for name, settings in {
        "derivation": DEFAULTS,
        "embedded prior": VDM(**VALUES["losses"]["VDM"]["embedded"]),
    }.items()
}
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
                preset_input(
                    PRESETS,
                    "derivation: our defaults. embedded prior: for the prior that ships with the"
                    " pack, runs of at most 300 steps. With Stable Diffusion begin with"
                    " derivation and t_min 21.",
                ),
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
                    f"Factor on the gradient. {WEIGHT}",
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
                steps_input(
                    "t_min",
                    DEFAULTS.t_min,
                    f"Lowest {LEVEL}. LucidDreamer: 21; 300 is for the embedded prior, where lower"
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
                    options=list(ANNEALS),
                    default=DEFAULTS.t_anneal,
                    advanced=True,
                    tooltip=(
                        "How the highest noise level moves; constant keeps t_max_start, jump keeps"
                        " it until t_anneal_share is over. LucidDreamer: linear."
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
                io.Int.Input(
                    "psi_updates",
                    default=DEFAULTS.psi_updates,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip=(
                        "Adam steps of M_psi per step. More, and it follows the renders closely,"
                        " which turns VDM into SDS. Our choice: 2; on the embedded prior 4 gained"
                        " no shape and take longer. Not public in the paper."
                    ),
                ),
                types.DegradationMap.Input(
                    "degradation_map",
                    optional=True,
                    tooltip=(
                        "Design and learning rates of M_psi, from Degradation Map; without it that"
                        " node's defaults."
                    ),
                ),
                reduction_option(DEFAULTS.reduction),
                auto_input(),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls, t_min: int | None = None, t_max_start: int | None = None, t_max_end: int | None = None
    ) -> bool | str:
        return validate(
            cls, {"t_min": t_min, "t_max_start": t_max_start, "t_max_end": t_max_end}, VDM
        )

    @classmethod
    def execute(
        cls,
        preset: str,
        values: str = OWN,
        degradation_map: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> io.NodeOutput:
        return given(VDM(**inputs, **(degradation_map or {})), values)


class DegradationMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_DegradationMap",
            display_name="Degradation Map",
            category=CATEGORY,
            description=(
                "M_psi, the small network by which VDM Loss learns during the run how renderings"
                " fall short of what the prior imagines: its design and how fast it learns."
                " DreamMapping names such a map; layers and numbers are this project's own."
            ),
            search_aliases=["m_psi", "vdm", "dreammapping"],
            inputs=[
                io.Combo.Input(
                    "design",
                    options=list(DESIGNS),
                    default=DEFAULTS.degradation.design,
                    tooltip=(
                        "Design of M_psi, named as in DreamMapping's Figure 6: nonlinear (the"
                        " authors' choice; the layers are ours), nonlinear_noise (with a channel of"
                        " fresh noise), linear (a 1x1 convolution per noise level)."
                    ),
                ),
                io.Combo.Input(
                    "widths",
                    options=list(WIDTHS),
                    default="32, 64",
                    tooltip=(
                        "Channels on each level of M_psi (not for linear). Too strong, and VDM"
                        " turns into SDS. Not public in the paper."
                    ),
                ),
                io.Float.Input(
                    "lr",
                    default=DEFAULTS.psi_lr,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=0.0000001,
                    tooltip=(
                        "Adam's learning rate of M_psi at the start; 0 freezes it, which leaves"
                        " CSD. Try 1e-4 to 3e-3. Our choice: 3e-3."
                    ),
                ),
                io.Float.Input(
                    "lr_end",
                    default=DEFAULTS.psi_lr_end,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=0.0000001,
                    tooltip="Its learning rate at the end, linear in between. Our choice: 1e-4.",
                ),
            ],
            outputs=[
                types.DegradationMap.Output(display_name="degradation_map", tooltip="For VDM Loss.")
            ],
        )

    @classmethod
    def execute(cls, design: str, widths: str, lr: float, lr_end: float) -> io.NodeOutput:
        network = Degradation(design=design, widths=WIDTHS[widths])
        return io.NodeOutput({"degradation": network, "psi_lr": lr, "psi_lr_end": lr_end})

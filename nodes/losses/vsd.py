"""VSD Loss."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.losses.vsd import VSD
from .inputs import (
    CATEGORY,
    TimestepLossNode,
    auto_input,
    choice_option,
    loss_output,
    number_input,
    plain_inputs,
    timestep_inputs,
    timestep_options,
)


class VSDLoss(TimestepLossNode):
    settings = VSD

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
                    "ProlificDreamer: 500.",
                    "ProlificDreamer: jump.",
                    "ProlificDreamer: 0.2.",
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
                choice_option(
                    "lora_text",
                    ("view", "prompt"),
                    VSD().lora_text,
                    "What the LoRA reads: the text of each view, or the prompt without view words"
                    " (ProlificDreamer: prompt).",
                ),
                number_input(
                    "lora_beta2",
                    VSD().lora_beta2,
                    "AdamW's second beta, 0..1: the share kept of the mean squared gradient."
                    " ProlificDreamer: 0.99.",
                    high=0.999999,
                    step=0.001,
                    optional=True,
                ),
                io.Float.Input(
                    "lora_eps",
                    default=VSD().lora_eps,
                    min=0.0,
                    max=1.0,
                    step=1e-15,
                    round=False,
                    optional=True,
                    advanced=True,
                    tooltip="AdamW's epsilon, of a summed loss. ProlificDreamer: 1e-15, of a mean.",
                ),
                *timestep_options(VSD()),
                auto_input(),
            ],
            outputs=[loss_output()],
        )

"""TraCe Loss."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.losses.trace import TraCe
from .inputs import (
    CATEGORY,
    TimestepLossNode,
    auto_input,
    loss_output,
    plain_inputs,
    steps_input,
    timestep_inputs,
    timestep_options,
)
from .vsd import lora_inputs


class TraCeLoss(TimestepLossNode):
    settings = TraCe

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_TraCeLoss",
            display_name="TraCe Loss",
            category=CATEGORY,
            description=(
                "Trajectory-Centric Distillation (NeurIPS 2025), after its code: a Schroedinger"
                " bridge from the render to the prior's guided picture of it, whose noise a LoRA"
                " learns during the run; made for low guidance. Needs the package peft, memory for"
                " training, and Load Diffusion Prior. 4 denoiser evaluations per step and view, one"
                " with its backward pass."
            ),
            search_aliases=["schroedinger bridge", "trajectory", "lora", "score distillation"],
            inputs=[
                *plain_inputs(TraCe(), "TraCe: 20, with a negative prompt."),
                *timestep_inputs(
                    TraCe(), "TraCe: one.", "TraCe: 500.", "TraCe: jump.", "TraCe: 0.41."
                ),
                steps_input(
                    "bridge_start",
                    TraCe().bridge_start,
                    "The bridge's step at the start: 0 is the prior's picture, 999 the render;"
                    " 500 has the most noise. TraCe: 500.",
                ),
                steps_input(
                    "bridge_end",
                    TraCe().bridge_end,
                    "The bridge's step at the end, linear in between. TraCe: 20.",
                ),
                *lora_inputs(TraCe(), rate="0 freezes it. TraCe: 1e-3.", text="TraCe: prompt"),
                *timestep_options(TraCe()),
                auto_input(),
            ],
            outputs=[loss_output()],
        )

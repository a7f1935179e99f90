"""Reward Loss."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.base import Loss
from ...kernels.losses.reward import STRATEGIES, Reward
from ...kernels.losses.suited import Auto
from ..shared import types
from ..shared.validation import check_declared, undeclared
from .inputs import CATEGORY, checked, loss_output, number_input


class RewardLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_RewardLoss",
            display_name="Reward Loss",
            category=CATEGORY,
            description=(
                "Reward-weighted sampling (RewardSDS 2025) around another loss: several noises are"
                " drawn for a render, the prior makes a picture from each, a scorer says how good"
                " it is, and better draws count more. Dear: a draw costs the loss's own evaluations"
                " and 2 per sampler step."
            ),
            search_aliases=["rewardsds", "rewardvsd", "imagereward", "preference", "alignment"],
            inputs=[
                types.Loss.Input(
                    "loss",
                    tooltip=(
                        "SDS, CSD, NFSD, ISM, SDI, SCTD, VSD, TraCe or RFDS Loss, whose draws are"
                        " weighed."
                    ),
                ),
                types.Scorer.Input(
                    "scorer",
                    tooltip="What scores the pictures: Picture Scorer, or another pack's model.",
                ),
                io.Int.Input(
                    "draws",
                    default=Reward.draws,
                    min=2,
                    max=64,
                    tooltip="Noises per step and view. RewardSDS: 6. Time grows with it.",
                ),
                io.Combo.Input(
                    "strategy",
                    options=list(STRATEGIES),
                    default=Reward.strategy,
                    tooltip=(
                        "softmax: a draw counts exp(sharpness x score). best: the best alone. best"
                        " less worst: 0.9 of the two best, less 0.1 of the two worst. All three are"
                        " RewardSDS's."
                    ),
                ),
                number_input(
                    "sharpness",
                    Reward.sharpness,
                    "How much a point of the score counts in softmax; 0 makes a plain mean of the"
                    " draws. RewardSDS: 1.",
                    high=1e6,
                    step=0.1,
                ),
                io.Int.Input(
                    "steps",
                    default=Reward.steps,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip=(
                        "Sampler steps for a picture, 2 evaluations each. RewardSDS: 15 from pure"
                        " noise, fewer from less."
                    ),
                ),
                number_input(
                    "until",
                    Reward.until,
                    "Share of the run, 0..1, after which the loss goes on alone, at its own cost."
                    " RewardSDS: 0.5.",
                    high=1.0,
                    step=0.05,
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls,
        draws: int | None = None,
        sharpness: float | None = None,
        until: float | None = None,
    ) -> bool | str:
        values = {"draws": draws, "sharpness": sharpness, "until": until}
        return undeclared(cls, values) or True

    @classmethod
    def execute(cls, loss: Loss, scorer: Any, **settings: Any) -> io.NodeOutput:
        check_declared(cls, settings)
        if not callable(scorer):
            raise ValueError(
                f"Reward Loss: scorer is a {type(scorer).__name__}; it must be callable with"
                " pictures [B,3,H,W]. Link Picture Scorer."
            )
        reward = Reward(loss, scorer, **settings)  # type: ignore[arg-type]
        reward.check_loss(loss.settings if isinstance(loss, Auto) else loss)
        return io.NodeOutput(checked(reward))

"""Run Options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io

from ...kernels.rasterizers.rasterize import BACKENDS
from ...kernels.run.settings import BACKGROUNDS, OptimizeSettings
from ..shared import types
from ..shared.presets import preset_input
from .inputs import SETTINGS

DEFAULTS = OptimizeSettings()
STANDARD: dict[str, Any] = {
    "background": DEFAULTS.background,
    "sample_posterior": DEFAULTS.sample_posterior,
    "micro_batch": DEFAULTS.micro_batch,
}
PRESETS = {
    "standard": STANDARD,
    "little memory": STANDARD | {"micro_batch": 1},
    "LucidDreamer": STANDARD | {"background": "thirds", "sample_posterior": True},
    "Consistent3D": STANDARD | {"sample_posterior": True},
}


@dataclass(frozen=True)
class Options:
    """What a run shows the prior, and how it is watched and saved.

    Args:
        autosave_every: steps; 0: never
        backend: of splats
        settings: further fields of the kernels' RunSettings
    """

    autosave_every: int = 100
    backend: str = DEFAULTS.render_backend
    settings: dict[str, Any] = field(default_factory=dict)


class RunOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_RunOptions",
            display_name="Run Options",
            category=SETTINGS,
            description=(
                "What Optimize or Refine Mesh shows the prior (backgrounds), how it"
                " renders, and how often it is looked at and saved. Without this node these take"
                " this node's defaults."
            ),
            search_aliases=["background", "autosave", "preview", "memory", "backend"],
            inputs=[
                preset_input(
                    PRESETS,
                    "standard: what the prior was trained on. little memory: one picture at a time."
                    " LucidDreamer, Consistent3D: what they show Stable Diffusion.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default=DEFAULTS.background,
                    tooltip=(
                        "What is behind the object while training. auto: what the prior was trained"
                        " on, random colours if it does not say. thirds: each view's white, black"
                        " or a random colour (LucidDreamer)."
                    ),
                ),
                io.Boolean.Input(
                    "sample_posterior",
                    default=DEFAULTS.sample_posterior,
                    tooltip=(
                        "Encode the renders with a draw from the encoder's posterior (Consistent3D"
                        " and LucidDreamer: on) instead of its mean, which is steadier."
                    ),
                ),
                io.Int.Input(
                    "micro_batch",
                    default=DEFAULTS.micro_batch,
                    min=0,
                    max=64,
                    tooltip=(
                        "Views that go through the prior's networks together, for less memory at"
                        " the same numbers and more time; 0 all. Only for priors from a diffusers"
                        " folder."
                    ),
                ),
                io.Combo.Input(
                    "render_backend",
                    options=list(BACKENDS),
                    default=DEFAULTS.render_backend,
                    advanced=True,
                    tooltip=(
                        "Rasterizer of splats. auto: the fastest installed for the device (on CUDA"
                        " gsplat if compiled already, else triton; numba on the CPU; else plain"
                        " torch). reference is slow and for comparison."
                    ),
                ),
                io.Int.Input(
                    "preview_every",
                    default=DEFAULTS.preview_every,
                    min=0,
                    max=100_000,
                    advanced=True,
                    tooltip=(
                        "Steps between ComfyUI's small previews, where no page shows the viewer; 0"
                        " none."
                    ),
                ),
                io.Int.Input(
                    "autosave_every",
                    default=Options().autosave_every,
                    min=0,
                    max=100_000,
                    advanced=True,
                    tooltip=(
                        "Steps between autosaves to output/distill3d/autosave, for when ComfyUI is"
                        " killed: the first after 20 seconds, then every two minutes, if that is"
                        " sooner; 0 never. Recover goes on from them. Of runs that have ended the"
                        " newest 20 are kept."
                    ),
                ),
                io.Int.Input(
                    "max_bad_steps",
                    default=DEFAULTS.max_bad_steps,
                    min=0,
                    max=10_000,
                    advanced=True,
                    tooltip=(
                        "Steps in a row whose loss or gradient may be NaN or infinite (they change"
                        " nothing) before the run stops and saves the last good result."
                    ),
                ),
            ],
            outputs=[
                types.RunOptions.Output(
                    display_name="run_options", tooltip="For Optimize or Refine Mesh."
                )
            ],
        )

    @classmethod
    def execute(
        cls, preset: str, render_backend: str, autosave_every: int, **settings: Any
    ) -> io.NodeOutput:
        return io.NodeOutput(Options(autosave_every, render_backend, settings))

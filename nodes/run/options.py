"""Run Options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io

from ...kernels.rasterizers.rasterize import BACKENDS
from ...kernels.run.settings import BACKGROUNDS, OptimizeSettings, RunSettings
from ..shared import types
from ..shared.presets import preset_input
from ..shared.validation import validate
from .inputs import SETTINGS

DEFAULTS = OptimizeSettings()
STANDARD: dict[str, Any] = {
    "background": DEFAULTS.background,
    "sample_posterior": DEFAULTS.sample_posterior,
    "micro_batch": DEFAULTS.micro_batch,
    "judged_size": 0,
    "flip_share": DEFAULTS.flip_share,
    "depth_share": DEFAULTS.depth_share,
    "clip_norm_start": DEFAULTS.clip_norm_start,
    "clip_norm_end": DEFAULTS.clip_norm_end,
    "clip_norm_share": DEFAULTS.clip_norm_share,
}
SAMPLED = STANDARD | {"sample_posterior": True}
PRESETS = {
    "standard": STANDARD,
    "little memory": STANDARD | {"micro_batch": 1},
    "LucidDreamer": SAMPLED | {"background": "thirds", "flip_share": 0.5, "depth_share": 0.2},
    "Consistent3D": SAMPLED,
    "Consistent3D, coarse": SAMPLED | {"judged_size": 512},
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


def _share(
    id: str, tooltip: str, low: float = 0.0, high: float = 1.0, step: float = 0.5
) -> io.Float.Input:
    """An input that came later: prompts without it have its default."""
    return io.Float.Input(
        id,
        default=STANDARD[id],
        min=low,
        max=high,
        step=step,
        round=0.0001,
        optional=True,
        advanced=True,
        tooltip=tooltip,
    )


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
                    " LucidDreamer, Consistent3D: what they show Stable Diffusion; coarse: for its"
                    " first stage, with image_size 64 in Optimize.",
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
                io.Int.Input(
                    "judged_size",
                    default=STANDARD["judged_size"],
                    min=0,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Width and height that the renders are stretched to before the prior sees"
                        " them, pixels; 0: as they are. Consistent3D: 512 in the coarse stage, of"
                        " renders of 64. Must fit the prior: a multiple of 64 for Stable Diffusion."
                    ),
                ),
                _share(
                    "flip_share",
                    "Share of the steps, 0..1, whose renders the prior sees mirrored. LucidDreamer:"
                    " 0.5. Not for multi-view priors.",
                    step=0.05,
                ),
                _share(
                    "depth_share",
                    "Share of the steps, 0..1, in which the prior sees a picture of nearness"
                    " instead of the colours. LucidDreamer: 0.2. Only in Optimize.",
                    step=0.05,
                ),
                _share(
                    "clip_norm_start",
                    "Greatest norm of the gradient of each group of parameters, at the start; 0 in"
                    " both: any. SegmentDreamer: 2.",
                    high=1e6,
                ),
                _share(
                    "clip_norm_end",
                    "The same once clip_norm_share is over, linear in between. SegmentDreamer: 8.",
                    high=1e6,
                ),
                _share(
                    "clip_norm_share",
                    "Share of the schedule, above 0 to 1, over which that limit moves."
                    " SegmentDreamer: 0.2.",
                    low=0.001,
                    step=0.05,
                ),
                io.String.Input(
                    "devices",
                    default=DEFAULTS.devices,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "GPUs that share the views of each step. one: the prior's own. auto: all of"
                        " its model, in runs of 100 steps or more. Or names: cuda:0,cuda:1. Give"
                        " views that they can halve. Only for priors from a diffusers folder."
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
    def validate_inputs(
        cls,
        clip_norm_start: float | None = RunSettings.clip_norm_start,
        clip_norm_end: float | None = RunSettings.clip_norm_end,
        devices: str | None = RunSettings.devices,
    ) -> bool | str:
        values: dict[str, Any] = {"clip_norm_start": clip_norm_start, "devices": devices}
        values["clip_norm_end"] = clip_norm_end
        return validate(cls, values, RunSettings)

    @classmethod
    def execute(
        cls,
        preset: str,
        render_backend: str,
        autosave_every: int,
        judged_size: int = 0,
        **settings: Any,
    ) -> io.NodeOutput:
        settings["judged_size"] = judged_size or None
        RunSettings(**settings).check()
        return io.NodeOutput(Options(autosave_every, render_backend, settings))

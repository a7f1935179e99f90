"""The inputs of Optimize."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.gaussians.densify import Densify
from ...kernels.rasterizers.rasterize import BACKENDS
from ...kernels.run.settings import BACKGROUNDS, OptimizeSettings
from ..shared import types

DEFAULTS = OptimizeSettings()
GROWTH = Densify()


def optimize_inputs() -> list[io.Input]:
    """What a run takes, in the order of the widgets that saved workflows count on."""
    return [
        types.Prior.Input("prior", tooltip="The 2D diffusion model that judges the renderings."),
        types.Prompts.Input("prompts", tooltip="From View Prompts, with the same prior."),
        types.Cameras.Input("cameras", tooltip="Where the training views come from."),
        types.GaussianCloud.Input(
            "gaussians",
            tooltip="Where to start: Init Gaussians, Load Gaussians, or another Optimize.",
        ),
        types.Loss.Input(
            "loss", tooltip="How the prior's judgement becomes a direction: CDS, VDM, SDS or a sum."
        ),
        io.Int.Input(
            "steps",
            default=400,
            min=1,
            max=1_000_000,
            tooltip=(
                "Steps to do now. Embedded prior: 300 to 600. Consistent3D: 3000 (coarse), 5000"
                " (texture); LucidDreamer: 5000; this pack's VDM with Stable Diffusion: 3000."
            ),
        ),
        io.Int.Input(
            "views",
            default=DEFAULTS.views,
            min=1,
            max=64,
            tooltip=(
                "Cameras per step, rendered and judged together. Consistent3D: 8, LucidDreamer: 4. "
                "Memory and time grow with it."
            ),
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip=(
                "Seed of cameras, noise and backgrounds. On the CPU the same seed gives the same"
                " bits."
            ),
        ),
        io.Boolean.Input(
            "densify",
            default=True,
            tooltip=(
                "Split and clone Gaussians where the renderings still change, drop those that fade "
                "(3D Gaussian Splatting). Off: their number stays."
            ),
        ),
        io.Int.Input(
            "max_gaussians",
            default=DEFAULTS.max_gaussians,
            min=1,
            max=10_000_000,
            tooltip=(
                "Densification never goes beyond this many. Embedded prior: 20,000; with Stable"
                " Diffusion 100,000 to 500,000 (LucidDreamer has no cap)."
            ),
        ),
        io.Combo.Input(
            "background",
            options=list(BACKGROUNDS),
            default=DEFAULTS.background,
            tooltip=(
                "What is behind the object while training. auto: what the prior was trained on,"
                " random colours if it does not say. LucidDreamer: white, sometimes random or"
                " black."
            ),
        ),
        io.Int.Input(
            "image_size",
            default=0,
            min=0,
            max=4096,
            advanced=True,
            tooltip=(
                "Width and height of the training renders, pixels; 0 is the prior's own size"
                " (embedded 128, Stable Diffusion 512, as in the papers). Must fit the prior: a"
                " multiple of 64 for Stable Diffusion."
            ),
        ),
        io.Int.Input(
            "schedule_steps",
            default=0,
            min=0,
            max=1_000_000,
            advanced=True,
            tooltip=(
                "Length of the whole schedule, steps, over which noise levels and rates anneal; 0"
                " ends it with this node. To split one run over several nodes, give each the sum of"
                " their steps."
            ),
        ),
        io.Boolean.Input(
            "restart_schedule",
            default=False,
            advanced=True,
            tooltip=(
                "Begin a new schedule: forget the steps, momentum and loss state the Gaussians"
                " bring along. For a second stage, such as Consistent3D's texture after coarse."
            ),
        ),
        io.Int.Input(
            "preview_every",
            default=DEFAULTS.preview_every,
            min=0,
            max=100_000,
            advanced=True,
            tooltip=(
                "Steps between ComfyUI's small previews, where no page shows the viewer; 0 none."
            ),
        ),
        io.Int.Input(
            "autosave_every",
            default=100,
            min=0,
            max=100_000,
            advanced=True,
            tooltip=(
                "Steps between autosaves to output/distill3d/autosave, for when ComfyUI is killed;"
                " 0 never. A run that ends in order removes its own."
            ),
        ),
        _rate("means", "places", "world units per step", "5.6e-4, falling to 5.6e-6"),
        io.Float.Input(
            "final_means",
            default=DEFAULTS.final_means,
            min=0.0001,
            max=1.0,
            step=0.01,
            round=0.0001,
            advanced=True,
            tooltip=(
                "Share of lr_means left at the schedule's end, 0..1; it falls exponentially."
                " LucidDreamer: 0.01."
            ),
        ),
        _rate("scales", "sizes", "natural-log units per step", "5e-3, falling to 1e-3"),
        _rate("quats", "rotations", "half radians per step", "1e-3, falling to 2e-4"),
        _rate("opacities", "opacities", "logit units per step", "5e-2"),
        _rate(
            "colors",
            "colours",
            "in units of 0.28 of a colour 0..1, per step",
            "5e-3, falling to 3e-3",
        ),
        _penalty(
            "lambda_opacity",
            "Weight of the mean opacity: fades floaters (haze and crumbs around the object) that no"
            " view needs. Both papers: 0. Embedded prior: 1500 to 3000.",
        ),
        _penalty(
            "lambda_binary_opacity",
            "Weight of 4 o (1 - o), o the opacity, mean over the Gaussians: each becomes solid or"
            " goes. Both papers: 0.",
        ),
        _penalty(
            "lambda_scale",
            "Weight of the mean standard deviation, world units: keeps Gaussians small."
            " LucidDreamer: 1.",
        ),
        _penalty(
            "lambda_binary_alpha",
            "Weight of 4 a (1 - a), a the coverage of a pixel, mean over the renders: crisp"
            " silhouettes. Both papers: 0.",
        ),
        _penalty(
            "lambda_tv_color",
            "Weight of the mean difference between neighbouring pixels: smooth colours."
            " LucidDreamer: 1.",
        ),
        _penalty(
            "lambda_tv_alpha",
            "Weight of the same of the renders' coverage (alpha): smooth silhouettes. Both"
            " papers: 0.",
        ),
        _penalty(
            "lambda_gamut",
            "Weight of the squared distance of base colours from 0..1: no glowing haze in place of"
            " a surface. Both papers: 0.",
        ),
        _penalty(
            "lambda_bounds",
            "Weight of the squared distance beyond bounds_radius: pulls strays back in.",
        ),
        io.Float.Input(
            "bounds_radius",
            default=DEFAULTS.bounds_radius,
            min=0.01,
            max=100.0,
            step=0.01,
            round=0.001,
            advanced=True,
            tooltip=(
                "Radius within which Gaussians move freely, world units; the object fills a cube of"
                " side 1."
            ),
        ),
        io.Int.Input(
            "densify_every",
            default=GROWTH.every,
            min=1,
            max=1_000_000,
            advanced=True,
            tooltip=(
                "Steps between rounds of densification. LucidDreamer and 3D Gaussian Splatting:"
                " 100."
            ),
        ),
        _share(
            "densify_stop",
            GROWTH.stop,
            "Share of the schedule, 0..1, after which Gaussians neither multiply nor go."
            " LucidDreamer: 0.6.",
        ),
        _share(
            "densify_grow",
            GROWTH.grow_share,
            "Most of the Gaussians that one round doubles, share 0..1. LucidDreamer: 1, above a"
            " threshold.",
        ),
        _share(
            "prune_opacity",
            GROWTH.prune_opacity,
            "A round removes Gaussians fainter than this, 0..1. LucidDreamer: 0.005.",
            high=0.9,
            step=0.001,
        ),
        io.Boolean.Input(
            "sample_posterior",
            default=DEFAULTS.sample_posterior,
            advanced=True,
            tooltip=(
                "Encode the renders with a draw from the encoder's posterior (Consistent3D's code) "
                "instead of its mean, which is steadier."
            ),
        ),
        io.Int.Input(
            "max_bad_steps",
            default=DEFAULTS.max_bad_steps,
            min=0,
            max=10_000,
            advanced=True,
            tooltip=(
                "Steps in a row whose loss or gradient may be NaN or infinite (they change nothing)"
                " before the run stops and saves the last good cloud."
            ),
        ),
        io.Combo.Input(
            "render_backend",
            options=list(BACKENDS),
            default=DEFAULTS.render_backend,
            advanced=True,
            tooltip=(
                "Rasterizer. auto: the fastest installed for the device (on CUDA gsplat if compiled"
                " already, else triton; numba on the CPU; else plain torch). reference is slow and"
                " for comparison."
            ),
        ),
        io.Int.Input(
            "micro_batch",
            default=DEFAULTS.micro_batch,
            min=0,
            max=64,
            optional=True,
            advanced=True,
            tooltip=(
                "Views that go through the prior's networks together, for less memory at the same"
                " numbers and more time; 0 all. Only for priors from a diffusers folder."
            ),
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            round=0.001,
            optional=True,
            advanced=True,
            tooltip=(
                "How far a finished object may change, 0..1: no loss goes to noise levels above"
                " timestep 40 + 940 x this. 1: as the loss says, for making an object. 0.3 redraws"
                " details, 0.7 parts. Ours, after SDEdit."
            ),
        ),
        types.GaussianCloud.Input(
            "anchor",
            optional=True,
            tooltip=(
                "A cloud whose renders the run is held to, from the cameras of every step: usually"
                " the one that goes into gaussians, for refining it. Without it nothing holds the"
                " object."
            ),
        ),
        _anchor_weight("alpha", 20_000.0, "silhouettes: the shape stays, its colours are free"),
        _anchor_weight("color", 0.0, "pictures: colours and details stay too"),
    ]


def _rate(group: str, what: str, unit: str, papers: str) -> io.Float.Input:
    id = f"lr_{group}"
    return io.Float.Input(
        id,
        default=getattr(DEFAULTS, id),
        min=0.0,
        max=10.0,
        step=0.00001,
        round=0.0000001,
        advanced=True,
        tooltip=(
            f"How fast the {what} change: learning rate of the {group}, {unit}; 0 freezes them."
            f" LucidDreamer, 5000 steps: {papers}."
        ),
    )


def _penalty(id: str, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=getattr(DEFAULTS, id),
        min=0.0,
        max=1e6,
        step=0.1,
        round=0.000001,
        advanced=True,
        tooltip=tooltip,
    )


def _anchor_weight(part: str, default: float, kept: str) -> io.Float.Input:
    return io.Float.Input(
        f"lambda_anchor_{part}",
        default=default,
        min=0.0,
        max=1e6,
        step=100.0,
        round=0.001,
        optional=True,
        advanced=True,
        tooltip=(
            f"Weight of the mean squared difference to the anchor's {kept}. Nothing without an"
            " anchor. Ours."
        ),
    )


def _share(
    id: str, default: float, tooltip: str, high: float = 1.0, step: float = 0.01
) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=default,
        min=0.0,
        max=high,
        step=step,
        round=0.0001,
        advanced=True,
        tooltip=tooltip,
    )

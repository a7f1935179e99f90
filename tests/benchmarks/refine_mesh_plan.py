"""What refine_mesh.py runs: how an object is made, meshed and refined, and the list of objects and
configurations.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

import quality_plan
from quality_plan import LOSSES, Setup, assignments, changed
from two_parts import VDM

from distill3d.kernels.run.settings import RefineSettings
from distill3d.kernels.toybox.captions import Caption

MEASURES = 1  # raised when what a row holds changes: older ones are then done again
STAGES = ("start", "geometry", "texture")
# "second": Picture Loss from the first step on. A start that is right already wants low
# noise levels.
STAGE_LOSSES = LOSSES | {
    "second": VDM(
        guidance=4.0, psi_updates=1, refine_from=0.0, refine_guidance=2.0, refine_t_max=600
    )
}


@dataclass(frozen=True)
class Extract:
    """Arguments of `extract_surface`; those of Export Mesh by default, without its texture."""

    resolution: int = 128
    views: int = 64
    alpha_min: float = 0.5
    smoothing: int = 5
    faces: int = 0
    component_share: float = 0.02


@dataclass(frozen=True)
class Stage:
    """One call of `refine_mesh`; of 0 steps it changes nothing."""

    loss: Any
    settings: RefineSettings
    steps: int


@dataclass(frozen=True)
class Plan:
    """All that shapes one result but the caption and the seed."""

    distil: Setup
    geometry: Stage
    texture: Stage
    extract: Extract = field(default_factory=Extract)


@dataclass(frozen=True)
class Task:
    """``config`` None: only the distilled cloud is wanted."""

    config: str | None
    caption: Caption
    seed: int
    plan: Plan
    prior: str  # fingerprint of its weights

    @property
    def key(self) -> str:
        return f"{self.config or 'distil'}|{self.caption.text}|{self.seed}"

    @property
    def cloud(self) -> str:
        """The name of the distilled cloud's file."""
        made = hashlib.sha256(f"{self.plan.distil!r} {self.prior}".encode()).hexdigest()[:8]
        return f"{self.caption.text.replace(' ', '-')}-{self.seed}-{made}.safetensors"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.plan!r} {self.prior} {MEASURES}".encode()).hexdigest()[:12]


def build(
    loss: str,
    steps: int,
    geometry_steps: int,
    texture_steps: int,
    backend: str,
    sets: dict[str, Any],
) -> Plan:
    """The defaults with ``sets`` applied and checked.

    Keys begin with distil. (a `Setup`), extract., geometry. or texture. (a `RefineSettings`),
    geometry_loss. or texture_loss.; the values of geometry_loss and texture_loss alone name a loss,
    those of geometry_steps and texture_steps are numbers. Raises ValueError for what is unknown.
    """
    sets = dict(sets)
    names = {part: sets.pop(f"{part}_loss", loss) for part in ("geometry", "texture")}
    steps_of = {
        part: sets.pop(f"{part}_steps", number)
        for part, number in (("geometry", geometry_steps), ("texture", texture_steps))
    }
    if unknown := set(names.values()) - set(STAGE_LOSSES):
        raise ValueError(f"loss {unknown.pop()!r} is not one of {', '.join(STAGE_LOSSES)}.")
    plan = Plan(
        quality_plan.build("vdm", steps, backend, quality_plan.configured("losses", "400 steps")),
        Stage(STAGE_LOSSES[names["geometry"]], RefineSettings(lr_colors=0.0), steps_of["geometry"]),
        Stage(STAGE_LOSSES[names["texture"]], RefineSettings(lr_vertices=0.0), steps_of["texture"]),
    )
    for key, value in sets.items():
        part, _, rest = key.partition(".")
        path = {
            "distil": "distil", "extract": "extract", "geometry": "geometry.settings", "texture": "texture.settings",
            "geometry_loss": "geometry.loss", "texture_loss": "texture.loss",
        }.get(part)  # fmt: skip
        if path is None or not rest:
            raise ValueError(
                f"--set {key}: begin it with distil. extract. geometry. texture. geometry_loss. or"
                " texture_loss."
            )
        plan = changed(plan, f"{path}.{rest}", value, key)
    for stage in (plan.geometry, plan.texture):
        stage.loss.check()
        stage.settings.check()
    return plan


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """Every object of this call: captions in turn, so that a call that runs out of time compares
    like with like.
    """
    common, configs = assignments(options.set), [{"name": "default"}]
    if options.sweep:
        configs = json.loads(options.sweep.read_text())
    plans = {}
    for config in configs:
        if unknown := set(config) - {"name", "set"}:
            raise ValueError(f"{options.sweep}: unknown {sorted(unknown)} in {config}.")
        given = (
            options.loss,
            options.steps,
            options.geometry_steps,
            options.texture_steps,
            options.backend,
        )
        plans[config["name"]] = build(*given, common | config.get("set", {}))
    captions, prior = quality_plan.captions_of(options), quality_plan.weights_of(options)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return [
        Task(name, caption, seed, plan, prior)
        for seed in seeds
        for caption in captions
        for name, plan in plans.items()
    ]


def distillations(tasks: list[Task]) -> list[Task]:
    """One task for each cloud that these need."""
    return list({task.cloud: replace(task, config=None) for task in tasks}.values())

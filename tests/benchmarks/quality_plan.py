"""What quality.py runs: setups from dotted settings and sweep files, and the list of objects."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from two_parts import VDM

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.evaluate.judge import held_out_captions
from distill3d.kernels.gaussians.densify import Densify
from distill3d.kernels.gaussians.mcmc import MCMC
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.rfds import RFDS
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.run.settings import OptimizeSettings
from distill3d.kernels.toybox.captions import Caption, parse

# What suits the embedded prior in 800 steps; runs of at most SHORT steps have the changes below.
# What suits it in 240 to 400 is in the workflow compare_losses, the config "400 steps" of
# sweeps/losses.json. The papers' are in nodes/papers.json. CDS's serve the quickstart's 200 steps
# of 2 views too.
LOSSES: dict[str, Any] = {
    "vdm": VDM(
        guidance=2.0, shared_t=False, psi_updates=2, refine_from=0.6, refine_steps=4, refine_guidance=1.5,
        refine_t_max=900, weight=2.0,
    ),
    "cds": CDS(
        t_end=300, t_min=300, perturb=300, guidance_start=3.0, guidance_end=1.5, weighting="1-abar", weight=2.0,
        noise_groups=360, pull=3.0,
    ),
    "sds": SDS(guidance=2.5, weighting="sigma/alpha", t_min=50),
    "csd": CSD(guidance=20.0),
    "nfsd": NFSD(guidance=20.0),
    "ism": ISM(guidance=7.5, t_min=100),
    "vsd": VSD(guidance=7.5, weighting="sigma/alpha", t_min=200, lora_lr=1e-3),
    "sdi": SDI(guidance=7.5, inversion_guidance=1.0, stride=250, t_max_end=300),
    "sctd": SCTD(guidance=4.0, t_min=200),
    "rfds": RFDS(guidance=2.5, t_min=50),
}  # fmt: skip
POINTS = Path(__file__).parents[2] / "models/text_to_points/points.safetensors"
MEASURES = 2  # raised when what a row holds changes: older ones are then done again
TUNING_SEED, TUNING_PROMPTS = 7, 24
# What settings were ever chosen on: the captions of TUNING_SEED, and others of earlier sweeps. None
# is measured on.
TUNING_CAPTIONS: tuple[str, ...] = tuple(
    json.loads((Path(__file__).parent / "sweeps/tuning_captions.json").read_text())
)
SETTINGS = OptimizeSettings(preview_every=0, densify=None, lambda_opacity=1500.0, lambda_gamut=20.0)
GROWTHS: dict[str, Densify | MCMC] = {"gradients": Densify(), "mcmc": MCMC()}
SHORT = 300
# twice as fast
SHORT_SETTINGS = replace(SETTINGS, lr_means=8e-3, lr_scales=2e-2, lr_opacities=0.1, lr_colors=6e-2)
SHORT_LOSSES: dict[str, Any] = LOSSES | {
    "vdm": replace(LOSSES["vdm"], t_min=400, refine_from=0.4, refine_steps=3, refine_t_min=400)
}


@dataclass(frozen=True)
class Init:
    """Arguments of `random_ball`; world units."""

    count: int = 20_000
    radius: float = 0.6
    scale: float = 0.013
    opacity_logit: float = -4.0
    color_noise: float = 0.1
    sh_degree: int = 0


def fingerprint(files: Iterable[Path]) -> str:
    digests = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
    return hashlib.sha256(digests).hexdigest()[:12]


@dataclass(frozen=True)
class TextInit:
    """Arguments of `from_text`, and a fingerprint of its model's weights."""

    count: int = 20_000
    opacity_logit: float = 0.0
    weights: str = field(default_factory=lambda: fingerprint([POINTS]))


INITS: dict[str, Callable[[], Init | TextInit]] = {"ball": Init, "text": TextInit}


@dataclass(frozen=True)
class Prompts:
    """Arguments of `view_prompts`."""

    negative: str = ""
    view_dependent: bool = True
    interpolate: bool = False
    perp_neg: float = 0.0
    side_guidance: float = 1.0
    back_guidance: float = 1.0
    overhead_guidance: float = 1.0


@dataclass(frozen=True)
class Setup:
    """All that shapes one run but its caption and seed."""

    loss: Any
    steps: int
    settings: OptimizeSettings = field(default_factory=OptimizeSettings)
    init: Init | TextInit = field(default_factory=Init)
    cameras: OrbitSampler = field(default_factory=OrbitSampler)
    prompts: Prompts = field(default_factory=Prompts)


@dataclass(frozen=True)
class Task:
    config: str
    loss: str
    caption: Caption
    seed: int
    setup: Setup
    prior: str  # fingerprint of its weights

    @property
    def key(self) -> str:
        return f"{self.config}|{self.loss}|{self.caption.text}|{self.seed}"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.setup!r} {self.prior} {MEASURES}".encode()).hexdigest()[:12]


def changed(target: Any, key: str, value: Any, full: str) -> Any:
    """``target`` (a dataclass) with the field at the dotted ``key`` replaced. Raises ValueError for
    unknown keys.
    """
    name, _, rest = key.partition(".")
    known = [f.name for f in fields(target)] if is_dataclass(target) else []
    if name not in known:
        raise ValueError(
            f"{full}: {type(target).__name__} has no setting {name!r}. It has: {', '.join(known)}."
        )
    old = getattr(target, name)
    if rest:
        return replace(target, **{name: changed(old, rest, value, full)})
    if (
        isinstance(old, int)
        and not isinstance(old, bool)
        and isinstance(value, float)
        and value.is_integer()
    ):
        value = int(value)  # 4e3
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = (
        isinstance(value, bool)
        if isinstance(old, bool)
        else number or not isinstance(old, int | float)
    )
    if not fits:
        raise ValueError(
            f"{full} is {value!r}; give a {type(old).__name__}, as its default {old!r} is."
        )
    return replace(target, **{name: value})


def build(loss: str, steps: int, backend: str, changes: dict[str, Any]) -> Setup:
    """The defaults with ``changes`` applied and checked; keys of another loss are passed over."""
    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r} is not one of {', '.join(LOSSES)}.")
    losses, settings = (SHORT_LOSSES, SHORT_SETTINGS) if steps <= SHORT else (LOSSES, SETTINGS)
    setup = Setup(losses[loss], steps, replace(settings, render_backend=backend))
    if (kind := changes.get("init", "ball")) not in INITS:
        raise ValueError(f"--set init={kind}: it is one of {', '.join(INITS)}.")
    setup = replace(setup, init=INITS[kind]())
    for key, value in changes.items():
        part, _, rest = key.partition(".")
        if key == "init":
            continue
        if part in LOSSES and rest:
            if part != loss:
                changed(LOSSES[part], rest, value, key)
                continue
            part = "loss"
        if part not in ("loss", "settings", "init", "cameras", "prompts") or not rest:
            raise ValueError(
                f"--set {key}: begin it with loss. settings. init. cameras. prompts. or a loss's"
                " name."
            )
        if key == "settings.densify" and value is not None:
            if value not in GROWTHS:
                raise ValueError(
                    f"--set {key}={value}: it is one of {', '.join(GROWTHS)}, or null."
                )
            value = GROWTHS[value]
        setup = changed(setup, f"{part}.{rest}", value, key)
    setup.loss.check()
    setup.settings.check()
    setup.cameras.check()
    return setup


def configured(experiment: str, name: str) -> dict[str, Any]:
    """The settings of a config in a file of sweeps/, as `build` takes them."""
    configs = json.loads((Path(__file__).parent / "sweeps" / f"{experiment}.json").read_text())
    return next(config["set"] for config in configs if config["name"] == name)


def assignments(texts: list[str]) -> dict[str, Any]:
    """["a.b=1", ..] -> {"a.b": 1}: values are JSON where they parse as such, else text."""
    result: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"--set {text!r}: write key=value.")
        try:
            result[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            result[key.strip()] = value
    return result


def plan(options: argparse.Namespace) -> list[Task]:
    """Every object of this call: captions in turn, so that a call that runs out of time compares
    like with like.
    """
    common, configs = assignments(options.set), [{"name": "default"}]
    if options.sweep:
        try:
            configs = json.loads(options.sweep.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"--sweep {options.sweep} cannot be read: {error}.") from error
    setups: list[tuple[str, str, Setup]] = []
    for config in configs:
        if unknown := set(config) - {"name", "set", "losses", "steps"}:
            raise ValueError(f"{options.sweep}: unknown {sorted(unknown)} in {config}.")
        for loss in config.get("losses", options.losses.split(",")):
            steps = config.get("steps", options.steps)
            setups.append(
                (
                    config["name"],
                    loss,
                    build(loss, steps, options.backend, common | config.get("set", {})),
                )
            )
    captions, prior = captions_of(options), weights_of(options)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return [
        Task(n, k, c, s, setup, prior) for s in seeds for c in captions for n, k, setup in setups
    ]


def captions_of(options: argparse.Namespace) -> list[Caption]:
    """Those named, or held-out ones, none twice: of `TUNING_SEED` to choose settings on, of any
    other seed to measure on. No caption is among both. Raises ValueError where there are not that
    many."""
    if options.captions:
        captions = [parse(text) for text in options.captions.split(";") if text.strip()]
        if not captions:
            raise ValueError(
                f"--captions {options.captions!r} names none. Divide them by semicolons."
            )
        return captions
    if options.caption_seed == TUNING_SEED:
        if options.prompts > TUNING_PROMPTS:
            raise ValueError(
                f"--prompts {options.prompts}: --caption-seed {TUNING_SEED} has {TUNING_PROMPTS}."
            )
        return [parse(text) for text in TUNING_CAPTIONS[: options.prompts]]
    drawn = dict.fromkeys(
        held_out_captions(2 * (options.prompts + len(TUNING_CAPTIONS)), options.caption_seed)
    )
    fresh = [caption for caption in drawn if caption.text not in TUNING_CAPTIONS]
    if len(fresh) < options.prompts:
        raise ValueError(
            f"--prompts {options.prompts}: {len(fresh)} held-out captions could be drawn. Give"
            " fewer."
        )
    return fresh[: options.prompts]


def weights_of(options: argparse.Namespace) -> str:
    """A fingerprint of the prior's weights."""
    weights = sorted(options.prior.glob("*/*.safetensors"))
    if not weights:
        raise ValueError(f"--prior {options.prior} holds no pipeline with safetensors weights.")
    return fingerprint(weights)

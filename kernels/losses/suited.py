"""`auto`: the values that suit a prior, from suited.json, each with where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..cameras.orbit import OrbitSampler
from ..priors.noise_schedule import NoiseSchedule
from .combine import Combined, Scheduled
from .reward import Reward

VALUES: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
EMBEDDED, MULTIVIEW, UNTRIED = "embedded", "MVDream", "untried"
GUIDANCES = ("guidance", "guidance_start", "guidance_end", "inversion_guidance")
TIMESTEPS = ("t_min", "t_max", "t_max_start", "t_max_end", "t_start", "t_end")
DECIDED = (*GUIDANCES, *TIMESTEPS, "weight", "weighting")
PICTURES = 7.5  # guidance of pictures by Stable Diffusion, which losses' own goes with
ELEMENTS = {False: 4 * 64**2, True: 16 * 64**2}  # of a latent of Stable Diffusion 2 and 3, 512 px
FLOW_SHIFT = 3.0  # of Stable Diffusion 3, with which flow losses were found


@dataclass(frozen=True)
class Auto:
    """A loss or orbit cameras on their way to a run, in which `settled` fills in what suits its
    prior.

    Args:
        settings: what was set by hand
        node_id: of ComfyUI's node that they are of
    """

    settings: Any
    node_id: str | None = None

    @property
    def name(self) -> str:
        return str(self.settings.name)

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        self.settings.check()


@dataclass(frozen=True)
class Suited:
    """Settings that suit a prior, and what to say of them.

    Args:
        settings: a loss or a sampler of cameras
        said: the values, with their sources, in a line
    """

    settings: Any
    said: str


def settled(settings: Any, prior: Any, pixels: int, tell: Callable[[str, str | None], None]) -> Any:
    """A loss or a sampler of cameras with what suits the prior filled in wherever it is `Auto`;
    ``tell`` is given what, and of which node. pixels: of a side of the renders that the prior is
    shown."""
    if isinstance(settings, Combined | Scheduled):
        parts = [settled(part, prior, pixels, tell) for part in settings.losses]
        return replace(settings, losses=parts)
    if isinstance(settings, Reward):
        return replace(settings, loss=settled(settings.loss, prior, pixels, tell))
    if not isinstance(settings, Auto):
        return settings
    if isinstance(settings.settings, OrbitSampler):
        found = suited_cameras(settings.settings, prior)
    else:
        found = suited_loss(settings.settings, prior, pixels)
    tell(found.said, settings.node_id)
    return found.settings


def key(prior: Any) -> str:
    """The name that suited.json has for a prior's kind."""
    if kind := getattr(prior, "kind", ""):
        return str(kind)
    if getattr(prior, "vocabulary", None) is not None:
        return EMBEDDED
    return MULTIVIEW if getattr(prior, "views_per_group", 1) > 1 else "SD20"


def facts(prior: Any) -> dict[str, Any]:
    """What suited.json says of a prior's kind, or of one that it does not know."""
    found: dict[str, Any] = VALUES["families"].get(key(prior), VALUES["families"]["other"])
    return found


def suited_size(prior: Any) -> tuple[int, str]:
    """Pixels of the training renders, and where they come from."""
    known = facts(prior)
    own, wanted = prior.image_size, known["size"]
    if own <= wanted or key(prior) == EMBEDDED:
        return own, "the prior's own"
    return wanted, f"{known.get('size_from', UNTRIED)}; it was trained at {own}"


def suited_loss(settings: Any, prior: Any, pixels: int) -> Suited:
    """A loss with the guidance, timesteps and weight that suit the prior at renders of so many
    ``pixels``; the other settings stay."""
    told = VALUES["losses"][settings.name]
    usual = type(settings)()
    base = {name: getattr(usual, name) for name in DECIDED if hasattr(usual, name)}
    kind = key(prior)
    if kind == EMBEDDED:
        mark = told.get("embedded_mark", "measured here")
        return _said(settings, base | told["embedded"], mark)
    base |= told.get("others", {})
    if kind in told.get("tried_with", VALUES["tried_with"]) or kind == MULTIVIEW:
        return _said(settings, base, f"{told['mark']} ({told['by']})")
    flow = bool(told.get("flow"))
    home = NoiseSchedule.flow(FLOW_SHIFT) if flow else NoiseSchedule.scaled_linear()
    changed = base | _pushed(base, prior) | {"weight": base["weight"] * _share(prior, pixels, flow)}
    changed |= {
        name: same_noise(base[name], home, prior.schedule) for name in TIMESTEPS if name in base
    }
    made = replace(settings, **changed)
    try:
        made.check()
    except ValueError:  # too little room between the levels, as in SCTD's segments
        changed |= {name: base[name] for name in TIMESTEPS if name in base}
    return _said(settings, changed, f"{UNTRIED} (after {told['by']})")


def suited_cameras(sampler: OrbitSampler, prior: Any) -> Suited:
    """Orbit cameras whose ranges suit the prior."""
    kind = key(prior)
    told = VALUES["cameras"].get(kind, VALUES["cameras"]["others"])
    usual = OrbitSampler()
    values = {f.name: getattr(usual, f.name) for f in fields(usual) if f.name != "widening"}
    changed = values | told["values"]
    tried = kind in told.get("tried_with", [kind])
    source = f"{told['mark']} ({told['by']})" if tried else f"{UNTRIED} (after {told['by']})"
    return _said(sampler, changed, source)


def same_noise(t: int, home: NoiseSchedule, schedule: NoiseSchedule) -> int:
    """The timestep of ``schedule`` whose noise level is nearest to that of ``home`` at ``t``."""
    level = home.ratio(torch.tensor([t])).flatten()
    steps = torch.arange(len(schedule), device=schedule.alphas_cumprod.device)
    ours = schedule.ratio(steps).flatten().cpu()
    return int((ours.log() - level.log()).abs().argmin())


def _pushed(base: dict[str, Any], prior: Any) -> dict[str, float]:
    """What the guidances become where pictures are made with another than Stable Diffusion's: their
    push, s - 1, in proportion."""
    pictures = facts(prior).get("pictures", 0.0)
    push = (pictures - 1) / (PICTURES - 1) if pictures > 1 else 1.0
    return {name: round(1 + (base[name] - 1) * push, 1) for name in GUIDANCES if name in base}


def _share(prior: Any, pixels: int, flow: bool) -> float:
    """What the weight takes so that the values of a latent count in all as in the latents that the
    losses were found with."""
    ours = prior.latent_channels * (pixels / prior.downscale) ** 2
    return float(f"{ELEMENTS[flow] / ours:.3g}")


def _said(settings: Any, values: dict[str, Any], source: str) -> Suited:
    """The settings with ``values``, of which those are told that are not the usual ones, and
    guidance and timesteps in any case."""
    usual = type(settings)()
    shown = [
        f"{field} {value:g}" if isinstance(value, float) else f"{field} {value}"
        for field, value in values.items()
        if field in (*GUIDANCES, *TIMESTEPS, "weight") or value != getattr(usual, field)
    ]
    text = ", ".join(shown) or "the node's own values"
    return Suited(replace(settings, **values), f"auto, {source}: {text}")

"""Distils held-out toys with the authors' own guidance code inside the pack's loop, beside the
pack's own losses with the same settings, captions and seeds; prints one JSON object last.

    python tests/benchmarks/peers_quality.py --consistent3d DIR --threestudio DIR \\
        --luciddreamer DIR --device cuda --prompts 16 --jobs 16 --json quality_peers.json

The clones are the user's. What follows them are quality.py's arguments (``--sweep`` is by default
sweeps/peers.json), and so is what is written: a call with the same file goes on where the last one
stopped. Loop, renders, encoder, texts and the denoiser (as noise: this prior predicts v) are the
pack's on both sides; what is theirs is all between latents and their gradient, timesteps and noise
included. Random numbers differ, so that objects agree as those of two seeds do; CDS's fixed noise
is the same.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import quality
import quality_plan
import torch
from peers_guidance import MAKERS, PEERS, PUBLISHED, Guidance, Networks
from torch import Tensor

from distill3d.kernels.losses.base import Views, draw_noise, gradient_logs
from distill3d.kernels.priors.base import Prior
from distill3d.kernels.priors.conditioning import Conditioning

SWEEP = Path(__file__).parent / "sweeps" / "peers.json"


@dataclass(frozen=True)
class Official:
    """A loss whose gradient the authors' code computes, as one of the pack's; ``settings``: the
    pack's own loss with the values that their code is given."""

    kind: str
    settings: Any
    folder: Path = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.settings.name} of {PEERS[self.kind]}"

    def check(self) -> None:
        self.settings.check()

    def below(self, top: int) -> Official:
        return replace(self, settings=self.settings.below(top))

    def near(self, t: int) -> Official:
        return replace(self, settings=self.settings.near(t))

    def guidance_at(self, progress: float) -> float:
        return self.settings.guidance_at(progress)

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> _Run:
        like = torch.empty((), device=prior.device)
        known = None if state is None else state.get("noise")
        noise = draw_noise(latent_shape, generator, like) if known is None else known
        seed = int(torch.randint(2**31, (), generator=generator))
        torch.manual_seed(seed)  # theirs draw from the global generators
        return _Run(self, prior, noise, seed)


class _Run:
    def __init__(self, loss: Official, prior: Prior, noise: Tensor, seed: int) -> None:
        self.loss, self.prior, self.noise, self.seed = loss, prior, noise, seed
        self.guidance: Guidance | None = None

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.guidance is None:  # which asks for the length of the schedule
            abar = self.prior.schedule.alphas_cumprod.to(latents.device)
            networks = Networks(Noise(self.prior), None, abar, torch.float32)
            self.guidance = MAKERS[self.loss.kind](
                self.loss.settings, self.loss.folder, networks, self.noise, self.seed, views.steps
            )
        texts = views.text.embeddings.to(latents), views.negative.embeddings.to(latents)
        value = self.guidance.of_latents(latents, *texts, views.step)
        (gradient,) = torch.autograd.grad(value, latents, retain_graph=True)
        return value, gradient_logs(gradient * len(latents))

    def state(self) -> dict[str, Tensor]:
        return {"noise": self.noise} if self.loss.kind == "cds" else {}


class Noise:
    """The prior's noise estimates, called as diffusers' U-Net."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def __call__(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Any:
        text = Conditioning(encoder_hidden_states)
        (noise,) = self.prior.predict(z, t.long(), [text])
        return types.SimpleNamespace(sample=noise)


def register(clones: Mapping[str, Path]) -> None:
    """Tell `quality_plan` of each published loss twice, as ``NAME_ours`` and as ``NAME_official``,
    with the same settings."""
    for kind, peer in PEERS.items():
        both = {
            f"{kind}_ours": PUBLISHED[kind],
            f"{kind}_official": Official(kind, PUBLISHED[kind], clones[peer].resolve()),
        }
        for losses in (quality_plan.LOSSES, quality_plan.SHORT_LOSSES):
            losses.update(both)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    for peer in PEERS.values():
        parser.add_argument(
            f"--{peer}", type=Path, metavar="DIR", required=True, help="a clone of the authors'"
        )
    clones, rest = parser.parse_known_args(words)
    register(vars(clones))
    swept = any(word.partition("=")[0] == "--sweep" for word in rest)
    quality.main([*(() if swept else ("--sweep", str(SWEEP))), *rest])


if __name__ == "__main__":
    main(sys.argv[1:])

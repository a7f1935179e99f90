"""The embedded prior in other forms, exactly: as a rectified flow, as one whose time runs
backwards, and with a VAE that takes transparency.

No weight is changed. A flow's network is asked at its time r for the velocity eps - z0 at
(1 - r) z0 + r eps; here it asks the prior's own network at the noise level r / (1 - r), between two
of its timesteps where need be.

    python tests/benchmarks/prior_forms.py own.json flow.json ... > results/prior_forms.json

makes of what ``quality.py --form`` left the differences from the form "own", with their standard
errors over captions.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from quality_statistics import paired
from torch import Tensor

from distill3d.kernels.losses.suited import TIMESTEPS, same_noise
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule, flow_input, noise_from_output

SHIFT = 3.0  # Stable Diffusion 3's, Z-Image's, Anima's


class FlowPrior(DiffusersPrior):
    """A `DiffusersPrior` as a rectified flow over a flow's own times; make one with `formed`."""

    home: NoiseSchedule
    backwards = False  # the network is told 1 - r and answers z0 - eps, as Z-Image's

    def velocity(self, x: Tensor, time: Tensor, text: Conditioning) -> Tensor:
        """What the flow's network puts out for x [B,C,h,w] at ``time`` [B]."""
        r = (1 - time if self.backwards else time)[:, None, None, None]
        ratio = r / (1 - r)
        alpha = (1 + ratio.square()).rsqrt()
        z, weight = x * alpha / (1 - r), next(self.unet.parameters())
        t = self.home_time(ratio.flatten())
        output = self.unet(z.to(weight), t, encoder_hidden_states=text.embeddings.to(weight)).sample
        noise = noise_from_output(output.float(), z, alpha, ratio * alpha, self.prediction)
        u = (noise - x) / (1 - r)
        return -u if self.backwards else u

    def home_time(self, ratio: Tensor) -> Tensor:
        """The network's own timesteps [B], with fractions, of noise levels [B]; the last for all
        beyond it."""
        levels = (
            self.home.ratio(torch.arange(len(self.home))).flatten().double().log().to(ratio.device)
        )
        wanted = ratio.double().log().clamp(levels[0], levels[-1])
        above = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1)
        low, high = levels[above - 1], levels[above]
        return (above - 1 + (wanted - low) / (high - low)).float()

    def _noise(self, z_t: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x, r = flow_input(z_t.float(), alpha, sigma)
        r = r.flatten()
        u = self.velocity(x, 1 - r if self.backwards else r, text)
        return noise_from_output(-u if self.backwards else u, z_t.float(), alpha, sigma, "flow")


class AlphaPrior(DiffusersPrior):
    """A `DiffusersPrior` whose VAE takes four channels: what is transparent is shown on greys that
    the prior knows, another one for each picture of a batch. Opaque pictures become the same
    latents, and the alpha gets a gradient."""

    takes_alpha = True

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if images.shape[1] == 4:
            color, alpha = images[:, :3], images[:, 3:]
            low, high = self.background_range or (0.5, 0.5)
            places = (torch.arange(len(images)) + 0.5) / len(images)
            greys = (low + (high - low) * places).to(images)[:, None, None, None]
            images = color * alpha + greys * (1 - alpha)
        return super().encode(images, generator)


def formed(form: str, prior: DiffusersPrior, shift: float = SHIFT) -> DiffusersPrior:
    """The prior, which stays as it is, in one of `FORMS`."""
    if form == "own":
        return prior
    made = copy.copy(prior)
    if form == "rgba":
        made.__class__ = AlphaPrior
        return made
    made.__class__ = FlowPrior
    assert isinstance(made, FlowPrior)
    made.home, made.schedule = prior.schedule, NoiseSchedule.flow(shift).to(prior.device)
    made.backwards = form == "reversed flow"
    return made


FORMS = ("own", "flow", "reversed flow", "rgba")


def at_same_noise(loss: Any, home: NoiseSchedule, schedule: NoiseSchedule) -> Any:
    """A loss whose timesteps have in ``schedule`` the noise that they had in ``home``."""
    names = [name for name in TIMESTEPS if hasattr(loss, name)]
    return replace(loss, **{n: same_noise(getattr(loss, n), home, schedule) for n in names})


def differences(files: Sequence[str]) -> dict[str, Any]:
    """Of each form and loss, how far IoU and PSNR are from those of "own" on the same captions and
    seeds: mean and standard error."""
    found = [json.loads(Path(file).read_text()) for file in files]
    by_form = {each["measured"]["form"]: each["rows"] for each in found}
    losses = sorted({row["loss"] for row in by_form["own"]})

    def of(form: str, loss: str) -> list[dict[str, Any]]:
        return [row for row in by_form[form] if row["loss"] == loss]

    forms = {
        form: {
            loss: {
                name: difference[:2]
                for name in ("iou", "psnr")
                if (difference := paired(of(form, loss), of("own", loss), name))
            }
            for loss in losses
        }
        for form in by_form
        if form != "own"
    }
    scores = {
        form: [[r["loss"], r["caption"], r["seed"], r["iou"], r["psnr"]] for r in rows]
        for form, rows in by_form.items()
    }
    facts = {name: found[0].get(name) for name in ("torch", "machine", "prior")}
    return facts | {"steps": found[0]["rows"][0]["steps"], "forms": forms, "scores": scores}


if __name__ == "__main__":
    print(json.dumps(differences(sys.argv[1:])))

"""A prior whose exact score is known in closed form: Gaussian mixtures, one per text. For tests and
demonstrations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from . import perp_neg
from .base import check_multiple, check_words
from .conditioning import Conditioning
from .noise_schedule import NoiseSchedule, edm_shares, flow_input, noise_from_output


@dataclass(frozen=True)
class Mixture:
    """K isotropic or diagonal Gaussians over whole latents.

    Args:
        means: [K,C,h,w] latent units
        variances: [K,1,1,1] or [K,C,h,w] latent units squared; 0 makes a point mass
        weights: [K] above 0, of any sum
    """

    means: Tensor
    variances: Tensor
    weights: Tensor


@dataclass(frozen=True)
class LinearEncoder:
    """latents = channel matrix x (images averaged over downscale x downscale pixels). Linear,
    adjoint known.

    Args:
        matrix: [C,3]
        downscale: image pixels per latent pixel
    """

    matrix: Tensor
    downscale: int = 1

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,C,h,w]."""
        return torch.einsum(
            "cd,bdhw->bchw", self.matrix.to(images), F.avg_pool2d(images, self.downscale)
        )

    def adjoint(self, gradient: Tensor) -> Tensor:
        """J^T gradient: [B,C,h,w] -> [B,3,H,W]."""
        spread = (
            torch.einsum("cd,bchw->bdhw", self.matrix.to(gradient), gradient) / self.downscale**2
        )
        return spread.repeat_interleave(self.downscale, 2).repeat_interleave(self.downscale, 3)

    def inverse(self, latents: Tensor) -> Tensor:
        """The smoothest image with these latents (least squares): [B,C,h,w] -> [B,3,H,W]."""
        back = torch.linalg.pinv(self.matrix.to(latents))
        image = torch.einsum("dc,bchw->bdhw", back, latents)
        return image.repeat_interleave(self.downscale, 2).repeat_interleave(self.downscale, 3)


class GaussianMixturePrior:
    """p(z0 | text) = sum_k w_k N(mean_k, variance_k), with the exact noise estimate at every step.

    A text's embedding holds its weights over the components of all texts, so that a blend of two
    embeddings is exactly the blend of the two densities. The null text, unless given, is the even
    mixture of all texts. A text that is not known falls back on the part before its last comma ("a
    ball, side view" -> "a ball").

    texts: one Mixture per text, all of one latent shape [C,h,w]; encoder: None makes the latent the
    image itself; prediction: what its "network" puts out before conversion, to hold the conversions
    against each other. Latents keep their precision (float64 in, float64 out). Raises ValueError
    for mixtures of unequal shapes.
    """

    name = "gaussian mixture"
    vocabulary: frozenset[str] | None = None
    background: float | None = None

    def __init__(
        self,
        texts: Mapping[str, Mixture],
        schedule: NoiseSchedule | None = None,
        encoder: LinearEncoder | None = None,
        prediction: str = "epsilon",
    ) -> None:
        mixtures = list(texts.values())
        shapes = {tuple(m.means.shape[1:]) for m in mixtures}
        if len(shapes) != 1:
            raise ValueError(
                "mixture prior: texts need means of one latent shape [K,C,h,w], got"
                f" {sorted(shapes)}."
            )
        self.latent_channels, height, _ = shapes.pop()
        self.encoder = encoder or LinearEncoder(torch.eye(self.latent_channels))
        self.downscale = self.encoder.downscale
        self.image_size = height * self.downscale
        self.schedule = schedule or NoiseSchedule.scaled_linear()
        self.prediction = prediction
        self.calls = 0  # network calls so far
        self.means = torch.cat([m.means for m in mixtures])
        self.variances = torch.cat([m.variances.expand_as(m.means) for m in mixtures])
        self.device, self.dtype = self.means.device, self.means.dtype
        self.rows = self._rows(texts)

    def _rows(self, texts: Mapping[str, Mixture]) -> dict[str, Tensor]:
        rows, start = {}, 0
        for text, mixture in texts.items():
            row = self.means.new_zeros(len(self.means))
            row[start : start + len(mixture.means)] = mixture.weights / mixture.weights.sum()
            rows[text], start = row, start + len(mixture.means)
        rows.setdefault("", torch.stack(list(rows.values())).mean(0))
        return rows

    def embed(self, texts: Sequence[str]) -> Conditioning:
        """Rows [B,1,K] of component weights. Raises ValueError for a text without a mixture."""
        return Conditioning(torch.stack([self._row(text) for text in texts])[:, None])

    def _row(self, text: str) -> Tensor:
        for key in (text, text.rpartition(",")[0]):
            if key in self.rows and (key or not text):
                return self.rows[key]
        known = ", ".join(repr(key) for key in self.rows)
        raise ValueError(f"prompt {text!r} is unknown to the mixture prior; known are {known}.")

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents of images [B,3,H,W] by the linear encoder; the posterior is a point, so the
        generator is unused.
        """
        return self.encoder.forward(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.encoder.inverse(latents).clamp(0, 1)

    def predict(
        self, z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning]
    ) -> list[Tensor]:
        """Exact noise estimates, by way of what the network of this ``prediction`` would put
        out.
        """
        self.calls += 1

        def network(z: Tensor, steps: Tensor, text: Conditioning) -> Tensor:
            alpha, sigma = self.schedule.alpha(steps).to(z), self.schedule.sigma(steps).to(z)
            return noise_from_output(
                self._network(z, alpha, sigma, text), z, alpha, sigma, self.prediction
            )

        with torch.no_grad():
            return perp_neg.predict(network, z_t, t, conditionings)

    def _network(
        self, z_t: Tensor, alpha: Tensor, sigma: Tensor, conditioning: Conditioning
    ) -> Tensor:
        noise = self.noise(z_t, alpha, sigma, conditioning)
        if self.prediction == "epsilon":
            return noise
        clean = (z_t - sigma * noise) / alpha
        if self.prediction == "v_prediction":
            return alpha * noise - sigma * clean
        if self.prediction == "edm":
            skip, out = edm_shares(sigma / alpha)
            return (clean - skip * z_t / alpha) / out
        z, r = flow_input(z_t, alpha, sigma)
        return (z - clean) / r  # the velocity noise - clean, from z = (1 - r) clean + r noise

    def noise(
        self, z_t: Tensor, alpha: Tensor, sigma: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """-sigma grad log p_t(z_t), the best possible noise estimate; all [B,...]."""
        weights = conditioning.embeddings[:, 0].to(z_t)  # [B,K]
        means, variances = self.means.to(z_t), self.variances.to(z_t)  # [K,C,h,w]
        spread = alpha[:, None] ** 2 * variances + sigma[:, None] ** 2  # [B,K,C,h,w]
        offset = z_t[:, None] - alpha[:, None] * means
        log_density = -0.5 * (offset**2 / spread + spread.log()).flatten(2).sum(2)
        share = torch.softmax(log_density + weights.log(), 1)  # who is responsible for z_t, [B,K]
        return sigma * (share[:, :, None, None, None] * offset / spread).sum(1)

    def check_size(self, size: int) -> None:
        """The mixture's means fix the latent's size, so only its own image size fits."""
        check_multiple(size, self.downscale, self.name)
        if size != self.image_size:
            raise ValueError(
                f"image_size {size} does not fit prior {self.name!r}: it must be {self.image_size}."
            )

    def check_text(self, text: str) -> None:
        check_words(text, self.vocabulary, self.name)

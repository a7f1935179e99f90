"""Noise levels of the timesteps, and what a network's output says of noise and clean latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ABAR_MIN = 1e-6  # keeps sigma/alpha finite where a schedule ends in pure noise


# what a network may put out; see noise_from_output
PREDICTIONS = ("epsilon", "v_prediction", "flow", "edm")


# sigma_data, the latents' spread that an EDM network was built for; Karras et al. 2022
EDM_SPREAD = 0.5


@dataclass(frozen=True)
class NoiseSchedule:
    """Variance-preserving noise levels of the integer steps 0..T-1: z_t = alpha(t) z0 + sigma(t)
    eps.

    Every function takes an integer tensor t [B] and returns [B,1,1,1], ready to multiply latents.

    Args:
        alphas_cumprod: [T], falling from almost 1 to almost 0
        noise: [T], 1 - alphas_cumprod where that would be lost in rounding
    """

    alphas_cumprod: Tensor
    noise: Tensor | None = None

    @staticmethod
    def scaled_linear(
        beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000
    ) -> NoiseSchedule:
        """Stable Diffusion's schedule: betas linear in their square root."""
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64)
        return NoiseSchedule(torch.cumprod(1 - roots**2, 0).float())

    @staticmethod
    def from_ratios(ratios: Tensor) -> NoiseSchedule:
        """The schedule whose noise levels sigma/alpha are ``ratios`` [T], rising; infinite ones are
        cut to 1000.
        """
        abar = (1 / (1 + ratios.double().square())).clamp(min=ABAR_MIN)
        return NoiseSchedule(abar.float(), (1 - abar).float())

    @staticmethod
    def flow(shift: float = 1.0, steps: int = 1000) -> NoiseSchedule:
        """A rectified flow's levels at the times 1/T .. 1, shifted towards the noise (Esser et al.
        2024, equation 23).

        At time r such a model sees (1 - r) z0 + r eps, so that its noise level is r / (1 - r);
        `flow_input` gives back that latent and r. shift: 3 for Stable Diffusion 3, exp(mu) for
        FLUX. A step of the losses is a time, and what they say of timesteps holds in the model's
        own schedule.
        """
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        return NoiseSchedule.from_times(shift * even / (1 + (shift - 1) * even))

    @staticmethod
    def from_times(times: Tensor) -> NoiseSchedule:
        """The schedule of a rectified flow at its ``times`` [T], rising, 0..1."""
        return NoiseSchedule.from_ratios(times.double() / (1 - times.double()))

    def __len__(self) -> int:
        return self.alphas_cumprod.shape[0]

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return NoiseSchedule(
            self.alphas_cumprod.to(device), None if self.noise is None else self.noise.to(device)
        )

    def _at(self, values: Tensor, t: Tensor) -> Tensor:
        return values.to(t.device)[t][:, None, None, None]

    def alpha(self, t: Tensor) -> Tensor:
        """Share of the clean latent in z_t, sqrt(abar_t)."""
        return self._at(self.alphas_cumprod, t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Share of the noise in z_t, sqrt(1 - abar_t)."""
        return self._at(1 - self.alphas_cumprod if self.noise is None else self.noise, t).sqrt()

    def ratio(self, t: Tensor) -> Tensor:
        """Noise level of the variance-exploding form z_t / alpha(t) = z0 + ratio(t) eps."""
        return self.sigma(t) / self.alpha(t)


def noise_from_output(
    output: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor, prediction: str
) -> Tensor:
    """The noise estimate in a network's output, at z_t = alpha z0 + sigma eps.

    prediction: "epsilon"; "v_prediction" (v = alpha eps - sigma z0, Salimans & Ho 2022); "flow" (u
    = eps - z0, for a network evaluated at `flow_input`); "edm" (the network F inside a denoiser of
    Karras et al. 2022, table 1, evaluated at z_t / alpha). All four are linear in the output at
    fixed z_t, so guidance commutes with the conversion. Raises ValueError for any other prediction.

    output, z_t: [B,C,h,w]; alpha, sigma: [B,1,1,1].
    """
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return sigma * z_t + alpha * output
    if prediction == "flow":
        z, r = flow_input(z_t, alpha, sigma)
        return z + (1 - r) * output
    if prediction == "edm":
        skip, out = edm_shares(sigma / alpha)
        clean = skip * z_t / alpha + out * output
        return noise_from_clean(z_t, clean, alpha, sigma)
    raise ValueError(f"prior: prediction is {prediction!r}; known are {', '.join(PREDICTIONS)}.")


def flow_input(z_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The same noisy latent as a flow model takes it: (1 - r) z0 + r eps and its time r
    [B,1,1,1].
    """
    r = sigma / (alpha + sigma)
    return z_t / (alpha + sigma), r


def edm_shares(ratio: Tensor, spread: float = EDM_SPREAD) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of an EDM denoiser D = c_skip x + c_out F at the noise level ``ratio``, x =
    z_t / alpha.

    ratio: [B,1,1,1], sigma / alpha; both results likewise.
    """
    whole = ratio.square() + spread**2
    return spread**2 / whole, ratio * spread / whole.sqrt()


def clean_from_noise(z_t: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean latent that a noise estimate implies, (z_t - sigma e) / alpha.

    z_t, noise: [B,C,h,w]; alpha, sigma: [B,1,1,1].
    """
    return (z_t - sigma * noise) / alpha


def noise_from_clean(z_t: Tensor, clean: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise estimate that an estimate of the clean latent implies, (z_t - alpha x0) / sigma.

    z_t, clean: [B,C,h,w]; alpha, sigma: [B,1,1,1].
    """
    return (z_t - alpha * clean) / sigma

"""The loop that step.py measures the pack against: eager, one straightforward piece per loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill3d.kernels.cameras.pinhole import Cameras
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.losses.degradation import Degradation
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.learning_rates import LearningRates


def trainable(cloud: Gaussians) -> tuple[dict[str, Tensor], torch.optim.Adam]:
    """The cloud's tensors as leaves, and torch's Adam on them."""
    params = {k: v.detach().clone().requires_grad_() for k, v in cloud.tensors().items()}
    rates = LearningRates().at(0.0)
    groups = [{"params": [p], "lr": rates[k]} for k, p in params.items()]
    return params, torch.optim.Adam(groups, eps=1e-15)


def pictures(params: dict[str, Tensor], cameras: Cameras, backend: str) -> Tensor:
    """Renders [V,3,H,W] in 0..1 on a random background."""
    background = torch.rand(3).to(params["means"].device)
    rendering = render(Gaussians(**params), cameras, background, backend, depth=False)
    return rendering.color.permute(0, 3, 1, 2)


@dataclass
class NaiveLoop:
    """diffusers' networks as they load, a batched render, torch's Adam. One step per call."""

    unet: Any
    vae: Any
    abar: Tensor  # [T]
    cloud: Gaussians
    text: Tensor  # [1,L,D]
    null: Tensor  # [1,L,D]
    loss: str
    guidance: float
    backend: str = "auto"
    # [V,K], for a U-Net that judges views together and is told their cameras
    camera: Tensor | None = None
    psi: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.params, self.optimizer = trainable(self.cloud)
        if self.loss == "vdm":
            channels, device = self.unet.config.in_channels, self.text.device
            initial = Degradation().initial(channels, torch.Generator().manual_seed(0), device)
            self.psi = {key: value.requires_grad_() for key, value in initial.items()}
            self.psi_optimizer = torch.optim.Adam(self.psi.values(), lr=3e-3)
        self.noise: Tensor | None = None

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [V,C,h,w] of pictures [V,3,H,W] in 0..1, differentiable."""
        weight = next(self.vae.parameters())
        # channels last costs these layers a fifth more
        pictures = (pictures * 2 - 1).to(weight).contiguous()
        return self.vae.encode(pictures).latent_dist.mean.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def predict(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates with the text and without, [V,C,h,w]."""
        weight = next(self.unet.parameters())
        text = torch.cat([self.text.expand(len(z), -1, -1), self.null.expand(len(z), -1, -1)]).to(
            weight
        )
        camera = None if self.camera is None else torch.cat([self.camera, self.camera]).to(weight)
        given = torch.cat([z, z]).to(weight), torch.cat([t, t])
        output = self.unet(*given, encoder_hidden_states=text, class_labels=camera).sample.float()
        return output.chunk(2)  # type: ignore[return-value]

    def step(self, cameras: Cameras) -> None:
        latents = self.encode(pictures(self.params, cameras, self.backend))
        direction = getattr(self, self.loss)(latents.detach())
        (latents * direction / len(latents)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def noised(self, z0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha = self.abar[t].sqrt()[:, None, None, None]
        sigma = (1 - self.abar[t]).sqrt()[:, None, None, None]
        return alpha * z0 + sigma * noise, alpha, sigma

    def sds(self, z0: Tensor) -> Tensor:
        t = torch.randint(20, 980, (len(z0),)).to(z0.device)
        noise = torch.randn(z0.shape).to(z0.device)
        z, _, sigma = self.noised(z0, noise, t)
        e_c, e_u = self.predict(z, t)
        return sigma**2 * (e_u + self.guidance * (e_c - e_u) - noise)

    def cds(self, z0: Tensor) -> Tensor:
        if self.noise is None:
            self.noise = torch.randn(z0.shape[1:]).to(z0.device)
        t_next = torch.full((len(z0),), 500, device=z0.device)
        t = t_next + torch.randint(100, 300, (len(z0),)).to(z0.device)
        z, alpha, sigma = self.noised(z0, self.noise, t)
        e_c, e_u = self.predict(z, t)
        e = e_u + self.guidance * (e_c - e_u)
        _, alpha_next, sigma_next = self.noised(z0, self.noise, t_next)
        z_next = alpha_next * (z / alpha + (sigma_next / alpha_next - sigma / alpha) * e)
        e_c, e_u = self.predict(z_next, t_next)
        return (e - (e_u + self.guidance * (e_c - e_u))).clamp(-2, 2)

    def vdm(self, z0: Tensor) -> Tensor:
        t = torch.randint(300, 980, (1,)).to(z0.device).expand(len(z0))
        noise = torch.randn(z0.shape).to(z0.device)
        z, alpha, sigma = self.noised(z0, noise, t)
        x0_c, x0_u = ((z - sigma * e) / alpha for e in self.predict(z, t))
        degraded = Degradation().apply(self.psi, x0_c, t, len(self.abar), torch.Generator())
        F.mse_loss(degraded, z0).backward()
        self.psi_optimizer.step()
        self.psi_optimizer.zero_grad()
        eta = 1 - 0.5 * t[:, None, None, None] / len(self.abar)
        return eta * (degraded.detach() - x0_c) + (self.guidance - 1) * (x0_u - x0_c)

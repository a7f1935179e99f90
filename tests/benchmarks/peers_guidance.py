"""The authors' own guidance code on networks that are given: imported from clones that the user
names, as tests/parity/record.py does, and never copied.

What their classes would load and configure by themselves (networks, noise schedule, precision) is
set by hand; the functions that they train with are called as they are. Settings are the pack's,
told to their code in its own words, so that both sides of a comparison have one set.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.sds import SDS

sys.path.append(str(Path(__file__).resolve().parents[1] / "parity"))

import officials
from recording.luciddreamer import OPTIONS, diffusers_utils

warnings.filterwarnings("ignore", message=".*torch.cuda.amp.*", category=FutureWarning)

LEVELS = 1000  # of Stable Diffusion's schedule
WEIGHTINGS = {"1-abar": "sds", "one": "uniform", "uniform": "uniform"}  # theirs by ours
FUNCTIONS = {
    "sds": "StableDiffusionGuidance.__call__, compute_grad_sds",
    "cds": "StableDiffusionGuidance.__call__, compute_grad_consistency",
    "ism": "StableDiffusion.train_step",
}


@dataclass(frozen=True)
class Networks:
    """What a guidance object works with.

    Args:
        unet: called as diffusers' U-Net; what it answers is the noise
        vae: diffusers'; None where all that is asked is `of_latents`
        abar: [T] of the noise schedule, on the networks' device
        dtype: of the networks
    """

    unet: Any
    vae: Any
    abar: Tensor
    dtype: torch.dtype

    def attributes(self) -> dict[str, Any]:
        """Those that all of their guidance classes have."""
        table = officials.scheduler()
        table.alphas_cumprod, table.final_alpha_cumprod = self.abar, self.abar[0]
        return {
            "unet": self.unet,
            "vae": self.vae,
            "scheduler": table,
            "alphas": self.abar,
            "device": self.abar.device,
            "num_train_timesteps": LEVELS,
        }


class Threestudio:
    """`StableDiffusionGuidance` of threestudio (SDS) or of its fork Consistent3D (CDS)."""

    def __init__(
        self, folder: Path, networks: Networks, noise: Tensor | None, **config: Any
    ) -> None:
        cls = _threestudio(folder)
        known = cls.Config.__dataclass_fields__
        self.made = officials.bare(
            cls,
            cfg=cls.Config(**{name: value for name, value in config.items() if name in known}),
            weights_dtype=networks.dtype,
            grad_clip_val=None,
            noise=noise,
            sigma_min=int(LEVELS * config.get("min_sigma_percent", 0)),
            sigma_max=int(LEVELS * config.get("max_sigma_percent", 1)),
            **networks.attributes(),
        )
        if networks.vae is None:
            self.made.decode_latents = lambda latents, *_: latents  # read by nothing that is on

    def __call__(self, pictures: Tensor, text: Tensor, null: Tensor, step: int) -> Tensor:
        """Their value for pictures [V,3,H,W] in 0..1 and texts [V,L,D] after ``step`` steps."""
        self.made.update_step(0, step)
        angles = torch.zeros(len(pictures), device=pictures.device)  # the texts are those of them
        texts = _Texts(torch.cat([text, null]))
        return self.made(pictures.permute(0, 2, 3, 1), texts, angles, angles, angles)["loss_sds"]

    def of_latents(self, latents: Tensor, text: Tensor, null: Tensor, step: int) -> Tensor:
        """The same for latents [V,4,h,w] that somebody else has encoded."""
        self.made.encode_images = lambda _: latents
        return self(latents.new_zeros(len(latents), 3, 8, 8), text, null, step)


class _Texts:
    """What their guidance asks of a prompt processor's output."""

    use_perp_neg = False

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def get_text_embeddings(self, *_: Any, **__: Any) -> Tensor:
        return self.rows


class LucidDreamer:
    """`StableDiffusion` of LucidDreamer's guidance/sd_utils.py (ISM)."""

    latent_size = 0  # of latents that are given; 0: an eighth of the pictures

    def __init__(self, folder: Path, networks: Networks, seed: int, ism: ISM, steps: int) -> None:
        module, attributes = _luciddreamer(folder), networks.attributes()
        table, device = attributes["scheduler"], attributes["device"]
        table.set_timesteps(LEVELS, device=device)
        self.made = officials.bare(
            module.StableDiffusion,
            precision_t=networks.dtype,
            sche_func=module.ddim_step,
            ism=True,
            timesteps=torch.flip(table.timesteps, dims=(0,)),  # 1, 2, ..
            min_step=ism.t_min - 1,
            max_step=ism.t_max_end,
            warmup_step=ism.t_max_start - ism.t_max_end,
            noise_temp=None,
            noise_gen=torch.Generator(device).manual_seed(seed),
            **attributes,
        )
        self.warmup, self.weight = max(1, round(ism.t_anneal_share * steps)), ism.weight
        self.options = types.SimpleNamespace(
            **OPTIONS
            | {
                "guidance_scale": ism.guidance,
                "annealing_intervals": ism.gap_start > 0,
                "delta_t": ism.gap,
                "delta_t_start": ism.gap_start,
                "xs_delta_t": ism.stride,
            }
        )

    def __call__(self, pictures: Tensor, text: Tensor, null: Tensor, step: int) -> Tensor:
        """Their value (its gradient alone says anything) as `Threestudio` has it."""
        size = (self.latent_size or pictures.shape[-1] // 8) * 8
        single = pictures[:, :1]  # where they have depth and opacity, which this branch only flips
        return self.made.train_step(
            torch.stack([null, text]),
            pictures,
            single,
            single,
            grad_scale=self.weight,
            iteration=step + 1,
            warm_up_rate=1 - min((step + 1) / self.warmup, 1),
            resolution=(size, size),
            guidance_opt=self.options,
            embedding_inverse=torch.stack([null[0], null[0]]),
        ).sum()

    def of_latents(self, latents: Tensor, text: Tensor, null: Tensor, step: int) -> Tensor:
        """The same for latents [V,4,h,w] that somebody else has encoded; none is flipped."""
        object.__setattr__(self.made, "encode_imgs", lambda _: (latents, None))
        object.__setattr__(self.made, "augmentation", lambda *pictures: pictures)
        self.latent_size = latents.shape[-1]
        return self(latents.new_zeros(len(latents), 3, 8, 8), text, null, step)


Guidance = Threestudio | LucidDreamer


@cache
def _threestudio(folder: Path) -> Any:
    with officials.threestudio(folder) as load:
        load("threestudio.utils.misc").config_to_primitive = list  # plain lists already
        return load("threestudio.models.guidance.stable_diffusion_guidance").StableDiffusionGuidance


@cache
def _luciddreamer(folder: Path) -> Any:
    with officials.clone(folder, "guidance") as load:
        diffusers_utils()
        return load("guidance.sd_utils")


def _share(timestep: int) -> float:
    """A timestep as the share that their int(1000 share) makes it of again."""
    return (timestep + 0.5) / LEVELS


def of_sds(
    settings: SDS, folder: Path, networks: Networks, noise: Tensor, seed: int, steps: int
) -> Guidance:
    """threestudio's SDS with our settings."""
    _same("SDS", settings, reduction="mean", weight=1.0, shared_t=False, t_anneal="constant")
    return Threestudio(
        folder,
        networks,
        None,
        guidance_scale=settings.guidance - 1,
        weighting_strategy=WEIGHTINGS[settings.weighting],
        min_step_percent=_share(settings.t_min),
        max_step_percent=_share(settings.t_max_start),
        grad_clip=[0, settings.clip, settings.clip, steps] if settings.clip else None,
    )


def of_cds(
    settings: CDS, folder: Path, networks: Networks, noise: Tensor, seed: int, steps: int
) -> Guidance:
    """Consistent3D's CDS with our settings, from the run's noise [4,h,w]."""
    _same("CDS", settings, reduction="mean", weight=1.0, pull=0.0, noise_groups=1)
    return Threestudio(
        folder,
        networks,
        noise,
        loss_type="consistency",
        guidance_scale=[0, settings.guidance_start - 1, settings.guidance_end - 1, steps],
        weighting_strategy=WEIGHTINGS[settings.weighting],
        cur_steps=[0, settings.t_start, settings.t_end, steps],
        min_sigma_percent=_share(settings.t_min),
        max_sigma_percent=_share(settings.t_max),
        perturb_indices="sqrt",
        perturb_factor=settings.perturb,
        end_gap=settings.gap,
        grad_clip=[0, settings.clip_start, settings.clip_end, steps],
    )


def of_ism(
    settings: ISM, folder: Path, networks: Networks, noise: Tensor, seed: int, steps: int
) -> Guidance:
    """LucidDreamer's ISM with our settings."""
    _same(
        "ISM", settings, reduction="sum", weighting="sigma/alpha", shared_t=True, first_step=1,
        t_anneal="linear", start_level=1, noise_offset=0.1,
    )  # fmt: skip
    return LucidDreamer(folder, networks, seed, settings, steps)


def _same(name: str, settings: Any, **theirs: Any) -> None:
    """Raises ValueError where a setting is none that their code has."""
    for field, value in theirs.items():
        if getattr(settings, field) != value:
            raise ValueError(
                f"{name}: {field} is {getattr(settings, field)!r}; the authors' code has {value!r}"
                " only. Set that to compare with it."
            )


MAKERS: dict[str, Callable[..., Guidance]] = {"sds": of_sds, "cds": of_cds, "ism": of_ism}
PEERS = {"sds": "threestudio", "cds": "consistent3d", "ism": "luciddreamer"}
# As published: DreamFusion's in threestudio; Consistent3D's first stage; LucidDreamer's bagel.
PUBLISHED: dict[str, Any] = {
    "sds": SDS(t_max_end=980, t_anneal="constant"),
    "cds": CDS(),
    "ism": ISM(
        weighting="sigma/alpha", t_min=21, t_anneal_share=0.3, weight=0.1, reduction="sum",
        shared_t=True, first_step=1, start_level=1, gap_start=100, noise_offset=0.1,
    ),
}  # fmt: skip

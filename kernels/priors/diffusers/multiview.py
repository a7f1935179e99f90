"""MVDream (Shi et al. 2023, arXiv 2308.16512): four views of one object judged together, each told
its camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ...cameras.pinhole import Cameras
from ..conditioning import Conditioning
from ..lora import LoraAdapter
from ..noise_schedule import NoiseSchedule
from ..weights import read_whole
from . import ldm
from .latent_prior import DiffusersPrior

VIEWS = 4  # that MVDream was trained to see at once, a quarter turn apart
# Its world is Blender's, z up; the front, from which its authors' distillation counts azimuth, is
# at +x.
TURN = 1  # so far our axes (y up, front at +z) are rolled to be its x, y, z


class MultiViewPrior(DiffusersPrior):
    """MVDream as a Prior: what a Stable Diffusion prior is, and told each view's camera; rows come
    in groups of four.

    No view words by default: the camera says what they would, and it was trained without.
    """

    views_per_group = VIEWS
    needs_depth = False
    usual_around, usual_overhead = (), ()

    def __init__(self, *given: Any, **named: Any) -> None:
        """As a `DiffusersPrior`; unet: its class embedding is the camera's, and it is changed to
        see views together.
        """
        super().__init__(*given, **named)
        for place, module in self.unet.named_modules():
            if place.endswith(".attn1") and not isinstance(module.processor, MultiViewAttention):
                module.set_processor(MultiViewAttention(VIEWS, module.processor))

    def encode_views(
        self, cameras: Cameras, alpha: Tensor, depth: Tensor | None
    ) -> tuple[Tensor, None]:
        """The cameras [V,16] as `camera_rows` has them. Raises ValueError for views that do not
        come in fours, or look out of a scene."""
        if len(cameras) % VIEWS or cameras.outward is not None:
            raise ValueError(
                f"prior {self.name!r} judges {VIEWS} views around one object together, but"
                f" {len(cameras)} views {'of a scene ' if cameras.outward is not None else ''}came."
                f" Use Orbit Cameras and {VIEWS}, {2 * VIEWS}, ... views."
            )
        return camera_rows(cameras), None

    @torch.no_grad()
    def predict(
        self, z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning]
    ) -> list[Tensor]:
        """Noise estimates [B,C,h,w] float32, one per conditioning; of B rows every four are the
        views of one object.

        Raises ValueError for texts that are not told their cameras (see `view_conditioning.extra`), and for
        rows that do not come in fours.
        """
        if len(z_t) % VIEWS or any(text.camera is None for text in conditionings):
            raise ValueError(
                f"predict: prior {self.name!r} judges {VIEWS} views together and must be told their"
                f" cameras; it got {len(z_t)} latents, with cameras:"
                f" {[text.camera is not None for text in conditionings]}."
            )
        return super().predict(z_t, t, conditionings)

    def _extra_inputs(self, text: Conditioning) -> tuple[Tensor, ...]:
        assert text.camera is not None  # `predict` sees to it
        return (text.camera.to(self.device, self.dtype),)

    def _output(self, z: Tensor, timesteps: Tensor, hidden: Tensor, *extra: Tensor) -> Tensor:
        (camera,) = extra
        if self._fast:
            return self._fast.output(z, timesteps, hidden, camera)
        return self.unet(z, timesteps, encoder_hidden_states=hidden, class_labels=camera).sample

    def adapter(self, rank: int) -> LoraAdapter:
        """As `DiffusersPrior.adapter`; the adapted U-Net is told the cameras too."""

        def extra_inputs(
            z: Tensor, timesteps: Tensor, hidden: Tensor, text: Conditioning
        ) -> dict[str, Tensor]:
            # it may be an inference tensor in a ComfyUI node
            return {"class_labels": self._extra_inputs(text)[0].clone()}

        adapter = super().adapter(rank)
        adapter.extra_inputs = extra_inputs
        return adapter


class MultiViewAttention:
    """An attention processor of diffusers that lets the tokens of ``views`` rows in a row attend to
    one another.
    """

    def __init__(self, views: int, inner: Any) -> None:
        self.views, self.inner = views, inner

    def __call__(
        self, attention: Any, hidden_states: Tensor, *given: Any, **options: Any
    ) -> Tensor:
        rows, tokens, width = hidden_states.shape
        joined = hidden_states.reshape(rows // self.views, self.views * tokens, width)
        attended: Tensor = self.inner(attention, joined, *given, **options)
        return attended.reshape(rows, tokens, width)


def camera_rows(cameras: Cameras) -> Tensor:
    """Camera-to-world matrices [V,16], row by row, as MVDream was told them.

    World axes are Blender's (x to the front, z up), camera axes OpenGL's (x right, y up, z
    backward). The place is on the unit sphere, whatever the distance: where the camera is from what
    it looks at, since it was trained on cameras that look at the origin.
    """
    right, down, forward = cameras.viewmats[:, :3, :3].unbind(1)
    top = torch.stack([right, -down, -forward, -forward], -1).roll(TURN, 1).flatten(1).float()
    return F.pad(F.pad(top, (0, 3)), (0, 1), value=1.0)


def load_multiview_file(
    file: str | Path,
    tokenizer: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype | None = None,
) -> MultiViewPrior:
    """MVDream's checkpoint, sd-v2.1-base-4view or sd-v1.5-4view, as one .safetensors file; never
    uses the network.

    tokenizer: a folder with CLIP's vocabulary (vocab.json, merges.txt), which is the same in both
    and in no file. dtype and vae_dtype as for `load_diffusers`. The file must be one of which
    `ldm.holds_multiview` is true. Raises ValueError naming the file and what it lacks.
    """
    from transformers import CLIPTokenizer

    file = Path(file)
    owner = f"checkpoint {file.name!r}"
    with torch.inference_mode(False), read_whole(owner):
        weights = load_file(file)
    config = ldm.read_config(weights)
    ldm.translate_config(config, owner)  # refuses ImageDream, before its other parts are missed
    for prefix, what in ((ldm.VAE, "VAE"), (ldm.TEXT, "text encoder")):
        if not any(name.startswith(prefix) for name in weights):
            raise ValueError(
                f"{owner} holds no {what}; use a whole MVDream checkpoint, or a diffusers folder."
            )
    if vae_dtype is None:
        vae_dtype = torch.float32 if dtype == torch.float32 else torch.bfloat16
    with torch.inference_mode(False):
        own = {name: value for name, value in weights.items() if name.startswith(ldm.UNET)}
        unet = ldm.make_unet(own, config, dtype, owner)
        vae = ldm.make_vae(
            {n: v for n, v in weights.items() if n.startswith(ldm.VAE)}, vae_dtype, owner
        )
        text_encoder = ldm.make_text_encoder(weights, dtype, owner)
        # OpenCLIP fills up with token 0, which is "!", CLIP with the end of text
        filling = (
            {"pad_token": "!"} if any(name.startswith(ldm.OPENCLIP) for name in weights) else {}
        )
        reader = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True, **filling)
        prior = MultiViewPrior(
            file.stem, unet, vae, text_encoder, reader, NoiseSchedule.scaled_linear()
        )
        prior.to(device)
    return prior

"""ComfyUI's MODEL, CLIP and VAE as a Prior, with every patch of the model honoured (LoRA,
attention, sampling).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...kernels.priors import perp_neg
from ...kernels.priors.base import check_multiple, check_words
from ...kernels.priors.conditioning import Conditioning
from ...kernels.priors.diffusers.latent_prior import make_ordinary
from ...kernels.priors.noise_schedule import noise_from_clean
from .comfy_checks import check_clip, check_model, check_vae, family, levels
from .comfy_vae import OwnVAE
from .memory import autograd
from .resident import resident
from .vae_kind import check_kind


class ComfyPrior:
    """A Prior over ComfyUI's own objects; run it inside `ManagedComfyPrior.loaded`.

    The denoiser is called as ComfyUI's samplers call it, so that what other nodes have done to the
    model counts. What works on the guided result (RescaleCFG and other CFG functions) does not:
    here the losses guide.
    """

    vocabulary: frozenset[str] | None = None
    background: float | None = None

    def __init__(
        self, model: Any, clip: Any, vae: Any, name: str = "", distilled_guidance: float = 1.0
    ) -> None:
        """The sockets' values; name: for messages; distilled_guidance: what FLUX.1-dev is told,
        others do not read it.

        Raises ValueError for parts that do not make one prior.
        """
        check_model(model)
        check_vae(vae, model)
        self.model, self.clip, self.vae = model, clip, OwnVAE(vae)
        check_kind(vae, self.vae.encode, model.model.latent_format)
        self.family = family(model)
        self.name = name or f"{self.family.name} (MODEL)"
        self.image_size: int = self.family.image_size
        self.latent_channels: int = model.model.latent_format.latent_channels
        self.downscale: int = vae.spacial_compression_encode()
        found = levels(model)
        self.levels, self.flow, self.schedule = found.values, found.flow, found.schedule
        self.distilled_guidance = distilled_guidance
        self.options: dict[str, Any] = {}
        # conditioning with models of its own, as samplers take it
        self.beside: dict[str, list[dict[str, Any]]] = {}
        self._rows: dict[str, tuple[Tensor, Tensor | None]] = {}
        check_clip(self.embed([""]), model)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.load_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.model.get_dtype_inference()
        return dtype

    def embed(self, texts: Sequence[str]) -> Conditioning:
        """What the CLIP socket makes of the texts, one row each, float32 on the prior's device;
        cached by text.

        Weights such as (red:1.2) and embeddings work as in CLIP Text Encode. Raises ValueError for
        a text that does not fit into one block of the encoder's tokens.
        """
        for text in dict.fromkeys(texts):
            if text not in self._rows:
                self._rows[text] = self._embedding(text)
        embeddings, pooled = zip(*(self._rows[text] for text in texts), strict=True)
        rows = None if pooled[0] is None else torch.stack(pooled)
        return Conditioning(torch.stack(embeddings), rows).to(self.device)

    def _embedding(self, text: str) -> tuple[Tensor, Tensor | None]:
        with torch.inference_mode():  # as in every node of ComfyUI
            tokens = self.clip.tokenize(text)
            blocks = max(map(len, tokens.values()))
            if blocks > 1:
                raise ValueError(
                    f"prompt {text[:60]!r}... fills {blocks} blocks of the text encoder's tokens;"
                    f" prior {self.name!r} reads one, view words included. Shorten it."
                )
            found = self.clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)
        # T5 makes as many rows as tokens
        if text and found["cond"].shape[1] != self.embed([""]).embeddings.shape[1]:
            raise ValueError(
                f"prompt {text[:60]!r}... has {found['cond'].shape[1]} tokens; prior {self.name!r}"
                f" reads {self.embed(['']).embeddings.shape[1]}, view words included. Shorten it."
            )
        with torch.inference_mode(False):
            embedding = found["cond"][0].float().cpu().clone()
            return embedding, (
                found["pooled_output"][0].float().cpu().clone() if self.family.pooled else None
            )

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents [B,C,h,w] float32 in the denoiser's scale of images [B,3,H,W] in 0..1; gradients
        flow to the images.

        The posterior's mean, or with a generator a sample of it.
        """
        latents: Tensor = self.model.model.process_latent_in(self.vae.encode(images, generator))
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in 0..1, float32."""
        return self.vae.decode(self.model.model.process_latent_out(latents))

    def predict(
        self, z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning]
    ) -> list[Tensor]:
        """Noise estimates [B,C,h,w] float32, one per conditioning, from one call over all of them;
        Perp-Neg's branches too. Raises ValueError when a conditioning does not hold one row per
        latent."""
        # Without Perp-Neg's branches the latents come in the same order, once per conditioning.
        once = None if any(c.against for c in conditionings) else len(z_t)

        def network(z: Tensor, steps: Tensor, text: Conditioning) -> Tensor:
            return self._noise(z, steps, text, [row % (once or len(z)) for row in range(len(z))])

        with torch.no_grad():
            return perp_neg.predict(network, z_t, t, [c.to(self.device) for c in conditionings])

    def _noise(self, z_t: Tensor, t: Tensor, text: Conditioning, latents: Sequence[int]) -> Tensor:
        # ComfyUI returns the clean latent, whatever the network predicts (model_base.py,
        # _apply_model). It takes x = z0 + level eps, of a rectified flow x = (1 - level) z0 + level
        # eps: z_t times a number, both.
        z_t = z_t.float()
        level = self.levels.to(t.device)[t]
        share = 1 - level if self.flow else torch.ones_like(level)
        x = z_t * (share.square() + level.square()).sqrt()[:, None, None, None]
        at_once = 2 * self.vae.micro_batch or len(x)
        parts = [slice(i, i + at_once) for i in range(0, len(x), at_once)]
        clean = torch.cat(
            [self._clean(x[part], level[part], text.index(part), latents[part]) for part in parts]
        )
        return noise_from_clean(z_t, clean, self.schedule.alpha(t), self.schedule.sigma(t))

    def _clean(
        self, x: Tensor, level: Tensor, text: Conditioning, latents: Sequence[int]
    ) -> Tensor:
        """The clean latents, float32, of some rows of one call; rows with the same number in
        ``latents`` are equal.

        Patches such as IP-Adapter's tell a prompt from a negative one by its place in the list of
        conditionings, in which samplers give the prompt first.
        """
        # on the CPU, as are the numbers: nothing here waits for the device
        negative = text.led_away().tolist()
        rows = [[row for row, away in enumerate(negative) if away == bool(kind)] for kind in (0, 1)]
        # Models beside this one, ControlNets, are shown the rows of one kind.
        alike = not self.beside and [latents[row] for row in rows[0]] == [
            latents[row] for row in rows[1]
        ]
        clean = torch.empty_like(x)
        with torch.inference_mode():
            for kinds in [(0, 1)] if alike else [(kind,) for kind in (0, 1) if rows[kind]]:
                conds: list[list[dict[str, Any]] | None] = [None, None]
                for kind in kinds:
                    place = _place(rows[kind])
                    conds[kind] = [self._cond(x[place], text.index(place), kind)]
                first = _place(rows[kinds[0]])
                found = comfy.samplers.calc_cond_batch(
                    self.model.model, conds, x[first], level[first], self.options
                )
                for kind in kinds:
                    clean[_place(rows[kind])] = found[kind].float()
        return clean

    @contextmanager
    def running(self, accelerate: bool = False, micro_batch: int = 0) -> Iterator[None]:
        """Inside, if not 0, no more than ``micro_batch`` go through the encoder together, each
        batch once more on the way back, and twice as many rows through the denoiser: the same
        numbers for less memory. ``accelerate``: on a CUDA device the encoder runs as CUDA graphs,
        if it is of a kind known to work so; the denoiser runs as ComfyUI runs it."""
        before, self.vae.micro_batch = (
            self.vae.micro_batch,
            micro_batch or self.vae.micro_batch,
        )
        made = accelerate and self.vae.accelerate()
        try:
            yield
        finally:
            self.vae.micro_batch = before
            if made:
                self.vae.settle()

    def _cond(self, x: Tensor, text: Conditioning, kind: int) -> dict[str, Any]:
        """One conditioning of as many rows as x, as ComfyUI's samplers prepare it; kind: 0 prompts,
        1 negative.
        """
        given: dict[str, Any] = {"cross_attn": text.embeddings, "device": x.device, "noise": x}
        if text.pooled is not None:
            # Told the size of a small render, SDXL would imagine a small, soft picture.
            height, width = (max(side * self.downscale, self.image_size) for side in x.shape[2:])
            given |= {"pooled_output": text.pooled, "width": width, "height": height}
            given["prompt_type"] = ("positive", "negative")[kind]
        given["guidance"] = self.distilled_guidance
        return {"model_conds": self.model.model.extra_conds(**given), "uuid": uuid.uuid4()}

    def check_size(self, size: int) -> None:
        """Raises ValueError unless the latent can be halved as often as the network does."""
        check_multiple(size, self.downscale * self.family.multiple, self.name)

    def check_text(self, text: str) -> None:
        check_words(text, self.vocabulary, self.name)


class ManagedComfyPrior:
    """A `ComfyPrior` in the care of ComfyUI's memory manager, for a DISTILL3D_PRIOR socket like
    `ManagedPrior`.
    """

    def __init__(self, prior: ComfyPrior) -> None:
        self.prior = prior
        self.encoder = comfy.model_patcher.ModelPatcher(
            prior.vae,
            load_device=prior.device,
            offload_device=comfy.model_management.vae_offload_device(),
        )

    @contextmanager
    def reading(self) -> Iterator[ComfyPrior]:
        """The prior ready to embed texts: its CLIP loads itself."""
        with autograd():
            yield self.prior

    @contextmanager
    def loaded(self, scratch: int = 0) -> Iterator[ComfyPrior]:
        """The prior on its device, gradients possible; other models make room for it and for
        ``scratch`` bytes.
        """
        prior, model = self.prior, self.prior.model
        added, needed = comfy.sampler_helpers.get_additional_models(prior.beside, prior.dtype)
        others = [*model.get_nested_additional_models(), *added]
        with autograd():
            # as where ComfyUI loaded it; the encoder's copies are mended below
            with torch.inference_mode():
                comfy.model_management.load_models_gpu(
                    [model, self.encoder, *others], memory_required=scratch + needed
                )
            with torch.inference_mode(False):
                make_ordinary(prior.vae)
                prior.vae.to(prior.device)
                prior.vae.attach()
            prior.schedule = prior.schedule.to(prior.device)
            prior.levels = prior.levels.to(prior.device)
            # As a sampler begins and ends (samplers.py, CFGGuider.outer_sample).
            prior.options = comfy.model_patcher.create_model_options_clone(model.model_options)
            comfy.sampler_helpers.prepare_model_patcher(model, prior.beside, prior.options)
            model.pre_run()
            try:
                with torch.inference_mode():  # some ControlNets take weights from the model here
                    for conds in prior.beside.values():
                        comfy.samplers.pre_run_control(model.model, conds)
                with resident(model, scratch + needed):
                    yield prior
            finally:
                prior.options = {}
                comfy.sampler_helpers.cleanup_models(prior.beside, added)
                model.cleanup()


def _place(rows: Sequence[int]) -> slice | Sequence[int]:
    """The rows as an index, a slice where they follow one another: others wait for the device."""
    whole = range(rows[0], rows[0] + len(rows))
    return slice(whole.start, whole.stop) if list(rows) == list(whole) else rows


def managed(
    model: Any, clip: Any, vae: Any, name: str = "", distilled_guidance: float = 1.0
) -> ManagedComfyPrior:
    """What a prior's socket carries, made of the values of ComfyUI's sockets; the rest is as in
    `ComfyPrior`.

    Raises ValueError for parts that are missing or do not make one prior.
    """
    for part, value in (("model", model), ("clip", clip), ("vae", vae)):
        if value is None:
            raise ValueError(
                f"{part} is empty: the file that was loaded holds none. Link one from another"
                " loader."
            )
    with autograd():
        return ManagedComfyPrior(ComfyPrior(model, clip, vae, name, distilled_guidance))

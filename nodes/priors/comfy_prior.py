"""ComfyUI's MODEL, CLIP and VAE as a Prior, with every patch of the model honoured (LoRA,
attention, sampling).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from ...kernels.priors.rows import TextRow, stacked
from ...kernels.priors.syntax import tell
from ...kernels.priors.text_cache import TextCache
from .comfy_checks import check_clip, check_model, check_vae, image_size, multiple, pixel_space
from .comfy_pictures import ReadPictures
from .comfy_texts import Texts, asked
from .comfy_vae import OwnVAE, PixelVAE
from .families import family
from .memory import autograd
from .ordinary import ordinary, ordinary_form
from .resident import resident
from .sampling import levels
from .vae_kind import check_kind
from .values import about


class ComfyPrior:
    """A Prior over ComfyUI's own objects; run it inside `ManagedComfyPrior.loaded`.

    The denoiser is called as ComfyUI's samplers call it, so that what other nodes have done to the
    model counts. What works on the guided result (RescaleCFG and other CFG functions) does not:
    here the losses guide.
    """

    vocabulary: frozenset[str] | None = None
    background: float | None = None

    def __init__(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        name: str = "",
        distilled_guidance: float = 1.0,
        few_steps: int = 0,
        negative_branch: bool = True,
        pictures: Tensor | None = None,
    ) -> None:
        """The sockets' values, vae None for a model of pixels; name: for messages;
        distilled_guidance: what a model with a guidance of its own is told, others do not read it;
        few_steps: levels that a model was distilled to, 0 as its kind says; negative_branch: off,
        what guidance leads away from is taken to be the text itself, so that nothing is guided;
        pictures: [R,H,W,3] that an edit model reads beside every text.

        Raises ValueError for parts that do not make one prior.
        """
        check_model(model)
        if vae is None and pixel_space(model):
            vae = PixelVAE()
        check_vae(vae, model)
        self.model, self.clip, self.vae = model, clip, OwnVAE(vae)
        self.form = ordinary_form(model.model.latent_format)
        check_kind(vae, self.vae.encode, self.form)
        self.family = family(model)
        self.kind = type(model.model.model_config).__name__
        self.name = name or f"{self.family.name} (MODEL)"
        self.image_size: int = image_size(model, self.family.image_size)
        self.latent_channels: int = self.form.latent_channels
        self.downscale: int = vae.spacial_compression_encode()
        self.multiple: int = multiple(model)
        found = levels(model, few_steps or self.family.few_steps)
        self.levels, self.norm, self.schedule = found.values, found.norm, found.schedule
        self.few_levels = found.few
        self.negative_branch = negative_branch and not found.few
        # what extra_conds of models with a guidance of their own reads; others must not be told
        guided = model.model.model_config.unet_config.get("guidance_embed")
        self._told = {"guidance": distilled_guidance} if guided else {}
        self._pictures = ReadPictures(model, pictures)
        self.options: dict[str, Any] = {}
        # conditioning with models of its own, as samplers take it
        self.extra_models: dict[str, list[dict[str, Any]]] = {}
        self._rows: TextCache[tuple[Tensor, Tensor | None, TextRow]] = TextCache(_bytes)
        self._texts = Texts()
        check_clip(self.embed([""]), model)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.load_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.model.get_dtype_inference()
        return dtype

    @property
    def takes_alpha(self) -> bool:
        """Whether `encode` is shown the pictures' transparency too."""
        return self.vae.takes_alpha

    def about(self) -> str:
        """What a user should know of the prior, in sentences."""
        return about(self, self._told.get("guidance"))

    def embed(self, texts: Sequence[str]) -> Conditioning:
        """What the CLIP socket makes of the texts, one row each, float32 on the prior's device;
        cached by text.

        Weights such as (red:1.2) and embeddings work as in CLIP Text Encode, and so do long texts.
        """
        embeddings, pooled, rows = zip(*self._rows.of(texts, self._embedding), strict=True)
        vectors = None if pooled[0] is None else torch.stack(pooled)
        return Conditioning(stacked(embeddings), vectors, rows=rows).to(self.device)

    def _embedding(self, text: str) -> tuple[Tensor, Tensor | None, TextRow]:
        with torch.inference_mode():  # as in every node of ComfyUI
            tokens = self.clip.tokenize(text)
            found = self.clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)
        with torch.inference_mode(False):
            row = {name: ordinary(value) for name, value in found.items() if name != "cond"}
            row["cross_attn"] = embedding = ordinary(found["cond"])
            pooled = row.get("pooled_output")
            return embedding, None if pooled is None else pooled[0], TextRow(row)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents [B,C,h,w] float32 in the denoiser's scale of images [B,3,H,W], or
        with alpha [B,4,H,W], in 0..1; gradients flow to the images.

        The posterior's mean, or with a generator a sample of it.
        """
        framed = self.framed(self.vae.encode(images, generator))
        return self._flat(self.form.process_in(framed))

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in 0..1, float32."""
        return self.vae.decode(self._flat(self.form.process_out(self.framed(latents))))

    def framed(self, latents: Tensor) -> Tensor:
        """Latents [B,C,h,w] as the model takes them: [B,C,1,h,w] where it counts pictures in
        time."""
        return (
            latents[:, :, None]
            if self.model.model.latent_format.latent_dimensions == 3
            else latents
        )

    def _flat(self, latents: Tensor) -> Tensor:
        return latents[:, :, 0] if latents.dim() == 5 else latents

    def predict(
        self, z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning]
    ) -> list[Tensor]:
        """Noise estimates [B,C,h,w] float32, one per conditioning, from one call over all of them;
        Perp-Neg's branches too. Raises ValueError when a conditioning does not hold one row per
        latent."""
        conditionings = [c.to(self.device) for c in conditionings]
        if not self.negative_branch:
            return self._unguided(z_t, t, conditionings)
        # Without Perp-Neg's branches the latents come in the same order, once per conditioning.
        once = None if any(c.against for c in conditionings) else len(z_t)

        def network(z: Tensor, steps: Tensor, text: Conditioning) -> Tensor:
            return self._noise(z, steps, text, [row % (once or len(z)) for row in range(len(z))])

        with torch.no_grad():
            return perp_neg.predict(network, z_t, t, conditionings)

    def _unguided(
        self, z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning]
    ) -> list[Tensor]:
        """Estimates of a model without a negative branch: where guidance would lead away from a
        text, that of the first text which it leads to."""
        leading = [not bool(text.led_away().all()) for text in conditionings]
        plain = [replace(text, against=None) for text in conditionings]
        wanted = [text for text, leads in zip(plain, leading, strict=True) if leads] or plain[:1]

        def network(z: Tensor, steps: Tensor, text: Conditioning) -> Tensor:
            return self._noise(z, steps, text, [row % len(z_t) for row in range(len(z))])

        with torch.no_grad():
            found = perp_neg.predict(network, z_t, t, wanted)
        rest = iter(found)
        return [next(rest) if leads else found[0] for leads in leading]

    def _noise(self, z_t: Tensor, t: Tensor, text: Conditioning, latents: Sequence[int]) -> Tensor:
        # ComfyUI returns the clean latent, whatever the network predicts (model_base.py,
        # _apply_model), and takes z_t times a number.
        z_t = z_t.float()
        level, norm = (values.to(t.device)[t] for values in (self.levels, self.norm))
        x = self.framed(z_t * norm[:, None, None, None])
        at_once = 2 * self.vae.micro_batch or len(x)
        parts = [slice(i, i + at_once) for i in range(0, len(x), at_once)]
        clean = torch.cat(
            [self._clean(x[part], level[part], text.index(part), latents[part]) for part in parts]
        )
        return noise_from_clean(
            z_t, self._flat(clean), self.schedule.alpha(t), self.schedule.sigma(t)
        )

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
        groups = [
            self._texts.alike(x, text, self._asked(x), self.model.model, kind, rows)
            for kind in (0, 1)
            if (rows := [row for row, away in enumerate(negative) if away == bool(kind)])
        ]
        # Models beside this one, ControlNets, are shown the rows of one kind.
        together = (
            not self.extra_models
            and len(groups) == 2
            and all(len(alike) == 1 for alike in groups)
            and [latents[row] for row in groups[0][0]] == [latents[row] for row in groups[1][0]]
        )
        kinds = [bool(negative[alike[0][0]]) for alike in groups]
        clean = torch.empty_like(x)
        calls = (
            [[(int(kind), alike[0]) for kind, alike in zip(kinds, groups, strict=True)]]
            if together
            else [
                [(int(kind), rows)]
                for kind, alike in zip(kinds, groups, strict=True)
                for rows in alike
            ]
        )
        with torch.inference_mode():
            for call in calls:
                conds: list[list[dict[str, Any]] | None] = [None, None]
                for kind, rows in call:
                    place = _place(rows)
                    conds[kind] = [self._cond(x[place], text.index(place), kind)]
                first = _place(call[0][1])
                found = asked(
                    self.model.model, conds, x[first], level[first], self.options, self.name
                )
                for kind, rows in call:
                    clean[_place(rows)] = found[kind].float()
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
        conds = self._texts.joined(x, text, self._asked(x), self.model.model, kind)
        return {"model_conds": conds, "uuid": uuid.uuid4()}

    def _asked(self, x: Tensor) -> dict[str, Any]:
        """What else a text is told of the picture that it is for."""
        # Told the size of a small render, SDXL would imagine a small, soft picture.
        height, width = (max(side * self.downscale, self.image_size) for side in x.shape[-2:])
        return {"width": width, "height": height, **self._told, **self._pictures.told(self)}

    def forget(self) -> None:
        """What texts were made of: the model may have been patched since."""
        self._texts.forget()
        self._pictures.forget()

    def check_size(self, size: int) -> None:
        """Raises ValueError unless the latent can be halved as often as the network does, and is
        not smaller than it can take."""
        if size < self.family.smallest:
            raise ValueError(
                f"image_size {size} is too small for prior {self.name!r}, whose network counts"
                f" positions from {self.family.smallest} pixels on. Set it to that or more."
            )
        check_multiple(size, self.downscale * self.multiple, self.name)

    def check_text(self, text: str) -> None:
        check_words(text, self.vocabulary, self.name)
        tell(text, weighted=True)


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
        added, needed = comfy.sampler_helpers.get_additional_models(prior.extra_models, prior.dtype)
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
            prior.forget()
            prior.schedule = prior.schedule.to(prior.device)
            prior.levels, prior.norm = (v.to(prior.device) for v in (prior.levels, prior.norm))
            # As a sampler begins and ends (samplers.py, CFGGuider.outer_sample).
            prior.options = comfy.model_patcher.create_model_options_clone(model.model_options)
            comfy.sampler_helpers.prepare_model_patcher(model, prior.extra_models, prior.options)
            model.pre_run()
            try:
                with torch.inference_mode():  # some ControlNets take weights from the model here
                    for conds in prior.extra_models.values():
                        comfy.samplers.pre_run_control(model.model, conds)
                with resident(model, scratch + needed):
                    yield prior
            finally:
                prior.forget()  # what texts were made of is on the device
                prior.options = {}
                comfy.sampler_helpers.cleanup_models(prior.extra_models, added)
                model.cleanup()


def _bytes(text: tuple[Tensor, Tensor | None, TextRow]) -> int:
    """Of an embedded text; its row holds the other tensors too."""
    values = text[2].values.values()
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def _place(rows: Sequence[int]) -> slice | Sequence[int]:
    """The rows as an index, a slice where they follow one another: others wait for the device."""
    whole = range(rows[0], rows[0] + len(rows))
    return slice(whole.start, whole.stop) if list(rows) == list(whole) else rows


def managed(model: Any, clip: Any, vae: Any, name: str = "", **settings: Any) -> ManagedComfyPrior:
    """What a prior's socket carries, made of the values of ComfyUI's sockets; the rest is as in
    `ComfyPrior`.

    Raises ValueError for parts that are missing or do not make one prior.
    """
    for part, value in (("model", model), ("clip", clip), ("vae", vae)):
        if value is None and not (part == "vae" and pixel_space(model)):
            raise ValueError(
                f"{part} is empty: the file that was loaded holds none. Link one from another"
                " loader."
            )
    with autograd():
        return ManagedComfyPrior(ComfyPrior(model, clip, vae, name, **settings))

"""Stable Diffusion 1.x / 2.x, MVDream, and any small pipeline of their kind, from a diffusers
folder on disk.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...devices.rows import by_rows, by_rows_with_gradient
from ...devices.streams import give_back, send
from .. import perp_neg
from ..base import check_multiple, check_words
from ..conditioning import Conditioning
from ..folder import WEIGHTS
from ..lora import LoraAdapter
from ..noise_schedule import NoiseSchedule, noise_from_output
from ..prompts import AROUND, OVERHEAD
from ..replicas import Replicas, copied
from ..syntax import tell
from ..text_cache import TextCache
from ..weights import read_whole
from .checkpointing import ChunkedCheckpoint, ScaleGradient, UnscaleGradient
from .cuda_graphs import Accelerated
from .offload import SequentialOffload

if TYPE_CHECKING:
    from ..networks import TextEncoder, Tokenizer, UNet, Vae

PARTS = tuple(WEIGHTS)


class DiffusersPrior:
    """A latent diffusion model with a CLIP text encoder as a Prior; make one with `load_diffusers`.

    Its weights are frozen ordinary tensors, so that gradients pass through the encoder even where
    the caller runs under torch.inference_mode(), as ComfyUI's nodes do.
    """

    micro_batch = 0  # 0 = all; see `running`
    # View words of a prior whose card names none.
    usual_around: tuple[str, ...] = AROUND
    usual_overhead: tuple[str, ...] = OVERHEAD
    views_per_group = 1  # rows of the U-Net that must not be parted
    replicas: Replicas | None = None  # while a run shares its views over devices
    _fast: Accelerated | None = None
    _offload: SequentialOffload | None = None

    def __init__(
        self,
        name: str,
        unet: UNet,
        vae: Vae,
        text_encoder: TextEncoder,
        tokenizer: Tokenizer,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        card: dict[str, Any] | None = None,
    ) -> None:
        """Parts as diffusers and transformers load them; card: the folder's distill3d.json, see
        `load_diffusers`.
        """
        card = card or {}
        self.name, self.schedule, self.prediction = name, schedule, prediction
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        for module in self._modules():
            module.eval().requires_grad_(False)
        # The U-Net gains from channels_last on every device; the encoder loses (its GroupNorms are
        # slow there).
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own omits it
        self.latent_channels: int = vae.config.latent_channels
        self.downscale: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling: float = vae.config.scaling_factor
        self.shift: float = getattr(vae.config, "shift_factor", None) or 0.0
        self.image_size: int = card.get("image_size") or unet.config.sample_size * self.downscale
        words = card.get("vocabulary")
        self.vocabulary = None if words is None else frozenset(word.lower() for word in words)
        grey = card.get("background")
        self.background_range = None if grey is None else (float(min(grey)), float(max(grey)))
        self.background = None if grey is None else sum(self.background_range or ()) / 2
        # world units, of the cameras it was trained with
        self.distance: float | None = card.get("distance")
        self.fov_y: float | None = card.get("fov_y")  # degrees
        self.around_words: tuple[str, ...] = tuple(card.get("around") or self.usual_around)
        self.overhead_words: tuple[str, ...] = tuple(card.get("overhead") or self.usual_overhead)
        self.outward_words: tuple[str, ...] = tuple(card.get("outward") or ())
        self._rows: TextCache[Tensor] = TextCache(lambda row: row.nbytes)

    def _modules(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.unet, self.vae, self.text_encoder

    @property
    def device(self) -> torch.device:
        return self._offload.device if self._offload else next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    def to(self, device: torch.device | str, parts: Sequence[str] = PARTS) -> DiffusersPrior:
        """Move the weights of ``parts``, in place, and return self; they stay ordinary tensors in
        inference mode too.

        Texts are embedded where the text encoder is, and those that have been embedded before need
        it no more.
        """
        self._drop_graphs()
        with torch.inference_mode(False):
            for part in parts:
                module = getattr(self, part)
                make_ordinary(module)
                module.to(device)
            self.schedule = self.schedule.to(self.device)
        return self

    def offload(self) -> DiffusersPrior:
        """Move all weights to the CPU, to free the accelerator's memory."""
        return self.to("cpu")

    @contextmanager
    def sequential_offload(self, device: torch.device | str) -> Iterator[DiffusersPrior]:
        """Inside, the prior works on ``device`` with one of its networks there at a time, the
        others in main memory.

        The same numbers, for the memory of the largest network and the time of moving two of them
        in every step.
        """
        self.offload()
        with torch.inference_mode(False):
            self._offload = SequentialOffload(self.offload_groups(), torch.device(device))
            self.schedule = self.schedule.to(device)
        try:
            yield self
        finally:
            self._offload.release()
            self._offload = None
            self.schedule = self.schedule.to("cpu")
            give_back(torch.device(device))

    def offload_groups(self) -> dict[str, list[nn.Module]]:
        """The networks that are needed together, by the part whose turn it then is."""
        return {part: [module] for part, module in zip(PARTS, self._modules(), strict=True)}

    def _bring(self, part: str) -> None:
        if self._offload:
            self._offload.bring(part)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Conditioning:
        """Last hidden states of the text encoder, one row per text, float32 on the prior's device;
        cached by text.

        Raises ValueError for a text of more tokens than the encoder reads: cut off, it would lose
        its view words; and where what the encoder makes of it is not finite.
        """
        rows = self._rows.of(texts, self._embedding)
        return Conditioning(torch.stack(rows).to(self.device))

    def _embedding(self, text: str) -> Tensor:
        with read_whole(f"prior {self.name!r}: its tokenizer"):
            length = min(
                self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings
            )
            count = len(self.tokenizer(text)["input_ids"])
            padded = {"padding": "max_length", "max_length": length, "return_tensors": "pt"}
            tokens = self.tokenizer(text, **padded) if count <= length else None
            words = self.text_encoder.config.vocab_size
            # on a GPU such a number would be the end of all that runs there
            if tokens is not None and not 0 <= int(tokens["input_ids"].max()) < words:
                raise ValueError(f"it has more words than the {words} that its text encoder knows")
        if tokens is None:
            raise ValueError(
                f"prompt {text[:60]!r}... has {count} tokens; prior {self.name!r} reads {length},"
                " view words included. Shorten it."
            )
        self._bring("text_encoder")
        tokens = tokens.to(next(self.text_encoder.parameters()).device)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens["attention_mask"] if masked else None
        with torch.inference_mode(False):
            states = self.text_encoder(tokens["input_ids"].clone(), attention_mask=mask)[0]
            row = states[0].float().cpu()
        if not bool(row.isfinite().all()):
            raise ValueError(
                f"prior {self.name!r}: its text encoder makes numbers of {text[:60]!r} that are NaN"
                " or infinite. Load it in fp32 (precision); if that is no cure, download it again."
            )
        return row

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scaled latents [B,C,h,w] float32 of images [B,3,H,W] in 0..1; gradients flow to the
        images.

        The posterior's mean, or with a generator a sample of it (its noise is drawn on the
        generator's device).
        """
        noise = self.posterior_noise(images.shape, generator)
        if self.replicas is not None:
            return self.replicas.encode(images, noise)
        return self.encode_with(images, noise)

    def posterior_noise(
        self, shape: Sequence[int], generator: torch.Generator | None
    ) -> Tensor | None:
        """What `encode` draws for images of ``shape`` [B,3,H,W], on the prior's device."""
        if generator is None:
            return None
        sides = (side // self.downscale for side in shape[2:])
        latents = (shape[0], self.latent_channels, *sides)
        noise = torch.randn(latents, generator=generator, device=generator.device)
        return send(noise, self.device)

    def encode_with(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """`encode` with the posterior's noise [B,C,h,w] given; None: its mean."""
        dtype: torch.dtype = next(self.vae.parameters()).dtype
        scale: list[Tensor] = []
        scaled = dtype == torch.float16
        pixels = (
            UnscaleGradient.apply(images * 2 - 1, scale) if scaled else (images * 2 - 1).to(dtype)
        )
        batch = self.micro_batch or len(pixels)
        moments: Tensor
        if batch < len(pixels) or self._offload:
            moments = ChunkedCheckpoint.apply(pixels, self._moments_by_rows, batch)
        else:
            moments = self._moments_by_rows(pixels)
        latents, log_variance = (
            ScaleGradient.apply(moments, scale) if scaled else moments.float()
        ).chunk(2, 1)
        if noise is not None:
            latents = latents + (0.5 * log_variance.clamp(-30, 20)).exp() * noise
        return (latents - self.shift) * self.scaling

    def _moments_by_rows(self, pixels: Tensor) -> Tensor:
        return by_rows_with_gradient(self._moments, pixels)

    def _moments(self, pixels: Tensor) -> Tensor:
        self._bring("vae")
        if self._fast:
            return self._fast.moments(pixels)
        # Renders come channels last, which would carry on through the layers, and their norms are
        # slow that way.
        return self.vae.encode(pixels.contiguous()).latent_dist.parameters

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in 0..1, float32, of scaled latents [B,C,h,w]."""
        self._bring("vae")
        weight = next(self.vae.parameters())
        images = self.vae.decode((latents / self.scaling + self.shift).to(weight)).sample
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def predict(
        self, z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning]
    ) -> list[Tensor]:
        """Noise estimates [B,C,h,w] float32, one per conditioning, from one U-Net call over all of
        them; Perp-Neg's branches too. Raises ValueError when a conditioning does not hold one row
        per latent."""
        texts = [c.to(self.device) for c in conditionings]
        if self.replicas is not None:
            return self.replicas.predict(z_t, t, texts, self.views_per_group)
        return perp_neg.predict(self._noise, z_t, t, texts, self.views_per_group)

    def _noise(self, z_t: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        self._bring("unet")
        weight = next(self.unet.parameters())
        z = z_t.to(weight).contiguous(memory_format=torch.channels_last)
        rows = (z, t.to(weight.device), text.embeddings.to(weight), *self._extra_inputs(text))
        batch = 2 * self.micro_batch or len(z)
        whole = self.views_per_group * math.ceil(batch / self.views_per_group)
        output = torch.cat(
            [
                by_rows(self._output, part, self.views_per_group)
                for part in zip(*(row.split(whole) for row in rows), strict=True)
            ]
        )
        output = output.float()
        return noise_from_output(
            output, z_t.float(), self.schedule.alpha(t), self.schedule.sigma(t), self.prediction
        )

    def _extra_inputs(self, text: Conditioning) -> tuple[Tensor, ...]:
        """What else `_output` takes of each row."""
        return ()

    def _output(self, z: Tensor, timesteps: Tensor, hidden: Tensor, *extra: Tensor) -> Tensor:
        if self._fast:
            return self._fast.output(z, timesteps, hidden)
        return self.unet(z, timesteps, encoder_hidden_states=hidden).sample

    @contextmanager
    def running(self, accelerate: bool = False, micro_batch: int = 0) -> Iterator[None]:
        """Inside, on a CUDA device, the networks run as CUDA graphs of fused kernels if
        ``accelerate``: the same numbers within the rounding of their dtype, after some seconds of
        preparation. Nothing may move or change the weights.

        micro_batch, if not 0: no more go through the encoder together, each batch once more on
        the way back, and no more than twice as many rows, or one group of views, through the U-Net.
        The same numbers for less memory.
        """
        before, self.micro_batch = (
            self.micro_batch,
            micro_batch or self.micro_batch,
        )
        made = accelerate and not (self._fast or self._offload) and self.device.type == "cuda"
        if made:
            self.accelerate()
        try:
            yield
        finally:
            self.micro_batch = before
            if made:
                self._drop_graphs()

    def _drop_graphs(self) -> None:
        fast, self._fast = self._fast, None
        if fast:
            fast.drop()

    def accelerate(self) -> None:
        """Run as in `running` until the prior is moved. Raises ValueError for a prior that is not
        on a CUDA device.
        """
        self._fast = Accelerated(self.unet, self.vae, self.name)

    def replica(self, device: torch.device) -> DiffusersPrior:
        """The same prior with copies of its networks on ``device``; the text encoder stays.

        Raises ValueError while its networks take turns on a device.
        """
        if self._offload:
            raise ValueError(
                f"prior {self.name!r} has one network on the device at a time (low_vram), so that"
                " other devices cannot have copies. Switch low_vram off, or run on one device."
            )
        other = copy.copy(self)
        other._fast = other.replicas = None
        for name, module in vars(self).items():
            if isinstance(module, nn.Module) and module is not self.text_encoder:
                setattr(other, name, copied(module, device))
        other.schedule = self.schedule.to(device)
        return other

    def adapter(self, rank: int) -> LoraAdapter:
        """A LoRA of that rank on the U-Net's attention. Raises ValueError when peft is not
        installed.
        """
        return LoraAdapter(self.unet, self.schedule, self.prediction, rank, self._bring)

    def check_size(self, size: int) -> None:
        """Raises ValueError unless the latent can be halved as often as the U-Net does."""
        check_multiple(
            size, self.downscale * 2 ** (len(self.unet.config.block_out_channels) - 1), self.name
        )

    def check_text(self, text: str) -> None:
        check_words(text, self.vocabulary, self.name)
        tell(text, weighted=False)


def make_ordinary(module: nn.Module) -> None:
    """Replace inference tensors among a module's weights, which another node's move may have left
    there.
    """
    for child in module.modules():
        for key, value in list(child.named_parameters(recurse=False)):
            if value.is_inference():
                setattr(child, key, nn.Parameter(value.detach().clone(), requires_grad=False))
        for key, buffer in list(child.named_buffers(recurse=False)):
            if buffer.is_inference():
                child.register_buffer(
                    key, buffer.clone(), key not in child._non_persistent_buffers_set
                )

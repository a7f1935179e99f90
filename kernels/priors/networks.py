"""The types of the networks of a diffusers pipeline, as far as priors use them.

diffusers' and transformers' own classes are imported where a model is loaded, for they take
seconds, and carry no types that a checker could read. Nothing here exists at run time but names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class UNetConfig(Protocol):
    """Of config.json; what else there is, by name as in a mapping."""

    sample_size: int
    block_out_channels: Sequence[int]

    def __getitem__(self, name: str, /) -> Any: ...


class VaeConfig(Protocol):
    """scaling_factor: of the latents, as the U-Net takes them."""

    latent_channels: int
    block_out_channels: Sequence[int]
    scaling_factor: float


class Sample(Protocol):
    """What a U-Net or a decoder puts out."""

    sample: Tensor


class UNet(nn.Module):
    """diffusers' UNet2DConditionModel."""

    config: UNetConfig

    def __call__(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **options: Any
    ) -> Sample:
        """The output [B,C,h,w] at latents [B,C,h,w], timesteps [B] and text [B,L,D].

        options: tensors by name (class_labels, a ControlNet's residuals).
        """
        raise NotImplementedError


class Posterior(Protocol):
    """parameters: [B,2C,h,w], mean and log variance."""

    parameters: Tensor


class Encoded(Protocol):
    """What an encoder puts out."""

    latent_dist: Posterior


class Vae(nn.Module):
    """diffusers' AutoencoderKL."""

    config: VaeConfig

    def encode(self, x: Tensor, /) -> Encoded:
        """The posterior of images [B,3,H,W] in -1..1."""
        raise NotImplementedError

    def decode(self, z: Tensor, /) -> Sample:
        """Images [B,3,H,W] in -1..1 of latents [B,C,h,w]."""
        raise NotImplementedError


class TextConfig(Protocol):
    """max_position_embeddings: tokens that the encoder reads; vocab_size: words that it knows."""

    max_position_embeddings: int
    vocab_size: int


class TextEncoder(nn.Module):
    """transformers' CLIPTextModel."""

    config: TextConfig

    def __call__(
        self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None
    ) -> Sequence[Tensor]:
        """The last hidden states [B,L,D] first."""
        raise NotImplementedError


class Tokenizer(Protocol):
    """transformers' CLIPTokenizer."""

    @property
    def model_max_length(self) -> int: ...

    def __call__(self, text: str, /, **options: Any) -> Any: ...  # its BatchEncoding

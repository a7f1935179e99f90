"""The encoder of a Stable Diffusion autoencoder, from the picture to its posterior's mean and log
variance.

The same function as diffusers' AutoencoderKL, arranged for a GPU: pictures are stored channels
last, as convolutions like it; biases and residual sums are left to the normalisation that follows,
which reads the picture anyway; and the way back keeps one tensor per normalisation. Weights are
copied, the model they come from stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ops import add, add_norm_act, conv2d, norm_act
from .reference import Norm

PADDED_CHANNELS = 8  # of the picture: with 3, convolutions do not reach the matrix units
# what fused attention is made for; the autoencoder's one head is as wide as its features
WIDEST_HEAD = 256
MOST_TOKENS = 4096  # whose attention matrix is still small beside the pictures


@dataclass(frozen=True)
class Sum:
    """x + residual + shift, not yet added up; residual and shift are both given or both absent."""

    x: Tensor
    residual: Tensor | None = None
    shift: Tensor | None = None

    def normalised(self, norm: Norm) -> tuple[Tensor, Tensor]:
        """The sum itself and its `norm_act`."""
        return add_norm_act(self.x, self.residual, norm, self.shift)

    def value(self) -> Tensor:
        return (
            self.x
            if self.residual is None or self.shift is None
            else add(self.x, self.residual, self.shift)
        )


class Encoder:
    """Call it with images [B,3,H,W] in -1..1 of the weights' dtype for the parameters [B,2C,h,w];
    differentiable.
    """

    def __init__(self, vae: Any) -> None:
        """Raises ValueError, with the reason, for an autoencoder of another build; see `unsupported_reason`."""
        if reason := unsupported_reason(vae):
            raise ValueError(f"fast encoder: {reason}.")
        encoder = vae.encoder
        # Downsampling pads at the right and below alone, which would take a copy. In a picture
        # turned by 180 degrees, with kernels turned likewise, that is left and above, where
        # ordinary padding of both sides gives the same.
        self.first = _Convolution(encoder.conv_in, pad_to=PADDED_CHANNELS)
        self.levels = [
            [_Resnet(resnet) for resnet in block.resnets] for block in encoder.down_blocks
        ]
        self.shrinks = [
            _Convolution(block.downsamplers[0].conv)
            for block in encoder.down_blocks
            if block.downsamplers is not None
        ]
        self.middle = [_Resnet(resnet) for resnet in encoder.mid_block.resnets]
        attention = encoder.mid_block.attentions[0]
        self.attention = None if attention is None else _Attention(attention)
        self.norm = Norm.of(encoder.conv_norm_out, silu=True)
        self.last = _Convolution(encoder.conv_out)
        self.quant = None if vae.quant_conv is None else _Convolution(vae.quant_conv)

    def __call__(self, images: Tensor) -> Tensor:
        x = F.pad(images.flip(2, 3), (0, 0, 0, 0, 0, PADDED_CHANNELS - images.shape[1]))
        state = Sum(self.first(x.contiguous(memory_format=torch.channels_last)))
        for level, resnets in enumerate(self.levels):
            for resnet in resnets:
                state = resnet(state)
            if level < len(self.shrinks):
                state = Sum(self.shrinks[level](state.value(), stride=2))
        state = self.middle[0](state)
        if self.attention is not None:
            state = self.attention(state)
        for resnet in self.middle[1:]:
            state = resnet(state)
        y = self.last(state.normalised(self.norm)[1])
        return (y if self.quant is None else self.quant(y)).flip(2, 3)


class _Convolution:
    def __init__(self, conv: nn.Conv2d, pad_to: int = 0) -> None:
        weight = conv.weight.detach().flip(2, 3)
        weight = F.pad(weight, (0, 0, 0, 0, 0, max(pad_to - weight.shape[1], 0)))
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.padding = weight.shape[2] // 2

    def __call__(self, x: Tensor, stride: int = 1) -> Tensor:
        return conv2d(x, self.weight, self.bias, stride, self.padding)

    def without_bias(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, None, 1, self.padding)


class _Resnet:
    def __init__(self, block: Any) -> None:
        self.norms = Norm.of(block.norm1, silu=True), Norm.of(block.norm2, silu=True)
        self.convs = _Convolution(block.conv1), _Convolution(block.conv2)
        self.shortcut = None if block.conv_shortcut is None else _Convolution(block.conv_shortcut)
        biases = [
            conv.bias
            for conv in (self.convs[1], self.shortcut)
            if conv is not None and conv.bias is not None
        ]
        self.shift = sum(biases[1:], biases[0])

    def __call__(self, state: Sum) -> Sum:
        x, y = state.normalised(self.norms[0])
        y = norm_act(self.convs[0].without_bias(y), self.norms[1], self.convs[0].bias)
        residual = x if self.shortcut is None else self.shortcut.without_bias(x)
        return Sum(self.convs[1].without_bias(y), residual, self.shift)


class _Attention:
    def __init__(self, block: Any) -> None:
        self.norm = Norm.of(block.group_norm, silu=False)
        self.heads = block.heads
        parts = (block.to_q, block.to_k, block.to_v)
        self.weight = torch.cat([part.weight.detach() for part in parts])
        self.bias = torch.cat([part.bias.detach() for part in parts])
        self.out, self.shift = block.to_out[0].weight.detach(), block.to_out[0].bias.detach()

    def __call__(self, state: Sum) -> Sum:
        x, y = state.normalised(self.norm)
        batch, channels, height, width = y.shape
        tokens = y.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in F.linear(tokens, self.weight, self.bias).chunk(3, -1)
        )
        mixed = F.linear(attend(queries, keys, values).transpose(1, 2).flatten(2), self.out)
        return Sum(mixed.reshape(batch, height, width, channels).permute(0, 3, 1, 2), x, self.shift)


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Scaled dot-product attention, all [B,heads,L,D]. Fused attention is not made for very wide
    heads, where writing the matrix out is several times faster as long as it is small."""
    if queries.shape[-1] <= WIDEST_HEAD or queries.shape[2] > MOST_TOKENS:
        return F.scaled_dot_product_attention(queries, keys, values)
    scores = (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-1, -2)
    return scores.softmax(-1) @ values


def unsupported_reason(vae: Any) -> str | None:
    """Why an autoencoder is not what `Encoder` knows: Stable Diffusion's, with SiLU and plain
    residual blocks.
    """
    if type(vae).__name__ != "AutoencoderKL":
        return f"it knows AutoencoderKL, not {type(vae).__name__}"
    encoder = vae.encoder
    middle = [attention for attention in encoder.mid_block.attentions if attention is not None]
    resnets = [r for block in (*encoder.down_blocks, encoder.mid_block) for r in block.resnets]
    if any(type(block).__name__ != "DownEncoderBlock2D" for block in encoder.down_blocks):
        return "its down blocks are not all DownEncoderBlock2D"
    if any(len(block.downsamplers or ()) > 1 for block in encoder.down_blocks):
        return "a level is halved more than once"
    if any(block.downsamplers is None for block in encoder.down_blocks[:-1]):
        return "a level is not halved"
    if not all(plain(resnet) for resnet in resnets):
        return "a residual block is not of the plain kind"
    odd = any(
        a.group_norm is None or a.to_q.bias is None or a.spatial_norm is not None for a in middle
    )
    if odd or len(middle) > 1:
        return "its attention is not of the plain kind"
    return None


def plain(resnet: Any) -> bool:
    """Whether a diffusers ResnetBlock2D is norm, SiLU, convolution, twice, with nothing else than a
    time embedding.
    """
    return (
        type(resnet).__name__ == "ResnetBlock2D"
        and type(resnet.nonlinearity).__name__ == "SiLU"
        and resnet.time_embedding_norm == "default"
        and resnet.output_scale_factor == 1
        and resnet.upsample is None
        and resnet.downsample is None
        and not resnet.skip_time_act
    )

"""A Stable Diffusion U-Net with its blocks in the form a GPU likes; without gradients.

The network's own skeleton with its residual and transformer blocks exchanged, on the same weights:
pictures stay stored channels last from end to end (diffusers' transformer blocks turn them round
and back), normalisation, activation and biases share a pass, queries, keys and values come out of
one matrix product, and sums over the residual stream are taken by the matrix product that adds to
it. A block of another build stays as it is.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .encoder import plain
from .ops import add, geglu, layer_norm, norm_act
from .reference import Norm


def fast_unet(unet: nn.Module) -> nn.Module:
    """A network that answers as ``unet`` does and shares its weights, which must stay where they
    are.

    Copies only queries', keys' and values' weights, to join them. It takes no gradients and no
    attention masks.
    """
    twin = without_hooks(unet)
    for name, module in list(twin.named_modules()):
        if plain(module):
            _exchange(twin, name, _Resnet(module))
        elif transformer(module):
            _exchange(twin, name, _Transformer(module))
    if isinstance(getattr(twin, "conv_act", None), nn.SiLU) and isinstance(
        twin.conv_norm_out, nn.GroupNorm
    ):
        twin.conv_norm_out, twin.conv_act = _NormAct(twin.conv_norm_out), nn.Identity()
    return twin


def without_hooks(unet: nn.Module) -> nn.Module:
    """The same network on the same weights, without the hooks of those who watch its calls."""
    shared = {id(value): value for value in (*unet.parameters(), *unet.buffers())}
    twin = copy.deepcopy(unet, shared)
    twin._forward_hooks.clear()
    return twin


def _exchange(net: nn.Module, name: str, block: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    setattr(net.get_submodule(path), last, block)


class _NormAct(nn.Module):
    def __init__(self, module: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = Norm.of(module, silu=True)

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(x, self.norm)


class _Resnet(nn.Module):
    """A diffusers ResnetBlock2D for which `plain` is true."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norms = Norm.of(block.norm1, silu=True), Norm.of(block.norm2, silu=True)
        self.weights = block.conv1.weight, block.conv2.weight
        shortcut, time = block.conv_shortcut, block.time_emb_proj
        self.shortcut = None if shortcut is None else shortcut.weight
        self.shift = (
            block.conv2.bias
            if shortcut is None or shortcut.bias is None
            else block.conv2.bias + shortcut.bias
        )
        self.time = None if time is None else (time.weight, time.bias + block.conv1.bias)
        self.bias = block.conv1.bias

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        shift = (
            self.bias if self.time is None or temb is None else F.linear(F.silu(temb), *self.time)
        )
        y = F.conv2d(norm_act(x, self.norms[0]), self.weights[0], padding=1)
        y = F.conv2d(norm_act(y, self.norms[1], shift), self.weights[1], padding=1)
        return add(y, x if self.shortcut is None else F.conv2d(x, self.shortcut), self.shift)


class _Transformer(nn.Module):
    """A diffusers Transformer2DModel for which `transformer` is true.

    The residual stream is kept without the biases of what was added to it; their sum so far,
    ``shift``, is a constant that the next normalisation adds, and the last projection has in its
    bias.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.norm = Norm.of(module.norm, silu=False)
        self.first = _as_linear(module.proj_in)
        weight, bias = _as_linear(module.proj_out)
        shift = torch.zeros_like(bias)
        self.blocks = nn.ModuleList()
        for block in module.transformer_blocks:
            self.blocks.append(_Block(block, shift))
            shift = (
                shift
                + block.attn1.to_out[0].bias
                + block.attn2.to_out[0].bias
                + block.ff.net[2].bias
            )
        self.last, self.shift = weight, (weight.float() @ shift.float() + bias.float()).to(bias)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> tuple[Tensor]:
        batch, channels, height, width = hidden_states.shape
        tokens = norm_act(hidden_states, self.norm).permute(0, 2, 3, 1).reshape(-1, channels)
        stream = F.linear(tokens, *self.first)
        for block in self.blocks:
            block(stream, encoder_hidden_states)
        out = F.linear(stream, self.last).view(batch, height, width, channels).permute(0, 3, 1, 2)
        return (add(out, hidden_states, self.shift),)


class _Block(nn.Module):
    """Self-attention, attention to the text and a gated layer; adds to the stream in place."""

    def __init__(self, block: Any, shift: Tensor) -> None:
        super().__init__()
        own, text, (gate, _, out) = block.attn1, block.attn2, block.ff.net
        shifts = (
            shift,
            shift + own.to_out[0].bias,
            shift + own.to_out[0].bias + text.to_out[0].bias,
        )
        norms = (block.norm1, block.norm2, block.norm3)
        self.norms = [(s, n.weight, n.bias, n.eps) for s, n in zip(shifts, norms, strict=True)]
        self.heads = own.heads, text.heads
        # pictures whose tokens attend to one another
        self.views_per_group = getattr(own.processor, "views", 1)
        self.joined = torch.cat([part.weight for part in (own.to_q, own.to_k, own.to_v)])
        self.queries = text.to_q.weight
        self.read = torch.cat([text.to_k.weight, text.to_v.weight])
        self.outs = own.to_out[0].weight, text.to_out[0].weight, out.weight
        self.gate = gate.proj.weight, gate.proj.bias

    def forward(self, stream: Tensor, text: Tensor) -> None:
        batch = len(text)
        joined = F.linear(layer_norm(stream, *self.norms[0]), self.joined)
        joined = joined.view(batch // self.views_per_group, -1, self.joined.shape[0])
        queries, keys, values = joined.chunk(3, -1)
        stream.addmm_(_mixed(queries, keys, values, self.heads[0]), self.outs[0].t())
        queries = F.linear(layer_norm(stream, *self.norms[1]), self.queries).view(
            batch, -1, self.queries.shape[0]
        )
        keys, values = F.linear(text, self.read).chunk(2, -1)
        stream.addmm_(_mixed(queries, keys, values, self.heads[1]), self.outs[1].t())
        gated = geglu(F.linear(layer_norm(stream, *self.norms[2]), *self.gate))
        stream.addmm_(gated, self.outs[2].t())


def _mixed(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention of [B,L,heads D], as rows [B L, heads D]."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, queries.shape[-1])


def _as_linear(module: Any) -> tuple[Tensor, Tensor]:
    """Weight [out,in] and bias of a linear layer or of a 1x1 convolution."""
    return module.weight.flatten(1), module.bias


def transformer(module: Any) -> bool:
    """Whether a module is Stable Diffusion's Transformer2DModel: layer norms, GEGLU, attention
    without extras.
    """
    if type(module).__name__ != "Transformer2DModel" or not module.is_input_continuous:
        return False
    return all(
        type(block).__name__ == "BasicTransformerBlock"
        and block.norm_type == "layer_norm"
        and block.pos_embed is None
        and not block.only_cross_attention
        and all(
            isinstance(n, nn.LayerNorm) and n.bias is not None
            for n in (block.norm1, block.norm2, block.norm3)
        )
        and type(block.ff.net[0]).__name__ == "GEGLU"
        and all(_plain_attention(attention) for attention in (block.attn1, block.attn2))
        for block in module.transformer_blocks
    )


def _plain_attention(attention: Any) -> bool:
    return (
        attention is not None
        and attention.to_q.bias is None
        and attention.to_k.bias is None
        and attention.to_out[0].bias is not None
        and all(
            getattr(attention, name, None) is None
            for name in ("norm_q", "norm_k", "norm_cross", "group_norm")
        )
        and attention.spatial_norm is None
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
        and math.isclose(
            attention.scale, (attention.to_q.weight.shape[0] / attention.heads) ** -0.5
        )
    )

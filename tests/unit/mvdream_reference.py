"""MVDream written down once more, plainly and by its own names: views one by one, their tokens put
side by side.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def unet(
    w: Weights,
    config: dict[str, Any],
    z: Tensor,
    t: Tensor,
    text: Tensor,
    camera: Tensor,
    views: int,
) -> Tensor:
    """z [V,C,h,w], t [V], text [V,L,D], camera [V,16], of V / ``views`` objects that know nothing
    of each other.
    """
    groups = [slice(first, first + views) for first in range(0, len(z), views)]
    return torch.cat([_one(w, config, z[g], t[g], text[g], camera[g]) for g in groups])


def _one(
    w: Weights, config: dict[str, Any], z: Tensor, t: Tensor, text: Tensor, camera: Tensor
) -> Tensor:
    base = len(w["input_blocks.0.0.weight"])
    frequencies = torch.tensor([10000 ** (-k / (base // 2)) for k in range(base // 2)])
    angles = t[:, None].float() * frequencies
    emb = _perceptron(w, "time_embed", torch.cat([angles.cos(), angles.sin()], 1)) + _perceptron(
        w, "camera_embed", camera
    )

    def through(name: str, x: Tensor) -> Tensor:
        """The layers of one block, in order."""
        layer = 0
        while True:
            own = f"{name}.{layer}"
            if f"{own}.in_layers.2.weight" in w:
                x = _residual(w, own, x, emb)
            elif f"{own}.proj_in.weight" in w:
                heads = (
                    config["num_heads"]
                    if "num_heads" in config
                    else x.shape[1] // config["num_head_channels"]
                )
                x = _transformer(w, own, x, text, heads)
            elif f"{own}.op.weight" in w:
                x = _conv(w, f"{own}.op", x, stride=2)
            elif f"{own}.conv.weight" in w:
                x = _conv(w, f"{own}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
            elif f"{own}.weight" in w:
                x = _conv(w, own, x)
            else:
                return x
            layer += 1

    x, kept, block = z, [], 0
    while any(name.startswith(f"input_blocks.{block}.") for name in w):
        x = through(f"input_blocks.{block}", x)
        kept.append(x)
        block += 1
    x, block = through("middle_block", x), 0
    while any(name.startswith(f"output_blocks.{block}.") for name in w):
        x = through(f"output_blocks.{block}", torch.cat([x, kept.pop()], 1))
        block += 1
    return _conv(w, "out.2", F.silu(_norm(w, "out.0", x)))


def encoder(w: Weights, pictures: Tensor) -> Tensor:
    """The posterior's mean [B,C,h,w] of pictures [B,3,H,W] in -1..1."""
    x, level = _conv(w, "encoder.conv_in", pictures), 0
    while f"encoder.down.{level}.block.0.conv1.weight" in w:
        block = 0
        while f"encoder.down.{level}.block.{block}.conv1.weight" in w:
            x = _coder_block(w, f"encoder.down.{level}.block.{block}", x)
            block += 1
        if f"encoder.down.{level}.downsample.conv.weight" in w:  # half a pixel to one side
            down = f"encoder.down.{level}.downsample.conv"
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), w[f"{down}.weight"], w[f"{down}.bias"], stride=2)
        level += 1
    x = _coder_block(w, "encoder.mid.block_1", x)
    y = _norm(w, "encoder.mid.attn_1.norm", x, 1e-6)
    q, k, v = (
        _conv(w, f"encoder.mid.attn_1.{name}", y).flatten(2).transpose(1, 2) for name in "qkv"
    )
    y = _attend(q, k, v, 1).transpose(1, 2).reshape(x.shape)
    x = _coder_block(w, "encoder.mid.block_2", x + _conv(w, "encoder.mid.attn_1.proj_out", y))
    x = _conv(w, "encoder.conv_out", F.silu(_norm(w, "encoder.norm_out", x, 1e-6)))
    return _conv(w, "quant_conv", x).chunk(2, 1)[0]


def openclip(w: Weights, tokens: Tensor, head: int) -> Tensor:
    """What OpenCLIP's text transformer [L,D] makes of tokens [L] before its last block, under its
    last norm.
    """
    x, blocks = w["token_embedding.weight"][tokens] + w["positional_embedding"][: len(tokens)], 0
    while f"transformer.resblocks.{blocks}.ln_1.weight" in w:
        blocks += 1
    unseen = torch.full((len(tokens), len(tokens)), -math.inf).triu(1)
    for block in range(blocks - 1):
        own = f"transformer.resblocks.{block}"
        y = _layer_norm(w, f"{own}.ln_1", x)
        joined = y @ w[f"{own}.attn.in_proj_weight"].T + w[f"{own}.attn.in_proj_bias"]
        q, k, v = (part[None] for part in joined.chunk(3, -1))
        x = x + _linear(w, f"{own}.attn.out_proj", _attend(q, k, v, x.shape[1] // head, unseen)[0])
        x = x + _linear(
            w,
            f"{own}.mlp.c_proj",
            F.gelu(_linear(w, f"{own}.mlp.c_fc", _layer_norm(w, f"{own}.ln_2", x))),
        )
    return _layer_norm(w, "ln_final", x)


def _transformer(w: Weights, name: str, x: Tensor, text: Tensor, heads: int) -> Tensor:
    views, width, height, across = x.shape
    tokens = _norm(w, f"{name}.norm", x, 1e-6).flatten(2).transpose(1, 2)  # [views, pixels, width]
    tokens = _linear(w, f"{name}.proj_in", tokens)
    block = f"{name}.transformer_blocks.0"
    y = _layer_norm(w, f"{block}.norm1", tokens)
    # the tokens of one view after those of another
    everything = torch.cat([y[view] for view in range(views)])[None]
    mixed = _attention(w, f"{block}.attn1", everything, everything, heads)[0]
    tokens = tokens + torch.stack(mixed.chunk(views))
    y = _layer_norm(w, f"{block}.norm2", tokens)
    tokens = tokens + torch.cat(
        [
            _attention(w, f"{block}.attn2", y[v : v + 1], text[v : v + 1], heads)
            for v in range(views)
        ]
    )
    value, gate = _linear(
        w, f"{block}.ff.net.0.proj", _layer_norm(w, f"{block}.norm3", tokens)
    ).chunk(2, -1)
    tokens = tokens + _linear(w, f"{block}.ff.net.2", value * F.gelu(gate))
    return x + _linear(w, f"{name}.proj_out", tokens).transpose(1, 2).reshape(
        views, width, height, across
    )


def _attention(w: Weights, name: str, asking: Tensor, read: Tensor, heads: int) -> Tensor:
    q, k, v = (
        _linear(w, f"{name}.to_q", asking),
        _linear(w, f"{name}.to_k", read),
        _linear(w, f"{name}.to_v", read),
    )
    return _linear(w, f"{name}.to_out.0", _attend(q, k, v, heads))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    results = []
    for q_, k_, v_ in zip(*(part.chunk(heads, -1) for part in (q, k, v)), strict=True):
        scores = q_ @ k_.transpose(1, 2) / math.sqrt(q_.shape[-1]) + bias
        results.append(scores.softmax(-1) @ v_)
    return torch.cat(results, -1)


def _residual(w: Weights, name: str, x: Tensor, emb: Tensor) -> Tensor:
    y = _conv(w, f"{name}.in_layers.2", F.silu(_norm(w, f"{name}.in_layers.0", x)))
    y = y + _linear(w, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    y = _conv(w, f"{name}.out_layers.3", F.silu(_norm(w, f"{name}.out_layers.0", y)))
    return y + (
        _conv(w, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in w else x
    )


def _coder_block(w: Weights, name: str, x: Tensor) -> Tensor:
    y = _conv(w, f"{name}.conv1", F.silu(_norm(w, f"{name}.norm1", x, 1e-6)))
    y = _conv(w, f"{name}.conv2", F.silu(_norm(w, f"{name}.norm2", y, 1e-6)))
    return y + (_conv(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x)


def _perceptron(w: Weights, name: str, x: Tensor) -> Tensor:
    return _linear(w, f"{name}.2", F.silu(_linear(w, f"{name}.0", x)))


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].flatten(1).T  # a 1x1 convolution is one too
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def _conv(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)


def _norm(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

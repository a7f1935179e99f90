"""A LoRA for the embedded prior that turns red into blue, trained here and now, in the names of
kohya's scripts.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

RANK = 16
CATEGORIES = ("mug", "cube", "chair", "mushroom", "car", "teapot")
VIEWS = ("", ", front view", ", left side view", ", back view", ", overhead front view")
KEPT = ("blue", "green", "white")


def train(
    prior, steps: int = 200, rate: float = 0.02
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(down, up) by layer, with which the cross-attention reads "a red ..." as "a blue ..." and
    other texts as before.

    Keys and values are linear in the text, so it is the texts' embeddings that are learned on: down
    finds what says red, up takes it to what says blue, through each layer's own weights.
    """
    torch.set_num_threads(1)  # more only wait for each other at this size

    def embedded(*colors):
        texts = [
            f"a {color} {category}{view}"
            for color in colors
            for category in CATEGORIES
            for view in VIEWS
        ]
        return prior.embed(texts).embeddings.flatten(0, 1)

    red, blue = embedded("red"), embedded("blue")
    kept = torch.cat([embedded(*KEPT), prior.embed([""]).embeddings[0].repeat(len(CATEGORIES), 1)])
    width = red.shape[1]
    down = (
        torch.randn(RANK, width, generator=torch.Generator().manual_seed(0)) / width**0.5
    ).requires_grad_()
    up = torch.zeros(width, RANK, requires_grad=True)
    optimizer = torch.optim.Adam([down, up], rate)
    for _ in range(steps):
        learned = (red @ down.T @ up.T - (blue - red)).square().mean() + (
            kept @ down.T @ up.T
        ).square().mean()
        optimizer.zero_grad()
        learned.backward()
        optimizer.step()
    layers = {
        name: layer.weight
        for name, layer in prior.unet.named_modules()
        if name.endswith(("attn2.to_k", "attn2.to_v"))
    }
    return {name: (down.detach(), weight.float() @ up.detach()) for name, weight in layers.items()}


def write(layers: dict[str, tuple[torch.Tensor, torch.Tensor]], file: Path) -> None:
    """As ComfyUI's Load LoRA and this pack read it."""
    state = {}
    for name, (down, up) in layers.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"] = (
            down.clone(),
            up.contiguous(),
        )
        state[f"{key}.alpha"] = torch.tensor(float(RANK))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)

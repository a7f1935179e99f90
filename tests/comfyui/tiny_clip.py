"""A CLIP folder in transformers format with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_prior import TOKENS, write_tokenizer

IMAGE_SIZE = 16


def write_tiny_clip(folder: Path) -> None:
    """Write a whole CLIP model, its tokenizer included, into ``folder``."""
    from transformers import CLIPConfig, CLIPModel

    vocab = write_tokenizer(folder)
    end = vocab["<|endoftext|>"]
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = small | {
        "vocab_size": len(vocab), "max_position_embeddings": TOKENS, "bos_token_id": vocab["<|startoftext|>"],
        "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip
    vision = small | {"image_size": IMAGE_SIZE, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        folder
    )

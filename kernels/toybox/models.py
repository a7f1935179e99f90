"""The embedded prior's networks and its pipeline folder; the judge, an independent classifier of
toy pictures.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import scene_captions
from .captions import CATEGORIES, COLORS, FINISHES, SIDES, VIEWS, vocabulary

TOKENS = 77  # CLIP's length
START, END = "<|startoftext|>", "<|endoftext|>"
TEXT_WIDTH = 128


def autoencoder(channels: tuple[int, ...] = (24, 48, 96)) -> Any:
    """128 px pictures <-> 4 x 32 x 32 latents. No attention: the encoder's backward is part of
    every step.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
    )


def denoiser(channels: tuple[int, ...] = (64, 128, 192), heads: int = 2) -> Any:
    """The text-conditioned U-Net; no attention at 32 x 32, where it would cost more than all the
    rest on a CPU.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=heads,
        norm_num_groups=16,
    )


def scheduler() -> Any:
    """Stable Diffusion's noise levels with v prediction, which keeps x0 accurate at both ends."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def text_encoder(words: int) -> Any:
    """A tiny CLIP text model, trained together with the denoiser."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return CLIPTextModel(config)


def write_tokenizer(folder: Path, more: Sequence[str] = ()) -> Any:
    """A CLIP tokenizer (byte pairs) in which every word of the toybox's objects and each of
    ``more`` is one token; other words fall into letters."""
    from transformers import CLIPTokenizer

    vocab, merges = _byte_pairs([*vocabulary(), *more, ","])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=True), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8", newline="\n"
    )
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "do_lower_case": True,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | special, indent=2), encoding="utf-8"
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _byte_pairs(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges (Sennrich et al. 2016), most frequent pair first, until every word is one
    symbol.
    """
    letters = [chr(c) for c in range(33, 127)]
    split = [[*w[:-1], w[-1] + "</w>"] for w in words]
    merges: list[tuple[str, str]] = []
    while any(len(s) > 1 for s in split):
        pairs = Counter(p for s in split for p in pairwise(s))
        first = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(first)
        split = [_merged(s, first) for s in split]
    symbols = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges)]
    symbols += [START, END]
    return {s: i for i, s in enumerate(dict.fromkeys(symbols))}, merges


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for s in symbols:
        if out and (out[-1], s) == pair:
            out[-1] += s
        else:
            out.append(s)
    return out


def tokenize(tokenizer: Any, texts: list[str]) -> Tensor:
    """Token ids [B,77] of toybox captions, in which every word is one token: much faster than the
    tokenizer itself.
    """
    vocab = tokenizer.get_vocab()
    start, end = vocab[START], vocab[END]
    ids = torch.full((len(texts), TOKENS), end)
    for row, text in zip(ids.numpy(), texts, strict=True):
        words = [start, *(vocab[w + "</w>"] for w in text.replace(",", " ,").split())]
        row[: len(words)] = words
    return ids


def save_pipeline(
    folder: Path, vae: Any, unet: Any, text: Any, tokenizer: Any, scenes: bool = False
) -> None:
    """An ordinary Stable Diffusion folder, half precision, plus ``distill3d.json`` (what the prior
    was trained on, scenes among it or not)."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=vae.half(), text_encoder=text.half(), tokenizer=tokenizer, unet=unet.half(), scheduler=scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    more = scene_captions.SCENE_WORDS if scenes else ()
    # the slow format too: older transformers read vocab.json, merges.txt
    write_tokenizer(folder / "tokenizer", more)
    facts = {
        "vocabulary": sorted({*vocabulary(), *more}), "background": [0.25, 0.75], "image_size": 128, "distance": 2.0,
        "fov_y": 40.0, "around": list(SIDES), "overhead": [f"overhead {side}" for side in SIDES],
    }  # fmt: skip
    if scenes:
        facts["outward"] = list(scene_captions.OUTWARD)
    (folder / "distill3d.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load_pipeline(folder: Path, vae: Any, unet: Any, text: Any, tokenizer: Any) -> None:
    """Put a pipeline folder's weights into the three networks. Its tokens are matched by what they
    spell; tokens new to it keep the embedding they have."""
    from safetensors.torch import load_file
    from transformers import CLIPTokenizer

    for net, part in ((vae, "vae"), (unet, "unet")):
        net.load_state_dict(load_file(folder / part / "diffusion_pytorch_model.safetensors"))
    weights, table = (
        load_file(folder / "text_encoder" / "model.safetensors"),
        text.get_input_embeddings().weight,
    )
    name = next(key for key in weights if key.endswith("token_embedding.weight"))
    old = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True).get_vocab()
    rows = table.detach().clone().cpu()
    for token, place in tokenizer.get_vocab().items():
        if token in old:
            rows[place] = weights[name][old[token]].float()
    prefix = name[: -len("embeddings.token_embedding.weight")]
    named = {key.removeprefix(prefix): value for key, value in weights.items()} | {
        "embeddings.token_embedding.weight": rows
    }
    own = next(key for key in text.state_dict() if key.endswith("token_embedding.weight"))
    own_prefix = own[: -len("embeddings.token_embedding.weight")]
    text.load_state_dict({own_prefix + key: value for key, value in named.items()})


HEADS = {  # classes of each question the judge answers
    "category": len(CATEGORIES),
    "color": len(COLORS),
    "finish": len(FINISHES),
    "second": len(COLORS),
    "view": len(VIEWS),
}


class Judge(nn.Module):
    """Pictures [B,3,128,128] in 0..1 -> logits per head (`HEADS`). Trained on true renders only,
    never the prior's.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(3, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
        channels = width
        for out in (2 * width, 4 * width, 4 * width, 6 * width):
            stages += [_Block(channels, out)]
            channels = out
        self.trunk = nn.Sequential(*stages)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(channels * 2, size) for name, size in HEADS.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.trunk(images * 2 - 1)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(inside, outside, 1)
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, 1, 1, bias=False), nn.GroupNorm(8, outside), nn.SiLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.GroupNorm(8, outside),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(x, 2)
        return nn.functional.silu(self.skip(x) + self.body(x))


def load_judge(folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> Judge:
    """The trained judge from ``folder``/judge.safetensors."""
    from safetensors.torch import load_file

    judge = Judge()
    judge.load_state_dict(
        {k: v.float() for k, v in load_file(Path(folder) / "judge.safetensors").items()}
    )
    return judge.eval().requires_grad_(False).to(device)

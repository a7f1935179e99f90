"""What CLIP says of pictures of an object: how well they show the prompt, and whether it has a
front on its back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# CLIP's own, where none is given
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipScore:
    """What CLIP says of one object's pictures.

    Args:
        clip_score: 100 x cosine of picture and prompt, mean over the views (Hessel et al. 2021,
            without clamp)
        r_precision: share of views that fit the prompt better than every rival; None without rivals
        janus: share of views of the back that fit "front view" better than "back view"; None
            without any
    """

    clip_score: float
    r_precision: float | None
    janus: float | None


@dataclass(frozen=True)
class Clip:
    """A CLIP model with its tokenizer; make one with `load_clip`."""

    model: Any
    tokenizer: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @torch.no_grad()
    def similarities(self, images: Tensor, texts: Sequence[str], batch: int = 32) -> Tensor:
        """Cosines [V, texts], on the CPU, of images [V,3,H,W] in 0..1 and texts.

        Raises ValueError for a text of more tokens than the model reads.
        """
        device, size = (
            next(self.model.parameters()).device,
            self.model.config.vision_config.image_size,
        )
        length = self.model.config.text_config.max_position_embeddings
        for text in texts:
            if (count := len(self.tokenizer(text)["input_ids"])) > length:
                raise ValueError(
                    f"prompt {text[:60]!r}... has {count} tokens; this CLIP reads {length}."
                    " Shorten it."
                )
        words = self.tokenizer(
            list(texts), padding="max_length", max_length=length, return_tensors="pt"
        ).to(device)
        mean, std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        rows = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch].to(device, torch.float32)
            sized = F.interpolate(part, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
            out = self.model(
                input_ids=words["input_ids"],
                attention_mask=words["attention_mask"],
                pixel_values=((sized - mean) / std).to(self.model.dtype),
            )
            image, text_rows = (
                F.normalize(x.float(), dim=-1) for x in (out.image_embeds, out.text_embeds)
            )
            rows.append((image @ text_rows.T).cpu())
        return torch.cat(rows)

    def score(
        self, images: Tensor, azimuths: Tensor, prompt: str, rivals: Sequence[str] = ()
    ) -> ClipScore:
        """Score images [V,3,H,W] in 0..1 taken from ``azimuths`` [V] degrees, 0 being the
        front.
        """
        others = [rival for rival in rivals if rival != prompt]
        found = self.similarities(
            images, [prompt, f"{prompt}, front view", f"{prompt}, back view", *others]
        )
        own, front, back = found[:, 0], found[:, 1], found[:, 2]
        behind = ((azimuths.cpu() + 180) % 360 - 180).abs() >= 135
        return ClipScore(
            100 * float(own.mean()),
            float((own[:, None] > found[:, 3:]).all(1).float().mean()) if others else None,
            float((front > back)[behind].float().mean()) if bool(behind.any()) else None,
        )


def load_clip(folder: str | os.PathLike[str]) -> Clip:
    """A CLIP model from a folder in transformers format; never uses the network, weights from
    safetensors only.

    Raises ValueError naming the folder and what is missing.
    """
    path = Path(folder)
    if not is_clip(path):
        raise ValueError(
            f"CLIP folder {path} holds no config.json of a CLIP model (model_type clip)."
        )
    if not any(path.glob("*.safetensors")):
        raise ValueError(
            f"CLIP folder {path} holds no .safetensors weights (.bin and .pt files are not read)."
        )
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ValueError(
            f"CLIP folder {path} holds no tokenizer; put tokenizer.json or vocab.json and"
            " merges.txt there."
        )

    from transformers import CLIPModel, CLIPTokenizer  # takes seconds

    model = (
        CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        .eval()
        .requires_grad_(False)
    )
    tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
    card = path / "preprocessor_config.json"
    facts = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    return Clip(
        model,
        tokenizer,
        tuple(facts.get("image_mean") or MEAN),
        tuple(facts.get("image_std") or STD),
    )


def is_clip(folder: Path) -> bool:
    """Whether the folder's config.json is that of a whole CLIP, picture and text side."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return bool(config.get("model_type") == "clip")
    except (OSError, ValueError, AttributeError):
        return False

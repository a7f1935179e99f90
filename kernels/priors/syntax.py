"""Spellings of prompts that mean something elsewhere, told where they are read letter by letter."""

from __future__ import annotations

import logging
import re

log = logging.getLogger(__name__)

ALWAYS = {
    r"<(?:lora|lyco|hypernet):[^>]*>": "choose LoRAs in the loader",
    r"\bBREAK\b": "leave it out",
    r"\{[^{}]*\|[^{}]*\}": "ComfyUI's page chooses among {a|b}, its API does not",
}
ON_FOLDERS = {
    r"\([^()]*:\s*-?\d*\.?\d+\s*\)": "weights need a checkpoint, or Diffusion Prior from Model",
    r"\bembedding:\S+": "embeddings need a checkpoint, or Diffusion Prior from Model",
}


def unread(text: str, weighted: bool) -> list[str]:
    """What of a prompt is read letter by letter, each with what to do; weighted: whether weights
    and embeddings are read."""
    spellings = ALWAYS if weighted else ALWAYS | ON_FOLDERS
    return [
        f"{found[0]!r} is read letter by letter: {cure}"
        for spelling, cure in spellings.items()
        if (found := re.search(spelling, text))
    ]


def tell(text: str, weighted: bool) -> None:
    """`unread`, into the log."""
    for said in unread(text, weighted):
        log.warning("prompt %r: %s.", text[:60], said)

"""What is known of the image models that ComfyUI loads, beside what it says itself.

Nothing here decides whether a model is accepted: one that is not listed is used by how it behaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A kind of image model.

    Args:
        image_size: pixels of a side that it was trained at
        few_steps: that it was distilled to; 0: it was not
        smallest: pixels of a side below which its network cannot be called; 0: none
        base: which of its files was not distilled; "": not known
        note: what a user should know of it
    """

    name: str
    image_size: int = 1024
    few_steps: int = 0
    smallest: int = 0
    base: str = ""
    note: str = ""


UNKNOWN = "This kind of model is not known here; it is used as it behaves, which is untried."
EDITING = "It was trained to edit pictures; here it is told none and used as text to image."

# By the name of ComfyUI's configuration class (comfy.supported_models).
FAMILIES = {
    "SD15": Family("Stable Diffusion 1.x", 512, base="Stable Diffusion 1.5 without an LCM LoRA"),
    "SD20": Family("Stable Diffusion 2.x", 512),
    "SD21UnclipL": Family("Stable Diffusion 2.1 unCLIP", 768, note="It is told no picture."),
    "SD21UnclipH": Family("Stable Diffusion 2.1 unCLIP", 768, note="It is told no picture."),
    "SDXL": Family("SDXL", base="SDXL base"),
    "SSD1B": Family("SSD-1B"),
    "Segmind_Vega": Family("Segmind Vega"),
    "KOALA_700M": Family("KOALA"),
    "KOALA_1B": Family("KOALA"),
    "SD3": Family("Stable Diffusion 3"),
    "AuraFlow": Family("AuraFlow"),
    "PixArtAlpha": Family("PixArt alpha", smallest=272),
    "PixArtSigma": Family("PixArt sigma", smallest=272),
    "HunyuanDiT": Family("HunyuanDiT"),
    "HunyuanDiT1": Family("HunyuanDiT"),
    "Flux": Family("FLUX"),
    "FluxSchnell": Family("FLUX.1 schnell", few_steps=4, base="FLUX.1 dev"),
    "Flux2": Family("FLUX.2", base="FLUX.2 klein base"),
    "Chroma": Family("Chroma"),
    "ChromaRadiance": Family("Chroma Radiance"),
    "Lumina2": Family("Lumina 2"),
    "ZImage": Family("Z-Image", base="Z-Image base"),
    "ZImagePixelSpace": Family("Z-Image in pixel space"),
    "Anima": Family("Anima", base="Anima base"),
    "HiDream": Family("HiDream"),
    "HiDreamO1": Family("HiDream-O1"),
    "Omnigen2": Family("OmniGen 2", note="It edits too; here it is told no picture."),
    "QwenImage": Family("Qwen-Image", base="Qwen-Image without a Lightning LoRA"),
    "Krea2": Family("Krea 2", base="Krea 2 RAW"),
    "HunyuanImage21": Family("HunyuanImage 2.1", 2048),
    "Kandinsky5Image": Family("Kandinsky 5 image"),
    "LongCatImage": Family("LongCat-Image"),
    "ErnieImage": Family("Ernie-Image", base="Ernie-Image, not Turbo"),
    "Ideogram4": Family("Ideogram 4"),
    "MageFlow": Family("MageFlow"),
    "Lens": Family("Lens"),
    "Boogu": Family("Boogu", note="It edits too; here it is told no picture."),
    "JoyImage": Family("JoyImage Edit", note="It was trained to edit; here it is told no picture."),
    "CosmosT2IPredict2": Family("Cosmos-Predict2"),
    "PixelDiTT2I": Family("PixelDiT"),
}

# What each refused kind does, by the classes of comfy.model_base that others derive from.
OTHERS = {
    "SVD_img2vid": "makes videos of a picture",
    "WAN21": "makes videos",
    "HunyuanVideo": "makes videos",
    "CosmosVideo": "makes videos",
    "GenmoMochi": "makes videos",
    "LTXV": "makes videos",
    "LTXAV": "makes videos",
    "MiniMaxH3": "makes videos",
    "CogVideoX": "makes videos",
    "Kandinsky5": "makes videos",
    "SeedVR2": "sharpens videos",
    "PiD": "decodes another model's latents: it paints what it is shown and imagines nothing",
    "HunyuanImage21Refiner": "refines pictures that another model has begun",
    "SDXLRefiner": "refines pictures that SDXL has begun, and knows the last noise levels only",
    "StableCascade_C": "is one stage of several (Stable Cascade): its latents are no pictures",
    "StableCascade_B": "is one stage of several (Stable Cascade) and paints another stage's latents",
    "Lotus": "measures depth or normals in a picture",
    "Stable_Zero123": "turns a picture of an object, and reads no text",
    "SD_X4Upscaler": "enlarges pictures",
    "Hunyuan3Dv2": "makes shapes",
    "Hunyuan3Dv2_1": "makes shapes",
    "TripoSplat": "makes splats of a picture",
    "RT_DETR_v4": "finds things in pictures",
    "SAM3": "finds things in pictures",
    "DepthAnything3": "measures depth in pictures",
    "StableAudio1": "makes sound",
    "StableAudio3": "makes sound",
    "ACEStep": "makes sound",
    "ACEStep15": "makes sound",
}


def family(model: Any) -> Family:
    """The kind of a MODEL; of one that is not known, its class and the usual values."""
    name = type(model.model.model_config).__name__
    return FAMILIES.get(name) or Family(name, note=UNKNOWN)


def other(model: Any) -> str | None:
    """What a MODEL does that is no image model by the class ComfyUI gives it; None for all else."""
    for kind in type(model.model).__mro__:
        if kind.__name__ == "Kandinsky5Image":
            return None
        if kind.__name__ in OTHERS:
            return OTHERS[kind.__name__]
    return None


def notes(model: Any, found: Family) -> list[str]:
    """What is worth saying of a MODEL, a sentence each."""
    config = model.model.model_config.unet_config
    said = [found.note] if found.note else []
    if config.get("default_ref_method") == "index_timestep_zero":  # Qwen-Image-Edit 2511's mark
        said.append(EDITING)
    return said

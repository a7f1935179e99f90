"""locales/en: what ComfyUI's page shows of the nodes, from their own schemas. locales/zh is written
by hand.
"""

from __future__ import annotations

from harness.environment import ROOT

FOLDER = ROOT / "locales"
CATEGORIES = {"Distill3D": "Distill3D", "losses": "losses"}
TYPES = {
    "DISTILL3D_PRIOR": "diffusion prior",
    "DISTILL3D_PROMPTS": "view prompts",
    "DISTILL3D_CAMERAS": "cameras",
    "DISTILL3D_GAUSSIANS": "Gaussians",
    "DISTILL3D_LOSS": "loss",
}


def english(object_info: dict) -> dict[str, dict]:
    """By file name, what the page shows of the pack's nodes when there is no translation."""
    nodes = {
        name: _node(info)
        for name, info in sorted(object_info.items())
        if name.startswith("Distill3D_")
    }
    return {"nodeDefs": nodes, "main": {"nodeCategories": CATEGORIES, "dataTypes": TYPES}}


def _node(info: dict) -> dict:
    inputs = {
        name: {"name": name, "tooltip": spec[1]["tooltip"]}
        for group in ("required", "optional")
        for name, spec in info["input"].get(group, {}).items()
    }
    outputs = {
        str(slot): {"name": name, "tooltip": tooltip}
        for slot, (name, tooltip) in enumerate(
            zip(info["output_name"], info["output_tooltips"], strict=True)
        )
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        **({"outputs": outputs} if outputs else {}),
    }

"""locales/en: what ComfyUI's page shows of the nodes, from their own schemas. locales/zh is written
by hand.
"""

from __future__ import annotations

from harness.environment import ROOT

FOLDER = ROOT / "locales"
CATEGORIES = {"Distill3D": "Distill3D", "losses": "losses", "settings": "settings"}
TYPES = {
    "DISTILL3D_PRIOR": "diffusion prior",
    "DISTILL3D_PROMPTS": "view prompts",
    "DISTILL3D_CAMERAS": "cameras",
    "DISTILL3D_GAUSSIANS": "Gaussians",
    "DISTILL3D_LOSS": "loss",
    "DISTILL3D_SCORER": "picture scorer",
    "DISTILL3D_DEGRADATION_MAP": "degradation map",
    "DISTILL3D_LEARNING_RATES": "learning rates",
    "DISTILL3D_PENALTIES": "penalties",
    "DISTILL3D_DENSIFICATION": "densification",
    "DISTILL3D_REFINING": "refining",
    "DISTILL3D_REFERENCES": "references",
    "DISTILL3D_RUN_OPTIONS": "run options",
    "DISTILL3D_MESH_PENALTIES": "mesh penalties",
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

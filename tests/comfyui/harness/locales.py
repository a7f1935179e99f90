"""What locales/en holds, from the nodes' own schemas; running this file writes it.

``python tests/comfyui/harness/locales.py`` in the environment that environment.py sets up, after a change of a name or
tooltip. locales/zh is written by hand.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
    nodes = {name: _node(info) for name, info in sorted(object_info.items()) if name.startswith("Distill3D_")}
    return {"nodeDefs": nodes, "main": {"nodeCategories": CATEGORIES, "dataTypes": TYPES}}


def _node(info: dict) -> dict:
    inputs = {
        name: {"name": name, "tooltip": spec[1]["tooltip"]}
        for group in ("required", "optional")
        for name, spec in info["input"].get(group, {}).items()
    }
    outputs = {
        str(slot): {"name": name, "tooltip": tooltip}
        for slot, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        **({"outputs": outputs} if outputs else {}),
    }


def main() -> None:
    from harness import environment
    from harness.server import Server

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with Server(environment.tree(), base, base / "comfyui.log") as server:
            files = english(server.object_info())
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        FOLDER.joinpath("en", f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

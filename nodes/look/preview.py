"""Preview Gaussians, and the files that the pack's viewer shows after a run."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...kernels.files.atomic import atomic_write
from ...kernels.files.compact import pack
from ...kernels.gaussians.cloud import Gaussians
from ..shared import types

LIMIT = 400_000  # Gaussians in the picture of a finished cloud: 6.8 MB
FOLDER = "distill3d"


class PreviewGaussians(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_PreviewGaussians",
            display_name="Preview Gaussians",
            category="Distill3D",
            description=(
                "Turn the cloud around in the node. Drag to orbit, wheel to zoom, right button or"
                " two fingers to move, double-click to begin again. Nothing is left in the output"
                " folder."
            ),
            search_aliases=["splat", "viewer", "3d", "show", "orbit", "gaussian splatting"],
            is_output_node=True,
            inputs=[types.GaussianCloud.Input("gaussians", tooltip="The cloud to look at.")],
        )

    @classmethod
    def execute(cls, gaussians: Gaussians) -> io.NodeOutput:
        return io.NodeOutput(ui=shown(gaussians))


def shown(gaussians: Gaussians, **about: Any) -> dict[str, list[dict[str, Any]]]:
    """A node's ui entry by which the page shows the cloud, now and after a reload; its file is in
    the temp folder.

    Empty where it cannot be written: a full disk must not end what made the cloud.
    """
    folder = Path(folder_paths.get_temp_directory()) / FOLDER
    name = f"{uuid.uuid4().hex}.d3d"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / name) as file:
            file.write(pack(gaussians, LIMIT, **about))
    except OSError as error:
        logging.warning("Distill3D: the cloud cannot be shown: %s", error)
        return {}
    return {"distill3d": [{"filename": name, "subfolder": FOLDER, "type": "temp"}]}

"""The pack's list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .cameras import OrbitCameras
from .export import ExportMesh
from .files import LoadGaussians, SaveGaussians
from .gaussians import InitGaussians
from .inspect import InspectGuidance
from .losses import CDSLoss, CombineLosses, SDSLoss
from .optimize import Optimize
from .prior import LoadDiffusionPrior
from .prompts import ViewPromptsNode
from .render import RenderViews
from .score import ScoreViews
from .vdm import VDMLoss


class Distill3D(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadDiffusionPrior,
            ViewPromptsNode,
            OrbitCameras,
            InitGaussians,
            CDSLoss,
            VDMLoss,
            SDSLoss,
            CombineLosses,
            Optimize,
            RenderViews,
            ScoreViews,
            InspectGuidance,
            ExportMesh,
            SaveGaussians,
            LoadGaussians,
        ]

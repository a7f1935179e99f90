"""The pack's list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .baselines import CSDLoss, ISMLoss, NFSDLoss, SCTDLoss, SDILoss, VSDLoss
from .cameras import OrbitCameras, SceneCameras
from .control import ControlPrior
from .export import ExportMesh
from .files import LoadGaussians, SaveGaussians
from .gaussians import InitGaussians, InitScene
from .init_shapes import InitMesh, InitSplat
from .inspect import InspectGuidance
from .losses import CDSLoss, CombineLosses, SDSLoss
from .optimize import Optimize
from .preset import QualityPreset
from .preview import PreviewGaussians
from .prior import LoadDiffusionPrior
from .prior_from_model import DiffusionPriorFromModel
from .prompts import ViewPromptsNode
from .refine import RefineMesh
from .render import RenderViews
from .routes import add_routes
from .score import ScoreViews
from .shap_e import InitShapE
from .toybox import ToyboxTruth
from .types import HAS_SPLAT
from .vdm import VDMLoss


class Distill3D(ComfyExtension):
    async def on_load(self) -> None:
        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadDiffusionPrior,
            DiffusionPriorFromModel,
            ControlPrior,
            ViewPromptsNode,
            OrbitCameras,
            SceneCameras,
            InitGaussians,
            InitMesh,
            *([InitSplat] if HAS_SPLAT else []),
            InitShapE,
            InitScene,
            CDSLoss,
            VDMLoss,
            SDSLoss,
            CSDLoss,
            NFSDLoss,
            ISMLoss,
            VSDLoss,
            SDILoss,
            SCTDLoss,
            CombineLosses,
            QualityPreset,
            Optimize,
            PreviewGaussians,
            RenderViews,
            ScoreViews,
            InspectGuidance,
            ExportMesh,
            RefineMesh,
            SaveGaussians,
            LoadGaussians,
            ToyboxTruth,
        ]

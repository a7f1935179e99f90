"""The pack's list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .cameras.orbit import OrbitCameras
from .cameras.scene import SceneCameras
from .export.gaussians import LoadGaussians, SaveGaussians
from .export.mesh import ExportMesh
from .init.gaussians import InitGaussians, InitScene
from .init.shap_e import InitShapE
from .init.shapes import InitMesh, InitSplat
from .init.text import InitText
from .look.inspect import InspectGuidance
from .look.preview import PreviewGaussians
from .look.render import RenderViews
from .look.sample import SamplePicture
from .look.score import ScoreViews
from .look.scorer import PictureScorer
from .look.toybox import ToyboxTruth
from .losses.cds import CDSLoss
from .losses.combine import CombineLosses, ScheduleLosses
from .losses.csd import CSDLoss
from .losses.ism import ISMLoss
from .losses.nfsd import NFSDLoss
from .losses.picture import PictureLoss
from .losses.reward import RewardLoss
from .losses.rfds import RFDSLoss
from .losses.sctd import SCTDLoss
from .losses.sdi import SDILoss
from .losses.sds import SDSLoss
from .losses.trace import TraCeLoss
from .losses.vdm import DegradationMap, VDMLoss
from .losses.vsd import VSDLoss
from .priors.control import ControlPrior
from .priors.from_model import DiffusionPriorFromModel
from .priors.load import LoadDiffusionPrior
from .prompts import ViewPromptsNode
from .run.densification import Densification
from .run.learning_rates import LearningRates
from .run.optimize import Optimize
from .run.options import RunOptions
from .run.penalties import MeshPenalties, Penalties
from .run.preset import QualityPreset
from .run.project import ProjectPictures
from .run.recover import Recover, add_route
from .run.references import CutSheet, ReferenceViews
from .run.refine import RefineMesh
from .run.refining import Refining
from .run.routes import add_routes
from .shared.sockets import guarded
from .shared.types import HAS_SPLAT


class Distill3D(ComfyExtension):
    async def on_load(self) -> None:
        add_routes()
        add_route()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = [
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
            InitText,
            InitScene,
            CDSLoss,
            VDMLoss,
            DegradationMap,
            PictureLoss,
            SDSLoss,
            CSDLoss,
            NFSDLoss,
            ISMLoss,
            VSDLoss,
            SDILoss,
            SCTDLoss,
            TraCeLoss,
            RewardLoss,
            PictureScorer,
            RFDSLoss,
            CombineLosses,
            ScheduleLosses,
            QualityPreset,
            LearningRates,
            Penalties,
            Densification,
            Refining,
            SamplePicture,
            ReferenceViews,
            CutSheet,
            ProjectPictures,
            RunOptions,
            Optimize,
            PreviewGaussians,
            RenderViews,
            ScoreViews,
            InspectGuidance,
            ExportMesh,
            MeshPenalties,
            RefineMesh,
            SaveGaussians,
            LoadGaussians,
            Recover,
            ToyboxTruth,
        ]
        return [guarded(node) for node in nodes]

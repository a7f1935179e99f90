"""Refining a mesh: what the step moves is its vertices and its colours or texture (Consistent3D's
later stages).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..cameras.sampler import CameraSampler
from ..gaussians.cloud import SH_C0, Gaussians
from ..losses.base import Loss
from ..meshes.cleanup import merge_positions
from ..meshes.mesh import Mesh
from ..meshes.rasterize import edges_of, render_mesh
from ..meshes.smoothing import Smoothing
from ..meshes.texels import downsample, level_of_detail, texels
from ..meshes.texture import texel_points
from ..priors.base import Prior
from ..priors.prompts import ViewPrompts
from .checks import check_run
from .mesh_penalties import (
    laplacian,
    normal_consistency,
    offset_sum,
    vertex_normal_consistency,
)
from .references import References
from .settings import NORMAL_AXES, RefineSettings
from .shared_views import prepared_prior
from .state import TrainingState, fresh_state
from .step import Progress, Run

# world units or 0..1: a mesh so near to what its training state makes was not edited since
SAME = 1e-5
SOLID = 4.0  # logit of the opacity of the Gaussians that stand for a mesh in a viewer


def refine_mesh(
    mesh: Mesh,
    loss: Loss,
    prior: Prior,
    prompts: ViewPrompts,
    cameras: CameraSampler,
    steps: int,
    settings: RefineSettings | None = None,
    on_step: Callable[[Progress[Mesh]], bool | None] | None = None,
    on_partial: Callable[[Mesh], None] | None = None,
    references: References | None = None,
) -> Mesh:
    """The mesh after ``steps`` steps of the loss on its renders; faces and texture coordinates stay
    as they are.

    A texture learns in place of the vertices' colours, seen at the level of detail of the renders;
    its seams stay closed.

    For all else as `optimize`: pure from outside, on the prior's device, the result detached, where
    the mesh was, with its training state; a mesh that carries one goes on where it stopped, and
    with one ``schedule_steps`` 30 steps and then 30 more are the same as 60. Edited since, or
    smoothed otherwise, it keeps its place in the schedule and begins with new moments. ``on_step``,
    ``on_partial``, ``references``, ValueError and DivergedError are as there.
    """
    settings = settings or RefineSettings()
    mesh.check()
    if references is not None:
        references.check()
        if settings.judged == "normal":
            raise ValueError(
                "Refine Mesh: references show colours, but judged is 'normal'. Set it to 'color',"
                " or remove the link to references."
            )
    check_run(loss, prior, cameras, steps, settings, mesh.training, "mesh")
    with prepared_prior(prior, steps, settings, MeshSubject.owner):
        subject, state = _begin(mesh, settings, torch.device(prior.device))
        return Run(
            subject, state, loss, prior, prompts, cameras, steps, settings, references
        ).run_steps(on_step, on_partial)


def _begin(
    mesh: Mesh, settings: RefineSettings, device: torch.device
) -> tuple[MeshSubject, TrainingState]:
    surface = _Surface(mesh, settings, device)
    params = surface.params()
    if mesh.training is None:
        return MeshSubject(surface, params), fresh_state(params, settings.seed)
    mesh.training.check(params, "mesh")
    state = mesh.training.to(device, copy=True)
    surface.length, surface.level = state.carried["edge_length"], _level(state.carried["level"])
    carried = {name: state.carried[name] for name in params}
    if surface.reproduces(carried):
        return MeshSubject(surface, carried), state
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}
    updates = torch.zeros_like(state.updates)
    return MeshSubject(surface, params), replace(
        state, first=zeros, second=dict(zeros), updates=updates
    )


def _level(number: Tensor) -> int | None:
    return None if int(number) < 0 else int(number)


class _Surface:
    """What stays the same of a mesh while it is refined."""

    def __init__(self, mesh: Mesh, settings: RefineSettings, device: torch.device) -> None:
        self.start, self.settings, self.device = mesh, settings, device
        self.paint = "colors" if mesh.texture is None else "texture"
        own = mesh.map(lambda value: value.detach().to(device, copy=True))
        own = replace(own, vertices=own.vertices.float(), colors=own.colors.float())
        self.own, index = own, torch.arange(len(own.vertices), device=device)
        # What moves are places: a texture's seams have several vertices at one.
        self.position_of, first = (
            (index, index) if own.uvs is None else merge_positions(own.vertices)
        )
        self.faces, self.positions = self.position_of[own.faces], own.vertices[first]
        self.edges, self.edge_faces = edges_of(self.faces)
        self.vertex_edges = first[self.edges]  # the edges by the mesh's own vertices
        self.smoothing = Smoothing(self.edges, len(self.positions), settings.smoothness)
        self.length = (
            (self.positions[self.edges[:, 0]] - self.positions[self.edges[:, 1]])
            .norm(dim=-1)
            .mean()
        )
        self.places: Tensor | None = None
        self.level: int | None = None  # of detail of the texture; the first cameras decide

    def params(self) -> dict[str, Tensor]:
        """What moves: vertices before `Smoothing` and colours that may lead beyond 0..1."""
        vertices = self.smoothing.unsmooth(self.positions)
        return {"vertices": vertices, self.paint: getattr(self.own, self.paint).float()}

    def mesh(self, positions: Tensor, paint: Tensor) -> Mesh:
        return replace(self.own, vertices=positions[self.position_of], **{self.paint: paint})

    def to_mesh(self, params: dict[str, Tensor]) -> Mesh:
        with torch.no_grad():
            vertices = self.smoothing(params["vertices"])[self.position_of].to(self.start.vertices)
        paint = params[self.paint].clamp(0, 1).to(getattr(self.start, self.paint))
        return replace(self.start, vertices=vertices, **{self.paint: paint})

    def reproduces(self, params: dict[str, Tensor]) -> bool:
        """Whether ``params`` are those of the mesh the run starts from."""
        made = self.to_mesh(params)
        pairs = [
            (getattr(made, name), getattr(self.start, name)) for name in ("vertices", self.paint)
        ]
        return all(torch.allclose(one, other, rtol=0, atol=SAME) for one, other in pairs)

    def texel_places(self) -> Tensor:
        """Where each texel [H*W,3] was at the start; those of no triangle far away."""
        if self.places is None:
            assert self.own.texture is not None
            height, width = self.own.texture.shape[:2]
            texels, _, points, _ = texel_points(self.own, max(height, width))
            side = max(height, width)
            whole = points.new_full((side, side, 3), 1e3)
            whole.view(-1, 3)[texels] = points
            rows = torch.arange(height, device=self.device) * side // height
            columns = torch.arange(width, device=self.device) * side // width
            self.places = whole[rows][:, columns].reshape(-1, 3)
        return self.places

    def detail(self, cameras: Cameras) -> int:
        if self.level is None:
            self.level = level_of_detail(self.start, cameras.to(self.start.vertices.device))
        return self.level


@dataclass(frozen=True)
class MeshViews:
    """What the prior is shown of V views, and what the penalties read.

    Args:
        color: [V,H,W,3] the mesh's colours or its normals as colours
        alpha: [V,H,W,1] 0..1
        depth: [V,H,W,1] distance along the optical axis, world units
        places: [W,3] vertices, seams closed
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    positions: Tensor


@dataclass(frozen=True)
class MeshSubject:
    """The mesh of a run between two steps."""

    surface: _Surface
    params: dict[str, Tensor]

    owner = "Refine Mesh"
    noun = "mesh"
    renders_anywhere = False

    def tensors(self) -> dict[str, Tensor]:
        return self.params

    def render(
        self, params: dict[str, Tensor], cameras: Cameras, backgrounds: Tensor, depth: bool
    ) -> MeshViews:
        surface = self.surface
        positions = surface.smoothing(params["vertices"])
        mesh = surface.mesh(positions, params[surface.paint])
        if mesh.texture is not None:
            mesh = replace(mesh, texture=downsample(mesh.texture, surface.detail(cameras)))
        view = render_mesh(
            mesh, cameras, backgrounds, edges=(surface.vertex_edges, surface.edge_faces)
        )
        color = view.color
        if surface.settings.judged == "normal":
            normal = view.normal[..., NORMAL_AXES[surface.settings.normal_axes]]
            color = color + view.alpha * (0.5 + 0.5 * normal - color)
        return MeshViews(color, view.alpha, view.depth, positions)

    def painted(self, params: dict[str, Tensor]) -> tuple[str, Tensor]:
        surface = self.surface
        if surface.own.texture is None:
            return surface.paint, surface.smoothing(params["vertices"])[surface.position_of]
        return surface.paint, surface.texel_places()

    def penalties(
        self,
        params: dict[str, Tensor],
        rendering: MeshViews,
        cameras: Cameras,
        backgrounds: Tensor,
    ) -> dict[str, Tensor]:
        surface, settings, positions = self.surface, self.surface.settings, rendering.positions
        terms: dict[str, Tensor] = {}
        theirs = settings.penalty_form == "consistent3d"
        if settings.lambda_laplacian > 0:
            dents = (
                offset_sum(positions, surface.edges)
                if theirs
                else laplacian(positions, surface.edges, surface.length)
            )
            terms["laplacian"] = settings.lambda_laplacian * dents
        if settings.lambda_normal > 0:
            creases = (
                vertex_normal_consistency(positions, surface.faces, surface.edges)
                if theirs
                else normal_consistency(positions, surface.faces, surface.edge_faces)
            )
            terms["normal"] = settings.lambda_normal * creases
        return terms

    def traced_tensors(self, rendering: MeshViews) -> list[Tensor]:
        return []

    def rates(self, step: int, steps: int) -> dict[str, float | Tensor]:
        fall = 0.1 ** (step / max(steps - 1, 1))
        settings = self.surface.settings
        return {
            "vertices": settings.lr_vertices * fall,
            self.surface.paint: settings.lr_colors * fall,
        }

    def with_params(self, params: dict[str, Tensor]) -> MeshSubject:
        return replace(self, params=params)

    def adapt(
        self,
        state: TrainingState,
        steps: int,
        gradients: list[Tensor],
        rendering: MeshViews,
        accept: Tensor,
        generator: torch.Generator,
    ) -> tuple[MeshSubject, TrainingState]:
        return self, state

    def render_preview(self, camera: Cameras, background: float) -> Tensor:
        return render_mesh(self._mesh(), camera, background).color[0].clamp(0, 1)

    def _mesh(self) -> Mesh:
        with torch.no_grad():
            return self.surface.mesh(
                self.surface.smoothing(self.params["vertices"]), self.params[self.surface.paint]
            )

    def viewer_cloud(self) -> Gaussians:
        """A Gaussian at each vertex, in its colour, so large that they touch."""
        mesh = self._mesh()
        colors = mesh.colors
        if mesh.texture is not None and mesh.uvs is not None:
            colors = texels(mesh.texture, mesh.uvs)
        count = len(mesh.vertices)
        return Gaussians(
            means=mesh.vertices,
            log_scales=(self.surface.length / 3).log().expand(count, 3),
            quats=mesh.vertices.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4),
            opacity_logits=mesh.vertices.new_full((count,), SOLID),
            sh=((colors - 0.5) / SH_C0)[:, None],
        )

    def result(self, state: TrainingState) -> Mesh:
        surface = self.surface
        level = torch.tensor(-1 if surface.level is None else surface.level)
        carried = {**self.params, "edge_length": surface.length, "level": level}
        training = replace(state, carried=carried).to(surface.start.vertices.device)
        return replace(surface.to_mesh(self.params), training=training)

"""Mesh refinement: the loop of `optimize` on a mesh's vertices and colours or texture (Consistent3D's later stages)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..gaussians.cameras import Cameras, CameraSampler
from ..losses.base import Loss, Views
from ..meshes.cleanup import same_places
from ..meshes.mesh import Mesh
from ..meshes.rasterize import MeshRendering, edges_of, render_mesh
from ..meshes.smoothing import Smoothing
from ..meshes.texels import halved, level_of_detail
from ..priors.base import REPAYING_STEPS, Prior, running
from ..priors.prompts import ViewPrompts
from ..priors.seeing import check_views, told, views_together
from .adam import adam, all_finite
from .settings import BACKGROUNDS, SEED_MAX, background_range, draw_backgrounds
from .state import random_streams

JUDGED = ("color", "normal")


@dataclass(frozen=True)
class RefineSettings:
    """Settings of `refine_mesh`. A learning rate of 0 freezes its part: geometry alone, or texture alone."""

    lr_vertices: float = 0.001  # world units per step at first; falls to a tenth
    lr_colors: float = 0.003  # of the colours or the texture, sRGB per step at first; falls to a tenth
    smoothness: float = 10.0  # vertices move together within about its square root in edges (Nicolet et al. 2021)
    lambda_laplacian: float = (
        0.0  # squared distance of vertices from their neighbours' mean, in edge lengths (C3D: 100)
    )
    lambda_normal: float = 0.0  # mean 1 - cosine between the normals of neighbouring faces (C3D: 100)
    judged: str = "color"  # what the prior sees: "color" | "normal", world normals as colours (C3D's geometry stage)
    views: int = 4  # cameras per step
    image_size: int | None = None  # pixels of the square renders; None: what the prior was trained for
    background: str = "auto"  # as for `optimize`
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure."""
        limits = {
            "lr_vertices": (0.0, 1.0), "lr_colors": (0.0, 1.0), "smoothness": (0.0, 1e4),
            "lambda_laplacian": (0.0, 1e9), "lambda_normal": (0.0, 1e9), "views": (1, 1000), "seed": (0, SEED_MAX),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also catches NaN
                raise ValueError(f"Refine mesh: {name} is {value}; choose a value within {low:g}..{high:g}.")
        if self.lr_vertices == 0 and self.lr_colors == 0:
            raise ValueError("Refine mesh: lr_vertices and lr_colors are both 0, so nothing would change. Raise one.")
        for name, value, allowed in (("judged", self.judged, JUDGED), ("background", self.background, BACKGROUNDS)):
            if value not in allowed:
                raise ValueError(f"Refine mesh: {name} is {value!r}; choose one of {', '.join(allowed)}.")
        if self.judged == "normal" and self.lr_colors > 0:
            raise ValueError("Refine mesh: normals say nothing about colours. Set lr_colors to 0 with judged 'normal'.")


@dataclass(frozen=True)
class RefineProgress:
    """What ``on_step`` learns after every step."""

    step: int  # steps done, from 1
    steps: int
    logs: dict[str, Tensor]  # [] the loss and its logs, on the device
    mesh: Callable[[], Mesh]  # as it is now, detached


def refine_mesh(
    mesh: Mesh,
    loss: Loss,
    prior: Prior,
    prompts: ViewPrompts,
    cameras: CameraSampler,
    steps: int,
    settings: RefineSettings | None = None,
    on_step: Callable[[RefineProgress], None] | None = None,
    on_partial: Callable[[Mesh], None] | None = None,
) -> Mesh:
    """The mesh after ``steps`` steps of the loss on its renders; faces and texture coordinates stay as they are.

    A texture learns in place of the vertices' colours, seen at the level of detail of the renders; its
    seams stay closed.

    Pure from outside, on the prior's device; the result is detached and where the mesh was. ``on_step`` may raise to
    end the run; then, as after any error, ``on_partial`` gets the mesh so far. Steps whose loss or gradient is not
    finite change nothing. Raises ValueError for inputs that do not fit, before any work.
    """
    settings = settings or RefineSettings()
    settings.check()
    loss.check()
    cameras.check(check_views(prior, settings.views))
    mesh.check()
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"Refine mesh: steps is {steps!r}; give a whole number of 1 or more.")
    size = settings.image_size or prior.image_size
    prior.check_size(size)
    with torch.inference_mode(False), torch.enable_grad(), running(prior, steps >= REPAYING_STEPS):
        run = _Run(mesh, loss, prior, prompts, cameras, steps, size, settings)
        try:
            for step in range(steps):
                logs = run.step(step)
                if on_step is not None:
                    on_step(RefineProgress(step + 1, steps, logs, run.mesh))
        except BaseException:
            if on_partial is not None:
                on_partial(run.mesh())
            raise
        return run.mesh()


class _Run:
    def __init__(
        self, mesh: Mesh, loss: Loss, prior: Prior, prompts: ViewPrompts, cameras: CameraSampler, steps: int,
        size: int, settings: RefineSettings,
    ) -> None:  # fmt: skip
        self.start, self.prior, self.sampler, self.size = mesh, prior, cameras, size
        self.steps, self.settings, self.device = steps, settings, torch.device(prior.device)
        self.together = views_together(prior)
        self.prompts, self.grays = prompts.to(self.device), background_range(prior)
        self.paint = "colors" if mesh.texture is None else "texture"
        own = mesh.map(lambda value: value.detach().to(self.device, copy=True))
        own = replace(own, vertices=own.vertices.float(), colors=own.colors.float())
        self.own, index = own, torch.arange(len(own.vertices), device=self.device)
        # What moves are places: a texture's seams have several vertices at one.
        self.place, first = (index, index) if own.uvs is None else same_places(own.vertices)
        self.faces, places = self.place[own.faces], own.vertices[first]
        self.edges, self.beside = edges_of(self.faces)
        self.lines = first[self.edges]  # the edges by the mesh's own vertices
        self.smoothing = Smoothing(self.edges, len(places), settings.smoothness)
        self.params = {"vertices": self.smoothing.roughened(places), self.paint: getattr(own, self.paint).float()}
        self.length = (places[self.edges[:, 0]] - places[self.edges[:, 1]]).norm(dim=-1).mean()
        self.level: int | None = None  # of detail of the texture; the first cameras decide
        zeros = {name: torch.zeros_like(value) for name, value in self.params.items()}
        self.first, self.second = zeros, dict(zeros)
        self.updates = torch.zeros((), dtype=torch.int64, device=self.device)
        self.streams = random_streams(settings.seed)
        shape = (prior.latent_channels, size // prior.downscale, size // prior.downscale)
        self.loss = loss.start(prior, shape, self.streams["noise"])

    def mesh(self) -> Mesh:
        with torch.no_grad():
            vertices = self.smoothing(self.params["vertices"])[self.place].to(self.start.vertices)
        paint = self.params[self.paint].clamp(0, 1).to(getattr(self.start, self.paint))
        return replace(self.start, vertices=vertices, **{self.paint: paint})

    def step(self, number: int) -> dict[str, Tensor]:
        settings = self.settings
        sampled = self.sampler.sample(settings.views, self.size, self.streams["cameras"], together=self.together)
        cameras = sampled.to(self.device)
        params = {name: value.detach().requires_grad_() for name, value in self.params.items()}
        places = self.smoothing(params["vertices"])
        grays = draw_backgrounds(settings.background, self.grays, settings.views, self.streams["background"])
        now = replace(self.own, vertices=places[self.place], **{self.paint: params[self.paint]})
        if now.texture is not None:
            if self.level is None:
                self.level = level_of_detail(self.start, sampled.to(self.start.vertices.device))
            now = replace(now, texture=halved(now.texture, self.level))
        seen = render_mesh(now, cameras, grays.to(self.device), edges=(self.lines, self.beside))
        latents = self.prior.encode(self._picture(seen).permute(0, 3, 1, 2))
        value, logs = self.loss(latents, self._views(sampled, cameras, seen, number), self.streams["noise"])
        extra = self._penalties(places)
        total = value + sum(extra.values())
        gradients = torch.autograd.grad(total, [*params.values()], allow_unused=True, materialize_grads=True)
        by_name = dict(zip(params, gradients, strict=True))
        fall = 0.1 ** (number / max(self.steps - 1, 1))
        rates: dict[str, Any] = {"vertices": settings.lr_vertices * fall, self.paint: settings.lr_colors * fall}
        accept = all_finite([total.detach(), *by_name.values()])
        self.params, self.first, self.second, self.updates = adam(
            self.params, by_name, self.first, self.second, self.updates, rates, accept
        )
        logs = {"loss": total, **logs, **extra, "bad_steps": number + 1 - self.updates}
        return {name: log.detach() for name, log in logs.items()}

    def _picture(self, seen: MeshRendering) -> Tensor:
        if self.settings.judged == "color":
            return seen.color
        return seen.color + seen.alpha * (0.5 + 0.5 * seen.normal - seen.color)

    def _views(self, sampled: Cameras, cameras: Cameras, seen: MeshRendering, number: int) -> Views:
        text = self.prompts.at(sampled.azimuths, sampled.elevations, outward=sampled.outward)
        negative = self.prompts.negative_rows(len(cameras))
        text, negative = told(self.prior, (text, negative), cameras, seen.alpha, seen.depth)
        factor = self.prompts.guidance_factor(cameras.azimuths, cameras.elevations)
        return Views(text, negative, cameras, number, self.steps, factor, self.together)

    def _penalties(self, vertices: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.settings.lambda_laplacian > 0:
            terms["laplacian"] = self.settings.lambda_laplacian * laplacian(vertices, self.edges, self.length)
        if self.settings.lambda_normal > 0:
            terms["normal"] = self.settings.lambda_normal * normal_consistency(vertices, self.faces, self.beside)
        return terms


def laplacian(vertices: Tensor, edges: Tensor, length: Tensor | float = 1.0) -> Tensor:
    """Mean squared distance of vertices [M,3] from their neighbours' mean, in units of ``length``; edges [E,2]."""
    both = torch.cat([edges, edges.flip(1)])
    sums = torch.zeros_like(vertices).index_add(0, both[:, 0], vertices[both[:, 1]])
    degree = vertices.new_zeros(len(vertices)).index_add(0, both[:, 0], vertices.new_ones(len(both)))
    offset = torch.where(degree[:, None] > 0, sums / degree.clamp_min(1)[:, None] - vertices, 0.0)
    return (offset / length).square().sum(-1).mean()


def normal_consistency(vertices: Tensor, faces: Tensor, beside: Tensor) -> Tensor:
    """Mean of 1 - cosine between the normals of faces [F,3] that share an edge; beside [E,2] as `edges_of` gives it."""
    a, b, c = vertices[faces].unbind(1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    pairs = beside[beside[:, 1] >= 0]
    return (1 - (normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(-1)).mean()

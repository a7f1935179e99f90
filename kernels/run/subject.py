"""What a run moves, a cloud or a mesh, as the step sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..gaussians.cloud import Gaussians
from .state import TrainingState

Result = TypeVar("Result", covariant=True)  # Gaussians or Mesh


Rendered = TypeVar("Rendered", bound="RenderedViews")  # what a subject renders to


class RenderedViews(Protocol):
    """What the prior is shown of V views, differentiable."""

    @property
    def color(self) -> Tensor: ...  # [V,H,W,3]

    @property
    def alpha(self) -> Tensor: ...  # [V,H,W,1] 0..1

    @property
    def depth(self) -> Tensor: ...  # [V,H,W,1] distance along the optical axis, world units


class Subject(Protocol[Result, Rendered]):
    """A cloud or a mesh on its way through a run, on the prior's device. No step edits it: a step
    makes another.
    """

    @property
    def owner(self) -> str: ...  # what the run is called in messages

    @property
    def noun(self) -> str: ...  # and what it moves

    @property
    def renders_anywhere(self) -> bool: ...  # whether `render` works on whatever device it is given

    def tensors(self) -> dict[str, Tensor]:
        """What the steps move, by name."""
        ...

    def render(
        self, params: dict[str, Tensor], cameras: Cameras, backgrounds: Tensor, depth: bool
    ) -> Rendered:
        """Views of it with ``params`` in place of its tensors, on ``backgrounds`` [V,3]; no
        depth is needed where ``depth`` is False."""
        ...

    def painted(self, params: dict[str, Tensor]) -> tuple[str, Tensor]:
        """Which of ``params`` holds colours, and where in the world [N,3] its N rows or texels
        are."""
        ...

    def penalties(
        self, params: dict[str, Tensor], rendering: Rendered, cameras: Cameras, backgrounds: Tensor
    ) -> dict[str, Tensor]:
        """Weighted penalties by name, scalars."""
        ...

    def traced_tensors(self, rendering: Rendered) -> list[Tensor]:
        """What else of the pictures `adapt` wants the gradient of."""
        ...

    def rates(self, step: int, steps: int) -> Mapping[str, float | Tensor]:
        """Learning rates by name after ``step`` of ``steps`` steps of the schedule."""
        ...

    def with_params(self, params: dict[str, Tensor]) -> Subject[Result, Rendered]:
        """The same with other tensors."""
        ...

    def adapt(
        self,
        state: TrainingState,
        steps: int,
        gradients: list[Tensor],
        rendering: Rendered,
        accept: Tensor,
        generator: torch.Generator,
    ) -> tuple[Subject[Result, Rendered], TrainingState]:
        """What follows a step on a schedule of ``steps``, given the gradients of what was `traced_tensors`:
        densification.
        """
        ...

    def render_preview(self, camera: Cameras, background: float) -> Tensor:
        """An image [H,W,3] in 0..1 for people."""
        ...

    def viewer_cloud(self) -> Gaussians:
        """What a viewer of splats may show of it, without training state."""
        ...

    def result(self, state: TrainingState) -> Result:
        """What a run that ended here returns, where its input was, with its training state."""
        ...

"""Control Prior."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...kernels.priors.control import ControlledPrior, ControlSettings, load_control
from ...kernels.priors.hints import SHAPES
from ..shared import types
from ..shared.validation import validate
from .comfy_control import with_control_net
from .comfy_prior import ManagedComfyPrior
from .memory import ManagedPrior, autograd

NO_FOLDER = "none"
CONTROL = ("control",)  # the network that `ControlledPrior` has beside its prior's


class ControlPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ControlPrior",
            display_name="Control Prior",
            category="Distill3D",
            description=(
                "Lets a ControlNet show the prior, at every step, the shape of the very views it"
                " judges: their depth or their normals. Its opinion then follows the shape that is"
                " there already, which is what texture stages and refining want. All texts see it,"
                " the negative and the null one too. A view with nothing solid in it yet is judged"
                " without. The prior that goes in stays as it is."
            ),
            search_aliases=[
                "controlnet",
                "depth",
                "normal map",
                "normalbae",
                "t2i adapter",
                "texture",
                "geometry",
            ],
            inputs=[
                types.Prior.Input(
                    "prior", tooltip="From Load Diffusion Prior or Diffusion Prior from Model."
                ),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default="depth",
                    tooltip=(
                        "What the ControlNet was trained on. depth: near is white, the background"
                        " black. normal: red faces left, green up, blue the camera, as NormalBae of"
                        " ControlNet 1.1 has it."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "Factor on what the ControlNet adds; 0 is the prior without it. Ours: no"
                        " paper of the losses here uses one."
                    ),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip=(
                        "Share of the noise schedule, 0..1, from which on it counts; 0 is pure"
                        " noise. As in Apply ControlNet, but by the timestep that each view is"
                        " judged at."
                    ),
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip=(
                        "Share of the noise schedule, 0..1, until which it counts; 1 is a clean"
                        " picture. Below 1 it sets the shape and leaves fine detail to the prior"
                        " alone."
                    ),
                ),
                io.Combo.Input(
                    "folder",
                    options=[NO_FOLDER, *folders()],
                    default=NO_FOLDER,
                    tooltip=(
                        "For a prior from a diffusers folder: a ControlNet folder below"
                        " models/controlnet (config.json and .safetensors weights), made for the"
                        " same model. Otherwise none."
                    ),
                ),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip=(
                        "For a prior from a checkpoint or a MODEL: from Load ControlNet Model, made"
                        " for the same kind of model. Those of SD3 and FLUX use the prior's own"
                        " VAE."
                    ),
                ),
            ],
            outputs=[
                types.Prior.Output(
                    display_name="prior", tooltip="For Optimize, Refine Mesh, Inspect Guidance."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        strength: float | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
    ) -> bool | str:
        values = {"strength": strength, "start_percent": start_percent, "end_percent": end_percent}
        return validate(cls, values, control_settings)

    @classmethod
    def execute(
        cls,
        prior: ManagedPrior | ManagedComfyPrior,
        shape: str,
        strength: float,
        start_percent: float,
        end_percent: float,
        folder: str,
        control_net: Any = None,
    ) -> io.NodeOutput:
        settings = control_settings(strength, start_percent, end_percent, shape).check()
        if isinstance(prior, ManagedComfyPrior):
            return io.NodeOutput(
                with_control_net(prior, linked(control_net, folder, prior), settings)
            )
        return io.NodeOutput(with_folder(prior, chosen(folder, control_net, prior), settings))


def control_settings(
    strength: float, start_percent: float, end_percent: float, shape: str = SHAPES[0]
) -> ControlSettings:
    return ControlSettings(shape, strength, start_percent, end_percent)


def linked(control_net: Any, folder: str, prior: ManagedComfyPrior) -> Any:
    """The CONTROL_NET. Raises ValueError where it is missing, or a folder is chosen for a prior
    that takes none.
    """
    name = prior.prior.name
    if folder != NO_FOLDER:
        raise ValueError(
            f"folder is {folder!r}, but prior {name!r} is made of a checkpoint or a MODEL. Set it"
            f" to {NO_FOLDER!r} and link control_net to Load ControlNet Model."
        )
    if control_net is None:
        raise ValueError(
            f"control_net is not linked, which prior {name!r} needs. Link Load ControlNet Model."
        )
    return control_net


def chosen(folder: str, control_net: Any, prior: ManagedPrior) -> Path:
    """The folder's path. Raises ValueError where none is chosen, or a control net is linked."""
    name = prior.prior.name
    if control_net is not None:
        raise ValueError(
            f"control_net is linked, but prior {name!r} is a diffusers folder. Unlink it and choose"
            " a ControlNet under folder; or load the prior from a checkpoint."
        )
    if folder == NO_FOLDER:
        raise ValueError(
            f"folder is {NO_FOLDER!r}, but prior {name!r} needs a ControlNet in diffusers format:"
            " put its folder below models/controlnet, refresh the node list with R, and choose it."
        )
    for root in map(Path, folder_paths.get_folder_paths("controlnet")):
        if (root / folder / "config.json").is_file():
            return root / folder
    raise ValueError(
        f"folder {folder!r} is no longer below models/controlnet. Refresh the node list with R."
    )


def with_folder(managed: ManagedPrior, folder: Path, settings: ControlSettings) -> ManagedPrior:
    """Another prior for a socket, on the weights of ``managed``, which stays as it is, and those in
    the folder.
    """
    with autograd():  # else the weights would be inference tensors
        result = copy.copy(managed)
        result.prior = ControlledPrior(managed.prior, load_control(folder, managed.prior), settings)
        # The prior's own patchers: what is loaded for one is loaded for both.
        result.patchers = managed.patchers | {CONTROL: result.patcher(CONTROL)}
        result.judging = (*managed.judging, CONTROL)
        return result


def folders() -> list[str]:
    """Diffusers ControlNet folders below ComfyUI's models/controlnet, by their relative names."""
    found, known = set(), set[tuple[int, int]]()
    for root in folder_paths.get_folder_paths("controlnet"):
        for folder, below, files in os.walk(root, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in known:  # links may lead round and round
                below.clear()
                continue
            known.add((status.st_dev, status.st_ino))
            if "config.json" in files and any(
                name.startswith("diffusion_pytorch_model") for name in files
            ):
                found.add(Path(folder).relative_to(root).as_posix())
    return sorted(found)

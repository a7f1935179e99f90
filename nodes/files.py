"""Save Gaussians and Load Gaussians."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import folder_paths
from comfy_api.latest import Types, io

from ..kernels.files.ply import load_ply, save_ply
from ..kernels.gaussians.cloud import Gaussians
from ..kernels.training import load_training, save_training
from . import types
from .memory import autograd
from .outputs import check_prefix, next_output

NO_FILE = "(no file yet)"
EXTENSIONS = (".ply", ".safetensors")


class SaveGaussians(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SaveGaussians",
            display_name="Save Gaussians",
            category="Distill3D",
            description="Write the cloud as a splat PLY into ComfyUI's output folder, in the layout and axes (Y "
            "down) that splat viewers and Blender add-ons expect.",
            search_aliases=["splat", "ply", "export", "3dgs", "gaussian splatting"],
            is_output_node=True,
            inputs=[
                types.GaussianCloud.Input("gaussians", tooltip="The cloud to save."),
                io.String.Input(
                    "filename_prefix",
                    default="distill3d/gaussians",
                    tooltip="Folder and name below ComfyUI's output folder; _00001_.ply and so on is appended. %year%, "
                    "%month%, %day%, %hour%, %minute% and %second% are filled in.",
                ),
                io.Boolean.Input(
                    "training",
                    default=False,
                    advanced=True,
                    tooltip="Save a .safetensors besides, which holds the training state too: loaded again, "
                    "Optimize goes on exactly where it stopped.",
                ),
            ],
            outputs=[
                types.PlyFile.Output(display_name="ply", tooltip="The file, for Preview 3D and the core splat nodes."),
                *types.splat_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        return check_prefix(filename_prefix)  # before hours of work, not after

    @classmethod
    def execute(cls, gaussians: Gaussians, filename_prefix: str, training: bool) -> io.NodeOutput:
        file = next_output(filename_prefix, "ply")
        save_ply(gaussians, file.path)
        if training and gaussians.training is not None:
            save_training(gaussians, file.path.with_suffix(".safetensors"))
        ply = Types.File3D(str(file.path), "ply")
        return io.NodeOutput(ply, *types.splat_values(gaussians), ui={"3d": [file.result]})


class LoadGaussians(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = saved_files()
        return io.Schema(
            node_id="Distill3D_LoadGaussians",
            display_name="Load Gaussians",
            category="Distill3D",
            description="Read a splat PLY from ComfyUI's input/3d or output folder, newest first; or a .safetensors "
            "that Save Gaussians or an interrupted Optimize wrote, which carries its training state.",
            search_aliases=["splat", "ply", "import", "resume", "partial", "autosave"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=files or [NO_FILE],
                    tooltip="A .ply with Gaussians, or a .safetensors with training state, in input/3d or output "
                    "(also in folders below). Press R to look for new files.",
                ),
            ],
            outputs=[
                types.GaussianCloud.Output(
                    display_name="gaussians", tooltip="For Optimize, Render Views, Export Mesh."
                ),
                *types.splat_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        try:
            if file is not None:
                located(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str:
        status = located(file or "").stat()  # ComfyUI takes an error here as "changed", and execute will name it
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = located(file)
        with autograd():
            cloud = load_ply(path) if path.suffix.lower() == ".ply" else load_training(path)
        return io.NodeOutput(cloud, *types.splat_values(cloud))


def roots() -> dict[str, Path]:
    """Where files may come from, by the first part of the names in the list."""
    return {
        "output": Path(folder_paths.get_output_directory()),
        "input/3d": Path(folder_paths.get_input_directory()) / "3d",
    }


def saved_files() -> list[str]:
    """Names of all files that could hold Gaussians, newest first."""
    found = []
    for label, root in roots().items():
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder) / name
                if path.suffix.lower() in EXTENSIONS and not name.startswith("."):
                    with suppress(OSError):  # gone since it was listed
                        found.append((-path.stat().st_mtime, f"{label}/{path.relative_to(root).as_posix()}"))
    return [name for _, name in sorted(found)]


def located(file: str) -> Path:
    """The path behind a name in the list. Raises ValueError where there is none, or it leads elsewhere."""
    for label, root in roots().items():
        if file.startswith(label + "/"):
            path = (root / file[len(label) + 1 :]).resolve()
            break
    else:
        raise ValueError(f"file {file!r} is not below output/ or input/3d/; choose one from the list.")
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"file {file!r} leads out of {label}/; choose one from the list.")
    if path.suffix.lower() not in EXTENSIONS:
        raise ValueError(f"file {file!r} is neither .ply nor .safetensors; choose a splat PLY.")
    if not path.is_file():
        raise ValueError(f"file {file!r} does not exist (any more); press R to refresh the list and choose another.")
    return path

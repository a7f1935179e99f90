"""Save Gaussians and Load Gaussians."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import folder_paths
from comfy_api.latest import Types, io

from ..kernels.files.formats import FORMATS, SUFFIXES, load_gaussians, may_hold_gaussians
from ..kernels.gaussians.cloud import Gaussians
from ..kernels.training import load_training, save_training
from . import types
from .memory import autograd
from .outputs import check_prefix, next_output

NO_FILE = "(no file yet)"
TRAINING = ".safetensors"


class SaveGaussians(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SaveGaussians",
            display_name="Save Gaussians",
            category="Distill3D",
            description="Write the cloud as a splat file into ComfyUI's output folder, in the layout and axes that "
            "viewers expect: Y down, except glTF, which is Y up.",
            search_aliases=["splat", "ply", "spz", "glb", "gltf", "compress", "export", "3dgs", "gaussian splatting"],
            is_output_node=True,
            inputs=[
                types.GaussianCloud.Input("gaussians", tooltip="The cloud to save."),
                io.String.Input(
                    "filename_prefix",
                    default="distill3d/gaussians",
                    tooltip="Folder and name below ComfyUI's output folder; _00001_.ply and so on is appended, by the "
                    "format. %year%, %month%, %day%, %hour%, %minute% and %second% are filled in.",
                ),
                io.Boolean.Input(
                    "training",
                    default=False,
                    advanced=True,
                    tooltip="Save a .safetensors besides, which holds the training state too: loaded again, "
                    "Optimize goes on exactly where it stopped.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="ply",
                    optional=True,
                    tooltip="ply: lossless, read everywhere. compressed ply (PlayCanvas): a quarter of its size, "
                    "slight loss, other order. splat: half, no view-dependent colours, coarse rotations. spz "
                    "(Niantic): a quarter, slight loss, positions to 1/8000 unit. spz 2: its older version, coarser "
                    "rotations, for programs that refuse the newer. glb: glTF with "
                    "KHR_gaussian_splatting, lossless, for three.js and other readers that know it.",
                ),
            ],
            outputs=[
                types.SplatFile.Output(display_name="file", tooltip="The file, for Preview 3D and core's splat nodes."),
                *types.splat_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        return check_prefix(filename_prefix)  # before hours of work, not after

    @classmethod
    def execute(cls, gaussians: Gaussians, filename_prefix: str, training: bool, format: str = "ply") -> io.NodeOutput:
        kind = FORMATS[format]
        file = next_output(filename_prefix, kind.extension)
        kind.save(gaussians, file.path)
        if training and gaussians.training is not None:
            # Files are counted per format, so each but ply keeps its extension: x_00001_.spz.safetensors.
            stem = file.path.with_suffix("") if format == "ply" else file.path
            save_training(gaussians, stem.with_name(stem.name + TRAINING))
        saved = Types.File3D(str(file.path), kind.kind)
        return io.NodeOutput(saved, *types.splat_values(gaussians), ui={"3d": [file.result]})


class LoadGaussians(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = saved_files()
        return io.Schema(
            node_id="Distill3D_LoadGaussians",
            display_name="Load Gaussians",
            category="Distill3D",
            description="Read a splat file (plain or compressed PLY, .splat, .spz, .glb) from ComfyUI's input/3d or "
            "output folder, newest first; or a .safetensors that Save Gaussians or an interrupted Optimize wrote, "
            "which carries its training state.",
            search_aliases=["splat", "ply", "spz", "glb", "import", "resume", "partial", "autosave"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=files or [NO_FILE],
                    tooltip="A .ply, .splat, .spz or .glb with Gaussians, or a .safetensors with training state, in "
                    "input/3d or output (also in folders below). Press R to look for new files.",
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
            cloud = load_training(path) if path.suffix.lower() == TRAINING else load_gaussians(path)
        return io.NodeOutput(cloud, *types.splat_values(cloud))


def roots() -> dict[str, Path]:
    """Where files may come from, by the first part of the names in the list."""
    return {
        "output": Path(folder_paths.get_output_directory()),
        "input/3d": Path(folder_paths.get_input_directory()) / "3d",
    }


def saved_files() -> list[str]:
    """Names of all files that could hold Gaussians, newest first."""
    return files_where(lambda path: path.suffix.lower() == TRAINING or may_hold_gaussians(path))


def files_where(accepted: Callable[[Path], bool]) -> list[str]:
    """Names of all files below `roots` that ``accepted`` says yes to, newest first; hidden ones are left out."""
    found = []
    for label, root in roots().items():
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder) / name
                if name.startswith("."):
                    continue
                with suppress(OSError):  # gone since it was listed
                    if accepted(path):
                        found.append((-path.stat().st_mtime, f"{label}/{path.relative_to(root).as_posix()}"))
    return [name for _, name in sorted(found)]


def located(file: str, suffixes: tuple[str, ...] = (*SUFFIXES, TRAINING), kind: str = "splat file") -> Path:
    """The path behind a name in the list. Raises ValueError where there is none, or it leads elsewhere."""
    for label, root in roots().items():
        if file.startswith(label + "/"):
            path = (root / file[len(label) + 1 :]).resolve()
            break
    else:
        raise ValueError(f"file {file!r} is not below output/ or input/3d/; choose one from the list.")
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"file {file!r} leads out of {label}/; choose one from the list.")
    if path.suffix.lower() not in suffixes:
        known = f"{', '.join(suffixes[:-1])} and {suffixes[-1]}"
        raise ValueError(f"file {file!r} is none of {known}; choose a {kind}.")
    if not path.is_file():
        raise ValueError(f"file {file!r} does not exist (any more); press R to refresh the list and choose another.")
    return path

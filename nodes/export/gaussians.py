"""Save Gaussians and Load Gaussians."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from comfy_api.latest import Types, io

from ...kernels.devices.pace import reached
from ...kernels.files.formats import FORMATS, UP_AXES, load_gaussians
from ...kernels.files.notes import notes
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.run.checkpoint import load_training, save_training
from ..priors.memory import autograd
from ..shared import types
from ..shared.background import cancellable
from ..shared.files import TRAINING, located, splat_files
from ..shared.outputs import check_prefix, new_output
from ..shared.validation import undeclared

LINKED = "(the model_3d input)"
# attribute of a File3D of ours: the path of the training state saved with it
TRAINED = "distill3d_training"


class SaveGaussians(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SaveGaussians",
            display_name="Save Gaussians",
            category="Distill3D",
            description=(
                "Write the cloud as a splat file into ComfyUI's output folder, in the layout and"
                " axes that viewers expect: Y down, except glTF and USD, which are Y up. Blender,"
                " which is Z up, turns glTF and USD by itself, a .ply not: turn that by -90 degrees"
                " about X. Unity and Unreal: as their plug-ins ask, for a Y-down PLY."
            ),
            search_aliases=[
                "splat",
                "ply",
                "spz",
                "glb",
                "gltf",
                "sog",
                "usd",
                "usdz",
                "html",
                "share",
                "compress",
                "export",
                "3dgs",
                "gaussian splatting",
            ],
            is_output_node=True,
            inputs=[
                types.GaussianCloud.Input("gaussians", tooltip="The cloud to save."),
                io.String.Input(
                    "filename_prefix",
                    default="distill3d/gaussians",
                    tooltip=(
                        "Folder and name below ComfyUI's output folder; _00001_.ply and so on is"
                        " appended, by the format. %year%, %month%, %day%, %hour%, %minute% and"
                        " %second% are filled in."
                    ),
                ),
                io.Boolean.Input(
                    "training",
                    default=False,
                    advanced=True,
                    tooltip=(
                        "Save a .safetensors besides, which holds the training state too: loaded"
                        " again, Optimize goes on exactly where it stopped."
                    ),
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="ply",
                    optional=True,
                    tooltip=(
                        "ply: lossless, read everywhere. compressed ply (PlayCanvas): a quarter of"
                        " its size, slight loss, other order. splat: half, no view-dependent"
                        " colours, coarse rotations. spz (Niantic): a quarter, slight loss,"
                        " positions to 1/8000 unit; spz 2 for programs that refuse the newer, spz 4"
                        " the newest (needs zstandard). glb: glTF with KHR_gaussian_splatting,"
                        " lossless. sog (PlayCanvas): the smallest, a fifth to a fifteenth, for"
                        " SuperSplat, PlayCanvas, Spark, Babylon, Unity; sog folder: the same, not"
                        " bundled. usdz, usdc, usda: OpenUSD 26.3 for Omniverse and Apple, lossless"
                        " (needs usd-core). html: one page with viewer, turntable and download,"
                        " which opens from the disk."
                    ),
                ),
            ],
            outputs=[
                types.SplatFile.Output(
                    display_name="file", tooltip="The file, for Preview 3D and core's splat nodes."
                ),
                *types.splat_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return check_prefix(filename_prefix)  # before hours of work, not after

    @classmethod
    def execute(
        cls, gaussians: Gaussians, filename_prefix: str, training: bool, format: str = "ply"
    ) -> io.NodeOutput:
        kind = FORMATS[format]
        # Files are counted per format, so each but ply keeps its extension:
        # x_00001_.spz.safetensors.
        state = ("" if format == "ply" else f".{kind.extension}") + TRAINING
        with_state = training and gaussians.training is not None
        beside = [state[1:]] if training else []
        with (
            cancellable(),
            new_output("Save Gaussians", filename_prefix, kind.extension, *beside) as file,
        ):
            kind.save(gaussians, file.path)
            reached()  # a cancel until here leaves nothing
            name = file.path.name.removesuffix(f".{kind.extension}")
            if with_state:
                save_training(gaussians, file.path.with_name(name + state))
        saved = Types.File3D(str(file.path), kind.kind)
        if with_state:
            setattr(saved, TRAINED, file.path.with_name(name + state))
        return io.NodeOutput(saved, *types.splat_values(gaussians), ui={"3d": [file.result]})


class LoadGaussians(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_LoadGaussians",
            display_name="Load Gaussians",
            category="Distill3D",
            description=(
                "Read a splat file (plain or compressed PLY, .splat, .ksplat, .spz, .sog or its"
                " meta.json, .glb, .usdz, .usdc, .usda) from ComfyUI's input/3d or output folder,"
                " newest first; or a .safetensors that Save Gaussians or an interrupted Optimize"
                " wrote, which carries its training state. Or what another"
                " node of the graph has just written."
            ),
            search_aliases=[
                "splat",
                "ply",
                "spz",
                "sog",
                "ksplat",
                "usdz",
                "glb",
                "import",
                "resume",
                "partial",
                "autosave",
            ],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[*splat_files(), LINKED],
                    tooltip=(
                        "A file with Gaussians, or a .safetensors with training state, in input/3d"
                        " or output (also in folders below). Press R to look for new files."
                    ),
                ),
                types.SplatFile.Input(
                    "model_3d",
                    optional=True,
                    tooltip=(
                        "The file of another node instead of one from the list: of Save Gaussians"
                        " (its training state comes along where training is on), or of a core node."
                        " Set file to (the model_3d input)."
                    ),
                ),
                # After the older ones and optional: saved workflows know nothing of it.
                io.Combo.Input(
                    "up_axis",
                    options=list(UP_AXES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Which way is up in the file. auto: as the file says, else as its format has"
                        " it: Y down, but glb and USD Y up. Choose Y up for an .spz of"
                        " splat-transform up to 2.7 that stands on its head, Z up for splats from"
                        " Blender, Unreal or a scan that lie on their back."
                    ),
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
    def validate_inputs(
        cls, file: str | None = None, model_3d: Any = LINKED, up_axis: str | None = "auto"
    ) -> bool | str:
        # A linked input comes as None, one that is not there not at all.
        if file == LINKED and model_3d is LINKED:
            return (
                "There is no file: choose one from the list (R refreshes it), or link one to the"
                " model_3d input."
            )
        if file not in (None, LINKED) and model_3d is not LINKED:
            return (
                f"file is {file!r} and one is linked to model_3d too. Set file to {LINKED!r}, or"
                " mute the node that the link comes from (Ctrl+M)."
            )
        try:
            if file not in (None, LINKED):
                located(file)
        except ValueError as error:
            return str(error)
        return undeclared(cls, {"up_axis": up_axis}) or True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: Any) -> str:
        if file in (None, LINKED):
            return ""
        # ComfyUI takes an error here as "changed", and execute will name it
        status = located(file).stat()
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, file: str, model_3d: Any = None, up_axis: str = "auto") -> io.NodeOutput:
        with (
            autograd(),
            notes() as told,
            on_disk(model_3d) if model_3d is not None else nullcontext(located(file)) as path,
        ):
            trained = path.suffix.lower() == TRAINING
            cloud = load_training(path) if trained else load_gaussians(path, up_axis)
        shown = {"text": [f"Load Gaussians: {note}" for note in told]} if told else None
        return io.NodeOutput(cloud, *types.splat_values(cloud), ui=shown)


@contextmanager
def on_disk(file: Any) -> Iterator[Path]:
    """Where a File3D can be read: the training state that was saved with it, else its own file,
    else a passing copy.
    """
    state = getattr(file, TRAINED, None)
    if state is not None:
        yield state
    elif file.is_disk_backed:
        yield Path(file.get_source())
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(file.save_to(str(Path(folder) / f"model_3d.{file.format or 'ply'}")))

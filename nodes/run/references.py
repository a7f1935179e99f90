"""Reference Views and Cut Sheet."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...kernels.cameras.load3d import from_load3d, to_load3d
from ...kernels.cameras.pinhole import Cameras, orbit
from ...kernels.cameras.sheets import SHEETS, cut, grid_of
from ...kernels.cameras.sides import EXAMPLE, parse_views
from ...kernels.run.aligned import Bounds
from ...kernels.run.outlines import plain_outlines
from ...kernels.run.references import References
from ..shared import types
from ..shared.validation import check_declared
from .inputs import SETTINGS

BY_VIEWS, BY_SIZE = "as views say", "rows and columns"
PLAIN, BUSY = "plain", "busy"
OBJECT, EMPTY = "object", "background"
EMPTY_MASK = 64  # pixels: Load Image gives such a mask, of zeros, for a picture without alpha


class ReferenceViews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ReferenceViews",
            display_name="Reference Views",
            category=SETTINGS,
            description=(
                "Pictures of the object as part of the prompt, each from its own camera. Optimize"
                " and Refine Mesh hold the renders from there to them; the words and the prior"
                " decide what no picture shows."
            ),
            search_aliases=["image to 3d", "picture", "multiview", "photo", "img2img", "zero123"],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip=(
                        "One picture or several of one size, of the same object in the same light."
                        " A sheet goes through Cut Sheet first."
                    ),
                ),
                io.String.Input(
                    "views",
                    default="front",
                    tooltip=(
                        "Where each picture was taken from, divided by commas: front, back, left,"
                        " right, overhead, or an azimuth in degrees (90 from the object's left, -90"
                        f" from its right), then, as wanted, an elevation. For example {EXAMPLE}."
                    ),
                ),
                io.Combo.Input(
                    "sheet",
                    options=[BY_VIEWS, *SHEETS],
                    default=BY_VIEWS,
                    tooltip=(
                        "The cameras of a known sheet, by the angles that the model's makers"
                        " published, in place of views, distance and fov_y."
                    ),
                ),
                _number("distance", 2.0, 0.1, 1000.0, 0.05,
                    "Distance of the cameras from the object's middle, world units; the object"
                    " fills a cube of side 1. 2 with fov_y 40: it fills two thirds of the"
                    " picture."),
                _number("fov_y", 40.0, 1.0, 150.0, 1.0,
                    "Vertical field of view of the pictures, degrees. A phone: 50 to 70 upright;"
                    " image models draw objects as from 30 to 40."),
                io.Combo.Input(
                    "background",
                    options=[PLAIN, BUSY],
                    default=PLAIN,
                    tooltip=(
                        "plain: the object is what the mask, the alpha or, without either, the"
                        " plain background leaves. busy: neither is there; colours are taken where"
                        " the object has come to be; outline and other sides are for words alone."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Where the object is, of the pictures' size, one for each or one for all."
                        " Without it: the pictures' alpha, or all that is not background."
                    ),
                ),
                io.Combo.Input(
                    "mask_marks",
                    options=[OBJECT, EMPTY],
                    default=OBJECT,
                    tooltip=(
                        "What the mask marks. object: as of segmentation nodes. background: as Load"
                        " Image gives the alpha of a picture; the mask that it gives without alpha"
                        " counts as none."
                    ),
                ),
                types.CoreCameras.Input(
                    "cameras",
                    optional=True,
                    tooltip=(
                        "A camera of core's 3D nodes for each picture, in place of views, sheet,"
                        " distance and fov_y."
                    ),
                ),
                *_weights(),
                _number("fade", 0.0, 0.0, 1.0, 0.1,
                    "Share of the weights, 0..1, that is lost by the end of the schedule. For"
                    " pictures that disagree. Ours.", advanced=True),
                _number("spare", References.spare, 0.0, 1.0, 0.1,
                    "Share of the prior's say, 0..1, that is withheld where a picture sees the"
                    " surface, so that words do not repaint it. Ours.", advanced=True),
                _number("refine_angle", 0.0, 0.0, 45.0, 1.0,
                    "How far, degrees of azimuth and of elevation, a camera may be from where it"
                    " was said to be: it is moved by gradient. 0: as given.", advanced=True),
                _number("refine_distance", 0.0, 0.0, 0.5, 0.05,
                    "The same of its distance, as a share of it.", advanced=True),
                _number("refine_fov", 0.0, 0.0, 0.5, 0.05,
                    "The same of its focal length, as a share of it. One picture alone can hardly"
                    " tell this from the distance.", advanced=True),
                io.Int.Input(
                    "at_once",
                    default=4,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Pictures in a step; of more they take turns. Time grows with it.",
                ),
                _number("lambda_palette", References.palette, 0.0, 1e6, 100.0,
                    "Weight of the mean squared difference of all other views from the nearest"
                    " colour, in any shade, that the pictures show. 0: other sides may have any"
                    " colour. Ours.", advanced=True),
            ],
            outputs=[
                types.References.Output(
                    display_name="references",
                    tooltip="For Optimize, Refine Mesh, Project Pictures.",
                ),
                io.Image.Output(
                    display_name="cut_out",
                    tooltip="The pictures as the run sees them, the object on grey.",
                ),
                types.CoreCameras.Output(
                    display_name="cameras", tooltip="Where they were taken from, for core's nodes."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, views: str | None = None) -> bool | str:
        try:
            if views is not None:
                parse_views(views)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        images: Tensor,
        views: str,
        sheet: str,
        distance: float,
        fov_y: float,
        background: str,
        mask: Tensor | None = None,
        mask_marks: str = OBJECT,
        cameras: Any = None,
        refine_angle: float = 0.0,
        refine_distance: float = 0.0,
        refine_fov: float = 0.0,
        at_once: int = 4,
        lambda_color: float = References.color,
        lambda_silhouette: float = References.silhouette,
        lambda_structure: float = References.structure,
        fade: float = References.fade,
        spare: float = References.spare,
        lambda_palette: float = References.palette,
    ) -> io.NodeOutput:
        check_declared(cls, {"sheet": sheet, "distance": distance, "fov_y": fov_y})
        with torch.inference_mode(False):
            pictures = images.detach().float().cpu().clone()
            places = _cameras(pictures, views, sheet, distance, fov_y, cameras)
            outlines = None
            if background == PLAIN:
                outlines = _outlines(pictures, mask, mask_marks)
            references = References(
                pictures[..., :3].clamp(0, 1),
                places,
                outlines,
                lambda_color,
                lambda_silhouette,
                lambda_structure,
                fade,
                spare,
                Bounds(refine_angle, refine_distance, refine_fov),
                at_once,
                lambda_palette,
            ).check()
            shown = references.images
            if outlines is not None:
                shown = shown * outlines + 0.5 * (1 - outlines)
        return io.NodeOutput(references, shown, to_load3d(places))


class CutSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_CutSheet",
            display_name="Cut Sheet",
            category=SETTINGS,
            description=(
                "Cut a sheet, one picture with several views in a grid, into its views, row by row,"
                " for Reference Views with the same sheet."
            ),
            search_aliases=["split grid", "multiview", "zero123", "mvdream", "crop"],
            inputs=[
                io.Image.Input("image", tooltip="The sheet, one picture."),
                io.Combo.Input(
                    "sheet",
                    options=[*SHEETS, BY_SIZE],
                    default=next(iter(SHEETS)),
                    tooltip=(
                        "Whose sheet it is: " + "; ".join(map(_grids, SHEETS)) + ". rows and"
                        " columns: as given below."
                    ),
                ),
                io.Int.Input("rows", default=2, min=1, max=32, advanced=True,
                    tooltip="Rows of cells, with sheet set to rows and columns."),
                io.Int.Input("columns", default=2, min=1, max=32, advanced=True,
                    tooltip="Columns of cells, with sheet set to rows and columns."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The views, a batch in their order.")
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, sheet: str, rows: int, columns: int) -> io.NodeOutput:
        check_declared(cls, {"sheet": sheet, "rows": rows, "columns": columns})
        if len(image) != 1:
            raise ValueError(
                f"Cut Sheet: image holds {len(image)} pictures; give one sheet at a time."
            )
        if sheet != BY_SIZE:
            rows, columns = grid_of(SHEETS[sheet], image.shape[2], image.shape[1])
        return io.NodeOutput(cut(image[0], rows, columns).contiguous())


def _grids(name: str) -> str:
    return f"{name} {' or '.join(f'{r} x {c}' for r, c in SHEETS[name].grids)}"


def _number(
    id: str, default: float, low: float, high: float, step: float, tooltip: str,
    advanced: bool = False,
) -> io.Float.Input:  # fmt: skip
    return io.Float.Input(
        id, default=default, min=low, max=high, step=step, round=0.0001, tooltip=tooltip,
        advanced=advanced or None,
    )  # fmt: skip


def _weights() -> list[io.Float.Input]:
    told = {
        "color": "squared difference of the pictures on random backgrounds",
        "silhouette": "squared difference of the outlines",
        "structure": "1 - SSIM of the pictures (needs the package pytorch-msssim)",
    }
    return [
        _number(
            f"lambda_{name}", getattr(References, name), 0.0, 1e6, 100.0,
            f"Weight of the mean {what}, of each picture. Ours.", advanced=True,
        )
        for name, what in told.items()
    ]  # fmt: skip


def _cameras(
    images: Tensor, views: str, sheet: str, distance: float, fov_y: float, cameras: Any
) -> Cameras:
    size = (images.shape[2], images.shape[1])
    if cameras is not None:
        places = from_load3d(cameras, size)
        named = "cameras lists"
    elif sheet != BY_VIEWS:
        places = SHEETS[sheet].cameras(size)
        named = f"sheet {sheet} has"
        if len(images) == 1 < len(places):
            raise ValueError(
                f"Reference Views: images holds 1 picture, but sheet {sheet} has {len(places)}"
                " views. Put Cut Sheet in between."
            )
    else:
        azimuths, elevations = zip(*parse_views(views), strict=True)
        places = orbit(torch.tensor(azimuths), torch.tensor(elevations), distance, fov_y, size)
        named = f"views names {views!r},"
    if len(places) != len(images):
        raise ValueError(
            f"Reference Views: images holds {len(images)} pictures, but {named} {len(places)}."
            f" Give one view to each picture, as in {EXAMPLE}."
        )
    return places


def _outlines(images: Tensor, mask: Tensor | None, marks: str) -> Tensor:
    """[R,H,W,1] by the mask, the pictures' alpha, or what differs from their background."""
    if mask is not None:
        masks = mask.detach().float().cpu().clone()
        masks = masks[None] if masks.dim() == 2 else masks
        none = marks == EMPTY and not bool(masks.any())
        if not (none and masks.shape[-2:] in ((EMPTY_MASK, EMPTY_MASK), images.shape[1:3])):
            if masks.shape[-2:] != images.shape[1:3] or len(masks) not in (1, len(images)):
                height, width = masks.shape[-2:]
                raise ValueError(
                    f"Reference Views: mask holds {len(masks)} of {width} x {height} pixels, images"
                    f" {len(images)} of {images.shape[2]} x {images.shape[1]}. Give masks of the"
                    " pictures' size, one for each or one for all."
                )
            masks = masks.clamp(0, 1)
            masks = masks if marks == OBJECT else 1 - masks
            return masks[..., None].expand(len(images), -1, -1, -1).contiguous()
    if images.shape[-1] == 4 and float(images[..., 3].min()) < 0.99:
        return images[..., 3:].clamp(0, 1)
    return plain_outlines(images[..., :3])

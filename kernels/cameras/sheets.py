"""Sheets: one picture that shows an object from several sides in a grid, as image models make them,
and the cameras that their makers published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .pinhole import Cameras, orbit


@dataclass(frozen=True)
class Sheet:
    """The views of a sheet, row by row from its upper left corner.

    Args:
        grids: rows and columns that it may have; the shape of a picture tells which it has
        azimuths: degrees, 0 the front, counter-clockwise seen from above
        elevations: degrees
        fov_y: degrees, the field of view of each cell
        distance: world units, where the object fills the unit cube
        source: where the angles stand; what is said there of the last two
    """

    grids: tuple[tuple[int, int], ...]
    azimuths: tuple[float, ...]
    elevations: tuple[float, ...]
    fov_y: float
    distance: float
    source: str

    def cameras(
        self, size: int | tuple[int, int], distance: float = 0.0, fov_y: float = 0.0
    ) -> Cameras:
        """Its cameras [V], cells of ``size`` pixels; 0 is the sheet's own distance or field of
        view.
        """
        return orbit(
            torch.tensor(self.azimuths),
            torch.tensor(self.elevations),
            distance or self.distance,
            fov_y or self.fov_y,
            size,
        )


SHEETS: dict[str, Sheet] = {
    "Zero123++ 1.2": Sheet(
        ((3, 2),),
        (30, 90, 150, 210, 270, 330),
        (20, -10, 20, -10, 20, -10),
        30.0,
        0.5 / math.tan(math.radians(15)),
        "README of SUDO-AI-3D/zero123plus, Camera Parameters (angles, 30 degrees); its issue 73:"
        " object in a sphere of radius 0.5, distance 0.5 / tan 15 degrees",
    ),
    "Zero123++ 1.1": Sheet(
        ((3, 2),),
        (30, 90, 150, 210, 270, 330),
        (30, -20, 30, -20, 30, -20),
        math.degrees(2 * math.atan(16 / 35)),
        1.85,
        "README of SUDO-AI-3D/zero123plus, Camera Parameters (angles); its issue 68: the field of"
        " view of Zero-1-to-3, 2 atan(16 / 35). The distance follows the input picture and is not"
        " published; the middle of Zero-1-to-3's 1.5 to 2.2",
    ),
    "MVDream": Sheet(
        ((1, 4), (2, 2)),
        (0, 90, 180, 270),
        (15, 15, 15, 15),
        40.0,
        2.0,
        "scripts/t2i.py and mvdream/camera_utils.py of bytedance/MVDream (15 degrees, from its 90,"
        " which is the front, by quarters). It was trained with fields of view of 15 to 60; ours",
    ),
    "multiple angles": Sheet(
        ((2, 4), (1, 8)),
        (0, 45, 90, 135, 180, 225, 270, 315),
        (0, 0, 0, 0, 0, 0, 0, 0),
        40.0,
        2.0,
        "card of fal/Qwen-Image-Edit-2511-Multiple-Angles-LoRA: eight azimuths by 45 degrees, front"
        " view to front-left quarter view, eye-level shot. Field of view and distance not"
        " published; ours",
    ),
    "four sides": Sheet(
        ((2, 2), (1, 4)),
        (0, 90, 180, 270),
        (0, 0, 0, 0),
        40.0,
        2.0,
        "ours: front, left, back, right",
    ),
}


def grid_of(sheet: Sheet, width: int, height: int) -> tuple[int, int]:
    """Rows and columns of a sheet that is ``width`` x ``height`` pixels: those whose cells come
    nearest to a square."""
    return min(sheet.grids, key=lambda g: abs(math.log(width * g[0] / (height * g[1]))))


def cut(sheet: Tensor, rows: int, columns: int) -> Tensor:
    """The cells [rows * columns,h,w,C] of a sheet [H,W,C], row by row; pixels that do not come out
    even are left off at the right and below. Raises ValueError where there are more cells than
    pixels.
    """
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    if not height or not width:
        raise ValueError(
            f"The sheet is {sheet.shape[1]} x {sheet.shape[0]} pixels and cannot be cut into"
            f" {rows} rows and {columns} columns."
        )
    even = sheet[: rows * height, : columns * width]
    cells = even.reshape(rows, height, columns, width, -1).transpose(1, 2)
    return cells.reshape(rows * columns, height, width, -1)

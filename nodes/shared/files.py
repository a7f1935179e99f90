"""Splat and mesh files that nodes may read: those below ComfyUI's output folder and input/3d."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...kernels.files.formats import (
    MESH_SUFFIXES,
    SUFFIXES,
    may_hold_gaussians,
    may_hold_mesh,
)
from .listing import Listing

TRAINING = ".safetensors"


def _may_be_loaded(path: Path) -> bool:
    return path.suffix.lower() == TRAINING or may_hold_gaussians(path)


_listing = Listing(
    tuple({*SUFFIXES, *MESH_SUFFIXES, TRAINING}),
    {"splat": _may_be_loaded, "mesh": may_hold_mesh},
)


def roots() -> dict[str, Path]:
    """Where files may come from, by the first part of the names in the lists."""
    return {
        "output": Path(folder_paths.get_output_directory()),
        "input/3d": Path(folder_paths.get_input_directory()) / "3d",
    }


def splat_files() -> list[str]:
    """Names of all files that could hold Gaussians, newest first."""
    return _listing.names("splat", roots())


def mesh_files() -> list[str]:
    """Names of all files that could hold a mesh or a point cloud, newest first."""
    return _listing.names("mesh", roots())


def located(
    file: str, suffixes: tuple[str, ...] = (*SUFFIXES, TRAINING), kind: str = "splat file"
) -> Path:
    """The path behind a name in a list, or one that would be in it. Raises ValueError where there
    is none, where the name leads elsewhere, and for what is no ordinary file.

    Links below the two folders are followed: whoever owns the machine has put them there.
    """
    shown = repr(file if len(file) <= 200 else file[:200] + "...")
    for label, root in roots().items():
        if file.startswith(label + "/"):
            top = os.path.abspath(root)
            path = Path(os.path.abspath(os.path.join(top, file[len(label) + 1 :])))
            break
    else:
        raise ValueError(
            f"file {shown} is not below output/ or input/3d/; choose one from the list."
        )
    if not path.is_relative_to(top):
        raise ValueError(f"file {shown} leads out of {label}/; choose one from the list.")
    if path.suffix.lower() not in suffixes:
        known = f"{', '.join(suffixes[:-1])} and {suffixes[-1]}"
        raise ValueError(f"file {shown} is none of {known}; choose a {kind}.")
    try:
        ordinary, there = path.is_file(), os.path.lexists(path)
    except (OSError, ValueError):  # no name that a file can have
        ordinary = there = False
    if there and not ordinary and not path.is_dir() and path.exists():
        raise ValueError(
            f"file {shown} is a pipe, a device or a socket, which is not read. Choose a file."
        )
    if not ordinary:
        raise ValueError(
            f"file {shown} does not exist (any more); press R to refresh the list and choose"
            " another."
        )
    return path

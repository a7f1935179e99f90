"""Where files go: ComfyUI's output folder, numbered like its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from .prefix import prefix_problem


@dataclass(frozen=True)
class OutputFile:
    """One numbered file to be written in ComfyUI's output folder."""

    path: Path
    subfolder: str

    @property
    def result(self) -> dict[str, str]:
        """The entry for a node's ui dictionary, by which the page and /view find the file."""
        return {"filename": self.path.name, "subfolder": self.subfolder, "type": "output"}


def check_prefix(prefix: str | None) -> bool | str:
    """True, or what is wrong with a filename_prefix; None is a linked one, not known yet."""
    if prefix is None:
        return True
    return prefix_problem(prefix, Path(folder_paths.get_output_directory())) or True


def next_output(prefix: str, extension: str, *beside: str) -> OutputFile:
    """The next free ``prefix_00001_.extension``; its folder exists afterwards. Raises ValueError
    for a bad prefix.

    Counted per extension, unlike ComfyUI's own: the splat and the mesh of one object get one
    number. ``beside``: extensions of files that belong to it, which must be free too.
    """
    problem = check_prefix(prefix)
    if problem is not True:
        raise ValueError(problem)
    root = folder_paths.get_output_directory()
    # fills in %year% and the like
    place, name, _, subfolder, _ = folder_paths.get_save_image_path(prefix, root)
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    endings = "|".join(map(re.escape, (extension, *beside)))
    taken = (
        re.fullmatch(rf"{re.escape(name)}_(\d+)_\.(?:{endings})", file.name)
        for file in folder.iterdir()
    )
    number = 1 + max((int(match[1]) for match in taken if match), default=0)
    return OutputFile(folder / f"{name}_{number:05}_.{extension}", subfolder)


def shown(path: Path) -> str:
    """The path as a user finds it again: relative to the output folder where it is inside."""
    root = Path(folder_paths.get_output_directory())
    return f"output/{path.relative_to(root).as_posix()}" if path.is_relative_to(root) else str(path)

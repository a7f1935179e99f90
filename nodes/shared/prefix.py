"""Whether files can be called as a filename_prefix says, told before anything runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

ON_WINDOWS = os.name == "nt"
# bytes that follow a prefix's name at most: a number, and an ending such as
# .compressed.ply.safetensors
ENDING = 40
# what no name on Windows may hold, and the names of its devices
WINDOWS = re.compile(r"[<>:\"|?*]|[ .]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)
EXAMPLE = "write for instance 'distill3d/mug'."


def prefix_problem(prefix: str, root: Path) -> str | None:
    """What is wrong with a filename_prefix below the folder ``root``; None where nothing is.

    Folders below it that are links count as part of it, wherever they lead: whoever owns the
    machine has put them there.
    """
    said = f"filename_prefix {_short(prefix)}"
    if any(ord(sign) < 32 or ord(sign) == 127 or "\ud800" <= sign <= "\udfff" for sign in prefix):
        return (
            f"{said} holds a sign that no name can have (a line break, a zero byte, half of a"
            f" character); {EXAMPLE}"
        )
    parts = prefix.replace("\\", "/").split("/") if ON_WINDOWS else prefix.split("/")
    if not parts[-1] or parts[-1] in (".", "..") or prefix.endswith("\\"):
        return f"{said} holds no file name; {EXAMPLE}"
    path = Path(os.path.abspath(root / prefix))
    if not path.is_relative_to(os.path.abspath(root)):
        return f"{said} leads out of ComfyUI's output folder; use a name or folder/name below it."
    if ON_WINDOWS and (odd := next(filter(WINDOWS.search, parts), None)):
        return f"{said}: {odd!r} is no name that Windows takes; {EXAMPLE}"
    return _too_long(said, path, root) or _blocked(said, path, Path(os.path.abspath(root)))


def _too_long(said: str, path: Path, root: Path) -> str | None:
    longest, whole = _limit(root, "PC_NAME_MAX", 255), _limit(root, "PC_PATH_MAX", 259)
    name = len(os.fsencode(path.name))
    if name + ENDING > longest:
        return (
            f"{said}: its name takes {name} bytes (a letter one, most others two to four); the"
            f" disk's names hold {longest}, and number and ending need {ENDING} of them. Shorten"
            f" it to {longest - ENDING}."
        )
    for folder in path.parts[1:-1]:
        if len(os.fsencode(folder)) > longest:
            return (
                f"{said}: the folder {folder[:20]!r}... is longer than {longest} bytes. Shorten it."
            )
    if (length := len(os.fsencode(path)) + ENDING) > whole:
        return (
            f"{said}: the whole path would take {length} bytes; {whole} are allowed here. Use fewer"
            " folders, or shorter names."
        )
    return None


def _blocked(said: str, path: Path, root: Path) -> str | None:
    """A file where a folder would have to be."""
    for folder in path.parents:
        if folder == root:
            break
        if os.path.lexists(folder) and not folder.is_dir():
            where = folder.relative_to(root).as_posix()
            return f"{said}: {where!r} in ComfyUI's output folder is no folder. Use another name."
    return None


def _short(prefix: str) -> str:
    return repr(prefix if len(prefix) <= 80 else prefix[:60] + "..." + prefix[-10:])


def _limit(root: Path, name: str, usual: int) -> int:
    try:
        return os.pathconf(root, name)
    except (AttributeError, OSError, ValueError):  # Windows; a folder that is yet to be made
        return usual if ON_WINDOWS or name == "PC_NAME_MAX" else 1024

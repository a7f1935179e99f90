"""Folders that lead to other folders; standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def link(target: Path, place: Path) -> None:
    """Makes ``place`` lead to the folder ``target``, replacing a link that leads elsewhere."""
    if place.exists() and place.resolve() == target.resolve():
        return
    if place.is_symlink() or place.exists():
        # rmdir takes a junction away and not its target
        place.unlink() if place.is_symlink() else place.rmdir()
    try:
        place.symlink_to(target, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        import _winapi  # symlinks need a privilege on Windows, junctions do not

        _winapi.CreateJunction(str(target), str(place))

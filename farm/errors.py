"""What the farm tells people."""

from __future__ import annotations

from importlib import import_module
from typing import Any

INSTALL = 'python -m pip install "ray[default]==2.60.*" fsspec tqdm'


class FarmError(Exception):
    """A sentence for the person at the terminal: what is wrong, and the cure."""


def needed(module: str) -> Any:
    """A module of the optional group "farm". Raises FarmError that names the group where it is
    missing.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise FarmError(
            f"The farm needs the Python package {module.partition('.')[0]} ({error}). Install the"
            f' group "farm": {INSTALL}'
        ) from error

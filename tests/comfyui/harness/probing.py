"""A server with the tests' own pack, `probe`, beside this one."""

from __future__ import annotations

from pathlib import Path

from . import environment
from .links import link
from .server import Server


def probing_server(folder: Path, version: str = environment.MAIN) -> Server:
    """A ComfyUI with this pack and the probe; its files below ``folder``."""
    (folder / "base" / "custom_nodes").mkdir(parents=True)
    probe = environment.ROOT / "tests" / "comfyui" / "probe"
    link(probe, folder / "base" / "custom_nodes" / "probe")
    return Server(environment.tree(version), folder / "base", folder / "comfyui.log")

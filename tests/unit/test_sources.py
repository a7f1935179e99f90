"""What ComfyUI's start depends on: light imports, and sources that every Windows can read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("diffusers", "transformers", "trimesh", "skimage", "gsplat", "matplotlib")


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh Python after the statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    return set(done.stdout.split())


def test_door_imports_neither_torch_nor_comfyui():
    loaded = loaded_after("import distill3d")
    assert "distill3d" in loaded
    assert not loaded & {"torch", "numpy", "comfy", "comfy_api", "folder_paths", *SLOW}


def test_what_the_nodes_import_at_start_is_light():
    lines = [
        line
        for file in ROOT.glob("nodes/**/*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    modules = sorted(
        {
            line.split()[1].replace("...", "distill3d.").replace("..", "distill3d.")
            for line in lines
            if line.startswith("from ..") and "kernels" in line.split()[1]
        }
    )
    assert len(modules) > 10
    assert not loaded_after("; ".join(f"import {module}" for module in modules)) & set(SLOW)


@pytest.mark.parametrize("folder", ["nodes", "kernels", "tests"])
def test_sources_are_readable_in_the_western_windows_encoding(folder):
    for file in ROOT.joinpath(folder).rglob("*.py"):
        file.read_text(encoding="utf-8").encode("cp1252")

"""Imports follow the layout: the contracts stand in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"
)


def test_no_room_imports_one_that_stands_above_it_or_beside_it():
    done = subprocess.run(
        [sys.executable, "-P", "-c", LINT], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_of_the_kernels_holds_folders_only():
    assert [file.name for file in ROOT.joinpath("kernels").glob("*.py")] == ["__init__.py"]

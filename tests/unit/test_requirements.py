"""ComfyUI Manager installs requirements.txt, everybody else reads pyproject.toml: both have to ask for the same."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings there

ROOT = Path(__file__).resolve().parents[2]


def name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()


def test_requirements_are_pyprojects_dependencies_without_torch():
    lines = ROOT.joinpath("requirements.txt").read_text(encoding="utf-8").splitlines()
    dependencies = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert "torch" in map(name, dependencies)
    expected = [dependency for dependency in dependencies if name(dependency) != "torch"]
    assert [line for line in lines if line and not line.startswith("#")] == expected

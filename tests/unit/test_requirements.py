"""ComfyUI Manager installs requirements.txt, everybody else reads pyproject.toml: both ask for the
same. And what the registry and the public CI read."""

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


def project() -> dict:
    return tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))


def test_requirements_are_pyprojects_dependencies_without_torch():
    lines = ROOT.joinpath("requirements.txt").read_text(encoding="utf-8").splitlines()
    dependencies = project()["project"]["dependencies"]
    assert "torch" in map(name, dependencies)
    expected = [dependency for dependency in dependencies if name(dependency) != "torch"]
    assert [line for line in lines if line and not line.startswith("#")] == expected


def test_pyproject_has_what_the_registry_asks_for():
    metadata, comfy = project()["project"], project()["tool"]["comfy"]
    assert (
        re.fullmatch(r"[a-z][a-z0-9_-]{0,99}", metadata["name"])
        and "comfyui" not in metadata["name"]
    )
    assert (
        re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
        and metadata["license"]
        and metadata["urls"]["Repository"]
    )
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert re.fullmatch(r"(>=|<=|~=|!=|<|>)\d+\.\d+\.\d+", comfy["requires-comfyui"])
    changelog = ROOT.joinpath("CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)[1] == metadata["version"]


def test_the_registrys_archive_is_what_a_run_needs():
    lines = ROOT.joinpath(".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = {line.strip("/") for line in lines if line.startswith("/")}
    assert {"tests", "docs", "assets", ".ci", ".github"} <= left_out
    needed = {
        pattern.split("/")[0]
        for pattern in project()["tool"]["setuptools"]["package-data"]["distill3d"]
    }
    assert (
        not (needed | {"kernels", "nodes", "README.md", "LICENSE", "requirements.txt"}) & left_out
    )


def test_public_ci_runs_on_three_systems_what_the_quick_start_does():
    workflow = ROOT.joinpath(".github", "workflows", "tests.yml").read_text(encoding="utf-8")
    assert all(f"{system}-latest" in workflow for system in ("ubuntu", "windows", "macos"))
    sessions = set(re.findall(r'nox"? -s (\w+)', workflow))
    assert sessions == {"tests", "docs"}
    noxfile = ROOT.joinpath("noxfile.py").read_text(encoding="utf-8")
    assert all(f"def {session}(session" in noxfile for session in sessions)

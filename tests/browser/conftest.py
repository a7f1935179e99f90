"""A headless Chromium at a real ComfyUI; skipped where node, npm or Chromium are missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "comfyui"))
# the browser draws in software and needs the other cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

from harness import environment, prompts  # noqa: E402
from harness.frontend import frontend  # noqa: E402
from harness.played import Played  # noqa: E402
from harness.server import Server  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def pytest_configure() -> None:
    """Being terminated ends the tests like Ctrl-C: in order, so that no server stays behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def modules() -> None:
    """What package.json names is in node_modules."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    wanted = json.loads(HERE.joinpath("package.json").read_text())["devDependencies"]
    with FileLock(environment.HOME / "node_modules.lock"):  # another worker may be at it
        _install(wanted)


def _install(wanted: dict[str, str]) -> None:
    if not all(HERE.joinpath("node_modules", name).exists() for name in wanted):
        command = [shutil.which("npm"), "install", "--no-audit", "--no-fund", "--no-package-lock"]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm could not install {', '.join(wanted)}: {done.stderr[-300:]}")


@pytest.fixture(scope="session")
def browser(modules: None) -> str:
    """The program; `DISTILL3D_CHROMIUM` names another one."""
    found = os.environ.get("DISTILL3D_CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if found is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    return found


@pytest.fixture(scope="session")
def comfyui(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    with Server(environment.tree(), folder / "base", folder / "comfyui.log") as server:
        server.post("/settings", {"Comfy.TutorialCompleted": True})  # no dialog over the graph
        yield server


@pytest.fixture(scope="session")
def newest(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same ComfyUI with the newest page; skipped where that cannot be had."""
    try:
        page = frontend("newest")
    except environment.SetupError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("newest")
    arguments = ("--front-end-root", str(page))
    with Server(
        environment.tree(), folder / "base", folder / "comfyui.log", arguments=arguments
    ) as server:
        server.post("/settings", {"Comfy.TutorialCompleted": True})
        yield server


@pytest.fixture(scope="session")
def play(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Played]:
    """A function that plays one of the .mjs scenarios at a server and returns what it tells."""

    def played(
        scenario: str, name: str, server: Server, workflow: dict | None = None, **settings
    ) -> Played:
        folder = Path(os.environ.get("DISTILL3D_SCREENSHOTS") or tmp_path_factory.mktemp(name))
        folder.mkdir(parents=True, exist_ok=True)
        if workflow is not None:
            settings["workflow"] = str(folder / f"{name}.json")
            Path(settings["workflow"]).write_text(json.dumps(workflow))
        file = folder / f"{name}-settings.json"
        fixed = {"name": name, "url": server.url, "browser": browser, "folder": str(folder)}
        fixed["watched"] = "DISTILL3D_SCREENSHOTS" in os.environ
        file.write_text(json.dumps(fixed | settings))
        done = subprocess.run(
            ["node", HERE / scenario, file], capture_output=True, text=True, timeout=560
        )
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout.splitlines()[-1])
        assert "failure" not in told["facts"], told["facts"]["failure"]
        return Played(folder=folder, **told)

    return played


@pytest.fixture(scope="session")
def workflow() -> dict:
    """The quickstart, small, and without core's two 3D previews: drawn in software they would take
    all the time.
    """
    graph = prompts.without_preset(prompts.read("quickstart"))
    changes = {
        # by place: steps, views and image_size; count; resolution, views and
        # texture_size; views, size
        "Distill3D_Optimize": {0: 2000, 1: 1, 4: 64},
        "Distill3D_InitText": {0: 1500},
        "Distill3D_ExportMesh": {1: 32, 3: 12, 8: 64},
        "Distill3D_RenderViews": {0: 3, 1: 64},
    }
    for node in graph["nodes"]:
        for place, value in changes.get(node["type"], {}).items():
            node["widgets_values"][place] = value
    dropped = {node["id"] for node in graph["nodes"] if node["type"] == "Preview3D"}
    links = {link[0] for link in graph["links"] if link[3] in dropped}
    graph["nodes"] = [node for node in graph["nodes"] if node["id"] not in dropped]
    graph["links"] = [link for link in graph["links"] if link[0] not in links]
    for node in graph["nodes"]:
        for output in node["outputs"]:
            output["links"] = [link for link in output.get("links") or [] if link not in links]
    return graph

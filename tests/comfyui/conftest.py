"""A real ComfyUI for the tests, started once; a quickstart run many of them look at."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# the browser's tests run beside these, on as many cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

from harness import environment, prompts
from harness.nodes import PACK, node, optimize
from harness.probing import probing_server
from harness.server import Run, Server
from tiny_prior import write_tiny_prior


def pytest_configure() -> None:
    """Being terminated ends the tests like Ctrl-C: in order, so that no server stays behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # xdist's own reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two workers one has the server with the probe, the other the plain one."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        servers = [name for name in ("probing", "comfyui") if name in fixtures]
        item.add_marker(pytest.mark.xdist_group((servers or [item.path.stem])[0]))


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI 0.30.0 with this pack and nothing else."""
    folder = tmp_path_factory.mktemp("comfyui")
    with Server(environment.tree(), folder / "base", folder / "comfyui.log") as server:
        yield server


@pytest.fixture(scope="session")
def object_info(comfyui: Server) -> dict:
    return comfyui.object_info()


@pytest.fixture(scope="session")
def probing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with the probe, see `harness.probing`."""
    with probing_server(tmp_path_factory.mktemp("probing")) as server:
        yield server


@pytest.fixture(scope="session")
def info(probing: Server) -> dict:
    """What that server says of its nodes."""
    return probing.object_info()


@pytest.fixture(scope="session")
def quickstart_prompt(object_info: dict) -> dict:
    """The quickstart workflow at reduced size, API form."""
    whole = prompts.api_form(prompts.without_preset(prompts.read("quickstart")), object_info)
    return prompts.reduced(whole, steps=4)


@pytest.fixture(scope="session")
def quickstart(comfyui: Server, quickstart_prompt: dict) -> Run:
    """The first run of that prompt; tests that queue it again ask for this one too, so that it
    stays the first.
    """
    run = comfyui.run(quickstart_prompt)
    assert run.status == "success", run.error
    return run


@pytest.fixture(scope="session")
def prior(comfyui):
    """The name of a diffusers folder with a tiny random prior, for runs whose result does not
    matter.
    """
    folder = comfyui.base / "models" / "diffusers" / "tiny" / "nested"
    if not folder.exists():
        write_tiny_prior(folder)
    return "tiny/nested"


@pytest.fixture(scope="session")
def pack(object_info):
    return {name: info for name, info in object_info.items() if name.startswith(PACK)}


@pytest.fixture
def graph(prior, object_info):
    """A function that gives the API form of prior -> Optimize -> Save Gaussians, with values set by
    node id.
    """

    def build(kind="VDMLoss", /, settings=None, **values):
        nodes = {
            "prior": node(object_info, "LoadDiffusionPrior", model=prior),
            "prompts": node(object_info, "ViewPrompts", prior=["prior", 0]),
            "cameras": node(object_info, "OrbitCameras"),
            "start": node(object_info, "InitGaussians", count=300, scale=0.04, opacity=0.12),
            "loss": node(object_info, kind),
            "optimize": optimize(object_info, "start"),
            "save": node(
                object_info,
                "SaveGaussians",
                gaussians=["optimize", 0],
                filename_prefix="nodes/saved",
            ),
        }
        for id, changes in values.items():
            nodes[id]["inputs"] |= changes
        return prompts.with_settings(nodes, object_info, **(settings or {}))

    return build


@pytest.fixture(scope="session")
def comfy_cli() -> Path:
    """The folder of ComfyUI's own command line tool's programs."""
    return environment.comfy_cli()

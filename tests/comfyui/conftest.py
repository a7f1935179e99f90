"""A real ComfyUI for the tests, started once; a quickstart run many of them look at."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import environment, prompts
from harness.server import Run, Server


def pytest_configure() -> None:
    """Being terminated ends the tests like Ctrl-C: in order, so that no server stays behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
def comfy_cli() -> Path:
    """The folder of ComfyUI's own command line tool's programs."""
    return environment.comfy_cli()

"""``nox -s object -- "a red mug"`` makes an object, ``nox -s tests`` runs all tests, ``nox -s
setup`` only installs, ``nox -s texts`` writes what is generated, ``nox -s docs`` builds the manual.

All share one environment inside the clone, .venv and .comfyui; the first to run sets it up.
"""

import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent

nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests"]
sys.path.insert(0, str(ROOT / "tests" / "comfyui"))

from harness import environment  # noqa: E402


def run(
    session: nox.Session, program: str, *arguments: str, allowed: tuple[int, ...] = (0,)
) -> None:
    """Runs a program of the clone's environment."""
    # Nox's own half a second would not let the server stop, nor a partial result be saved, after
    # Ctrl-C.
    session.run(
        str(environment.python().with_name(program)),
        *arguments,
        env=environment.child_environment(),
        include_outer_env=False,
        external=True,
        success_codes=allowed,
        interrupt_timeout=60,
        terminate_timeout=20,
    )


@nox.session
def setup(session: nox.Session) -> None:
    """Install everything: packages into .venv, ComfyUI into .comfyui."""
    run(session, "python", "tests/comfyui/harness/environment.py")


@nox.session
def object(session: nox.Session) -> None:
    """Make a 3D object: nox -s object -- "a red mug" [--steps N] [--seed N]"""
    run(session, "python", "tests/comfyui/make_object.py", "--check", *session.posargs)
    setup(session)
    run(session, "python", "tests/comfyui/make_object.py", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """The pack in a ComfyUI server on this machine's GPU: nox -s gpu -- [--mode whole] [--report
    FILE] [-- FLAGS]
    """
    setup(session)
    tree, base = environment.tree_path(environment.MAIN), environment.HOME / "gpu"
    run(session, "python", "tests/gpu/suite.py", str(tree), "--base", str(base), *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Style, types, unit tests, and the tests against real ComfyUI servers and in a browser;
    arguments go to these.
    """
    setup(session)
    # Its interpreter runs the GPU's kernels; where it cannot be had, their tests skip themselves.
    run(
        session,
        "python",
        "-m",
        "pip",
        "install",
        "-q",
        "triton>=3.2; sys_platform == 'linux'",
        allowed=(0, 1),
    )
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")
    run(session, "mypy")
    # Not "python -m pytest": with the clone on the path, transformers takes our "kernels" for a
    # package it uses.
    run(session, "pytest", "tests/unit", "tests/parity", *session.posargs)
    run(session, "pytest", "tests/comfyui", *session.posargs)
    # skips itself where there is no browser
    run(session, "pytest", "tests/browser", *session.posargs)


@nox.session
def texts(session: nox.Session) -> None:
    """Write what follows from other files: locales/en, help pages, docs/nodes, the tables of
    results.
    """
    setup(session)
    run(session, "python", "tests/comfyui/write_texts.py")
    run(session, "python", "tests/benchmarks/tables.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the manual into output/site; fails on a link that leads nowhere."""
    wanted = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"]
    run(session, "python", "-m", "pip", "install", "-q", *wanted)
    run(session, "mkdocs", "build", "--strict", "--quiet", *session.posargs)

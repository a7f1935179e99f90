"""``nox -s object -- "a red mug"`` makes an object, ``nox -s tests`` runs the tests, ``nox -s unit``
those without a server, ``nox -s nightly`` all there are, ``nox -s reliability`` injects faults into
servers, ``nox -s audit`` looks for known vulnerabilities, ``nox -s newest`` tries the newest Python
and PyTorch, ``nox -s setup`` only installs, ``nox -s texts`` writes what is generated, ``nox -s
docs`` builds the manual.

All but ``newest`` share one environment inside the clone, .venv and .comfyui; the first to run sets
it up.
"""

import os
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
UNIT = ["tests/unit", "tests/parity"]
TWO = ["-n", "2", "--dist"]  # workers
Suites = dict[str, list[list[str]]]  # by name, commands that run one after the other
AUDIT: Suites = {"audit": [["python", "tests/audit.py"]]}

nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests"]
sys.path.insert(0, str(ROOT / "tests" / "comfyui"))

from harness import environment  # noqa: E402
from harness.links import link  # noqa: E402
from harness.suites import side_by_side  # noqa: E402


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
    run(session, "python", "tests/comfyui/set_up.py")


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
def unit(session: nox.Session) -> None:
    """Style, types and the fast unit tests: nox -s unit -- [PATH ...] [pytest's options]"""
    _install_tests(session)
    paths, options = _split(session.posargs)
    # of a path that is named, the slow ones, too
    options = options if paths else ["-m", "not nightly and not slow", *options]
    _run_suites(session, _quick(paths or UNIT, options))


@nox.session
def tests(session: nox.Session) -> None:
    """What `unit` runs, and the tests against a real ComfyUI server and in a browser; options of
    pytest's go to these.
    """
    _install_tests(session)
    _run_suites(session, *_all(session.posargs))


@nox.session
def nightly(session: nox.Session) -> None:
    """All tests there are: older ComfyUIs, benchmarks, 2,000 mutations of a file, some faults of
    each kind, and what is known of the packages that the pack asks for.
    """
    _install_tests(session)
    for version in environment.OLDER:  # which two suites would fetch at the same time
        environment.tree(version)
    os.environ.setdefault("DISTILL3D_MUTATIONS", "2000")
    options = ["-m", "", *session.posargs]
    _install_audit(session)
    _run_suites(session, *_all(options), {"reliability": [_campaign("--trials", "10")]}, AUDIT)


@nox.session
def newest(session: nox.Session) -> None:
    """Tests without a server on the newest Python and PyTorch that can be had, in .venv-newest: nox
    -s newest -- [paths of tests]. DISTILL3D_PYTHON names the interpreter.
    """
    found = os.environ.get("DISTILL3D_PYTHON") or next(
        filter(None, map(shutil.which, ("python3.14", "python3.13"))), sys.executable
    )
    folder = ROOT / ".venv-newest"
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    session.run(found, "-m", "venv", str(folder), external=True)
    extras = "cpu,mesh,pictures,vsd,spz,spz4,usd,train,test"
    install = (str(programs / "python"), "-m", "pip", "install", "-q", "--upgrade")
    session.run(*install, "-e", f"{ROOT}[{extras}]", "torch", external=True)
    session.run(str(programs / "python"), "-VV", external=True)
    session.run(str(programs / "pip"), "show", "torch", "diffusers", "transformers", external=True)
    # PyTorch's own Triton may be one whose interpreter fails, as 3.8.0's
    plain = {"TRITON_INTERPRET": "0"}
    tests = session.posargs or UNIT
    session.run(str(programs / "pytest"), "-n", "2", *tests, env=plain, external=True)


@nox.session
def reliability(session: nox.Session) -> None:
    """Faults injected into real ComfyUI servers, some hours long: nox -s reliability -- [--faults
    NAME,...] [--trials N] [--seed N] [--report FILE]
    """
    _install_tests(session)
    run(session, *_campaign(*session.posargs))


@nox.session
def audit(session: nox.Session) -> None:
    """Licences and known vulnerabilities of the packages that the pack asks for; the latter are
    skipped where the network cannot be had.
    """
    setup(session)
    _install_audit(session)
    _run_suites(session, AUDIT)


def _campaign(*options: str) -> list[str]:
    return ["python", "tests/reliability/campaign.py", *options]


def _install_audit(session: nox.Session) -> None:
    run(session, "python", "-m", "pip", "install", "-q", "pip-audit", allowed=(0, 1))


def _install_tests(session: nox.Session) -> None:
    setup(session)
    # Its interpreter runs the GPU's kernels; where it cannot be had, their tests skip themselves.
    triton = "triton>=3.2; sys_platform == 'linux'"
    # Likewise Ray, on which the farm stands.
    farm = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["farm"]
    for packages in ([triton], farm):
        run(session, "python", "-m", "pip", "install", "-q", *packages, allowed=(0, 1))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Paths of tests, and the rest."""
    paths = [word for word in arguments if (ROOT / word.partition("::")[0]).exists()]
    return paths, [word for word in arguments if word not in paths]


def _quick(paths: list[str], options: list[str]) -> Suites:
    return {
        "style": [["ruff", "check", "."], ["ruff", "format", "--check", "."]],
        "types": [["mypy", *_typed()]],
        "unit": [["pytest", *TWO, "loadgroup", *paths, *options]],
    }


def _typed() -> list[str]:
    """What mypy reads, in a folder whose name can be a package's; a clone's may be
    distill3d-main.
    """
    named = environment.HOME / "packs" / "distill3d"
    named.parent.mkdir(parents=True, exist_ok=True)
    link(ROOT, named)
    folders = nox.project.load_toml("pyproject.toml")["tool"]["mypy"]["files"]
    return [str(named / folder) for folder in folders]


def _all(options: list[str]) -> list[Suites]:
    """What runs side by side, then the browser's, which need the cores for their pages; they skip
    themselves where there is no browser.
    """
    served = {"comfyui": [["pytest", *TWO, "loadgroup", "tests/comfyui", *options]]}
    return [
        served | _quick(UNIT, options),
        {"browser": [["pytest", *TWO, "loadfile", "tests/browser", *options]]},
    ]


def _run_suites(session: nox.Session, *rounds: Suites) -> None:
    """Those of a round side by side. Not "python -m pytest": with the clone on the path,
    transformers takes our "kernels" for a package it uses.
    """
    programs = environment.python().parent
    failures = []
    for suites in rounds:
        failures += side_by_side(
            {
                name: [[str(programs / command[0]), *command[1:]] for command in commands]
                for name, commands in suites.items()
            }
        )
    if failures:
        session.error(f"failed first: {', '.join(failures)}")


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

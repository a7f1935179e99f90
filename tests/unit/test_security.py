"""What the pack's sources never do: run text as code, unpickle, install, reach for the network,
write where they were not asked to. ComfyUI's registry asks for the first four.
"""

from __future__ import annotations

import ast
import re
import socket
from pathlib import Path

import pytest

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "__init__.py", ROOT / "setup.py"]
ROOMS = ("farm", "kernels", "nodes")
SOURCES += sorted(path for room in ROOMS for path in ROOT.glob(f"{room}/**/*.py"))
PAGES = sorted([*ROOT.glob("web/*.mjs"), *ROOT.glob("web/*.js"), *ROOT.glob("web/*.html")])

CODE = {"eval", "exec", "compile", "__import__", "execfile", "breakpoint", "input"}
PICKLED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
NETWORK = {
    "aiohttp", "aiosignal", "ftplib", "http", "httpcore", "httpx", "huggingface_hub", "imaplib",
    "paramiko", "poplib", "requests", "smtplib", "socket", "socketserver", "ssl", "telnetlib",
    "urllib", "urllib3", "websocket", "websockets", "wget", "xmlrpc", "yarl",
}  # fmt: skip
PROCESSES = {"subprocess", "multiprocessing", "pty", "pip", "ensurepip", "venv", "distutils"}
# what else starts a process or loads code, as attributes of modules
STARTS = {
    "os": r"system|popen|exec\w*|spawn\w*|posix_spawn\w*|fork\w*|startfile",
    "asyncio": r"create_subprocess\w*|open_connection|start_server",
    "importlib": r"reload|machinery",
    "runpy": ".*", "code": ".*", "ctypes": r"PyDLL|pythonapi",
}  # fmt: skip
# Who may, and what for.
ALLOWED = {
    ("nodes/run/routes.py", "aiohttp"): "answers what pages ask of ComfyUI's own server",
    ("nodes/run/recover.py", "aiohttp"): "answers what pages ask of ComfyUI's own server",
    ("kernels/devices/native/__init__.py", "subprocess"): "libraries' calls, in this very Python",
    ("kernels/files/mesh_source.py", "urllib"): "urllib.parse.unquote: names in a glTF",
    ("kernels/fast/graph_trial.py", "subprocess"): "tries CUDA graphs in this very Python",
    ("farm/engines/server.py", "subprocess"): "starts a ComfyUI in this very Python",
    ("farm/engines/server.py", "socket"): "asks for a free port of the loopback",
    ("farm/engines/server.py", "urllib"): "asks that ComfyUI, on the loopback",
    ("farm/engines/comfyui.py", "urllib"): "what that ComfyUI refuses",
    ("farm/engines/guarded.py", "runpy.run_path"): "ComfyUI's main.py, from its own folder",
    ("farm/packing.py", "subprocess"): "NVIDIA's Multi-Process Service, where it is installed",
    ("farm/run.py", "socket"): "the machine's name",
    ("farm/worker.py", "socket"): "the machine's name",
    ("kernels/toybox/train.py", "compile"): "torch.compile, in a program of its own",
}

LOAD = "torch.load"


def source(path: Path) -> tuple[str, ast.Module]:
    return path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all modules that are imported, relative ones aside."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call with its dotted name; "?" where what is called has none."""

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return node.id
        return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"

    return [(dotted(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def problems(name: str, tree: ast.Module) -> list[str]:
    """What a source does that it should not."""
    found = [
        module
        for module in imported(tree) & (PICKLED | NETWORK | PROCESSES)
        if (name, module) not in ALLOWED
    ]
    for called, call in calls(tree):
        keywords = {word.arg: word.value for word in call.keywords}
        module, _, attribute = called.rpartition(".")
        if called in CODE and (name, called) not in ALLOWED:
            found.append(called)
        if re.fullmatch(STARTS.get(module, "$^"), attribute) and (name, called) not in ALLOWED:
            found.append(called)
        value = keywords.get("shell")
        if isinstance(value, ast.Constant) and value.value:
            found.append(f"{called}(shell=True)")
        if called.endswith("torch.load") or called == "torch.load":
            safe = keywords.get("weights_only")
            if not (isinstance(safe, ast.Constant) and safe.value is True):
                found.append("torch.load without weights_only=True")
        pickled = keywords.get("allow_pickle", ast.Constant(module == "yaml"))
        if attribute in ("load", "loads") and module in ("yaml", "np", "numpy") and not (
            isinstance(pickled, ast.Constant) and pickled.value is False
        ):  # fmt: skip
            found.append(called)
        if attribute == "from_pretrained":
            words = ["local_files_only"]
            # what holds weights, which could be pickled ones
            words += [] if re.search("Tokenizer|Scheduler", called) else ["use_safetensors"]
            found += [
                f"{called} without {word}=True" for word in words if not _said(word, call, tree)
            ]
    return found


def _said(word: str, call: ast.Call, tree: ast.Module) -> bool:
    """Whether a call has the keyword as True, itself or in the ``options`` that it is given."""
    for keyword in call.keywords:
        if keyword.arg == word:
            return isinstance(keyword.value, ast.Constant) and keyword.value.value is True
    given = [getattr(keyword.value, "id", "") for keyword in call.keywords if keyword.arg is None]
    return "options" in given and f"'{word}': True" in ast.unparse(tree)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_text_unpickles_installs_or_reaches_for_the_network(path):
    assert not problems(*source(path))


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')", "exec(code)", "__import__('os')", "import pickle", "from dill import loads",
        f"{LOAD}(file)", f"{LOAD}(file, weights_only=False)", "import subprocess",
        "os.system('pip install x')", "os.execv(a, b)", "import requests",
        "from urllib.request import urlopen", "import socket", "from huggingface_hub import login",
        "CLIPModel.from_pretrained('openai/clip', use_safetensors=True)",
        "np.load(file, allow_pickle=True)",
        "def f():\n    import httpx", "run(words, shell=True)", "asyncio.open_connection(h, 1)",
        "CLIPModel.from_pretrained(folder, local_files_only=False, use_safetensors=True)",
        "CLIPModel.from_pretrained(folder, local_files_only=True)", "yaml.load(text)",
    ],
)  # fmt: skip
def test_each_of_these_would_be_found(text):
    assert problems("nodes/some.py", ast.parse(text))


def test_what_is_allowed_is_still_there():
    for (name, what), why in ALLOWED.items():
        text = (ROOT / name).read_text("utf-8")
        assert what in text and why, name


OTHERS = {"farm/packing.py": "[control, '-d']"}  # a program of the driver's


@pytest.mark.parametrize("name", [name for name, what in ALLOWED if what == "subprocess"])
def test_a_process_that_is_started_is_this_python_and_installs_nothing(name):
    text = (ROOT / name).read_text("utf-8")
    started = [c for called, c in calls(ast.parse(text)) if called.startswith("subprocess.")]
    (call,) = [c for c in started if c.args]
    given = ast.unparse(call.args[0])
    own = "[sys.executable," in given or "command = [sys.executable," in text
    assert own or given == OTHERS.get(name)
    assert not re.search(r"\bpip\b", text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_run_no_text_and_fetch_from_the_server_alone(path):
    text = path.read_text("utf-8")
    assert not re.search(r"\beval\(|new Function\(|document\.write\(|importScripts\(", text)
    elsewhere = r"""(?:https?:|wss?:)?//"""
    assert not re.search(
        rf"""(?:fetch|import|WebSocket|XMLHttpRequest)\s*\(\s*["'`]{elsewhere}""", text
    )
    assert not re.search(rf"""(?:src|href|from)\s*=?\s*["'`]{elsewhere}""", text)


def test_loading_and_running_a_prior_opens_no_connection(pipeline_folder, monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"a connection was opened: {arguments}")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    prior = load_diffusers(pipeline_folder)
    optimize(
        random_ball(20, scale=0.06, opacity_logit=-1.4), SDS(), prior,
        view_prompts(prior, "a mug"), OrbitSampler(), 1, OptimizeSettings(views=1),
    )  # fmt: skip

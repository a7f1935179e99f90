"""The objects of a gallery, one after another, each with its record; killed, the same call goes
on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..farm.engines.base import Engine
from ..farm.graph import Graph, is_link, read_graph, slug
from .measure import Scorers, figures
from .page import write_page

EMBEDDED, TOYBOX = "toybox (embedded)", "toybox"
LOADER, STAGES = "Distill3D_LoadDiffusionPrior", ("Distill3D_Optimize", "Distill3D_RefineMesh")
RECIPES = {False: "dreammapping_sd", True: "quickstart"}
RECORD = "record.json"
KINDS = {".ply": "object.ply", ".glb": "object.glb", ".webp": "turntable.webp"}
PROMPTS = Path(__file__).with_name("prompts.json")


@dataclass(frozen=True)
class Settings:
    """What a gallery is made of; see the command's help.

    Args:
        limit: prompts; 0: all
        steps: of every stage; 0: the recipe's
        size: pixels of the training renders; 0: the recipe's
    """

    checkpoint: str
    out: Path
    recipe: str = ""
    prompts: Path | None = None
    limit: int = 0
    steps: int = 0
    size: int = 0
    seed: int = 0
    comfyui: Path | None = None
    clip: Path | None = None
    image_reward: Path | None = None

    @property
    def embedded(self) -> bool:
        return self.checkpoint in (TOYBOX, EMBEDDED)


def gallery(settings: Settings) -> int:
    """Make what is missing and write the page; how many prompts could not be made. Raises
    FarmError or ValueError before any work for what cannot be right."""
    graph = prepared(settings)
    listed = prompts_of(settings)
    scorers = Scorers.load(settings.clip, settings.image_reward)
    settings.out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="distill3d-gallery-") as scratch:
        engine = engine_of(settings, graph, Path(scratch))
        try:
            for place, each in enumerate(listed, 1):
                print(f"{place} of {len(listed)}: {each['prompt']}", file=sys.stderr, flush=True)
                records.append(made(settings, graph, each, engine, scorers))
                write_page(settings.out, about(settings, graph, records), records)
        finally:
            engine.stop()
    return sum("error" in record for record in records)


def prompts_of(settings: Settings) -> list[dict[str, str]]:
    """The prompts, with where they are from. Raises ValueError for a file that holds none."""
    if settings.prompts is None:
        known = json.loads(PROMPTS.read_text(encoding="utf-8"))
        listed = known["toybox" if settings.embedded else "published"]
    else:
        try:
            lines = settings.prompts.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(
                f"--prompts {settings.prompts} cannot be read: {error.strerror}."
            ) from error
        listed = [{"prompt": line.strip(), "of": ""} for line in lines if line.strip()]
        if not listed:
            raise ValueError(f"--prompts {settings.prompts} holds no prompt; write one a line.")
    return list(listed[: settings.limit or None])


def prepared(settings: Settings) -> Graph:
    """The recipe with the model and the trial's numbers in it. Raises FarmError or ValueError."""
    graph = read_graph(settings.recipe or RECIPES[settings.embedded])
    if not any(node["class_type"] == LOADER for node in graph.nodes.values()):
        raise ValueError(
            f"--recipe {graph.source} has no Load Diffusion Prior, which takes the model. Use one"
            " that has, such as dreammapping_sd."
        )
    changes: dict[str, dict[str, Any]] = {LOADER: {"model": model_name(settings)}}
    wanted = {"steps": settings.steps, "image_size": settings.size}
    for stage in STAGES:
        changes[stage] = {name: value for name, value in wanted.items() if value}
        if settings.steps:
            changes[stage]["schedule_steps"] = 0
    nodes = {
        id: {**node, "inputs": node["inputs"] | _fitting(node, changes)}
        for id, node in graph.nodes.items()
    }
    return Graph(graph.source, nodes)


def _fitting(node: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of the changes those that are inputs of the node."""
    return {
        name: value
        for name, value in changes.get(node["class_type"], {}).items()
        if name in node["inputs"]
    }


def model_name(settings: Settings) -> str:
    """What Load Diffusion Prior calls the model. Raises ValueError where it is not there."""
    if settings.embedded:
        return EMBEDDED
    path = Path(settings.checkpoint)
    if path.is_dir() and (path / "model_index.json").is_file():
        return path.resolve().name
    if path.is_file() and path.suffix in (".safetensors", ".sft"):
        if settings.comfyui is None:
            raise ValueError(
                f"--checkpoint {path} is a file, which ComfyUI's loaders read: give ComfyUI's"
                " folder as --comfyui, or a folder in diffusers format."
            )
        return path.name
    raise ValueError(
        f"--checkpoint {path}: give a folder with model_index.json (diffusers format), a"
        " .safetensors file, or toybox for the embedded prior."
    )


def engine_of(settings: Settings, graph: Graph, scratch: Path) -> Engine:
    """What makes the objects. Raises FarmError for a recipe that needs ComfyUI."""
    parent = None if settings.embedded else Path(settings.checkpoint).resolve().parent
    if settings.comfyui is None:
        from ..farm.engines.python import PythonEngine, check_nodes

        check_nodes(graph)
        return PythonEngine(scratch, os.cpu_count() or 1, parent)
    import torch

    from ..farm.engines.comfyui import ComfyEngine
    from ..farm.engines.server import find_comfyui

    flags: list[str] = []
    if parent is not None:  # wherever it lies
        paths = scratch / "models.yaml"
        text = f"base_path: {parent.as_posix()}\n  checkpoints: .\n  diffusers: .\n"
        paths.write_text(f"gallery:\n  {text}", encoding="utf-8")
        flags = ["--extra-model-paths-config", str(paths)]
    tree, cpu = find_comfyui(settings.comfyui), not torch.cuda.is_available()
    return ComfyEngine(tree, scratch / "comfyui", cpu, os.cpu_count() or 1, flags)


def made(
    settings: Settings,
    graph: Graph,
    each: Mapping[str, str],
    engine: Engine,
    scorers: Scorers,
) -> dict[str, Any]:
    """The record of a prompt: that of an earlier call, or of the object made now."""
    prompt = graph.filled({"prompt": each["prompt"], "seed": settings.seed})
    key = Graph(graph.source, prompt).digest
    folder = settings.out / slug(each["prompt"])
    file = folder / RECORD
    if file.is_file():
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if record.get("key") == key and "error" not in record:
            if missing := scorers.missing(record):
                record |= figures(folder, record, view_of(graph), missing)
                _write(file, record)
            return record
    folder.mkdir(exist_ok=True)
    record = {"key": key, **each, "folder": folder.name, "seed": settings.seed}
    started = time.perf_counter()
    try:
        found = engine.make(prompt, key[:16], {}, lambda *_: None)
    except KeyboardInterrupt:
        raise
    except Exception as error:  # the next prompt may fare better
        record |= {"error": str(error).strip()[:2000] or type(error).__name__}
        print(f"  {record['error'].splitlines()[0]}", file=sys.stderr, flush=True)
    else:
        record |= {
            "seconds": round(time.perf_counter() - started, 1),
            "memory_gb": round(engine.memory() / 1e9, 2),
            "stages": list(found.metrics.values()),
            "notes": found.notes,
            "files": taken(found.files, folder),
        }
        record |= figures(folder, record, view_of(graph), scorers)
    _write(file, record)
    return record


def taken(files: list[Path], folder: Path) -> list[str]:
    """Moves an object's files to its folder; their names there, the last of each kind."""
    names = []
    for path in files:
        if (name := KINDS.get(path.suffix)) and path.is_file():
            shutil.move(path, folder / name)
            names.append(name)
    return sorted(set(names))


def view_of(graph: Graph) -> dict[str, float]:
    """Distance, world units, and vertical field of view, degrees, that the recipe's turntable
    has."""
    inputs: Mapping[str, Any] = next(
        (
            node["inputs"]
            for node in graph.nodes.values()
            if node["class_type"] == "Distill3D_RenderViews"
        ),
        {},
    )
    usual = {"distance": 2.0, "fov_y": 40.0}
    given = {name: inputs.get(name, value) for name, value in usual.items()}
    return {name: usual[name] if is_link(v) else float(v) for name, v in given.items()}


def about(settings: Settings, graph: Graph, records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page says of the whole."""
    import torch

    return {
        "model": "embedded prior" if settings.embedded else Path(settings.checkpoint).name,
        "recipe": graph.source.removesuffix(".json"),
        "steps": settings.steps,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "made": sum("error" not in record for record in records),
    }


def _write(file: Path, record: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)

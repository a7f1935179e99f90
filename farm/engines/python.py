"""The kernels without ComfyUI: graphs of the pack's nodes that `functions` knows, run in the
worker's own process. On the CPU its splats are bit for bit those of a ComfyUI on as many threads.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FarmError
from ..graph import Graph, Prompt, is_link
from .base import Keep, Made, RefusedError

LOG = 40  # lines of a traceback that are kept


class PythonEngine:
    """One process's networks, kept from job to job.

    Args:
        folder: for files on their way; the worker's own
        threads: of torch on the CPU
        models: folder of diffusers folders, for models that a graph gives by name
    """

    def __init__(self, folder: Path, threads: int, models: Path | None = None) -> None:
        self.folder, self.threads, self.models = folder, threads, models
        self._priors: dict[str, Any] = {}
        self._log = ""

    def start(self) -> Mapping[str, Any]:
        import torch

        torch.set_num_threads(self.threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._priors.setdefault("device", device)
        memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 0
        return {"engine_pid": os.getpid(), "torch": torch.__version__, "gpu_memory": memory}

    def make(self, prompt: Prompt, key: str, saved: Mapping[str, Path], keep: Keep) -> Made:
        from . import functions

        self.start()
        made = Made()
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        context = functions.Context(folder, self._priors, self.models, saved, keep, made)
        try:
            for id in _outputs(prompt):
                _value(prompt, id, {}, context, context.values)
        except (ValueError, TypeError) as error:  # what the kernels say of inputs
            self._log = "".join(traceback.format_exc().splitlines(keepends=True)[-LOG:])
            raise RefusedError(str(error)) from error
        except Exception:
            self._log = "".join(traceback.format_exc().splitlines(keepends=True)[-LOG:])
            raise
        return made

    def log(self) -> str:
        return self._log

    def memory(self) -> int:
        import torch

        return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0

    def stop(self) -> None:
        self._priors.clear()


def check_nodes(graph: Graph) -> None:
    """Raises FarmError for a graph with nodes that need ComfyUI."""
    from . import functions

    unknown = sorted({node["class_type"] for node in graph.nodes.values()} - functions.KNOWN)
    if unknown:
        raise FarmError(
            f"--engine python does not know {', '.join(unknown)} of the graph {graph.source}. Take"
            " --engine comfyui, or a graph without."
        )


def _outputs(prompt: Prompt) -> list[str]:
    from . import functions

    return [id for id, node in prompt.items() if node["class_type"] in functions.WRITERS]


def _value(
    prompt: Prompt, id: str, under: Mapping[str, None], context: Any, values: dict[str, Any]
) -> Any:
    """The outputs of a node, made once."""
    from . import functions

    if id in values:
        return values[id]
    if id not in prompt or id in under:
        raise ValueError(f"the graph's node {id} is missing, or needs itself")
    node, inputs = prompt[id], {}
    for name, given in node["inputs"].items():
        if is_link(given):
            outputs = _value(prompt, given[0], {**under, id: None}, context, values)
            inputs[name] = outputs[given[1]]
        else:
            inputs[name] = given
    context.node = id
    values[id] = functions.run(node["class_type"], inputs, context)
    return values[id]

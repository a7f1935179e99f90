"""A ComfyUI of which nothing is there but what the modules of nodes/run ask for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

MODULES = (
    "shared.outputs", "shared.progress", "shared.background",
    "run.keep", "run.live", "run.watch",
)  # fmt: skip


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


class Comfy:
    """What a test sets and sees of it: ``interrupted``, set by a cancel; ``bars``, the progress
    bars there were; ``sent``, the events for pages.
    """

    def __init__(self, monkeypatch: Any, folder: Path) -> None:
        self.interrupted, self.bars, self.sent = False, [], []
        self.folder = folder
        paths, server = ModuleType("folder_paths"), ModuleType("server")
        for name in ("output", "user", "temp"):
            setattr(paths, f"get_{name}_directory", lambda name=name: str(folder / name))
        paths.get_save_image_path = lambda prefix, root: (
            str(Path(root, prefix).parent), Path(prefix).name, 1, str(Path(prefix).parent), prefix,
        )  # fmt: skip
        server.PromptServer = SimpleNamespace(
            instance=SimpleNamespace(
                send_sync=lambda *event: self.sent.append(event),
                send_progress_text=lambda *_: None,
            )
        )
        execution, utils = ModuleType("comfy_execution"), ModuleType("comfy_execution.utils")
        utils.get_executing_context = lambda: SimpleNamespace(node_id="7", prompt_id="p")
        comfy, management = ModuleType("comfy"), ModuleType("comfy.model_management")
        management.throw_exception_if_processing_interrupted = self.check
        bars = ModuleType("comfy.utils")
        bars.ProgressBar = lambda total: Bar(self)
        comfy.model_management, comfy.utils = management, bars
        modules = (paths, server, execution, utils, comfy, management, bars)
        for module in modules:
            monkeypatch.setitem(sys.modules, module.__name__, module)
        for name in MODULES:
            monkeypatch.delitem(sys.modules, f"distill3d.nodes.{name}", raising=False)

    def load(self, name: str) -> Any:
        """A module of the nodes, "run.keep" for one."""
        return importlib.import_module(f"distill3d.nodes.{name}")

    def check(self) -> None:
        if self.interrupted:
            self.interrupted = False
            raise Interrupt

    def close(self) -> None:
        for name in MODULES:
            sys.modules.pop(f"distill3d.nodes.{name}", None)


class Bar:
    """A progress bar, whose hook in ComfyUI heeds a cancel too."""

    def __init__(self, comfy: Comfy) -> None:
        self.comfy, self.values = comfy, []
        comfy.bars.append(self)

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        self.comfy.check()
        self.values.append(value)

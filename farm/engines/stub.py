"""Makes nothing, slowly: what the farm around an engine does is tried with it. A graph for it is
one node {"class_type": "Stub", "inputs": {"prompt", "seed", "steps", "seconds"}}.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..graph import Prompt
from ..resume import SUFFIX
from .base import Keep, Made, RefusedError

KIND = "Stub"


class StubEngine:
    """An object is the last of a chain of digests; each step is saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> Mapping[str, Any]:
        return {"engine_pid": os.getpid(), "gpu_memory": 0}

    def make(self, prompt: Prompt, key: str, saved: Mapping[str, Path], keep: Keep) -> Made:
        made, folder = Made(), self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        for id, node in prompt.items():
            inputs = node["inputs"]
            if node["class_type"] != KIND:
                raise RefusedError(f"the stub does not know {node['class_type']}")
            if "crash" in str(inputs["prompt"]):
                os._exit(1)
            step, state = 0, f"{inputs['prompt']} {inputs['seed']}"
            if id in saved:
                step, state = json.loads(saved[id].read_text())
                made.resumed[id] = step
            while step < inputs["steps"]:
                time.sleep(inputs["seconds"])
                step, state = step + 1, blake2b(state.encode(), digest_size=16).hexdigest()
                path = folder / f"{id}{SUFFIX}"
                path.write_text(json.dumps([step, state]))
                keep(id, path)
            made.files.append(folder / f"{id}_00001_.txt")
            made.files[-1].write_text(state)
            made.metrics[id] = {"steps": step}
        return made

    def log(self) -> str:
        return ""

    def memory(self) -> int:
        return 0

    def stop(self) -> None:
        pass

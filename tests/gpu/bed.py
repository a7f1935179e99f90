"""A real ComfyUI server on a GPU, with what the cases need: files of every kind, graphs, and a look
at its memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "comfyui"))

from harness import prompts
from harness.environment import HOME, ROOT
from harness.server import Run, Server, link

TOYBOX = ROOT / "models" / "toybox"
FILE, LORA = "toybox.safetensors", "red-into-blue.safetensors"
MIB = 2**20


class Failed(AssertionError):
    """A case that did not go as it should."""


class Bed:
    """A server with the pack and the tests' probe pack, started with ``flags``; use as a context
    manager.
    """

    def __init__(
        self, tree: Path, base: Path, flags: tuple[str, ...], shared: bool = False
    ) -> None:
        """shared: others use the device meanwhile, so that what is in use there tells nothing of
        this server.
        """
        self.shared, self.fast, self.flags = shared, "--cpu" not in flags, flags
        (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
        link(ROOT / "tests" / "comfyui" / "probe", base / "custom_nodes" / "probe")
        # where the server's environment has its caches
        (HOME / "cache").mkdir(parents=True, exist_ok=True)
        self.server = Server(tree, base, base / "server.log", cpu=False, arguments=flags)
        self.base, self.info = base, dict[str, Any]()

    def __enter__(self) -> Bed:
        self.server.start(300)
        self.info = self.server.object_info()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def node(self, kind: str, **inputs: Any) -> dict[str, Any]:
        """A node of the pack in API form, with the defaults of what is not given."""
        declared = self.info[f"Distill3D_{kind}"]["input"]
        specs = declared.get("required", {}) | declared.get("optional", {})
        values = {name: spec[1]["default"] for name, spec in specs.items() if "default" in spec[1]}
        return {"class_type": f"Distill3D_{kind}", "inputs": values | inputs}

    def workflow(self, name: str) -> dict[str, Any]:
        """A shipped workflow in API form, as it is."""
        return prompts.api_form(prompts.read(name), self.info)

    def plain_quickstart(self) -> dict[str, Any]:
        """The quickstart with the numbers in its nodes, whatever Quality Preset makes of the
        machine.
        """
        return prompts.api_form(prompts.without_preset(prompts.read("quickstart")), self.info)

    def run(self, prompt: dict[str, Any], seconds: float = 400, **how: Any) -> Run:
        """The finished run. Raises Failed unless it succeeded."""
        run = self.server.run(prompt, timeout=seconds, **how)
        if run.status != "success":
            raise Failed(f"{run.status}: {run.error[-1500:]}")
        return run

    def timed(self, prompt: dict[str, Any], seconds: float = 400, **how: Any) -> tuple[Run, float]:
        start = time.monotonic()
        run = self.run(prompt, seconds, **how)
        return run, round(time.monotonic() - start, 2)

    def reserved(self) -> float:
        """MiB that torch holds on the device in the server's process."""
        return self.server.get("/system_stats")["devices"][0]["torch_vram_total"] / MIB

    def used(self) -> float:
        """MiB in use on the device, by anybody."""
        device = self.server.get("/system_stats")["devices"][0]
        return (device["vram_total"] - device["vram_free"]) / MIB

    def own(self) -> float | None:
        """MiB of the device that the server's process has, whatever others use, by nvidia-smi; None
        where that does not know the process.
        """
        query = [
            "nvidia-smi",
            "--query-compute-apps=pid,used_memory",
            "--format=csv,noheader,nounits",
        ]
        try:
            lines = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
        except OSError:
            return None
        mine = [line.split(",")[1] for line in lines if line.startswith(f"{self.pid()},")]
        return sum(map(float, mine)) if mine and mine[0].strip().isdigit() else None

    def pid(self) -> int:
        return int(self.server._process.pid)

    def resident(self) -> float:
        """MiB of main memory that the server's process has."""
        import psutil

        return psutil.Process(self.pid()).memory_info().rss / MIB

    def freed(self) -> dict[str, float]:
        """What is still held once the server has been told to free everything."""
        self.server.free()
        best, lowered = self._held(), time.monotonic()
        # the server frees when its worker comes to it, later where others have the cores
        while time.monotonic() < lowered + (8 if self.shared else 2):
            time.sleep(0.25)
            found = self._held()
            if found["reserved"] < best["reserved"]:
                best, lowered = found, time.monotonic()
        return {name: round(value, 1) for name, value in best.items()} | {
            "rss": round(self.resident(), 1)
        }

    def grown(self, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
        """What of `freed` is more than before, of what tells of this server alone."""
        names = {"reserved", "own", *(() if self.shared else ("used",))}
        return {name: after[name] - before[name] for name in names & before.keys() & after.keys()}

    def _held(self) -> dict[str, float]:
        own = self.own()
        held = {"reserved": self.reserved(), "used": self.used()}
        return held if own is None else held | {"own": own}

    def log(self) -> str:
        return self.server.log.read_text(encoding="utf-8", errors="replace")

    def toybox_file(self) -> str:
        """The embedded prior as a checkpoint, made at the first call; and a LoRA that turns red
        into blue.
        """
        checkpoints = self.base / "models" / "checkpoints"
        if not (checkpoints / FILE).is_file():
            checkpoints.mkdir(parents=True, exist_ok=True)
            write = {"class_type": "ProbeToyboxFile", "inputs": {"file": str(checkpoints / FILE)}}
            self.run({"write": write})
        return FILE

    def large_file(self) -> str:
        """A checkpoint of Stable Diffusion 2's size with random weights, made at the first call."""
        return self._large("checkpoint", "checkpoints", "sd2-random.safetensors")

    def large_folder(self) -> str:
        """Stable Diffusion 2.1-base's folder with random weights, under the name that the recipes
        ask for, made at the first call.
        """
        return self._large("folder", "diffusers", "stable-diffusion-2-1-base")

    def large_control(self) -> str:
        """A ControlNet for either, made at the first call."""
        return self._large("control", "controlnet", "sd21-random")

    def _large(self, kind: str, below: str, name: str) -> str:
        place = self.base / "models" / below / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            script = Path(__file__).with_name("large.py")
            tree = str(self.server.tree)
            subprocess.run([sys.executable, str(script), kind, tree, str(place)], check=True)
        return name

    def lora(self) -> str:
        file = self.base / "models" / "loras" / LORA
        if not file.is_file():
            import toybox_lora

            from distill3d.kernels.priors.diffusers.loading import load_diffusers

            toybox_lora.write(toybox_lora.train(load_diffusers(TOYBOX)), file)
        return LORA


def versions(server: Server) -> dict[str, str]:
    """Of what the report is about."""
    stats = server.get("/system_stats")
    return {
        "comfyui": stats["system"]["comfyui_version"],
        "pytorch": stats["system"]["pytorch_version"],
        "python": stats["system"]["python_version"].split()[0],
        "device": stats["devices"][0]["name"],
        "pack": os.environ.get("DISTILL3D_COMMIT", "") or commit(),
    }


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    dirty = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT).returncode
    return (done.stdout.strip() or "unknown") + ("-dirty" if dirty else "")


def said(run: Run, node: str) -> Any:
    """What a probe's node answered."""
    return json.loads(run.history["outputs"][node]["said"][0])

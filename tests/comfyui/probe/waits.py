"""Counts a run's questions to the device that its steps wait for: the pack's own, and those of
ComfyUI below it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from torch.utils._python_dispatch import TorchDispatchMode

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings

# what gives Python a value of a tensor: item, bool and float; torch.equal; an index of unknown size
ASKING = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select")
COMFYUI = Path(sys.modules["comfy"].__path__[0]).parent
STEPS = 3


class ProbeWaits:
    """A short run with a loss, whose steps are watched from the second one on."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "prior": ("DISTILL3D_PRIOR",),
                "loss": ("DISTILL3D_LOSS",),
                "ask": ("BOOLEAN", {"default": False}),
            }
        }

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "count"

    def count(self, prior, loss, ask):
        waits = Waits()
        with prior.reading() as model:
            prompts = view_prompts(model, "a mug", "ugly")
        with prior.loaded() as model:
            optimize(
                random_ball(60, scale=0.08, opacity_logit=2.0), Counted(loss, waits, ask), model,
                prompts, OrbitSampler(), STEPS, OptimizeSettings(views=2, image_size=64),
            )  # fmt: skip
        return {"ui": {"said": [json.dumps(waits.seen)]}}


class Waits(TorchDispatchMode):
    """Counts questions inside by who asks: "pack" or "comfyui"."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ASKING:
            self.seen[asker()] += 1
        return func(*args, **(kwargs or {}))


def asker():
    """Whose the innermost frame is, and where."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(COMFYUI) and "custom_nodes" not in path.parts:
            return "comfyui"
        if {"kernels", "nodes"} & set(path.parts):
            return f"pack: {path.name} {frame.f_code.co_name}"
        frame = frame.f_back
    return "pack: a loss"


class Counted:
    def __init__(self, loss, waits, ask):
        self.loss, self.waits, self.ask = loss, waits, ask

    def __getattr__(self, name):
        return getattr(self.loss, name)

    def start(self, *given):
        run, waits, ask, steps = self.loss.start(*given), self.waits, self.ask, []

        class Run:
            state = run.state

            def __call__(self, latents, *rest):
                steps.append(1)
                if len(steps) == 1:  # what is prepared once may wait
                    return run(latents, *rest)
                with waits:
                    if ask:
                        float(latents.mean())
                    return run(latents, *rest)

        return Run()

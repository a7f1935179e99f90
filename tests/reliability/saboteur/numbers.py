"""Nodes that put NaN into a loss, a prior's answers or a cloud, and that look for some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

SPAN = {
    "first": ("INT", {"default": 0, "min": 0, "max": 10**9}),
    "last": ("INT", {"default": 10**9, "min": 0, "max": 10**9}),
}


class SaboteurLoss:
    """The loss whose value is NaN at the steps first..last, from 0."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"loss": ("DISTILL3D_LOSS",), **SPAN}}

    RETURN_TYPES = ("DISTILL3D_LOSS",)
    FUNCTION = "spoil"

    def spoil(self, loss, first, last):
        return (Spoilt(loss, first, last),)


class SaboteurPrior:
    """The prior whose answers are NaN in the calls first..last of a run, from 0."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"prior": ("DISTILL3D_PRIOR",), **SPAN}}

    RETURN_TYPES = ("DISTILL3D_PRIOR",)
    FUNCTION = "spoil"

    def spoil(self, prior, first, last):
        return (SpoiltPrior(prior, first, last),)


class SaboteurCloud:
    """The cloud with one number of a property that is none."""

    @classmethod
    def INPUT_TYPES(cls):
        properties = ["means", "log_scales", "quats", "opacity_logits", "sh"]
        values = ["nan", "inf", "-inf"]
        return {
            "required": {
                "gaussians": ("DISTILL3D_GAUSSIANS",),
                "property": (properties,),
                "value": (values,),
            }
        }

    RETURN_TYPES = ("DISTILL3D_GAUSSIANS",)
    FUNCTION = "spoil"

    def spoil(self, gaussians, property, value):
        changed = getattr(gaussians, property).clone()
        changed.view(-1)[0] = float(value)
        return (replace(gaussians, **{property: changed}),)


class SaboteurCheck:
    """Whether what a file gave holds nothing but numbers."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {},
            "optional": {"gaussians": ("DISTILL3D_GAUSSIANS",), "prior": ("DISTILL3D_PRIOR",)},
        }

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "check"

    def check(self, gaussians=None, prior=None):
        tensors = [] if gaussians is None else [*gaussians.check().tensors().values()]
        if prior is not None:
            with prior.reading() as read, torch.no_grad():
                tensors.append(read.embed(["a red mug", ""]).embeddings)
            with prior.loaded() as loaded:
                for part in (loaded.unet, loaded.vae):
                    tensors += part.state_dict().values()
        finite = all(bool(torch.isfinite(each).all()) for each in tensors)
        return {"ui": {"finite": [finite]}}


@dataclass(frozen=True)
class Spoilt:
    loss: Any
    first: int
    last: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loss, name)

    def start(self, *given: Any) -> Any:
        run, first, last = self.loss.start(*given), self.first, self.last

        class Run:
            state = run.state

            def __call__(self, latents: Any, views: Any, generator: Any) -> Any:
                value, logs = run(latents, views, generator)
                return (value * float("nan") if first <= views.step <= last else value), logs

        return Run()


class SpoiltPrior:
    def __init__(self, managed: Any, first: int, last: int) -> None:
        self._managed, self._first, self._last = managed, first, last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._managed, name)

    @contextmanager
    def loaded(self, scratch: int = 0) -> Iterator[Any]:
        with self._managed.loaded(scratch) as prior:
            calls, predict = [0], prior.predict

            def spoilt(*given: Any, **more: Any) -> Any:
                calls[0] += 1
                found = predict(*given, **more)
                if self._first < calls[0] <= self._last + 1:
                    return [each * float("nan") for each in found]
                return found

            prior.predict = spoilt
            try:
                yield prior
            finally:
                del prior.predict

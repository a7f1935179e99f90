"""A MODEL's weights kept on the device for the length of a run, where ComfyUI would bring them
layer by layer.

With dynamic VRAM, ComfyUI's default on NVIDIA GPUs, every layer asks for its weights at every call,
which takes longer than a small network's work. A run of thousands of calls may hold them instead,
as long as there is room.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import nn

log = logging.getLogger(__name__)

OWN = ("_v", "_prefetch")  # what marks a layer as one whose weights come when asked for


@contextmanager
def resident(model: Any, scratch: int) -> Iterator[int]:
    """Inside, layers of the MODEL's network have their weights at hand, patches included; gives how
    many of them.

    Only where ComfyUI without dynamic VRAM would run the layer plainly, and where ``scratch`` bytes
    stay free.
    """
    if not getattr(model, "is_dynamic", bool)():
        yield 0
        return
    device, free = model.load_device, comfy.model_management.get_free_memory(model.load_device)
    missing = model.model_size() - model.loaded_size()
    if free < 1.1 * missing + scratch:
        log.info(
            "The weights of %s stay with dynamic VRAM: too little room to hold them.",
            type(model.model).__name__,
        )
        yield 0
        return
    dtype = model.model.get_dtype_inference()
    with ExitStack() as held, torch.inference_mode():
        layers = [layer for layer in model.model.diffusion_model.modules() if _plain(layer)]
        count = sum(_held(layer, device, dtype, held) for layer in layers)
        with torch.inference_mode(False):
            yield count


def _plain(layer: nn.Module) -> bool:
    """Whether it is one of ComfyUI's layers that casts nothing but for where its weights are."""
    return (
        getattr(layer, "comfy_cast_weights", False)
        and not getattr(type(layer), "comfy_cast_weights", True)
        and not layer.weight_function
        and not layer.bias_function
        and isinstance(layer.weight, nn.Parameter)
    )


def _held(layer: Any, device: torch.device, dtype: torch.dtype, until: ExitStack) -> bool:
    """Whether the layer's weights could be pinned and given to it; ``until`` puts everything
    back.
    """
    weight, bias = layer.weight, layer.bias
    if hasattr(layer, "_v"):
        cast = comfy.ops.cast_bias_weight(
            layer, dtype=dtype, device=device, bias_dtype=dtype, offloadable=True
        )
        weight, bias, pin = cast
        until.callback(comfy.ops.uncast_bias_weight, layer, weight, bias, pin)
        if pin[1] is None:  # in a buffer that the next layer takes
            return False
    if any(
        value is not None and (value.device != device or value.dtype != dtype)
        for value in (weight, bias)
    ):
        return False
    given = {"weight": weight, "bias": bias}
    ours = {k: nn.Parameter(v, requires_grad=False) for k, v in given.items() if v is not None}
    before = {name: layer._parameters[name] for name in ours}
    until.callback(
        _restore,
        layer,
        {name: vars(layer).pop(name) for name in OWN if name in vars(layer)},
        ours,
        before,
    )
    layer.comfy_cast_weights = False
    layer._parameters.update(ours)
    return True


def _restore(layer: Any, own: dict[str, Any], ours: dict[str, Any], before: dict[str, Any]) -> None:
    layer.comfy_cast_weights = True
    vars(layer).update(own)
    for name, value in ours.items():
        if layer._parameters.get(name) is value:  # not one that ComfyUI has put there meanwhile
            layer._parameters[name] = before[name]

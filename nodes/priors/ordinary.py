"""Tensors of ComfyUI's inference mode as ones that gradients pass through."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


def ordinary_form(form: Any) -> Any:
    """The latent format with statistics that gradients pass through: ComfyUI's are inference
    tensors."""
    own = copy.copy(form)
    with torch.inference_mode(False):
        for name, value in vars(form).items():
            if isinstance(value, Tensor):
                setattr(own, name, value.clone())
    return own


def ordinary(value: Any) -> Any:
    """A tensor of ComfyUI's inference mode as one that may be used anywhere, numbers in float32."""
    if not isinstance(value, Tensor):
        return value
    return (value.float() if value.is_floating_point() else value).cpu().clone()

"""Getting small tensors to a device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(value: Tensor, device: torch.device) -> Tensor:
    """``value`` [any] from the CPU on ``device``, without waiting for what the device is busy with."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)

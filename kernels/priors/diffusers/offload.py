"""Networks that are on a device one at a time, for accelerators that cannot hold them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class SequentialOffload:
    """Networks whose weights stay in main memory and visit the device when their turn comes, one
    network at a time.

    Nothing is copied back: the weights are frozen. What autograd saved of a network's weights is no
    longer right after another's turn, so that a backward pass has to compute the forward one once
    more (`ChunkedCheckpoint`).
    """

    def __init__(self, networks: Mapping[str, Sequence[nn.Module]], device: torch.device) -> None:
        """networks: by whose turn it is, on the CPU, with ordinary tensors as weights."""
        self.device, self.present = device, ""
        self._homes = {
            name: [
                (tensor, _home(tensor, device)) for module in modules for tensor in _tensors(module)
            ]
            for name, modules in networks.items()
        }

    def bring(self, name: str) -> None:
        """From here on the networks of that name are on the device, and no others are."""
        if name == self.present:
            return
        self.end()
        self.present = name
        for tensor, home in self._homes[name]:
            tensor.data = home.to(self.device, non_blocking=True, copy=True)

    def end(self) -> None:
        """No network is on the device any more."""
        for tensor, home in self._homes.get(self.present, ()):
            tensor.data = home
        self.present = ""

    def release(self) -> None:
        """The weights are in ordinary main memory again, and the networks done with taking
        turns.
        """
        self.end()
        if self.device.type == "cuda":
            for homes in self._homes.values():
                while homes:  # one after the other, so that main memory never holds all twice
                    tensor, home = homes.pop()
                    tensor.data = home.clone()
                    del home
        self._homes.clear()


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _home(tensor: Tensor, device: torch.device) -> Tensor:
    """The weights where they stay, in memory that the device can read by itself."""
    return tensor.data.pin_memory() if device.type == "cuda" else tensor.data

"""torch's autograd function, with the types that its own `apply` lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch


class Function(torch.autograd.Function):
    """torch.autograd.Function, unchanged. In subclasses ``ctx`` is Any: it takes any attribute."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *inputs: Any, **options: Any) -> Any:
            """What `forward` returns of the inputs, with `backward` as its derivative."""

"""A prior's weights in the care of ComfyUI's memory manager, and tensors out of its inference mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from ..kernels.priors.diffusers_prior import DiffusersPrior

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def weights_dtype(choice: str, device: torch.device) -> torch.dtype:
    """The torch dtype behind a precision input; "auto" is fp16 where the device is fast at it, else fp32."""
    if choice != "auto":
        return PRECISIONS[choice]
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32


@contextmanager
def autograd() -> Iterator[None]:
    """Ordinary tensors and gradients inside a node: ComfyUI runs every node in inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


class _DiffusionPrior(torch.nn.ModuleDict):
    """All of a prior's networks as one; the name is what ComfyUI's log shows."""


class ManagedPrior:
    """A prior whose weights rest in main memory and are on the device only inside `loaded`, or while nobody else
    needs the room. This is what a DISTILL3D_PRIOR socket carries."""

    def __init__(self, prior: DiffusersPrior) -> None:
        modules = {name: value for name, value in vars(prior).items() if isinstance(value, torch.nn.Module)}
        self.prior = prior
        self.patcher = comfy.model_patcher.ModelPatcher(
            _DiffusionPrior(modules),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    def reading(self) -> AbstractContextManager[DiffusersPrior]:
        """The prior ready to embed texts."""
        return self.loaded()

    @contextmanager
    def loaded(self, scratch: int = 0) -> Iterator[DiffusersPrior]:
        """The prior on its device, gradients possible; other models make room for it and for ``scratch`` bytes."""
        with autograd():
            # Full load: the modules are not ComfyUI's own and could not fetch a part that stayed behind.
            comfy.model_management.load_models_gpu([self.patcher], memory_required=scratch, force_full_load=True)
            yield self.prior.to(self.patcher.load_device)  # weights that another node's run moved are mended here


@contextmanager
def visiting(pipeline: Any, scratch: int) -> Iterator[None]:
    """A diffusers pipeline on the device for the length of a block, after which its room is free again.

    Other models make room for it and for ``scratch`` bytes.
    """
    device = comfy.model_management.get_torch_device()
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    size = sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
    comfy.model_management.free_memory(size + scratch, device)
    try:
        pipeline.to(device)
        yield
    finally:  # an error's traceback would keep it alive there
        for module in modules:
            module.to("cpu")
        comfy.model_management.soft_empty_cache()

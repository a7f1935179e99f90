"""A prior's weights in the care of ComfyUI's memory manager, and tensors out of its inference
mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from ...kernels.priors.diffusers.latent_prior import DiffusersPrior

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def weights_dtype(choice: str, device: torch.device) -> torch.dtype:
    """The torch dtype behind a precision input; "auto" is fp16 where the device is fast at it, else
    fp32.
    """
    if choice != "auto":
        return PRECISIONS[choice]
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32


@contextmanager
def autograd() -> Iterator[None]:
    """Ordinary tensors and gradients inside a node: ComfyUI runs every node in inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


class _DiffusionPrior(torch.nn.ModuleDict):
    """Networks that are needed together, as one; the name is what ComfyUI's log shows."""


# ComfyUI was started with --lowvram or --novram.
SPARING = (comfy.model_management.VRAMState.LOW_VRAM, comfy.model_management.VRAMState.NO_VRAM)
PICTURES, TEXTS = ("unet", "vae"), ("text_encoder",)  # what judges, and what reads


class ManagedPrior:
    """A prior whose weights rest in main memory and are on the device only while they are used, or
    while nobody else needs the room: the text encoder inside `reading`, the rest inside `loaded`;
    with ``low_vram`` only the one network that is at work. This is what a DISTILL3D_PRIOR socket
    carries."""

    judging: Sequence[tuple[str, ...]] = (PICTURES,)  # what `loaded` brings; keys of `patchers`

    def __init__(self, prior: DiffusersPrior, low_vram: bool = False) -> None:
        self.prior = prior
        self.low_vram = low_vram or comfy.model_management.vram_state in SPARING
        self.patchers: dict[tuple[str, ...], Any] = {
            parts: self.patcher(parts) for parts in (PICTURES, TEXTS)
        }

    def patcher(self, parts: tuple[str, ...]) -> comfy.model_patcher.ModelPatcher:
        """Some of the prior's networks as ComfyUI's memory manager moves them, together."""
        return comfy.model_patcher.ModelPatcher(
            _DiffusionPrior({part: getattr(self.prior, part) for part in parts}),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    def reading(self) -> AbstractContextManager[DiffusersPrior]:
        """The prior ready to embed texts."""
        return self._resident([TEXTS], 0)

    def loaded(self, scratch: int = 0) -> AbstractContextManager[DiffusersPrior]:
        """The prior on its device, gradients possible; other models make room for it and for
        ``scratch`` bytes.

        Its text encoder stays where it is: texts that View Prompts has embedded are remembered.
        """
        return self._resident(self.judging, scratch)

    @contextmanager
    def _resident(
        self, groups: Sequence[tuple[str, ...]], scratch: int
    ) -> Iterator[DiffusersPrior]:
        patchers = [self.patchers[parts] for parts in groups]
        if self.low_vram:
            room = (
                max(sum(map(_size, modules)) for modules in self.prior.offload_groups().values())
                + scratch
            )
            comfy.model_management.free_memory(room, patchers[0].load_device)
            with autograd(), self.prior.sequential_offload(patchers[0].load_device):
                yield self.prior
            return
        with autograd():
            # Full load: the modules are not ComfyUI's own and could not fetch a part that stayed
            # behind.
            comfy.model_management.load_models_gpu(
                patchers, memory_required=scratch, force_full_load=True
            )
            for parts, patcher in zip(groups, patchers, strict=True):
                # weights that another node's run moved are mended here
                self.prior.to(patcher.load_device, parts)
            yield self.prior


@contextmanager
def visiting(pipeline: Any, scratch: int) -> Iterator[None]:
    """A diffusers pipeline on the device for the length of a block, after which its room is free
    again.

    Other models make room for it and for ``scratch`` bytes.
    """
    device = comfy.model_management.get_torch_device()
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    comfy.model_management.free_memory(sum(map(_size, modules)) + scratch, device)
    try:
        pipeline.to(device)
        yield
    finally:  # an error's traceback would keep it alive there
        for module in modules:
            module.to("cpu")
        comfy.model_management.soft_empty_cache()


def _size(module: torch.nn.Module) -> int:
    """Bytes of its weights."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())

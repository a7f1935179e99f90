"""A LoRA (Hu et al. 2022) on a diffusers U-Net, by peft, that leaves the U-Net itself alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .conditioning import Conditioning
from .noise_schedule import NoiseSchedule, noise_from_output

if TYPE_CHECKING:
    from .networks import UNet

# the attention layers' projections, as in threestudio's VSD
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
NAME = "renders"


class LoraAdapter:
    """An `Adapter`: a second U-Net of the same weight tensors, with low-rank layers beside its
    attention projections.

    The low-rank layers hold no weights of their own; each call gives it those to use. So the
    prior's U-Net never sees an adapter, and any number of runs can share one prior.
    """

    def __init__(
        self,
        unet: UNet,
        schedule: NoiseSchedule,
        prediction: str,
        rank: int,
        bring: Callable[[str], None] = lambda _: None,
        extra_inputs: Callable[[Tensor, Tensor, Tensor, Conditioning], Mapping[str, Any]]
        | None = None,
    ) -> None:
        """take("unet"): brings the U-Net to its device. beside: of latents, steps, embeddings and
        the text, further arguments of the U-Net's call.

        Raises ValueError when peft is not installed.
        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ValueError(
                f"VSD and TraCe Loss train a LoRA, for which the package peft is needed ({error}). "
                'Install it: pip install "peft>=0.13"'
            ) from error
        self.schedule, self.prediction, self.rank = schedule, prediction, rank
        self.bring, self.extra_inputs = bring, extra_inputs
        shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
        # alpha = rank: a scale of 1; without weights (meta) as they are passed in
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)
        with torch.inference_mode(False):
            self.unet = inject_adapter_in_model(
                config, copy.deepcopy(unet, shared), NAME, low_cpu_mem_usage=True
            )
        self.shapes = {
            key: tuple(p.shape) for key, p in self.unet.named_parameters() if f".{NAME}." in key
        }

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The way down drawn with standard deviation 1 / rank, the way up 0 (as diffusers' own LoRA
        layers had it).
        """
        self.bring("unet")
        device = next(self.unet.parameters()).device
        weights = {}
        with torch.inference_mode(False):
            for key, shape in self.shapes.items():
                weight = torch.zeros(shape)
                if ".lora_A." in key:
                    weight = (
                        torch.randn(shape, generator=generator, device=generator.device) / self.rank
                    )
                weights[key] = weight.to(device)
        return weights

    def predict(
        self, weights: Mapping[str, Tensor], z_t: Tensor, t: Tensor, text: Conditioning
    ) -> Tensor:
        with torch.no_grad():
            output = self._output(weights, z_t, t, text)
        return noise_from_output(
            output, z_t.float(), self.schedule.alpha(t), self.schedule.sigma(t), self.prediction
        )

    def error(
        self,
        weights: Mapping[str, Tensor],
        z0: Tensor,
        noise: Tensor,
        t: Tensor,
        text: Conditioning,
    ) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        target = alpha * noise - sigma * z0 if self.prediction == "v_prediction" else noise
        return self._output(weights, alpha * z0 + sigma * noise, t, text) - target

    def _output(
        self, weights: Mapping[str, Tensor], z_t: Tensor, t: Tensor, text: Conditioning
    ) -> Tensor:
        self.bring("unet")
        own = next(self.unet.parameters())
        z = z_t.to(own).contiguous(memory_format=torch.channels_last)
        # a copy, since the low-rank layers save it for autograd and it may be an inference tensor
        # in a ComfyUI node
        hidden, timesteps = text.embeddings.to(own, copy=True), t.to(own.device)
        options = {
            "encoder_hidden_states": hidden,
            **(self.extra_inputs(z, timesteps, hidden, text) if self.extra_inputs else {}),
        }
        result = torch.func.functional_call(self.unet, dict(weights), (z, timesteps), options)
        output: Tensor = result.sample.float()
        return output

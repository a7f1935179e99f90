"""A prior's networks at a GPU's speed: CUDA graphs, which save the processor every single launch,
and fused kernels.
"""

from __future__ import annotations

import logging
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...devices.streams import is_out_of_memory, release_memory
from ...fast import graph_trial
from ...fast.encoder import Encoder, unsupported_reason
from ...fast.graphs import Graphed, GraphedGradient
from ...fast.ops import triton_works
from ...fast.unet import fast_unet, without_hooks

if TYPE_CHECKING:
    from ..networks import UNet, Vae

log = logging.getLogger(__name__)

FAILED = "Prior %r: the fused kernels of its %s fail (%s); going on with plain layers."


class Accelerated:
    """The two networks of a prior that every step calls. They must stay where they are: a graph
    reads and writes fixed addresses.

    One encoding has to be differentiated before the next one is made, as a step of `optimize` does.
    Where Triton does not work, or an autoencoder is of another build, the networks' own layers run
    in the graphs.
    """

    def __init__(self, unet: UNet, vae: Vae, name: str) -> None:
        """Raises ValueError for networks that are not on a CUDA device."""
        device = next(unet.parameters()).device
        if device.type != "cuda":
            raise ValueError(
                f"capture: prior {name!r} is on {device}; CUDA graphs need a CUDA device."
            )
        self.watched, self.vae, self.name, self.device = unet, vae, name, device
        graph_trial.begin(device)  # beside what follows, where one is needed
        self.fused_unet = triton_works()
        reason = unsupported_reason(vae)
        self.fused_encoder = self.fused_unet and reason is None
        self.encoder = GraphedGradient(Encoder(vae) if self.fused_encoder else self._plain_moments)
        layers = {True: "fused kernels", False: "plain layers"}
        log.info(
            "Prior %r: %s in the U-Net, %s in the encoder%s, %s.",
            name,
            layers[self.fused_unet],
            layers[self.fused_encoder],
            f" ({reason})" if reason else "",
            graph_trial.state(),
        )

    @cached_property
    # made when first called: a controlled prior calls the U-Net itself
    def denoiser(self) -> Graphed:
        return self._graphed(
            fast_unet(self.watched) if self.fused_unet else without_hooks(self.watched)
        )

    def _graphed(self, unet: nn.Module) -> Graphed:
        def call(z: Tensor, timesteps: Tensor, text: Tensor, *camera: Tensor) -> Tensor:
            camera_inputs = {"class_labels": camera[0]} if camera else {}
            output: Tensor = unet(
                z, timesteps, encoder_hidden_states=text, return_dict=False, **camera_inputs
            )[0]
            return output

        return Graphed(call, "U-Net", attention_first=self.fused_unet)

    def _plain_moments(self, images: Tensor) -> Tensor:
        return self.vae.encode(images.contiguous()).latent_dist.parameters  # see DiffusersPrior

    def moments(self, images: Tensor) -> Tensor:
        """Mean and log variance of the posterior, [B,2C,h,w], of images [B,3,H,W] in -1..1;
        differentiable.
        """
        try:
            return self.encoder(images)
        except Exception as error:
            if not self.fused_encoder or is_out_of_memory(error):
                raise
            log.warning(FAILED, self.name, "encoder", error)
            self.fused_encoder, self.encoder = False, GraphedGradient(self._plain_moments)
            return self.encoder(images)

    def output(
        self, z: Tensor, timesteps: Tensor, text: Tensor, camera: Tensor | None = None
    ) -> Tensor:
        """What the U-Net puts out for z [B,C,h,w] at timesteps [B] and text [B,L,D]; without gradient.

        camera [B,K]: for a network that takes a class embedding.
        """
        given = (z, timesteps, text) if camera is None else (z, timesteps, text, camera)
        try:
            result = self.denoiser(*given)
        except Exception as error:
            if not self.fused_unet or is_out_of_memory(error):
                raise
            log.warning(FAILED, self.name, "U-Net", error)
            self.fused_unet = False
            self.denoiser = self._graphed(without_hooks(self.watched))
            result = self.denoiser(*given)
        # whoever watches the network still sees every call
        for hook in self.watched._forward_hooks.values():
            hook(self.watched, (z, timesteps), SimpleNamespace(sample=result))
        return result

    def drop(self) -> None:
        """Forget all graphs and give back what they used; the networks stay."""
        try:
            if "denoiser" in self.__dict__:
                self.denoiser.drop()
            self.encoder.drop()
            release_memory(self.device)
        # of the device, whose first error should be the one that is told
        except RuntimeError as error:
            log.warning(
                "The memory of prior %r's CUDA graphs cannot be given back (%s).", self.name, error
            )

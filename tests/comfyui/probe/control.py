"""Random ControlNets as ComfyUI's loaders make them, and a look at a prior that has one beside
ComfyUI's own call.
"""

from __future__ import annotations

import json
import uuid

import comfy.cldm.cldm
import comfy.cldm.mmdit
import comfy.controlnet
import comfy.latent_formats
import comfy.model_management
import comfy.ops
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.ldm.flux.controlnet import ControlNetFlux

from .look import TEXTS, asked
from .models import COMMON, FLUX, SD3, UNETS, filled


class ProbeControlNet:
    """CONTROL_NET of a family with random weights; with a ``file``, one of SD 1.5's layout is
    written there.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"family": ([*UNETS, "sd3", "flux"],), "file": ("STRING", {"default": ""})}
        }

    RETURN_TYPES = ("CONTROL_NET",)
    OUTPUT_NODE = True
    FUNCTION = "make"

    def make(self, family, file):
        options = {
            "dtype": torch.float32,
            "device": "cpu",
            "operations": comfy.ops.disable_weight_init,
        }
        more = {}
        if family == "sd3":
            depth = {key: value for key, value in SD3.items() if key != "out_channels"}
            net = comfy.cldm.mmdit.ControlNet(
                num_blocks=1, control_latent_channels=16, **depth, **options
            )
            form = comfy.latent_formats.SD3()
            form.shift_factor = 0  # as ComfyUI's loader has it
            more = {"compression_ratio": 1, "latent_format": form}
        elif family == "flux":
            net = ControlNetFlux(latent_input=True, control_latent_channels=16, **FLUX, **options)
            more = {
                "compression_ratio": 1,
                "latent_format": comfy.latent_formats.Flux(),
                "extra_conds": ["y", "guidance"],
            }
        else:
            config = COMMON | UNETS[family] | {"hint_channels": 3}
            config.pop("out_channels")
            net = comfy.cldm.cldm.ControlNet(**config, **options)
        state = filled(net.state_dict(), 9)
        net.load_state_dict(state)
        if file:
            from safetensors.torch import save_file

            save_file(
                {f"control_model.{name}": value.contiguous() for name, value in state.items()}, file
            )
        return (
            comfy.controlnet.ControlNet(
                net, load_device=comfy.model_management.get_torch_device(), **more
            ),
        )


class ProbeControlled:
    """Noise estimates by a prior with a ControlNet, and by ComfyUI's samplers' own call of model
    and ControlNet.
    """

    @classmethod
    def INPUT_TYPES(cls):
        sockets = {
            "prior": ("DISTILL3D_PRIOR",),
            "model": ("MODEL",),
            "clip": ("CLIP",),
            "vae": ("VAE",),
        }
        numbers = {
            name: ("FLOAT", {"default": value})
            for name, value in (("strength", 1.0), ("start", 0), ("end", 1))
        }
        return {"required": {**sockets, "control_net": ("CONTROL_NET",), **numbers}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, prior, model, clip, vae, control_net, strength, start, end):
        hint = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(6))
        direct = self.direct(model, clip, vae, control_net, hint, strength, (start, end))
        with prior.loaded() as seeing:
            z_t, t = asked(seeing.latent_channels)
            text, null = (seeing.embed(texts).with_views(None, hint) for texts in (TEXTS, [""] * 3))
            noise = seeing.predict(z_t, t, [text, null])
            alpha, sigma = seeing.schedule.alpha(t), seeing.schedule.sigma(t)
            pixels = torch.rand(
                2, 3, 64, 64, generator=torch.Generator().manual_seed(5)
            ).requires_grad_()
            (gradient,) = torch.autograd.grad(seeing.encode(pixels).square().sum(), pixels)
        said = {
            "noise": [each.tolist() for each in noise],
            "direct": [((z_t - alpha * clean) / sigma).tolist() for clean in direct],
            "gradient": [float(gradient.abs().sum()), bool(torch.isfinite(gradient).all())],
            "needs_grad": [each.requires_grad for each in noise],
        }
        return {"ui": {"said": [json.dumps(said)]}}

    def direct(self, model, clip, vae, control_net, hint, strength, shares):
        """Clean latents [3,C,h,w] of either text, one row at a time, since ComfyUI goes by the
        first row's time.
        """
        inner, sampling = model.model, model.get_model_object("model_sampling")
        z_t, t = asked(inner.latent_format.latent_channels)
        flow = hasattr(sampling, "shift")
        every = len(sampling.sigmas) // 1000
        levels = sampling.sigmas[every - 1 :: every][t]
        clean = []
        for texts in (TEXTS, [""] * 3):
            rows = []
            for row, text in enumerate(texts):
                level = levels[row : row + 1]
                shown = control_net.copy().set_cond_hint(
                    hint[row : row + 1], strength, shares, vae=vae
                )
                embedding, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
                share = 1 - level if flow else torch.ones_like(level)
                x = z_t[row : row + 1] * (share**2 + level**2).sqrt()
                given = {
                    "cross_attn": embedding,
                    "device": x.device,
                    "noise": x,
                    "prompt_type": "positive",
                }
                given |= {"pooled_output": pooled, "width": 1024, "height": 1024, "guidance": 1.0}
                cond = {
                    "model_conds": inner.extra_conds(**given),
                    "uuid": uuid.uuid4(),
                    "control": shown,
                }
                models, _ = comfy.sampler_helpers.get_additional_models(
                    {"positive": [cond]}, inner.get_dtype()
                )
                comfy.model_management.load_models_gpu([model, *models])
                model.pre_run()
                comfy.samplers.pre_run_control(inner, [cond])
                (answer,) = comfy.samplers.calc_cond_batch(
                    inner, [[cond]], x, level, model.model_options
                )
                shown.cleanup()
                model.cleanup()
                rows.append(answer[0])
            clean.append(torch.stack(rows))
        return clean

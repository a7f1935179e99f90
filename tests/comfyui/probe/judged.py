"""A family's prior beside ComfyUI's samplers' own call and VAE, in numbers."""

from __future__ import annotations

import json

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch

from . import small
from .families import ROWS

TEXTS = [
    "a red mug, front view",
    "a red mug with white stripes and a very blue chair, side view",
    "",
]
STEPS = (300, 600, 900)


class ProbeFamily:
    """MODEL, CLIP and VAE of a family, random and small."""

    @classmethod
    def INPUT_TYPES(cls):
        vae = ("STRING", {"default": ""})  # another kind of VAE than its own
        weights = ("STRING", {"default": "float32"})  # or as `small.quantised` has them
        return {"required": {"family": ([*ROWS],), "vae": vae, "weights": weights}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "make"

    def make(self, family, vae, weights):
        own = small.made_vae(vae) if vae else small.vae(family)
        return small.denoiser(family, weights), small.clip(family), own


class ProbeJudged:
    """How far a prior is from ComfyUI's samplers' own call, from its VAE and from finite
    differences."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "prior": ("DISTILL3D_PRIOR",),
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "size": ("INT", {"default": 64}),
            },
            # pictures: that the prior reads, if `same`, the samplers too
            "optional": {"vae": ("VAE",), "pictures": ("IMAGE",), "same": ("BOOLEAN",)},
        }

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, prior, model, clip, size, vae=None, pictures=None, same=True):
        form = model.model.latent_format
        said = {"about": prior.prior.about(), "kind": type(model.model.model_config).__name__}
        with prior.loaded() as seeing:
            side = size // seeing.downscale
            generator = torch.Generator().manual_seed(4)
            z0, eps = torch.randn(2, 3, seeing.latent_channels, side, side, generator=generator)
            t = torch.tensor(STEPS)
            alpha, sigma = seeing.schedule.alpha(t), seeing.schedule.sigma(t)
            z_t = alpha * z0 + sigma * eps
            text, null = seeing.embed(TEXTS), seeing.embed([""] * 3).as_negative()
            noise = seeing.predict(z_t, t, [text, null])
            blend = type(text).lerp(text.index([0]), text.index([1]), torch.tensor([0.5]))
            (between,) = seeing.predict(z_t[:1], t[:1], [blend])
            said |= {
                "spread": [float(each.std()) for each in noise],
                "between": bool(torch.isfinite(between).all()),
                "tokens": [tuple(row.values["cross_attn"].shape) for row in text.rows],
                "latent": [seeing.latent_channels, seeing.downscale, form.latent_dimensions],
                "text": float((noise[0] - noise[1]).abs().max()),
                "levels": len(seeing.levels.unique()),
                "encode": self.encoded(seeing, size, vae),
                "size": seeing.image_size,
                "multiple": seeing.multiple * seeing.downscale,
            }
            levels = seeing.levels[t] if seeing.few_levels else None
        read = None
        if pictures is not None and same:
            read = list(vae.encode(pictures[..., :3]).split(1))
        own = [
            self.sampled(model, clip, texts, z0, eps, levels, read) for texts in (TEXTS, [""] * 3)
        ]
        if not seeing.negative_branch:
            own[1] = own[0]
        direct = [(z_t - alpha * clean) / sigma for clean in own]
        said["apart"] = [float((a - b).abs().max()) for a, b in zip(noise, direct, strict=True)]
        return {"ui": {"said": [json.dumps(said)]}}

    @staticmethod
    def sampled(model, clip, texts, z0, eps, levels, read=None):
        """Clean latents [n,C,h,w] as a sampler gets them, a row at a time; ``read``: reference
        latents."""
        comfy.model_management.load_models_gpu([model])
        inner, sampling = model.model, model.get_model_object("model_sampling")
        clean = []
        for row, text in enumerate(texts):
            place = (STEPS[row] + 1) * len(sampling.sigmas) // 1000 - 1
            level = sampling.sigmas[place : place + 1] if levels is None else levels[row : row + 1]
            latent, noise = (
                value[row : row + 1, :, None]
                if inner.latent_format.latent_dimensions == 3
                else value[row : row + 1]
                for value in (z0, eps)
            )
            x = sampling.noise_scaling(level, noise.clone(), latent.clone())
            told = {"width": 1024, "height": 1024}
            config = type(inner.model_config).__name__
            told |= {"SD15": dict.fromkeys(told, 512), "SD20": dict.fromkeys(told, 512),
                     "HunyuanImage21": dict.fromkeys(told, 2048)}.get(config, {})  # fmt: skip
            if inner.model_config.unet_config.get("guidance_embed"):
                told["guidance"] = 1.0
            if read is not None:
                told["reference_latents"] = read
            conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict=told)
            conds = comfy.samplers.process_conds(
                inner, x, {"positive": comfy.sampler_helpers.convert_cond(conditioning)}, x.device
            )["positive"]
            model.pre_run()
            (answer,) = comfy.samplers.calc_cond_batch(
                inner, [conds], x, level, model.model_options
            )
            model.cleanup()
            clean.append(answer[:, :, 0] if answer.dim() == 5 else answer)
        return torch.cat(clean)

    def encoded(self, seeing, size, vae):
        """Of the encoder: distance from ComfyUI's VAE, the gradient's from a finite difference."""
        generator = torch.Generator().manual_seed(5)
        pixels = torch.rand(1, 3, size, size, generator=generator).mul(0.8).add(0.1)
        given = pixels.clone().requires_grad_()
        latents = seeing.encode(given)
        weights = torch.randn(latents.shape, generator=generator)
        (gradient,) = torch.autograd.grad((latents * weights).sum(), given)
        # along the gradient, lest the slope be next to nothing, and across
        way = gradient.sign() + 0.5 * torch.randn(pixels.shape, generator=generator)
        step = 1e-3
        with torch.no_grad():
            ends = [(seeing.encode(pixels + sign * step * way) * weights).sum() for sign in (1, -1)]
        slope, wanted = float((gradient * way).sum()), float((ends[0] - ends[1]) / (2 * step))
        said = {"finite": bool(torch.isfinite(gradient).all()), "slope": [slope, wanted]}
        with torch.inference_mode():
            if vae is not None:
                own = vae.encode(pixels.movedim(1, -1))
                own = seeing.model.model.process_latent_in(own)
                own = own[:, :, 0] if own.dim() == 5 else own
                said["apart"] = float((own - latents).abs().max())
            else:
                said["apart"] = float((2 * pixels - 1 - latents).abs().max())
        said["images"] = list(seeing.decode(latents.detach()).shape)
        return said


class ProbeLong:
    """A prompt of two blocks of tokens beside a short one, and ComfyUI's own call."""

    @classmethod
    def INPUT_TYPES(cls):
        sockets = {"model": ("MODEL",), "clip": ("CLIP",), "vae": ("VAE",)}
        return {"required": {"prior": ("DISTILL3D_PRIOR",), **sockets}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, prior, model, clip, vae):
        texts = ["a red mug " * 40, "a red mug"]
        with prior.loaded() as seeing:
            generator = torch.Generator().manual_seed(4)
            z0, eps = torch.randn(2, 2, seeing.latent_channels, 8, 8, generator=generator)
            t = torch.tensor(STEPS[:2])
            alpha, sigma = seeing.schedule.alpha(t), seeing.schedule.sigma(t)
            z_t, text = alpha * z0 + sigma * eps, seeing.embed(texts)
            (noise,) = seeing.predict(z_t, t, [text])
        clean = ProbeJudged.sampled(model, clip, texts, z0, eps, None)
        apart = float((noise - (z_t - alpha * clean) / sigma).abs().max())
        tokens = text.rows[0].values["cross_attn"].shape[1]
        return {"ui": {"said": [json.dumps({"apart": apart, "tokens": tokens})]}}


class ProbeAlpha:
    """What transparency does to a prior's latents."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"prior": ("DISTILL3D_PRIOR",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, prior):
        with prior.loaded() as seeing:
            color = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
            alpha = torch.full((1, 1, 64, 64), 0.5, requires_grad=True)
            plain, opaque = (
                seeing.encode(value)
                for value in (color, torch.cat([color, torch.ones_like(alpha)], 1))
            )
            clear = seeing.encode(torch.cat([color, alpha], 1))
            (gradient,) = torch.autograd.grad(clear.square().sum(), alpha)
            said = {
                "takes_alpha": seeing.takes_alpha,
                "opaque": float((plain - opaque).abs().max()),
                "clear": float((plain - clear).abs().max()),
                "gradient": float(gradient.abs().sum()),
            }
        return {"ui": {"said": [json.dumps(said)]}}

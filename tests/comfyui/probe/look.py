"""What a prior answers, beside what ComfyUI's own model, text encoder and VAE answer when called
directly.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math

import torch

from .models import remembered

TEXTS = ["a red mug, side view", "a (blue:1.3) chair", ""]
STEPS = (40, 500, 900)
SIDE = 32  # pixels: a VAE of its true size has enough to do with them


def asked(latent_channels, side=8):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(3, latent_channels, side, side, generator=generator), torch.tensor(STEPS)


def thinned(embeddings):
    """Every so many of the values of wide texts: FLUX's would be 60 MB of JSON."""
    return embeddings[..., :: max(1, embeddings.shape[-1] // 256)].tolist()


class ProbePrior:
    """What the prior of any loader says, as numbers: noise estimates, latents, and the encoder's
    gradients.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"prior": ("DISTILL3D_PRIOR",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, prior):
        with prior.loaded() as model:
            z_t, t = asked(model.latent_channels)
            text, null = model.embed(TEXTS), model.embed([""] * 3).as_negative()
            pixels = torch.rand(
                2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)
            ).requires_grad_()
            latents = model.encode(pixels)
            (gradient,) = torch.autograd.grad(latents.square().sum(), pixels)
            said = {
                "noise": [noise.tolist() for noise in model.predict(z_t, t, [text, null])],
                "needs_grad": [noise.requires_grad for noise in model.predict(z_t, t, [text])],
                "embeddings": thinned(text.embeddings),
                "latents": latents.tolist(),
                "samples": [
                    model.encode(pixels, torch.Generator().manual_seed(seed)).tolist()
                    for seed in (6, 6, 7)
                ],
                "gradient": [float(gradient.abs().sum()), bool(torch.isfinite(gradient).all())],
                "images": model.decode(latents.detach()).tolist(),
                "sequential_offload": bool(getattr(model, "_offload", None)),
                "size": [model.image_size, model.downscale, model.latent_channels],
                "ratio": model.schedule.ratio(torch.arange(1000)).flatten().tolist(),
            }
            with model.running(micro_batch=1):
                apart = model.encode(pixels)
                (change,) = torch.autograd.grad(apart.square().sum(), pixels)
                said["apart"] = {
                    "noise": [noise.tolist() for noise in model.predict(z_t, t, [text, null])],
                    "latents": apart.tolist(),
                    "gradient": float((change - gradient).abs().max() / gradient.abs().max()),
                }
        return {"ui": {"said": [json.dumps(said)]}}


class ProbeViews:
    """What a prior that judges views together says of two objects, each seen from four sides."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"prior": ("DISTILL3D_PRIOR",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, prior):
        from comfy.text_encoders.sd2_clip import SD2ClipHTokenizer

        z_t = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(4))
        camera = torch.randn(8, 16, generator=torch.Generator().manual_seed(6))
        t = torch.tensor([40] * 4 + [900] * 4)
        with prior.reading() as model:
            texts = model.embed([*TEXTS[:1], ""])
        with prior.loaded() as model:
            rows = [texts.index(row).repeat(8).with_views(camera, None) for row in (0, 1)]
            pixels = torch.rand(
                4, 3, 16, 16, generator=torch.Generator().manual_seed(5)
            ).requires_grad_()
            latents = model.encode(pixels)
            (gradient,) = torch.autograd.grad(latents.square().sum(), pixels)
            said = {
                "z": z_t.tolist(),
                "t": t.tolist(),
                "camera": camera.tolist(),
                "pixels": pixels.tolist(),
                "noise": [noise.tolist() for noise in model.predict(z_t, t, rows)],
                "embeddings": texts.embeddings.tolist(),
                "latents": latents.tolist(),
                "gradient": [float(gradient.abs().sum()), bool(torch.isfinite(gradient).all())],
                "tokens": [
                    token for token, _ in SD2ClipHTokenizer().tokenize_with_weights(TEXTS[0])[0]
                ],
            }
        return {"ui": {"said": [json.dumps(said)]}}


class ProbeDirect:
    """The same from ComfyUI's network called with a latent and a time, without its samplers, and
    from its VAE.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "vae": ("VAE",),
                "v": ("BOOLEAN", {"default": False}),
            }
        }

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, model, clip, vae, v):
        import comfy.model_management

        rows = [clip.encode_from_tokens(clip.tokenize(text), return_pooled=True) for text in TEXTS]
        comfy.model_management.load_models_gpu([model])
        inner = model.model
        z_t, t = asked(inner.latent_format.latent_channels)
        sampling = model.get_model_object("model_sampling")
        flow = hasattr(sampling, "shift")
        if flow:
            answer = by_flow(inner, sampling, z_t, t)
        else:
            answer = by_steps(inner, sampling, z_t, t, v)
        noise = []
        for chosen in (rows, [rows[2]] * 3):
            context = torch.cat([embedding for embedding, _ in chosen])
            more = {}
            if flow:
                more["y"] = torch.cat([pooled for _, pooled in chosen])
                if inner.model_config.unet_config.get("guidance_embed"):
                    more["guidance"] = torch.full((3,), 1.0)
            elif inner.adm_channels:
                from comfy.ldm.modules.diffusionmodules.openaimodel import timestep_embedding

                # SDXL's order: height, width of the original, crop, height, width of the target
                sizes = timestep_embedding(
                    torch.tensor([1024.0, 1024, 0, 0, 1024, 1024]), 256
                ).flatten()
                more["y"] = torch.cat(
                    [torch.cat([pooled for _, pooled in chosen]), sizes.expand(3, -1)], 1
                )
            noise.append(answer(context, more).tolist())
        pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
        latents = inner.process_latent_in(vae.encode(pixels.movedim(1, -1)))
        said = {
            "noise": noise,
            "embeddings": thinned(torch.cat([embedding for embedding, _ in rows])),
            "latents": latents.tolist(),
            "images": vae.decode(inner.process_latent_out(latents)).movedim(-1, 1).tolist(),
        }
        return {"ui": {"said": [json.dumps(said)]}}


def by_steps(inner, sampling, z_t, t, v):
    """Noise by a U-Net that counts in steps and sees alpha z0 + sigma eps."""
    abar = 1 / (1 + sampling.sigmas[t].double() ** 2)
    alpha, sigma = (
        abar.sqrt().float()[:, None, None, None],
        (1 - abar).sqrt().float()[:, None, None, None],
    )

    def answer(context, more):
        output = inner.diffusion_model(z_t, t.float(), context=context, **more)
        return sigma * z_t + alpha * output if v else output

    return answer


def by_flow(inner, sampling, z_t, t):
    """Noise by a rectified flow, whose velocity is eps - z0 at (1 - r) z0 + r eps."""
    even, flux = (t.double() + 1) / 1000, len(sampling.sigmas) == 10000
    shift = math.exp(sampling.shift) if flux else sampling.shift
    r = (shift * even / (1 + (shift - 1) * even)).float()
    wide = r[:, None, None, None]
    x = z_t * ((1 - wide) ** 2 + wide**2).sqrt()

    def answer(context, more):
        velocity = inner.diffusion_model(x, r if flux else 1000 * r, context=context, **more)
        return x + (1 - wide) * velocity

    return answer


class ProbePrompts:
    """Asks for prompts and does nothing with them."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"prompts": ("DISTILL3D_PROMPTS",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, prompts):
        return {}


class ProbeMemory:
    """Bytes of all tensors that are alive in the server, and how many models ComfyUI holds."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):
        return float("nan")  # always to be asked again

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self):
        import comfy.model_management

        remembered.cache_clear()
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        storages = {}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            with contextlib.suppress(RuntimeError):  # one that has no bytes: meta, fake, freed
                storages[storage.data_ptr()] = storage.nbytes()
        said = [sum(storages.values()), len(comfy.model_management.current_loaded_models)]
        return {"ui": {"said": [json.dumps(said)]}}


class Anything(str):
    """The type of a socket that every link fits."""

    __hash__ = str.__hash__

    def __ne__(self, other):
        return False


class ProbeSettings:
    """The text of a value that a node gave out."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (Anything("*"),)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "say"

    def say(self, value):
        return {"ui": {"said": [repr(value)]}}


class ProbeSave:
    """A checkpoint file of the parts, in half precision."""

    @classmethod
    def INPUT_TYPES(cls):
        sockets = {"model": ("MODEL",), "clip": ("CLIP",), "vae": ("VAE",)}
        return {"required": {**sockets, "file": ("STRING", {"default": ""})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "save"

    def save(self, model, clip, vae, file):
        import comfy.sd
        from safetensors.torch import load_file, save_file

        comfy.sd.save_checkpoint(file, model, clip, vae)
        save_file({name: value.half() for name, value in load_file(file).items()}, file)
        return {}

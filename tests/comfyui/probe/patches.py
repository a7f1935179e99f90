"""A patch that treats prompts and negative prompts unlike, as IP-Adapters do, beside ComfyUI's own
call.
"""

from __future__ import annotations

import json
import uuid

import comfy.model_management
import comfy.samplers
import torch

from .look import TEXTS, asked


class ProbeAdapter:
    """The model with an image prompt's part added to its attention, where the prompt is and not
    where it is not.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    def patch(self, model):
        def add(out, extra_options):
            places = extra_options["cond_or_uncond"]
            parts = out.chunk(len(places))
            return torch.cat(
                [
                    part + (0.5 if place == 0 else -0.1)
                    for part, place in zip(parts, places, strict=True)
                ]
            )

        patched = model.clone()
        patched.set_model_attn2_output_patch(add)
        return (patched,)


class ProbeSampled:
    """Noise estimates of a prompt and a negative one by a prior, together and each alone, and by
    samplers' own call.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"prior": ("DISTILL3D_PRIOR",), "model": ("MODEL",), "clip": ("CLIP",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self, prior, model, clip):
        direct = self.direct(model, clip)
        with prior.loaded() as loaded:
            z_t, t = asked(loaded.latent_channels)
            text, null = loaded.embed(TEXTS), loaded.embed([""] * 3).as_negative()
            together = loaded.predict(z_t, t, [text, null])
            alone = [loaded.predict(z_t, t, [rows])[0] for rows in (text, null)]
            some = loaded.predict(
                z_t[:1], t[:1], [text.index([0]), null.index([0]), text.index([1])]
            )[:2]
            alpha, sigma = loaded.schedule.alpha(t), loaded.schedule.sigma(t)
        said = {
            "together": [each.tolist() for each in together],
            "alone": [each.tolist() for each in alone],
            "some": [each.tolist() for each in some],
            "direct": [((z_t - alpha * clean) / sigma).tolist() for clean in direct],
        }
        return {"ui": {"said": [json.dumps(said)]}}

    def direct(self, model, clip):
        """Clean latents [3,C,h,w] with the prompt and with the negative one, a row at a time."""
        comfy.model_management.load_models_gpu([model])
        inner, sampling = model.model, model.get_model_object("model_sampling")
        z_t, t = asked(inner.latent_format.latent_channels)
        levels = sampling.sigmas[len(sampling.sigmas) // 1000 - 1 :: len(sampling.sigmas) // 1000][
            t
        ]
        rows = []
        for row, text in enumerate(TEXTS):
            level, conds = levels[row : row + 1], []
            x = z_t[row : row + 1] * (1 + level**2).sqrt()
            for words, kind in ((text, "positive"), ("", "negative")):
                embedding, pooled = clip.encode_from_tokens(
                    clip.tokenize(words), return_pooled=True
                )
                given = {
                    "cross_attn": embedding,
                    "device": x.device,
                    "noise": x,
                    "prompt_type": kind,
                }
                given |= {"pooled_output": pooled, "width": 1024, "height": 1024}
                conds.append([{"model_conds": inner.extra_conds(**given), "uuid": uuid.uuid4()}])
            model.pre_run()
            rows.append(comfy.samplers.calc_cond_batch(inner, conds, x, level, model.model_options))
            model.cleanup()
        return [torch.cat([pair[kind] for pair in rows]) for kind in (0, 1)]

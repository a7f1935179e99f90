"""What a prior says of models that are none: every class of ComfyUI, empty."""

from __future__ import annotations

import json
import sys
import types

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models
import torch

KINDS = {kind.__name__: kind for kind in comfy.supported_models.models}
# What some models' makers ask of a configuration, and of a file.
ASKED = {
    "SDXLRefiner": {"context_dim": 1280},
    "SD15_instructpix2pix": {"out_channels": 4, "channel_mult": [1, 2]},
    "SDXL_instructpix2pix": {"out_channels": 4, "channel_mult": [1, 2]},
    "FluxInpaint": {"in_channels": 96, "out_channels": 16},
}


def empty(name):
    """MODEL of a class without its network."""
    kind = KINDS[name]
    usual = {"hidden_size": 64, "disable_unet_model_creation": True}
    usual |= dict.fromkeys(("in_channels", "out_channels"), kind.latent_format.latent_channels)
    config = kind({**usual, **kind.unet_config, **ASKED.get(name, {})})
    state = {"cc_projection.weight": torch.zeros(1), "cc_projection.bias": torch.zeros(1)}
    try:
        inner = config.get_model(dict(state), "")
    except Exception:  # of those that hold networks of their own beside
        base = next(
            found
            for wanted in ("Stable_Zero123", "StableAudio1", "StableAudio3", "SD21UNCLIP")
            if name.startswith(wanted[:8]) and (found := getattr(comfy.model_base, wanted, None))
        )
        inner = types.new_class(base.__name__, (base,)).__new__(base)
        torch.nn.Module.__init__(inner)
        inner.latent_format, inner.model_config, inner.concat_keys = (
            config.latent_format,
            config,
            (),
        )
        inner.model_sampling = comfy.model_base.model_sampling(
            config, comfy.model_base.ModelType.EPS
        )
    inner.diffusion_model = torch.nn.Identity()
    return types.SimpleNamespace(model=inner, get_model_object=lambda name: getattr(inner, name))


class ProbeRefused:
    """The sentence by which each class of model is refused; "" for one that is not."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"

    def look(self):
        checks = next(m for n, m in sys.modules.items() if n.endswith("nodes.priors.comfy_checks"))
        said = {}
        for name in KINDS:
            try:
                checks.check_model(empty(name))
                said[name] = ""
            except ValueError as error:
                said[name] = str(error)
        return {"ui": {"said": [json.dumps(said)]}}

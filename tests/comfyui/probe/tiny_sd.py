"""What ComfyUI's own loader must be taught to read a checkpoint of tests/comfyui/tiny_sd.py: Stable
Diffusion 2.1's family in narrower sizes, and nothing else.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import comfy.sd
import comfy.supported_models
import comfy.text_encoders.sd2_clip
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models_base import ClipTarget

WIDE, NARROW = 64, 32  # of texts and of the U-Net; of the autoencoder's first level
TEXT = Path(comfy.text_encoders.sd2_clip.__file__).with_name("sd2_clip_config.json")
SMALL = {
    "hidden_size": WIDE, "intermediate_size": 4 * WIDE, "num_hidden_layers": 3,
    "num_attention_heads": 1, "projection_dim": WIDE,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
    "ch": NARROW, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [],
    "dropout": 0.0,
}  # fmt: skip


class TinySD20(comfy.supported_models.SD20):
    unet_config = comfy.supported_models.SD20.unet_config | {
        "context_dim": WIDE,
        "model_channels": WIDE,
    }

    def clip_target(self, state_dict={}):  # noqa: B006 - as in ComfyUI
        text = json.loads(TEXT.read_text(encoding="utf-8")) | SMALL
        model = functools.partial(
            SDClipModel,
            layer="hidden",
            layer_idx=-2,
            textmodel_json_config=text,
            special_tokens={"start": 49406, "end": 49407, "pad": 0},
            return_projected_pooled=True,
        )
        tokenizer = functools.partial(
            SDTokenizer, pad_with_end=False, embedding_size=WIDE, embedding_key="clip_h"
        )
        return ClipTarget(
            functools.partial(SD1Tokenizer, clip_name="h", tokenizer=tokenizer),
            functools.partial(SD1ClipModel, clip_name="h", clip_model=model),
        )


def teach():
    """After the toybox, whose autoencoder has another width."""
    wide = comfy.sd.VAE

    class TinyVAE(wide):
        def __init__(self, sd=None, device=None, config=None, dtype=None, metadata=None):
            first = (sd or {}).get("encoder.conv_in.weight")
            one_block = "encoder.down.0.block.1.conv1.weight" not in (sd or {})
            if config is None and first is not None and len(first) == NARROW and one_block:
                config = {"params": {"ddconfig": VAE, "embed_dim": 4}}
            super().__init__(sd=sd, device=device, config=config, dtype=dtype, metadata=metadata)

    comfy.supported_models.models.append(TinySD20)
    comfy.sd.VAE = TinyVAE

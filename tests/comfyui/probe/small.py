"""MODEL, CLIP and VAE of the families, random and small: of the true classes, from files of the true
layouts, by ComfyUI's own loaders.

ComfyUI tells a kind by its layout and reads some widths off the file; where it writes widths down,
they are replaced after it has told the kind (`sized`). Language models' configurations are given as
ComfyUI's own options for them.
"""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from functools import cache, partial

import comfy.ldm.hunyuan_video.vae
import comfy.ldm.models.autoencoder
import comfy.ldm.wan.vae
import comfy.model_detection
import comfy.quant_ops
import comfy.sd
import comfy.supported_models
import torch
from comfy.ldm.anima import model as anima
from comfy.ldm.mage_flow.vae import MageVAE
from comfy.text_encoders import flux, qwen3vl, qwen_vl

from .families import QWEN, ROWS, WIDE
from .models import filled

T5 = {"num_layers": 1, "d_ff": 64, "num_heads": 1, "d_model": WIDE}
NARROW = [32, 32, 64, 64, 128, 128]  # of HunyuanImage's VAE
CLIP = {"num_hidden_layers": 3, "intermediate_size": 64}
OPTIONS = {
    **{f"{name}_model_config": T5 for name in ("t5xxl", "pile_t5xl", "mt5xl", "byt5_small")},
    **{f"clip_{letter}_model_config": CLIP for letter in "lgh"},
    "hydit_clip_model_config": {"num_hidden_layers": 1, "intermediate_size": 64},
    **{
        f"{name}_model_config": QWEN | {"num_hidden_layers": layers, **more}
        for name, layers, more in (
            ("qwen3_4b", 28, {}),
            ("qwen3_8b", 28, {"lm_head": False}),
            ("qwen3_06b", 2, {}),
            ("qwen25_7b", 4, {}),
            ("qwen25_3b", 2, {}),
            ("qwen3vl_4b", 36, {}),
            ("qwen3vl_8b", 36, {"lm_head": False}),
            ("gemma2_2b", 3, {"vocab_size": 512}),
            ("llama", 3, {"vocab_size": 128320}),
            ("mistral3_24b", 31, {"vocab_size": 2048}),
            ("ministral3_3b", 3, {"vocab_size": 2048}),
        )
    },
    "gpt_oss_config": {
        "hidden_size": WIDE, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1,
        "num_local_experts": 2, "num_experts_per_tok": 1, "vocab_size": 2048, "num_hidden_layers": 24,
    },
}  # fmt: skip


@contextmanager
def sized(row):
    """Inside, ComfyUI's loader makes a network as small as the row says of a file it has told the
    kind of."""
    tell = comfy.model_detection.model_config_from_unet_config

    def found(config, *rest, **more):
        known = tell({**config, **row.told}, *rest, **more)
        if type(known).__name__ != row.kind:
            raise AssertionError(f"ComfyUI takes a {row.kind} for a {type(known).__name__}")
        known = type(known)({**known.unet_config, **row.small})
        known.unet_config.update(row.small)  # some write widths down there too
        return known

    adapter = anima.LLMAdapter  # as wide as Anima's true text encoder, whatever its own says
    widths = {
        "source_dim": WIDE,
        "target_dim": WIDE,
        "model_dim": WIDE,
        "num_layers": 1,
        "num_heads": 1,
    }
    comfy.model_detection.model_config_from_unet_config = found
    anima.LLMAdapter = partial(adapter, **widths)
    try:
        yield
    finally:
        comfy.model_detection.model_config_from_unet_config = tell
        anima.LLMAdapter = adapter


def denoiser(name, weights="float32"):
    """MODEL of a family, from a state dict as its files hold it; ``weights`` as `quantised` has them."""
    row = ROWS[name]
    config = getattr(comfy.supported_models, row.kind)(dict(row.small))
    config.unet_config.update(row.small)
    config.set_inference_dtype(torch.float32, None)
    with sized(row):
        net = config.get_model(dict(row.more), "").diffusion_model
        state = quantised(filled(net.state_dict(), 1), net, weights)
        if row.disk == "pixeldit":
            state = pixeldit(state)
        return comfy.sd.load_diffusion_model_state_dict(state | row.more)


def quantised(state, net, weights):
    """The state of a file whose matrices are "fp8", "fp8_scaled", "int8" or "nvfp4", as those that
    ComfyUI's templates load."""
    if weights == "float32":
        return state
    layers = [name for name, layer in net.named_modules() if isinstance(layer, torch.nn.Linear)]
    for layer in layers:
        weight = state[f"{layer}.weight"]
        largest = 127.0 if weights == "int8" else 448.0
        scale = weight.abs().amax() / largest
        if weights == "fp8":
            state[f"{layer}.weight"] = weight.to(torch.float8_e4m3fn)
        elif weights == "fp8_scaled":
            state[f"{layer}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
            state[f"{layer}.scale_weight"] = scale
        elif weights == "nvfp4":
            packed, scales = comfy.quant_ops.TensorCoreNVFP4Layout.quantize(weight)
            state[f"{layer}.weight"] = packed
            state[f"{layer}.weight_scale"] = scales.block_scale
            state[f"{layer}.weight_scale_2"] = scales.scale
            mark = json.dumps({"format": "nvfp4"}).encode()
            state[f"{layer}.comfy_quant"] = torch.tensor(list(mark), dtype=torch.uint8)
        else:
            state[f"{layer}.weight"] = (weight / scale).round().to(torch.int8)
            state[f"{layer}.weight_scale"] = scale
            mark = json.dumps({"format": "int8_tensorwise"}).encode()
            state[f"{layer}.comfy_quant"] = torch.tensor(list(mark), dtype=torch.uint8)
    if weights == "fp8_scaled":
        state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return state


def pixeldit(state):
    """PixelDiT's layout on disk, whose pixel blocks hold both halves of a modulation in one."""
    wide = state["pixel_embedder.proj.weight"].shape[0]
    out = {}
    for name, value in state.items():
        if ".adaLN_modulation_mlp." in name:
            continue
        if ".adaLN_modulation_msa." in name:
            other = state[name.replace("_msa.", "_mlp.")]
            parts = [part.view(-1, 3, wide, *part.shape[1:]) for part in (value, other)]
            name = name.replace("_msa.", ".0.")
            value = torch.cat(parts, 1).flatten(0, 2)
        out[f"core.{name}"] = value
    return out


def clip(name):
    """CLIP of a family: true tokenizer and encoder, small."""
    with blind():
        made = comfy.sd.CLIP(
            whole(ROWS[name].text()),
            model_options=dict(OPTIONS),
            tokenizer_data=tokenizers(),
        )
    made.cond_stage_model.load_state_dict(filled(made.cond_stage_model.state_dict(), 2))
    return made


def whole(target):
    """The same, whose layers have weights from the start: ComfyUI's for mixed precision get theirs
    with a file only."""

    class Whole(target.clip):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            layers = [(n, m) for n, m in self.named_modules() if hasattr(m, "_orig_shape")]
            missing = {f"{name}.weight": torch.empty(layer._orig_shape) for name, layer in layers}
            if missing:
                self.load_state_dict(filled(missing, 2), strict=False)

    target.clip = Whole
    return target


@contextmanager
def blind():
    """Inside, language models that also see get eyes that cost nothing, and tokenizers of Mistral's
    are made of letters."""
    seeing, deep = qwen_vl.Qwen2VLVisionTransformer, dict(qwen3vl.QWEN3VL_VISION)
    converted = flux.load_mistral_tokenizer
    small = {"hidden_size": 32, "intermediate_size": 32, "num_heads": 1, "num_layers": 1}

    def tiny(hidden_size, output_hidden_size, **more):
        return seeing(**small, output_hidden_size=output_hidden_size, **more)

    qwen_vl.Qwen2VLVisionTransformer = tiny
    for kind in qwen3vl.QWEN3VL_VISION:
        qwen3vl.QWEN3VL_VISION[kind] = deep[kind] | {
            "hidden_size": 32, "intermediate_size": 32, "depth": 1, "deepstack_visual_indexes": [0],
        }  # fmt: skip
    # ComfyUI's own way there fails with transformers 5.24
    flux.load_mistral_tokenizer = lambda _: {"tokenizer_object": letters(), "legacy": False}
    try:
        yield
    finally:
        qwen_vl.Qwen2VLVisionTransformer = seeing
        qwen3vl.QWEN3VL_VISION.update(deep)
        flux.load_mistral_tokenizer = converted


@cache
def tokenizers():
    """What tokenizers that come with a model's file are made of: a few pieces and words."""
    import sentencepiece

    words = "a red blue mug chair front side back overhead view with white stripes the and of"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{word} {other}" for word in words.split() for other in words.split()]),
        model_writer=model, vocab_size=40, pad_id=0, eos_id=1, bos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    pieces = torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)
    words = torch.frombuffer(bytearray(letters().to_str().encode()), dtype=torch.uint8)
    return {"spiece_model": pieces, "mt5xl.spiece_model": pieces, "tokenizer_json": words}


def letters():
    """A tokenizer whose tokens are letters, in the form of Hugging Face's."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def vae(name):
    """VAE of a family, None for one of pixels."""
    kind = ROWS[name].vae
    return None if kind is None else made_vae(kind)


def made_vae(kind):
    """A small VAE of a kind by ComfyUI's own loader: "kl4" Stable Diffusion's, "kl16" FLUX's,
    "flux2", "wan", "rgba" (Wan's with alpha), "hunyuan" (64 channels, 32 pixels each), "mage",
    "tiny16" (TAESD)."""
    with narrow():
        if kind in ("kl4", "kl16", "flux2"):
            channels = {"kl4": 4, "kl16": 16, "flux2": 32}[kind]
            config = {
                "double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
                "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
                "batch_norm_latent": kind == "flux2",
            }  # fmt: skip
            net = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=config, embed_dim=channels)
        elif kind in ("wan", "rgba"):
            net = comfy.ldm.wan.vae.WanVAE(
                dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                temperal_downsample=[False, True, True], image_channels=3 + (kind == "rgba"),
                conv_out_channels=3 + (kind == "rgba"),
            )  # fmt: skip
        elif kind == "hunyuan":
            config = {
                "block_out_channels": NARROW, "in_channels": 3, "out_channels": 3, "num_res_blocks": 2,
                "ffactor_spatial": 32, "downsample_match_channel": True, "upsample_match_channel": True,
                "z_channels": 64,
            }  # fmt: skip
            home = "comfy.ldm.hunyuan_video.vae"
            net = comfy.ldm.models.autoencoder.AutoencodingEngine(
                regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
                encoder_config={"target": f"{home}.Encoder", "params": config},
                decoder_config={"target": f"{home}.Decoder", "params": config},
            )  # fmt: skip
        elif kind == "mage":  # at its true size, which is not given anywhere but in its code
            net = MageVAE()
        else:
            net = comfy.taesd.taesd.TAESD(latent_channels=16)
        state = filled(net.state_dict(), 3)
        if "bn.running_var" in state:
            state["bn.running_var"] = state["bn.running_var"].abs() + 0.5
        disk = {"dconv_encoder.": "student.dconv_encoder.", "decoder_model.": "pipeline."}
        if kind == "mage":
            state = comfy.utils.state_dict_prefix_replace(state, disk)
        return comfy.sd.VAE(sd=state)


@contextmanager
def narrow():
    """Inside, ComfyUI's loader makes autoencoders whose widths it writes down narrower."""
    wide_kl, wide_engine = comfy.sd.AutoencoderKL, comfy.sd.AutoencodingEngine

    def kl(ddconfig, **more):
        return wide_kl(
            ddconfig=ddconfig | {"ch": 32}, **{k: v for k, v in more.items() if k == "embed_dim"}
        )

    def engine(encoder_config, decoder_config, **more):
        narrower = {"block_out_channels": NARROW}
        for config in (encoder_config, decoder_config):
            if "block_out_channels" in config["params"]:
                config["params"] = config["params"] | narrower
        return wide_engine(encoder_config=encoder_config, decoder_config=decoder_config, **more)

    comfy.sd.AutoencoderKL, comfy.sd.AutoencodingEngine = kl, engine
    try:
        yield
    finally:
        comfy.sd.AutoencoderKL, comfy.sd.AutoencodingEngine = wide_kl, wide_engine

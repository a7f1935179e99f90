"""Every image family of ComfyUI, random and small: networks of the true classes, whose files have
the true layouts and go through ComfyUI's own loaders.

What makes them small: ComfyUI tells a kind by its layout and reads some widths off the file; where
it writes widths down, they are replaced after it has told the kind (`sized`). Language models'
configurations are given as ComfyUI's own options for them.
"""

from __future__ import annotations

import importlib
import io
from contextlib import contextmanager
from functools import cache

import comfy.ldm.hunyuan_video.vae
import comfy.ldm.models.autoencoder
import comfy.ldm.wan.vae
import comfy.model_detection
import comfy.sd
import comfy.supported_models
import torch
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders import flux, qwen3vl, qwen_vl

from .models import COMMON, FLUX, SD3, UNETS, filled

WIDE = 64  # values per token of language models
QWEN = {
    "hidden_size": WIDE, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1,
}  # fmt: skip
T5 = {"num_layers": 1, "d_ff": 64, "num_heads": 1, "d_model": WIDE}
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

SDXL = COMMON | UNETS["sdxl"]
KOALA = {
    "num_res_blocks": [1, 1, 1], "channel_mult": [1, 1, 1], "transformer_depth_middle": -1,
}  # fmt: skip
COSMOS = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 128, "num_blocks": 2, "num_heads": 1,
    "crossattn_emb_channels": WIDE, "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "use_adaln_lora": True,
    "adaln_lora_dim": 32, "extra_per_block_abs_pos_emb": False, "rope_enable_fps_modulation": False,
}  # fmt: skip
LUMINA = {
    "patch_size": 2, "in_channels": 16, "dim": 96, "cap_feat_dim": WIDE, "n_layers": 2, "n_refiner_layers": 1,
    "qk_norm": True, "n_heads": 1, "n_kv_heads": 1, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512],
    "multiple_of": 32,
}  # fmt: skip
Z_IMAGE = LUMINA | {
    "dim": 256, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "time_scale": 1000.0,
    "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "pad_tokens_multiple": 32,
}  # fmt: skip
SMALL_FLUX = FLUX | {"context_in_dim": WIDE}
CHROMA = {
    "in_channels": 64, "out_channels": 64, "context_in_dim": WIDE, "hidden_size": 128, "mlp_ratio": 4.0,
    "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 128, "hidden_dim": 64, "n_layers": 2,
    "txt_ids_dims": [], "vec_in_dim": None,
}  # fmt: skip
RADIANCE = CHROMA | {
    "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2,
    "nerf_depth": 1, "nerf_max_freqs": 4, "nerf_tile_size": 512, "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32, "use_x0": False, "use_sequential_txt_ids": False,
}  # fmt: skip
KLEIN = {
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 3 * WIDE, "hidden_size": 128,
    "mlp_ratio": 3.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [32, 32, 32, 32],
    "theta": 2000, "patch_size": 1, "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3],
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index",
    "ref_index_scale": 10.0, "yak_mlp": False, "txt_norm": False,
}  # fmt: skip
HUNYUAN = {
    "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "context_in_dim": WIDE, "hidden_size": 128,
    "mlp_ratio": 4.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [64, 64], "theta": 256,
    "patch_size": [1, 1], "qkv_bias": True, "guidance_embed": False, "byt5": False, "meanflow": False,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip


class Row:
    """A family.

    Args:
        kind: its configuration class in comfy.supported_models
        small: its network's arguments
        text: module and classes of its tokenizer and encoder, or what makes a ClipTarget
        vae: what `made_vae` takes, None for none
        told: what ComfyUI tells the kind by and a small file does not show
        more: tensors that mark its file
        disk: which layout its file has that its network has not
        options: for its text encoder, beside `OPTIONS`
        size: pixels of a side that it is tried at
    """

    def __init__(self, kind, small, text, vae="kl4", told=None, more=None, disk=None, options=None, size=64):
        self.kind, self.small, self.text, self.vae = kind, small, text, vae
        self.told, self.more, self.disk = told or {}, more or {}, disk
        self.options, self.size = options or {}, size


def encoder(module, tokenizer, model, **options):
    """A ClipTarget by names; ``model`` ending in () is a function that makes the class."""

    def made():
        home = importlib.import_module(f"comfy.{module}")
        kind = getattr(home, model.removesuffix("()"))
        return ClipTarget(
            getattr(home, tokenizer), kind(**options) if model.endswith("()") else kind
        )

    return made


TEXT = "text_encoders."
CLIP_SDXL = encoder("sdxl_clip", "SDXLTokenizer", "SDXLClipModel")
T5_FLUX = encoder(TEXT + "flux", "FluxTokenizer", "flux_clip()", dtype_t5=torch.float32)
PIXART = encoder(TEXT + "pixart_t5", "PixArtTokenizer", "pixart_te()", dtype_t5=torch.float32)
Z_TEXT = encoder(TEXT + "z_image", "ZImageTokenizer", "te()")

ROWS = {
    "SD 1.5": Row(
        "SD15", COMMON | UNETS["sd15"], encoder("sd1_clip", "SD1Tokenizer", "SD1ClipModel"),
    ),
    "SD 2": Row(
        "SD20", COMMON | UNETS["sd20"], encoder(TEXT + "sd2_clip", "SD2Tokenizer", "SD2ClipModel"),
    ),
    "SDXL": Row("SDXL", SDXL, CLIP_SDXL, told={"transformer_depth": [0, 0, 2, 2, 10, 10]}),
    "SSD-1B": Row("SSD1B", SDXL, CLIP_SDXL, told={"transformer_depth": [0, 0, 2, 2, 4, 4]}),
    "Vega": Row("Segmind_Vega", SDXL, CLIP_SDXL, told={"transformer_depth": [0, 0, 1, 1, 2, 2]}),
    "KOALA 700M": Row("KOALA_700M", SDXL, CLIP_SDXL, told={"transformer_depth": [0, 2, 5]}),
    "KOALA 1B": Row("KOALA_1B", SDXL, CLIP_SDXL, told={"transformer_depth": [0, 2, 6]}),
    "Playground 2.5": Row(
        "SDXL", SDXL, CLIP_SDXL, told={"transformer_depth": [0, 0, 2, 2, 10, 10]},
        more={"edm_mean": torch.zeros(1, 4), "edm_std": torch.ones(1, 4)},
    ),
    "SD 3": Row(
        "SD3",
        SD3 | {"context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}},
        encoder(TEXT + "sd3_clip", "SD3Tokenizer", "sd3_clip()", t5=False), "kl16",
    ),
    "AuraFlow": Row(
        "AuraFlow", {"dim": 128, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 128,
                     "cond_seq_dim": WIDE, "max_seq": 4096},
        encoder(TEXT + "aura_t5", "AuraT5Tokenizer", "AuraT5Model"), told={"cond_seq_dim": 2048},
    ),
    "PixArt alpha": Row(
        "PixArtAlpha", {"hidden_size": 96, "depth": 2, "num_heads": 2, "caption_channels": WIDE,
                        "micro_condition": True, "model_max_length": 120, "pe_interpolation": 2, "input_size": 128},
        PIXART, size=272,
    ),
    "PixArt sigma": Row(
        "PixArtSigma", {"hidden_size": 96, "depth": 2, "num_heads": 2, "caption_channels": WIDE,
                        "micro_condition": False, "model_max_length": 300, "pe_interpolation": 2, "input_size": 128},
        PIXART, size=272,
    ),
    "HunyuanDiT": Row(
        "HunyuanDiT", {"hidden_size": 128, "depth": 4, "num_heads": 2, "text_states_dim_t5": WIDE},
        encoder(TEXT + "hydit", "HyditTokenizer", "HyditModel"),
    ),
    "FLUX.1 dev": Row("Flux", SMALL_FLUX, T5_FLUX, "kl16"),
    "FLUX.1 schnell": Row("FluxSchnell", SMALL_FLUX | {"guidance_embed": False}, T5_FLUX, "kl16"),
    "FLUX.2 dev": Row(
        "Flux2", KLEIN | {"guidance_embed": True}, encoder(TEXT + "flux", "Flux2Tokenizer", "flux2_te()"), "flux2",
    ),
    "FLUX.2 klein": Row("Flux2", KLEIN, encoder(TEXT + "flux", "KleinTokenizer", "klein_te()"), "flux2"),
    "Chroma": Row("Chroma", CHROMA, PIXART, "kl16"),
    "Lumina 2": Row(
        "Lumina2", LUMINA, encoder(TEXT + "lumina2", "LuminaTokenizer", "te()"), "kl16",
    ),
    "Z-Image": Row("ZImage", Z_IMAGE, Z_TEXT, "kl16", told={"dim": 3840}),
    "Anima": Row(
        "Anima", COSMOS | {"crossattn_emb_channels": 1024}, encoder(TEXT + "anima", "AnimaTokenizer", "te()"), "wan",
    ),
    "HiDream": Row(
        "HiDream", {"patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1, "num_single_layers": 1,
                    "attention_head_dim": 128, "num_attention_heads": 1, "caption_channels": [WIDE, WIDE],
                    "text_emb_dim": 2048, "num_routed_experts": 2, "num_activated_experts": 1,
                    "axes_dims_rope": [64, 32, 32], "max_resolution": [128, 128], "llama_layers": [0, 1]},
        encoder(TEXT + "hidream", "HiDreamTokenizer", "hidream_clip()"), "kl16",
    ),
    "OmniGen 2": Row(
        "Omnigen2", {"hidden_size": 120, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 1,
                     "num_kv_heads": 1, "multiple_of": 32, "axes_dim_rope": [40, 40, 40],
                     "axes_lens": [1024, 1664, 1664], "text_feat_dim": WIDE, "timestep_scale": 1000.0,
                     "in_channels": 16, "patch_size": 2, "out_channels": None},
        encoder(TEXT + "omnigen2", "Omnigen2Tokenizer", "te()"), "kl16",
    ),
    "Qwen-Image": Row(
        "QwenImage", {"in_channels": 64, "num_layers": 1, "num_attention_heads": 1, "joint_attention_dim": WIDE},
        encoder(TEXT + "qwen_image", "QwenImageTokenizer", "te()"), "wan",
    ),
    "Krea 2": Row(
        "Krea2", {"features": 128, "heads": 1, "kvheads": 1, "txtdim": WIDE, "txtheads": 1, "txtkvheads": 1,
                  "layers": 1, "multiplier": 2, "channels": 16},
        encoder(TEXT + "krea2", "Krea2Tokenizer", "te()"), "wan",
    ),
    "HunyuanImage 2.1": Row(
        "HunyuanImage21", HUNYUAN, encoder(TEXT + "hunyuan_image", "HunyuanImageTokenizer", "te()", byt5=False),
        "hunyuan",
    ),
    "Kandinsky 5 image": Row(
        "Kandinsky5Image", {"model_dim": 128, "time_dim": 64, "ff_dim": 128, "visual_embed_dim": 64,
                            "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": (32, 48, 48),
                            "in_text_dim": WIDE, "rope_scale_factor": (1.0, 1.0, 1.0)},
        encoder(TEXT + "kandinsky5", "Kandinsky5TokenizerImage", "te()"), "kl16", told={"model_dim": 2560},
    ),
    "LongCat-Image": Row(
        "LongCatImage", FLUX | {"vec_in_dim": None, "context_in_dim": WIDE, "guidance_embed": False,
                                "txt_ids_dims": [1, 2]},
        encoder(TEXT + "longcat_image", "LongCatImageTokenizer", "te()"), "kl16",
        told={"context_in_dim": 3584, "vec_in_dim": None, "txt_ids_dims": [1, 2]},
    ),
    "Ernie-Image": Row(
        "ErnieImage", {"hidden_size": 128, "num_attention_heads": 1, "num_layers": 1, "ffn_hidden_size": 64,
                       "text_in_dim": WIDE},
        encoder(TEXT + "ernie", "ErnieTokenizer", "te()"), "flux2",
    ),
    "Ideogram 4": Row(
        "Ideogram4", {"in_channels": 128, "num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 128,
                      "intermediate_size": 64, "adaln_dim": 32, "llm_features_dim": 13 * WIDE},
        encoder(TEXT + "ideogram4", "Ideogram4Qwen3VLTokenizer", "te_qwen3vl()"), "flux2",
    ),
    "MageFlow": Row(
        "MageFlow", {"in_channels": 128, "num_layers": 1, "num_attention_heads": 1, "joint_attention_dim": WIDE},
        encoder(TEXT + "mage_flow", "MageFlowTokenizer", "te()"), "flux2", told={"image_model": "mage_flow"},
    ),
    "Lens": Row(
        "Lens", {"in_channels": 128, "out_channels": 32, "num_layers": 1, "num_attention_heads": 2,
                 "enc_hidden_dim": WIDE},
        encoder(TEXT + "gpt_oss", "LensTokenizer", "lens_te()"), "flux2",
        options={"custom_operations": comfy.ops.manual_cast},  # its own make no weights but of a file
    ),
    "Boogu": Row(
        "Boogu", {"hidden_size": 120, "num_layers": 1, "num_double_stream_layers": 1, "num_refiner_layers": 1,
                  "num_attention_heads": 1, "num_kv_heads": 1, "multiple_of": 32, "instruction_feat_dim": WIDE},
        encoder(TEXT + "boogu", "BooguTokenizer", "te()"), "kl16",
    ),
    "Cosmos-Predict2": Row(
        "CosmosT2IPredict2", COSMOS, encoder(TEXT + "cosmos", "CosmosT5Tokenizer", "te()", dtype_t5=torch.float32),
        "wan",
    ),
    "Chroma Radiance": Row("ChromaRadiance", RADIANCE, PIXART, None),
    "Z-Image pixel": Row(
        "ZImagePixelSpace",
        Z_IMAGE | {"in_channels": 3, "patch_size": 16, "decoder_hidden_size": 32, "decoder_num_res_blocks": 1,
                   "decoder_max_freqs": 4, "decoder_in_channels": 768},
        Z_TEXT, None, told={"dim": 3840, "image_model": "zimage_pixel"},
    ),
    "PixelDiT": Row(
        "PixelDiTT2I", {"num_groups": 2, "hidden_size": 64, "pixel_attn_hidden_size": 64, "pixel_num_groups": 2,
                        "patch_depth": 1, "pixel_depth": 1, "txt_embed_dim": WIDE},
        encoder(TEXT + "pixeldit", "PixelDiTGemma2Tokenizer", "PixelDiTGemma2TE"), None, disk="pixeldit",
    ),
    "HiDream-O1": Row(
        "HiDreamO1",
        {"text_config_overrides": QWEN | {"num_hidden_layers": 1, "vocab_size": 151936},
         "vision_config_overrides": {"hidden_size": 32, "num_heads": 1, "intermediate_size": 32, "depth": 1,
                                     "deepstack_visual_indexes": ()}},
        encoder(TEXT + "hidream_o1", "HiDreamO1Tokenizer", "HiDreamO1TE"), None,
    ),
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

    comfy.model_detection.model_config_from_unet_config = found
    try:
        yield
    finally:
        comfy.model_detection.model_config_from_unet_config = tell


def denoiser(name):
    """MODEL of a family, from a state dict as its files hold it."""
    row = ROWS[name]
    config = getattr(comfy.supported_models, row.kind)(dict(row.small))
    config.unet_config.update(row.small)
    config.set_inference_dtype(torch.float32, None)
    state = filled(config.get_model(dict(row.more), "").diffusion_model.state_dict(), 1)
    if row.disk == "pixeldit":
        state = pixeldit(state)
    with sized(row):
        return comfy.sd.load_diffusion_model_state_dict(state | row.more)


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
            ROWS[name].text(),
            model_options=OPTIONS | ROWS[name].options,
            tokenizer_data=tokenizers(),
        )
    made.cond_stage_model.load_state_dict(filled(made.cond_stage_model.state_dict(), 2))
    return made


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
    json = torch.frombuffer(bytearray(letters().to_str().encode()), dtype=torch.uint8)
    return {"spiece_model": pieces, "mt5xl.spiece_model": pieces, "tokenizer_json": json}


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
                "block_out_channels": [32, 32, 64, 64, 128, 128], "in_channels": 3, "out_channels": 3, "num_res_blocks": 2,
                "ffactor_spatial": 32, "downsample_match_channel": True, "upsample_match_channel": True, "z_channels": 64,
            }  # fmt: skip
            home = "comfy.ldm.hunyuan_video.vae"
            net = comfy.ldm.models.autoencoder.AutoencodingEngine(
                regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
                encoder_config={"target": f"{home}.Encoder", "params": config},
                decoder_config={"target": f"{home}.Decoder", "params": config},
            )  # fmt: skip
        else:
            net = comfy.taesd.taesd.TAESD(latent_channels=16)
        state = filled(net.state_dict(), 3)
        if "bn.running_var" in state:
            state["bn.running_var"] = state["bn.running_var"].abs() + 0.5
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
        narrower = {"block_out_channels": [32, 32, 64, 64, 128, 128]}
        for config in (encoder_config, decoder_config):
            if "block_out_channels" in config["params"]:
                config["params"] = config["params"] | narrower
        return wide_engine(encoder_config=encoder_config, decoder_config=decoder_config, **more)

    comfy.sd.AutoencoderKL, comfy.sd.AutoencodingEngine = kl, engine
    try:
        yield
    finally:
        comfy.sd.AutoencoderKL, comfy.sd.AutoencodingEngine = wide_kl, wide_engine

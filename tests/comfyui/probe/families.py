"""Every image family of ComfyUI: its configuration class, and arguments that make its network small."""

from __future__ import annotations

import importlib

import torch
from comfy.supported_models_base import ClipTarget

from .models import COMMON, FLUX, SD3, UNETS

WIDE = 64  # values per token of language models
QWEN = {
    "hidden_size": WIDE, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1,
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
    "dim": 256, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0, "time_scale": 1000.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True,
    "pad_tokens_multiple": 32,
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
        size: pixels of a side that it is tried at
    """

    def __init__(self, kind, small, text, vae="kl4", told=None, more=None, disk=None, size=64):
        self.kind, self.small, self.text, self.vae = kind, small, text, vae
        self.told, self.more, self.disk = told or {}, more or {}, disk
        self.size = size


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
        SD3, encoder(TEXT + "sd3_clip", "SD3Tokenizer", "sd3_clip()", t5=False), "kl16",
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
        "Anima", COSMOS, encoder(TEXT + "anima", "AnimaTokenizer", "te()"), "wan",
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

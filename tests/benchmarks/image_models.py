"""A step of SDS and of CDS with the image models of today at their true shapes, random weights:
milliseconds and memory.

    python tests/benchmarks/image_models.py --comfyui FOLDER [--models z_image,krea2] [--json FILE]

Every model is told and made by ComfyUI's own loader, from a state dict in the layout of its files
that is drawn on the device; its VAE likewise. The text encoder takes no part in a step: embeddings
are random, as wide as the model's, of 40 tokens (FLUX.2 klein: 512, as its encoder pads to).
No server is started, so that ComfyUI's dynamic VRAM is off. ``--small`` makes narrow networks, to
try the script without a GPU. Rows that FILE holds are not done again. Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from families import peak, step

from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.sds import SDS

LOSSES = {"SDS": SDS(), "CDS": CDS()}
TOKENS = 40
# as comfy.model_detection reads them off the files, and the classes' own defaults
LUMINA = {
    "patch_size": 2, "in_channels": 16, "dim": 3840, "cap_feat_dim": 2560, "n_layers": 30,
    "qk_norm": True, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3,
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
KLEIN = {
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 7680,
    "hidden_size": 3072, "mlp_ratio": 3.0, "num_heads": 24, "depth": 5, "depth_single_blocks": 20,
    "axes_dim": [32, 32, 32, 32], "theta": 2000, "patch_size": 1, "qkv_bias": False,
    "guidance_embed": False, "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True,
    "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0, "yak_mlp": False,
    "txt_norm": False,
}  # fmt: skip
ANIMA = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 2048,
    "num_blocks": 28, "num_heads": 16, "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True, "use_adaln_lora": True, "pos_emb_interpolation": "crop",
    "min_fps": 1, "max_fps": 30, "adaln_lora_dim": 256, "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
CHROMA = {
    "in_channels": 64, "out_channels": 64, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "in_dim": 64,
    "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5, "txt_ids_dims": [], "vec_in_dim": None,
}  # fmt: skip
RADIANCE = CHROMA | {
    "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4, "nerf_depth": 4, "nerf_max_freqs": 8, "nerf_tile_size": 512,
    "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32, "use_x0": False,
    "use_sequential_txt_ids": False,
}  # fmt: skip
NARROW = {
    "dim": 256,
    "n_heads": 2,
    "n_kv_heads": 2,
    "n_layers": 2,
    "num_layers": 1,
    "features": 256,
    "heads": 2,
}
NARROW |= {"kvheads": 2, "layers": 1, "depth": 1, "depth_single_blocks": 1, "num_blocks": 1}


class Row:
    """A model.

    Args:
        kind: its class in comfy.supported_models
        shape: its network's arguments
        width: values per token
        vae: what `made_vae` takes; None: pixels
        weights: what its matrices are stored as; "fp8_scaled" as templates ship them
        tokens: of every text
        narrow: what --small makes of ``shape``, beside NARROW
    """

    def __init__(self, kind, shape, width, vae, weights="bf16", tokens=TOKENS, narrow=None) -> None:
        self.kind, self.shape, self.width, self.vae = kind, shape, width, vae
        self.weights, self.tokens, self.narrow = weights, tokens, narrow or {}


ROWS = {
    "z_image": Row("ZImage", LUMINA, 2560, "kl16"),
    "klein": Row(
        "Flux2", KLEIN, 7680, "flux2", tokens=512, narrow={"hidden_size": 256, "num_heads": 2},
    ),
    "qwen_image_fp8": Row(
        "QwenImage", {"in_channels": 64, "num_layers": 60}, 3584, "wan", "fp8_scaled",
        narrow={"num_attention_heads": 1},
    ),
    "krea2": Row(
        "Krea2", {"features": 6144, "channels": 16, "patch": 2, "layers": 28, "heads": 48,
                  "kvheads": 12,
                  "txtlayers": 12, "txtdim": 2560}, 12 * 2560, "wan",
    ),
    "anima": Row("Anima", ANIMA, 1024, "wan", narrow={"model_channels": 256, "num_heads": 2}),
    "chroma": Row(
        "Chroma", CHROMA, 4096, "kl16",
        narrow={"hidden_size": 256, "num_heads": 2, "out_dim": 256, "hidden_dim": 64},
    ),
    "chroma_radiance": Row(
        "ChromaRadiance", RADIANCE, 4096, None,
        narrow={"hidden_size": 256, "num_heads": 2, "out_dim": 256, "hidden_dim": 64},
    ),
}  # fmt: skip


class Texts:
    """A CLIP socket's value that knows random embeddings only."""

    def __init__(self, row: Row, kind: str) -> None:
        self.row, self.kind = row, kind

    def tokenize(self, text: str) -> dict[str, list[str]]:
        return {"all": [text]}

    def encode_from_tokens(self, tokens: dict[str, list[str]], **_: Any) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(len(tokens["all"][0]))
        count = self.row.tokens
        made = {
            "cond": torch.randn(1, count, self.row.width, generator=generator),
            "pooled_output": None,
        }
        if self.kind == "ZImage":
            made["attention_mask"] = torch.ones(1, count, dtype=torch.long)
        if self.kind == "Anima":
            made["t5xxl_ids"] = torch.randint(1, 30_000, (count,), generator=generator).int()
            made["t5xxl_weights"] = torch.ones(count)
        return made


def drawn(shapes: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights of a sensible size on the device, so that networks stay neither silent nor wild."""
    generator = torch.Generator(device).manual_seed(0)
    made = {}
    for name, like in shapes.items():
        if not like.dtype.is_floating_point:
            made[name] = torch.zeros(like.shape, dtype=like.dtype, device=device)
        elif like.dim() > 1:
            value = torch.empty(like.shape, device=device, dtype=dtype)
            made[name] = value.normal_(0, like[0].numel() ** -0.5, generator=generator)
        else:
            ones = name.endswith(("weight", "scale", "running_var"))
            made[name] = torch.full(like.shape, float(ones), device=device, dtype=dtype)
    return made


def scaled_fp8(state: dict[str, Any], layers: list[str]) -> dict[str, Any]:
    """The state of a file of scaled fp8 matrices; each layer's mark is on the CPU, where ComfyUI's
    loader reads it, whatever the default device is."""
    mark = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).encode()
    for layer in layers:
        weight = state[f"{layer}.weight"]
        scale = (weight.abs().amax() / 448.0).float()
        state[f"{layer}.weight"] = (weight / scale.to(weight.dtype)).to(torch.float8_e4m3fn)
        state[f"{layer}.weight_scale"] = scale
        state[f"{layer}.comfy_quant"] = torch.tensor(list(mark), dtype=torch.uint8, device="cpu")
    return state


def made_model(row: Row, device: str, small: bool) -> Any:
    """MODEL of a row by ComfyUI's loader."""
    import comfy.model_detection
    import comfy.model_management
    import comfy.sd
    import comfy.supported_models

    shape = dict(row.shape)
    if small:
        shape |= {k: v for k, v in NARROW.items() if k in shape} | row.narrow
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    config = getattr(comfy.supported_models, row.kind)(dict(shape))
    config.unet_config.update(shape)
    config.set_inference_dtype(dtype, None)
    with torch.device("meta"):
        net = config.get_model({}, "", device="meta").diffusion_model
    state = drawn(net.state_dict(), device, dtype)
    if offloads():
        state = {name: value.cpu() for name, value in state.items()}
    if row.weights == "fp8_scaled":
        names = [name for name, layer in net.named_modules() if isinstance(layer, torch.nn.Linear)]
        state = scaled_fp8(state, names)
    del net
    tell = comfy.model_detection.model_config_from_unet_config

    def found(config: Any, *rest: Any, **more: Any) -> Any:
        known = tell(config, *rest, **more) if not small else None
        if small:  # the loader knows some kinds by their widths
            known = getattr(comfy.supported_models, row.kind)(dict(shape))
            known.unet_config.update(shape)
        assert type(known).__name__ == row.kind, type(known).__name__
        return known

    comfy.model_detection.model_config_from_unet_config = found
    here = comfy.model_management.get_torch_device()
    rests = torch.device("cpu") if offloads() else here
    options: dict[str, Any] = {"load_device": here, "offload_device": rests}
    if row.weights == "bf16":
        options["dtype"] = dtype
    try:
        return comfy.sd.load_diffusion_model_state_dict(state, options)
    finally:
        comfy.model_detection.model_config_from_unet_config = tell


def made_vae(kind: str, device: str, small: bool) -> Any:
    """VAE of a kind by ComfyUI's loader: "kl16" FLUX.1's, "flux2", "wan" Wan 2.1's."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.wan.vae import WanVAE

    with torch.device("meta"):
        if kind == "wan":
            net = WanVAE(
                dim=16 if small else 96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
                attn_scales=[], temperal_downsample=[False, True, True], image_channels=3,
                conv_out_channels=3, dropout=0.0,
            )  # fmt: skip
        else:
            channels = 32 if kind == "flux2" else 16
            shape = {
                "double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3,
                "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2,
                "attn_resolutions": [], "dropout": 0.0, "batch_norm_latent": kind == "flux2",
            }  # fmt: skip
            net = AutoencoderKL(ddconfig=shape, embed_dim=channels)
    state = drawn(net.state_dict(), device, torch.float32)
    return comfy.sd.VAE(sd={name: value.cpu() for name, value in state.items()})


def offloads() -> bool:
    """Whether ComfyUI was told to leave weights in main memory until a layer is called."""
    from comfy.cli_args import args

    return bool(args.novram or args.lowvram)


def held() -> int:
    """Bytes of tensors on the GPU."""
    gc.collect()
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def measured(name: str, options: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """The rows of a model, one for each loss."""
    from distill3d.nodes.priors.comfy_prior import managed

    row, begun, before = ROWS[name], time.perf_counter(), held()
    with torch.inference_mode():  # as every node of ComfyUI
        model = made_model(row, device, options.small)
        taken = round((held() - before) / 1e9, 2)
        vae = None if row.vae is None else made_vae(row.vae, device, options.small)
    prior = managed(model, Texts(row, row.kind), vae, name)
    weights = sum(value.numel() for value in model.model.diffusion_model.parameters())
    told = {
        "model": name,
        "flags": options.flags,
        "class": row.kind,
        "weights": row.weights,
        "billions": round(weights / 1e9, 2),
        "weights_gb": taken,
    }
    told |= {"latent": [prior.prior.latent_channels, prior.prior.downscale]}
    rows = []
    for loss in options.losses.split(","):
        found: dict[str, Any] = {"loss": loss}
        try:
            with prior.loaded() as seeing:
                found |= step(seeing, options.views, options.size, 0, options.steps, LOSSES[loss])
        except torch.cuda.OutOfMemoryError as error:
            found |= {"error": str(error)[:80]} | peak()
        rows.append(told | found)
        print(
            json.dumps(rows[-1]),
            f"({time.perf_counter() - begun:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
    del prior, model, vae
    gc.collect()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder of a ComfyUI")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--losses", default="SDS,CDS")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--flags", default="", help='of ComfyUI, such as "--novram"')
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path, help="rows there are kept, and new ones added")
    options = parser.parse_args()
    sys.path.insert(0, str(options.comfyui))
    sys.argv = [sys.argv[0], *options.flags.split()]
    if options.device == "cpu":
        sys.argv.append("--cpu")
    import comfy.options

    comfy.options.enable_args_parsing()
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    result: dict[str, Any] = {
        "device": device,
        "torch": torch.__version__,
        "small": options.small,
        "rows": [],
    }
    if options.json and options.json.exists():
        result = json.loads(options.json.read_text())
    done = {row["model"] for row in result["rows"] if row["flags"] == options.flags}
    for name in options.models.split(","):
        if name in done:
            continue
        try:
            result["rows"] += measured(name, options, options.device)
        except Exception as error:  # the next model may fare better
            traceback.print_exc()
            result.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}"[:300]
        if options.json:
            options.json.write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

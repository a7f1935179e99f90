"""A step of every model family at its true shapes with random weights: milliseconds and the memory
that it takes.

    python tests/benchmarks/families.py --device cuda [--families sd21,sdxl,sd3] [--cases
    4x512,1x1024x1] [--json FILE]

Prints one JSON object last. ``sd21`` is Load Diffusion Prior's way for a diffusers folder, also
with low_vram; the others go through ComfyUI's own networks and memory manager, as Diffusion Prior
from Model does: they need a ComfyUI, which ``--comfyui`` names (its folder; no server is started).
A case is views x pixels, and micro_batch where that is not 0. The text encoder takes no part
in a step: embeddings are random.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from step_priors import parts, prior

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.base import Loss
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings
from distill3d.kernels.run.step import Progress

FAMILIES = ("sd21", "sd15", "sdxl", "sd3")
PROMPT, COUNT = "a red mug", 50_000
# tokens, values, pooled values
TEXTS = {"sd15": (77, 768, 768), "sdxl": (77, 2048, 1280), "sd3": (154, 4096, 2048)}
U_NET: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_checkpoint": False,
    "use_spatial_transformer": True, "legacy": False, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "sd15": U_NET | {
        "context_dim": 768, "num_heads": 8, "num_head_channels": -1, "use_linear_in_transformer": False,
        "adm_in_channels": None, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "sdxl": U_NET | {
        "context_dim": 2048, "num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True,
        "adm_in_channels": 2816, "num_classes": "sequential", "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    },
    "sd3": {  # medium
        "input_size": None, "patch_size": 2, "in_channels": 16, "out_channels": 16, "depth": 24,
        "adm_in_channels": 2048, "num_patches": 36864, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None,
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536},
        },
    },
}  # fmt: skip


class Texts:
    """A CLIP socket's value that knows random embeddings only."""

    def __init__(self, family: str) -> None:
        self.tokens, self.width, self.pooled = TEXTS[family]

    def tokenize(self, text: str) -> dict[str, list[str]]:
        return {"all": [text]}

    def encode_from_tokens(self, tokens: dict[str, list[str]], **_: Any) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(len(tokens["all"][0]))
        draw = torch.randn(1, self.tokens + 1, max(self.width, self.pooled), generator=generator)
        return {"cond": draw[:, 1:, : self.width], "pooled_output": draw[:, 0, : self.pooled]}


def from_comfyui(family: str, device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Opens the prior as Optimize does; its denoiser in half precision, its VAE in what ComfyUI
    chooses.
    """
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    from comfy.ldm.models.autoencoder import AutoencoderKL

    from distill3d.nodes.priors.comfy_prior import managed

    kinds = {
        "sd15": comfy.supported_models.SD15,
        "sdxl": comfy.supported_models.SDXL,
        "sd3": comfy.supported_models.SD3,
    }
    half = torch.float16 if device == "cuda" else torch.float32
    config = kinds[family](SHAPES[family])
    config.set_inference_dtype(half, None)
    model = config.get_model({}, "", device="cpu")
    fill(model)
    resting = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(
        model, comfy.model_management.get_torch_device(), resting
    )
    shape = {
        "double_z": True, "z_channels": model.latent_format.latent_channels, "resolution": 256, "in_channels": 3,
        "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    described = {"ddconfig": shape, "embed_dim": model.latent_format.latent_channels}
    net = AutoencoderKL(**described)
    fill(net)
    vae = comfy.sd.VAE(sd=net.state_dict())  # its channels are read from the weights
    return managed(patcher, Texts(family), vae, family).loaded


def fill(module: torch.nn.Module) -> None:
    """Weights of a sensible size, so that networks stay neither silent nor wild."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() > 1:
                draw = torch.randn(min(weight.numel(), 1_000_003), generator=generator)
                rows = draw.repeat(-(-weight.numel() // len(draw)))[: weight.numel()].view_as(
                    weight
                )
                weight.copy_(rows / weight[0].numel() ** 0.5)
            else:
                weight.fill_(float(name.endswith("weight")))


def step(
    model: Any, views: int, size: int, at_once: int, steps: int, loss: Loss | None = None
) -> dict[str, Any]:
    """Median milliseconds of a step after two to warm up, and the most memory that was taken."""
    prompts, ends = view_prompts(model, PROMPT), list[float]()
    cloud = random_ball(COUNT, scale=0.03 * (4000 / COUNT) ** (1 / 3), opacity_logit=-2.0).to(
        model.device
    )
    settings = OptimizeSettings(
        views=views,
        image_size=size,
        densify=None,
        preview_every=0,
        max_gaussians=COUNT,
        micro_batch=at_once,
    )
    fresh_peak()

    def note(_: Progress) -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    optimize(
        cloud, loss or SDS(), model, prompts, OrbitSampler(), steps + 2, settings, on_step=note
    )
    times = [1e3 * (b - a) for a, b in pairwise(ends[1:])]
    return {
        "views": views,
        "size": size,
        "micro_batch": at_once,
        "step_ms": round(statistics.median(times), 1),
    } | peak()


def fresh_peak() -> None:
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> dict[str, float]:
    """GB of tensors, and GB held by the allocator."""
    if not torch.cuda.is_available():
        return {}
    values = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return dict(
        zip(("allocated_gb", "reserved_gb"), (round(v / 1e9, 2) for v in values), strict=True)
    )


def ways(family: str, device: str) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """How to open the prior, by the way's name."""
    if family != "sd21":
        return {"comfyui": from_comfyui(family, device)}
    dtypes = (torch.float16, torch.bfloat16) if device == "cuda" else (torch.float32, torch.float32)
    made = prior("sd21-shapes", parts("sd21-shapes", "cpu", *dtypes))
    return {
        "whole": lambda: nullcontext(made.to(device, ("unet", "vae"))),
        "low_vram": lambda: made.sequential_offload(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu")
    )
    parser.add_argument(
        "--families", default="sd21", help=f"of {', '.join(FAMILIES)}, with commas between"
    )
    parser.add_argument(
        "--cases",
        default="4x512,4x512x1,1x512x1",
        help="VIEWSxPIXELS[xPICTURES_AT_ONCE], with commas",
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--comfyui", type=Path, help="the folder of a ComfyUI, for all families but sd21"
    )
    parser.add_argument(
        "--json", type=Path, help="also write the result to this file, after every case"
    )
    options = parser.parse_args()
    if options.comfyui:
        sys.path.insert(0, str(options.comfyui))
        sys.argv = sys.argv[:1] + ([] if options.device == "cuda" else ["--cpu"])
        import comfy.options

        comfy.options.enable_args_parsing()
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    result: dict[str, Any] = {
        "device": device,
        "torch": torch.__version__,
        "gaussians": COUNT,
        "rows": [],
    }
    for family in options.families.split(","):
        for way, opened in ways(family, options.device).items():
            for case in options.cases.split(","):
                views, size, at_once = ([*map(int, case.split("x")), 0])[:3]
                row: dict[str, Any] = {"family": family, "way": way}
                try:
                    with opened() as model:
                        row |= step(model, views, size, at_once, options.steps)
                except torch.cuda.OutOfMemoryError as error:
                    row |= {
                        "views": views,
                        "size": size,
                        "micro_batch": at_once,
                        "error": str(error)[:80],
                    }
                result["rows"].append(row)
                if options.json:
                    options.json.write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""A ShapEPipeline folder with random weights, after the dummies of diffusers' own tests."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from tiny_prior import TOKENS, write_tokenizer

WIDTH = 16


def write_tiny_shap_e(folder: Path) -> None:
    """Write a whole pipeline, weights as safetensors, into ``folder``; its meshes are blobs of
    random colours.
    """
    from diffusers import HeunDiscreteScheduler, PriorTransformer
    from diffusers.pipelines.shap_e.renderer import ShapERenderer
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    vocab = write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(vocab),
                hidden_size=WIDTH,
                projection_dim=WIDTH,
                intermediate_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=vocab["<|startoftext|>"],
                eos_token_id=vocab["<|endoftext|>"],
            )
        ).save_pretrained(folder / "text_encoder")
        PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=WIDTH,
            embedding_dim=WIDTH,
            num_embeddings=32,
            embedding_proj_dim=WIDTH,
            time_embed_dim=4 * WIDTH,
            num_layers=1,
            clip_embed_dim=2 * WIDTH,
            additional_embeddings=0,
            time_embed_act_fn="gelu",
            norm_in_type="layer",
            encoder_hid_proj_type=None,
            added_emb_type=None,
        ).save_pretrained(folder / "prior")
        renderer = ShapERenderer(
            param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=WIDTH, d_hidden=8
        )
        fill_cubes(renderer.mesh_decoder)
        renderer.save_pretrained(folder / "shap_e_renderer")
    HeunDiscreteScheduler(
        beta_schedule="exp",
        num_train_timesteps=1024,
        prediction_type="sample",
        use_karras_sigmas=True,
        clip_sample=True,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "ShapEPipeline",
        "prior": ["diffusers", "PriorTransformer"],
        "scheduler": ["diffusers", "HeunDiscreteScheduler"],
        "shap_e_renderer": ["shap_e", "ShapERenderer"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    folder.joinpath("model_index.json").write_text(json.dumps(index), encoding="utf-8")


def fill_cubes(decoder: torch.nn.Module) -> None:
    """Marching cubes' table, which comes with Shap-E's weights: here a fan over the edges that the
    surface cuts.

    Its vertices are where they should be, its triangles are crude.
    """
    corner = {
        place: place[0] + 2 * place[1] + 4 * place[2]
        for place in itertools.product((0, 1), repeat=3)
    }
    edges = []  # in the decoder's order: those along x, along y, along z
    for axis in range(3):
        for second, first in itertools.product((0, 1), repeat=2):
            ends = [[first, second], [first, second]]
            ends[0].insert(axis, 0)
            ends[1].insert(axis, 1)
            edges.append([corner[tuple(end)] for end in ends])
    for mask in range(256):
        cut = [index for index, (a, b) in enumerate(edges) if (mask >> a & 1) != (mask >> b & 1)]
        for place, pair in enumerate(itertools.pairwise(cut[1:])):
            if place < 5:
                decoder.cases[mask, place] = torch.tensor([cut[0], *pair])
                decoder.masks[mask, place] = True

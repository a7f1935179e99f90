"""LoRA files in a prior's weights: the low-rank product in the right layers, and files that do not
fit.
"""

import json

import pytest
import torch
from kit import normal
from safetensors.torch import save_file
from tiny_prior import write_tiny_prior

from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.lora_file import fuse

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
TEXT = "encoder.layers.0.mlp.fc1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priors") / "tiny"
    with torch.random.fork_rng():
        write_tiny_prior(folder)
    return folder


@pytest.fixture
def prior(folder):
    return load_diffusers(folder)


def weight(prior, part, name):
    modules = dict(getattr(prior, part).named_modules())
    return (modules.get(name) or modules[f"text_model.{name}"]).weight


def kohya(prior):
    """Names of kohya's scripts: a linear layer, a convolution and a layer of the text encoder;
    alpha half the rank.
    """
    flat = LAYER.replace(".", "_")
    return {
        f"lora_unet_{flat}_to_v.lora_down.weight": normal(1, 2, 32),
        f"lora_unet_{flat}_to_v.lora_up.weight": normal(2, 16, 2),
        f"lora_unet_{flat}_to_v.alpha": torch.tensor(1.0),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": normal(3, 2, 8, 3, 3),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": normal(4, 8, 2, 1, 1),
        f"lora_te_text_model_{TEXT.replace('.', '_')}.lora_down.weight": normal(5, 2, 32),
        f"lora_te_text_model_{TEXT.replace('.', '_')}.lora_up.weight": normal(6, 32, 2),
    }


def test_the_low_rank_product_is_added_to_each_layer(prior, tmp_path):
    save_file(kohya(prior), tmp_path / "a.safetensors")
    conv = "down_blocks.0.resnets.0.conv1"
    before = [
        weight(prior, *at).clone()
        for at in (("unet", f"{LAYER}.to_v"), ("unet", conv), ("text_encoder", TEXT))
    ]
    fuse(prior, tmp_path / "a.safetensors", strength=0.5)
    after = [
        weight(prior, *at)
        for at in (("unet", f"{LAYER}.to_v"), ("unet", conv), ("text_encoder", TEXT))
    ]
    product = torch.einsum("or,rihw->oihw", normal(4, 8, 2), normal(3, 2, 8, 3, 3))
    torch.testing.assert_close(
        after[0] - before[0], 0.5 * 0.5 * normal(2, 16, 2) @ normal(1, 2, 32)
    )
    torch.testing.assert_close(after[1] - before[1], 0.5 * product)
    torch.testing.assert_close(after[2] - before[2], 0.5 * normal(6, 32, 2) @ normal(5, 2, 32))
    assert not any(value.requires_grad for value in after)


@pytest.mark.parametrize(
    ("start", "down", "up"),
    [
        ("unet.{}", "lora_A.weight", "lora_B.weight"),
        ("unet.{}", "lora.down.weight", "lora.up.weight"),
        ("base_model.model.unet.{}", "lora_A.default.weight", "lora_B.default.weight"),
    ],
)
def test_the_names_of_diffusers_and_peft_are_read(prior, tmp_path, start, down, up):
    names = [start.format(f"{LAYER}.to_q"), start.format(f"{LAYER}.to_out.0")]
    state = {
        f"{name}.{end}": normal(7, *shape)
        for name in names
        for end, shape in ((down, (2, 16)), (up, (16, 2)))
    }
    save_file(state, tmp_path / "a.safetensors")
    before = {
        name: weight(prior, "unet", f"{LAYER}.{name}").clone()
        for name in ("to_q", "to_k", "to_out.0")
    }
    fuse(prior, tmp_path / "a.safetensors")
    delta = {name: weight(prior, "unet", f"{LAYER}.{name}") - old for name, old in before.items()}
    expected = normal(7, 16, 2) @ normal(7, 2, 16)
    torch.testing.assert_close(delta["to_q"], expected)
    torch.testing.assert_close(delta["to_out.0"], expected)
    assert not delta["to_k"].any()


def test_the_old_attention_processors_names_are_read(prior, tmp_path):
    name = f"unet.{LAYER}.processor.to_out_lora"
    save_file(
        {f"{name}.down.weight": normal(1, 2, 16), f"{name}.up.weight": normal(2, 16, 2)},
        tmp_path / "a.safetensors",
    )
    before = weight(prior, "unet", f"{LAYER}.to_out.0").clone()
    fuse(prior, tmp_path / "a.safetensors")
    changed = weight(prior, "unet", f"{LAYER}.to_out.0") - before
    torch.testing.assert_close(changed, normal(2, 16, 2) @ normal(1, 2, 16))


@pytest.mark.parametrize("start", ["{}", "diffusion_model.{}", "base_model.model.{}"])
def test_files_of_a_unet_alone_are_read(prior, tmp_path, start):
    name = start.format(f"{LAYER}.to_q")
    state = {f"{name}.lora_A.weight": normal(1, 2, 16), f"{name}.lora_B.weight": normal(2, 16, 2)}
    save_file(state, tmp_path / "a.safetensors")
    before = weight(prior, "unet", f"{LAYER}.to_q").clone()
    fuse(prior, tmp_path / "a.safetensors")
    changed = weight(prior, "unet", f"{LAYER}.to_q") - before
    torch.testing.assert_close(changed, normal(2, 16, 2) @ normal(1, 2, 16))


@pytest.mark.parametrize(
    "name", ["q_proj.lora_linear_layer.{}.weight", "q_proj_lora.{}.weight", "to_q_lora.{}.weight"]
)
def test_the_text_encoders_half_of_old_diffusers_files_is_read(prior, tmp_path, name):
    layer = "encoder.layers.0.self_attn"
    start = f"text_encoder.text_model.{layer}.{name}"
    state = {start.format("down"): normal(1, 2, 32), start.format("up"): normal(2, 32, 2)}
    save_file(state, tmp_path / "a.safetensors")
    before = weight(prior, "text_encoder", f"{layer}.q_proj").clone()
    fuse(prior, tmp_path / "a.safetensors")
    changed = weight(prior, "text_encoder", f"{layer}.q_proj") - before
    torch.testing.assert_close(changed, normal(2, 32, 2) @ normal(1, 2, 32))


PEFT = {"unet.r": 2, "unet.lora_alpha": 16, "unet.use_rslora": False}


@pytest.mark.parametrize(
    ("header", "scale"),
    [
        ({"lora_adapter_metadata": json.dumps(PEFT)}, 8),
        ({"lora_adapter_metadata": json.dumps(PEFT | {"unet.use_rslora": True})}, 16 / 2**0.5),
        ({"unet.lora_alpha": "16", "unet.r": "2"}, 8),
        ({"ss_network_alpha": "1", "ss_network_dim": "2"}, 0.5),
        ({"ss_network_alpha": "Dynamic"}, 1),
    ],
)
def test_the_headers_alpha_counts_where_the_file_holds_none(prior, tmp_path, header, scale):
    name = f"unet.{LAYER}.to_q"
    state = {f"{name}.lora_A.weight": normal(1, 2, 16), f"{name}.lora_B.weight": normal(2, 16, 2)}
    save_file(state, tmp_path / "a.safetensors", metadata=header)
    before = weight(prior, "unet", f"{LAYER}.to_q").clone()
    fuse(prior, tmp_path / "a.safetensors")
    changed = weight(prior, "unet", f"{LAYER}.to_q") - before
    torch.testing.assert_close(changed, scale * normal(2, 16, 2) @ normal(1, 2, 16))


def test_an_embedding_that_comes_along_is_told(prior, tmp_path, caplog):
    state = kohya(prior) | {"bundle_emb.tok.string_to_param.*": normal(1, 1, 32)}
    save_file(state, tmp_path / "a.safetensors")
    fuse(prior, tmp_path / "a.safetensors")
    assert "brings an embedding (bundle_emb.tok" in caplog.text


def test_half_precision_weights_take_the_exact_sum(folder, tmp_path):
    half, exact = load_diffusers(folder, dtype=torch.bfloat16), load_diffusers(folder)
    save_file(kohya(exact), tmp_path / "a.safetensors")
    at = "unet", f"{LAYER}.to_v"
    start = weight(half, *at).float()
    fuse(half, tmp_path / "a.safetensors")
    expected = start + 0.5 * normal(2, 16, 2) @ normal(1, 2, 32)
    assert torch.equal(weight(half, *at), expected.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"lora_unet_input_blocks_9_attn.lora_down.weight": s.pop(next(iter(s)))}, "cut short"),
        (lambda s: s | {k.replace("ons_0_", "ons_7_"): s[k].clone() for k in list(s)[:2]}, "1 of its 4 layers"),
        (lambda s: s | {next(iter(s)): normal(1, 2, 24)}, "a layer of 16 x 24 weights, here it has 16 x 32"),
        (lambda s: s | {next(iter(s)): normal(1, 4, 32)}, "for a layer of 16 x 32 weights"),
        (lambda s: s | {"lora_unet_x.hada_w1_a": normal(1, 2, 2)}, "not a plain LoRA"),
        (lambda s: {"conv.weight": normal(1, 2, 2)}, "is no plain LoRA: it holds conv.weight"),
        (lambda s: s | {"lora_unet_x.lora_B.bias": normal(1, 2)}, "which would be left out"),
        (lambda s: s | {"lora_unet_x.lora_magnitude_vector": normal(1, 2)}, "which would be left out"),
        (lambda s: s | {"lora_unet_x.w_norm": normal(1, 2)}, "which would be left out"),
        (lambda s: {}, "it is empty"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused_and_change_nothing(prior, tmp_path, change, message):
    state = change(kohya(prior))
    save_file(state, tmp_path / "a.safetensors")
    before = {name: value.clone() for name, value in prior.unet.state_dict().items()}
    with pytest.raises(ValueError, match=r"lora 'a.safetensors'") as error:
        fuse(prior, tmp_path / "a.safetensors")
    assert message in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in prior.unet.state_dict().items())


def test_a_file_that_is_no_safetensors_is_refused(prior, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        fuse(prior, tmp_path / "a.safetensors")

"""A diffusers folder that lacks something, or is of another kind, is refused by name."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
import torch
from kit import normal
from pipeline_folders import edit
from safetensors.torch import load_file, save_file

from distill3d.kernels.priors import folder
from distill3d.kernels.priors.diffusers.loading import load_diffusers


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    return load_diffusers(pipeline_folder)


@pytest.fixture
def copy(pipeline_folder, tmp_path):
    """A folder to spoil."""
    return shutil.copytree(pipeline_folder, tmp_path / "copy")


def test_missing_folder_and_files_are_named(copy, tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        load_diffusers(tmp_path / "nowhere")
    (copy / "vae" / "config.json").unlink()
    (copy / "tokenizer" / "tokenizer_config.json").unlink()
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(
        ValueError,
        match=(
            r"copy lacks vae/config.json, tokenizer/tokenizer_config.json, unet/diff.*safetensors"
        ),
    ):
        load_diffusers(copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_cut_short_or_lacking_are_named(copy, part):
    file = copy / part / f"{folder.WEIGHTS[part]}.safetensors"
    whole, weights = (
        file.read_bytes(),
        {name: value.clone() for name, value in load_file(file).items()},
    )
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"its {part} cannot be read .*Download it again"):
        load_diffusers(copy)
    lost = next(name for name in weights if name.endswith("weight"))
    save_file(
        {name: value for name, value in weights.items() if name != lost}, file, {"format": "pt"}
    )
    with pytest.raises(
        ValueError,
        match=rf"its {part} (lacks 1 of its weights, .*{lost}|cannot be read .*lacks weights)",
    ):
        load_diffusers(copy)


@pytest.mark.parametrize("with_accelerate", [True, False])
def test_no_weight_is_left_to_chance_without_accelerate_either(copy, monkeypatch, with_accelerate):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: with_accelerate or None)
    file = copy / "unet" / f"{folder.WEIGHTS['unet']}.safetensors"
    weights = {
        name: value.clone() for name, value in load_file(file).items() if name != "conv_in.weight"
    }
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"its unet (lacks 1 of its weights, conv_in.weight|cannot be read)"
    ):
        load_diffusers(copy)


def test_a_tokenizer_without_words_is_refused_and_a_byte_order_mark_is_none_of_them(copy):
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text(), encoding="utf-8-sig")
    load_diffusers(copy)
    for file in ("tokenizer.json", "vocab.json"):
        (copy / "tokenizer" / file).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"lacks tokenizer/vocab.json and tokenizer/merges.txt"):
        load_diffusers(copy)


@pytest.mark.parametrize("variant", ["fp16", "bf16", "fp32", "non_ema"])
def test_variant_files_are_found(copy, prior, variant):
    for part, stem in folder.WEIGHTS.items():
        (copy / part / f"{stem}.safetensors").rename(copy / part / f"{stem}.{variant}.safetensors")
    z_t, t = normal(1, 1, 3, 8, 8), torch.tensor([40])
    results = [p.predict(z_t, t, [p.embed(["a mug"])])[0] for p in (load_diffusers(copy), prior)]
    torch.testing.assert_close(*results)


def test_models_of_other_kinds_are_refused_by_name(copy):
    scheduler, unet = copy / "scheduler" / "scheduler_config.json", copy / "unet" / "config.json"
    edit(scheduler, prediction_type="sample")
    with pytest.raises(
        ValueError, match="DDIMScheduler with prediction 'sample'; only epsilon and v_prediction"
    ):
        load_diffusers(copy)
    edit(scheduler, prediction_type="epsilon", _class_name="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        load_diffusers(copy)
    edit(scheduler, _class_name="DDIMScheduler")
    edit(unet, addition_embed_type="text_time")
    with pytest.raises(ValueError, match="SDXL"):
        load_diffusers(copy)
    edit(unet, addition_embed_type=None, in_channels=9)
    with pytest.raises(ValueError, match="takes 9 channels per latent, but its vae makes 3"):
        load_diffusers(copy)
    edit(unet, in_channels=3, cross_attention_dim=1024)
    with pytest.raises(
        ValueError, match="takes 1024 values per token, but its text_encoder makes 16"
    ):
        load_diffusers(copy)
    edit(unet, cross_attention_dim=16)
    scheduler.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"scheduler_config.json is not valid JSON"):
        load_diffusers(copy)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"_class_name": "UNet3DConditionModel"}, "a UNet3DConditionModel.*videos"),
        ("unet", {"time_cond_proj_dim": 256}, "distilled to few steps"),
        ("unet", {"addition_embed_type": "text_time"}, "Take SDXL's checkpoint file"),
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler.*none distilled"),
        ("scheduler", {"_class_name": "LCMScheduler"}, "LCMScheduler.*none distilled"),
    ],
)
def test_other_kinds_of_networks_are_refused_before_their_weights_are_read(
    copy, part, change, message
):
    edit(copy / part / folder.CONFIGS[part], **change)
    (copy / "unet" / f"{folder.WEIGHTS['unet']}.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        load_diffusers(copy)


def test_a_config_that_is_no_table_is_refused_by_name(copy):
    (copy / "unet" / "config.json").write_text("[1]")
    with pytest.raises(
        ValueError, match=r"unet.config.json holds a list where names with values belong"
    ):
        load_diffusers(copy)


def test_loads_without_accelerate(pipeline_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert load_diffusers(pipeline_folder).dtype == torch.float32


def test_importing_the_module_imports_neither_diffusers_nor_transformers():
    code = (
        "import sys, distill3d.kernels.priors.diffusers.loading; "
        "sys.exit(bool({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_texts_embedded_before_need_no_text_encoder_and_pictures_none_at_all(pipeline_folder):
    prior = load_diffusers(pipeline_folder)
    z_t, t = normal(1, 2, 3, 8, 8), torch.tensor([40, 900])
    expected = prior.predict(z_t, t, [prior.embed(["a red mug", ""])])
    prior.to("meta", parts=["text_encoder"])  # where there are no weights
    assert prior.device.type == "cpu"
    torch.testing.assert_close(prior.predict(z_t, t, [prior.embed(["a red mug", ""])]), expected)
    prior.encode(torch.rand(1, 3, 16, 16).requires_grad_()).sum().backward()

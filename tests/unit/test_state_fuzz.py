"""Damaged training states, LoRAs and model folders: what they should be, with sound numbers, or one
sentence with the file's name, in little time and memory.
"""

from __future__ import annotations

import json
import logging
import random
import re
import resource
import shutil
import time
import warnings
from dataclasses import replace

import pytest
import torch
import transformers
from kit import normal
from mutations import MUTATIONS, mutated, mutated_safetensors, mutated_tree
from safetensors.torch import save_file

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.priors.control import load_control
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.lora_file import fuse
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.checkpoint import load_mesh_training, load_training, save_training
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.refine import refine_mesh
from distill3d.kernels.run.settings import OptimizeSettings, RefineSettings

SECONDS_LIMIT = 2.0  # for one file
FOLDER_LIMIT = 10.0  # of which a sound one takes half a second on a core that has others to serve
MEMORY_LIMIT = 512 << 10  # KiB that the process may grow by, its libraries' caches included


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    return load_diffusers(pipeline_folder)


@pytest.fixture(scope="module")
def cloud(prior):
    """A cloud that two steps have moved."""
    start, prompts = random_ball(9, scale=0.06, opacity_logit=-1.4), view_prompts(prior, "a mug")
    settings = OptimizeSettings(views=1, densify=None)
    return optimize(start, SDS(), prior, prompts, OrbitSampler(), 2, settings)


@pytest.fixture(scope="module")
def mesh(prior):
    vertices = torch.tensor([[0.0, 0.3, 0], [0.3, -0.2, 0], [-0.3, -0.2, 0], [0, 0, 0.3]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    start = Mesh(vertices, faces, torch.full((4, 3), 0.5))
    prompts = view_prompts(prior, "a mug")
    return refine_mesh(start, SDS(), prior, prompts, OrbitSampler(), 2, RefineSettings(views=1))


@pytest.fixture
def quiet():
    """Libraries tell much of what they cannot read."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(before)


def grown(before):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def refused(load, name, seen, limit=SECONDS_LIMIT):
    """What it loads; None, noting the sentence, where it is refused with the name of the file."""
    start = time.perf_counter()
    try:
        return load()
    except ValueError as error:
        text = str(error)
        assert name in text and 30 < len(text) < 1500 and "Traceback" not in text, text
        seen.add(re.sub(r"\d+", "0", text.partition(name)[2])[:60])
        return None
    finally:
        assert time.perf_counter() - start < limit


def check_state(state):
    assert state.step >= 0 and state.seed >= 0 and isinstance(state.loss_name, str)
    for count in (state.updates, state.bad_steps, state.bad_run):
        assert count.dtype == torch.int64 and count.dim() == 0 and count >= 0
    for values in (state.first, state.second, state.loss, state.statistics, state.carried):
        for value in values.values():
            assert not value.is_floating_point() or torch.isfinite(value).all()
    assert all((value >= 0).all() for value in state.second.values())


@pytest.mark.parametrize("kind", ["cloud", "mesh"])
def test_a_mutated_training_state_is_sound_or_refused(request, tmp_path, kind, quiet):
    whole, load = request.getfixturevalue(kind), {"cloud": load_training}.get(kind)
    load = load or load_mesh_training
    path, rng, seen, loaded = tmp_path / "damaged.safetensors", random.Random(kind), set(), 0
    save_training(whole, path)
    content, before = path.read_bytes(), memory()
    for _ in range(MUTATIONS):
        path.write_bytes(mutated_safetensors(content, rng, ("training",)))
        found = refused(lambda: load(path), path.name, seen)
        if found is not None:
            found.check()
            check_state(found.training)
            loaded += 1
    assert grown(before) < MEMORY_LIMIT
    assert loaded > MUTATIONS // 100 and len(seen) >= 6, seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "its step is -1"),
        ({"step": True}, "its step is True"),
        ({"step": 10**30}, "its step is 1000"),
        ({"seed": -5}, "its seed is -5"),
        ({"updates": torch.tensor(-3)}, "counter updates is -3"),
        ({"bad_steps": torch.tensor(-1)}, "counter bad_steps is -1"),
        ({"bad_run": torch.tensor([1])}, "counter bad_run is missing, or no single"),
        ({"updates": torch.tensor(2.0)}, "counter updates is missing, or no single"),
        ({"first": "nan"}, "first/means holds numbers that are NaN"),
        ({"second": "inf"}, "second/means holds numbers that are NaN"),
        ({"second": "-1"}, "second/means, moments of squares, holds numbers below 0"),
        ({"loss": {"noise": torch.tensor([float("nan")])}}, "loss/noise holds numbers"),
        ({"generators": {"cameras": torch.zeros(7, dtype=torch.uint8)}}, "stream 'cameras'"),
        ({"latent_shape": (3, -8, 8)}, "its latent_shape is"),
        ({"first": "short"}, "first['means'] is of shape"),
    ],
)
def test_states_that_cannot_be_are_refused_by_name(cloud, tmp_path, change, message):
    (field, value), state = *change.items(), cloud.training
    if isinstance(value, str):
        tensors = dict(getattr(state, field))
        means = tensors["means"].clone()
        if value == "short":
            means = means[:-1]
        else:
            means[3, 1] = float(value)
        value = tensors | {"means": means}
    path = tmp_path / "run.safetensors"
    save_training(replace(cloud, training=replace(state, **{field: value})), path)
    with pytest.raises(ValueError, match=r"run\.safetensors is a damaged training state") as error:
        load_training(path)
    assert message in str(error.value)


LAYER = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q"


def lora():
    """A layer with an alpha of its own, and one whose alpha the header may give."""
    other = "lora_unet_up_blocks_0_attentions_0_proj_in"
    return {
        f"lora_unet_{LAYER}.lora_up.weight": normal(1, 16, 2),
        f"lora_unet_{LAYER}.lora_down.weight": normal(2, 2, 16),
        f"lora_unet_{LAYER}.alpha": torch.tensor(1.0),
        f"{other}.lora_up.weight": normal(3, 16, 2, 1, 1),
        f"{other}.lora_down.weight": normal(4, 2, 16, 1, 1),
    }


@pytest.fixture
def fused(prior):
    """A function that fuses a file into a prior that is as before the next time."""
    names = ("unet", "text_encoder")
    whole = {
        part: {k: v.clone() for k, v in getattr(prior, part).state_dict().items()} for part in names
    }

    def fuse_into(path):
        for part in names:
            getattr(prior, part).load_state_dict(whole[part])
        fuse(prior, path, 0.7)
        return prior

    yield fuse_into
    for part in names:
        getattr(prior, part).load_state_dict(whole[part])


METADATA = {
    "lora_adapter_metadata": json.dumps(
        {"unet.r": 2, "unet.lora_alpha": 16, "unet.use_rslora": False, "unet.alpha_pattern": {}}
    )
}


def test_a_mutated_lora_leaves_sound_weights_or_is_refused(tmp_path, fused, quiet):
    path, rng, seen, loaded = tmp_path / "damaged.safetensors", random.Random("lora"), set(), 0
    save_file(lora(), path, metadata=METADATA)
    content, before = path.read_bytes(), memory()
    assert fused(path)
    for _ in range(MUTATIONS):
        path.write_bytes(mutated_safetensors(content, rng, tuple(METADATA)))
        found = refused(lambda: fused(path), path.name, seen)
        if found is not None:
            values = found.unet.state_dict().values()
            assert all(value.isfinite().all() for value in values)
            loaded += 1
    assert grown(before) < MEMORY_LIMIT
    assert loaded > MUTATIONS // 100 and len(seen) >= 5, seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, k: s | {k[0]: s[k[0]] * float("nan")}, "holds numbers that are NaN or infinite"),
        (lambda s, k: s | {k[1]: s[k[1]] / 0}, "holds numbers that are NaN or infinite"),
        (lambda s, k: s | {k[2]: torch.tensor(float("inf"))}, "holds numbers that are NaN"),
        (lambda s, k: s | {k[2]: torch.ones(2)}, "which no LoRA has"),
        (lambda s, k: s | {k[0]: torch.ones(16)}, "which no LoRA has"),
        (lambda s, k: s | {k[0]: torch.ones(16, 0), k[1]: torch.ones(0, 16)}, "which no LoRA has"),
        (lambda s, k: s | {k[0]: s[k[0]] > 0}, "which no LoRA has"),
        (lambda s, k: s | {k[0]: s[k[0]] * 1e38, k[1]: s[k[1]] * 1e38}, "at strength 0.7 makes"),
    ],
)
def test_loras_with_odd_numbers_are_refused_by_name(tmp_path, fused, change, message):
    path, state = tmp_path / "a.safetensors", lora()
    save_file(change(state, list(state)), path)
    with pytest.raises(ValueError, match=r"lora 'a.safetensors'") as error:
        fused(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "header", ["{", "[1]", "[" * 100_000, '{"unet.lora_alpha": "many"}', '{"unet.lora_alpha": NaN}']
)
def test_a_loras_header_that_makes_no_sense_is_refused_by_name(tmp_path, fused, header):
    path, state = tmp_path / "a.safetensors", lora()
    save_file(state, path, metadata={"lora_adapter_metadata": header})
    with pytest.raises(ValueError, match=r"lora 'a.safetensors': its header"):
        fused(path)


PARTS = {
    "unet/config.json": 3, "vae/config.json": 3, "text_encoder/config.json": 3,
    "scheduler/scheduler_config.json": 2, "tokenizer/tokenizer_config.json": 1,
    "tokenizer/tokenizer.json": 1, "distill3d.json": 2,
    "unet/diffusion_pytorch_model.safetensors": 2, "vae/diffusion_pytorch_model.safetensors": 2,
    "text_encoder/model.safetensors": 3,
}  # fmt: skip
CARD = {
    "vocabulary": None, "background": [0.4, 0.6], "image_size": 16, "distance": 2.0, "fov_y": 40.0,
    "around": ["front", "side", "back", "side"], "overhead": ["top"],
}  # fmt: skip


def damaged(content, name, rng):
    if name.endswith(".safetensors"):
        return mutated_safetensors(content, rng)
    if rng.random() < 0.8:
        return json.dumps(mutated_tree(json.loads(content), rng)).encode()
    return mutated(content, len(content), rng)


def test_a_mutated_folder_makes_a_sound_prior_or_is_refused(pipeline_folder, tmp_path, quiet):
    folder = shutil.copytree(pipeline_folder, tmp_path / "damaged")
    (folder / "distill3d.json").write_text(json.dumps(CARD))
    load_diffusers(folder)
    transformers.logging.set_verbosity_error()
    rng, seen, loaded, rounds = random.Random("folder"), set(), 0, max(60, MUTATIONS // 4)
    parts = [
        name for name, weight in PARTS.items() for _ in range(weight) if (folder / name).exists()
    ]
    before = memory()

    def load():
        prior = load_diffusers(folder)
        text = prior.embed(["a mug", ""])
        assert text.embeddings.isfinite().all()
        return prior

    for _ in range(rounds):
        name = rng.choice(parts)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(damaged(whole, name, rng))
        loaded += refused(load, "damaged", seen, FOLDER_LIMIT) is not None
        (folder / name).write_bytes(whole)
    assert grown(before) < MEMORY_LIMIT
    assert loaded > rounds // 20 and len(seen) >= 8, seen


@pytest.mark.parametrize(
    "name", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json",
             "text_encoder/config.json", "distill3d.json", "vae/extra.json"],
)  # fmt: skip
def test_a_swollen_text_file_is_refused_unread(pipeline_folder, tmp_path, name):
    folder = shutil.copytree(pipeline_folder, tmp_path / "swollen")
    with open(folder / name, "wb") as file:
        file.truncate(3 << 30)  # of which the disk holds nothing
    before, start = memory(), time.perf_counter()
    with pytest.raises(ValueError, match=r"swollen.* has 3221225472 bytes, where at most"):
        load_diffusers(folder)
    assert grown(before) < 100 << 10 and time.perf_counter() - start < 2


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_folders_with_weights_that_are_no_numbers_are_refused_by_name(
    pipeline_folder, tmp_path, part, value
):
    from safetensors.torch import load_file

    folder = shutil.copytree(pipeline_folder, tmp_path / "odd")
    (file,) = (folder / part).glob("*.safetensors")
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    name = next(name for name in weights if name.endswith("bias"))
    weights[name][0] = float(value)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"odd: its {part} holds weights that are NaN or infin"):
        load_diffusers(folder)


def test_a_mutated_control_folder_is_loaded_or_refused(prior, tmp_path, quiet):
    from diffusers import ControlNetModel

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = ControlNetModel.from_unet(prior.unet, conditioning_embedding_out_channels=(8, 16))
    folder = tmp_path / "damaged"
    net.save_pretrained(folder, safe_serialization=True)
    load_control(folder, prior)
    rng, seen, loaded, rounds = random.Random("control"), set(), 0, max(40, MUTATIONS // 8)
    for _ in range(rounds):
        name = rng.choice(["config.json", "config.json", "diffusion_pytorch_model.safetensors"])
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(damaged(whole, name, rng))
        found = refused(lambda: load_control(folder, prior), "damaged", seen, FOLDER_LIMIT)
        if found is not None:
            assert all(value.isfinite().all() for value in found.state_dict().values())
            loaded += 1
        (folder / name).write_bytes(whole)
    assert loaded > rounds // 20 and len(seen) >= 4, seen

"""The training state on disk, and the random streams."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.run.checkpoint import load_training, save_training
from distill3d.kernels.run.state import STREAMS, fresh_state, random_streams


def cloud(count: int = 5) -> Gaussians:
    draw = torch.Generator().manual_seed(3)
    shapes = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (), "sh": (4, 3)}
    return Gaussians(
        **{name: torch.randn(count, *shape, generator=draw) for name, shape in shapes.items()}
    )


def trained() -> Gaussians:
    bare = cloud()
    state = replace(
        fresh_state(bare.tensors(), seed=2**64 - 1),
        step=12,
        loss_name="Combined(CDS, VDM)",
        latent_shape=(4, 8, 8),
        loss={
            "a/b.c": torch.randn(2, 3),
            "updates": torch.tensor(7),
            "half": torch.ones(2, dtype=torch.bfloat16),
        },
        statistics={"views": torch.zeros(5)},
        bad_steps=torch.tensor(3),
    )
    return replace(bare, training=state)


def test_a_saved_training_comes_back_bit_for_bit(tmp_path):
    before = trained()
    save_training(before, tmp_path / "run.safetensors")
    after = load_training(tmp_path / "run.safetensors")
    for name, value in before.tensors().items():
        assert torch.equal(value, getattr(after, name))
    one, other = before.training, after.training
    for group in ("first", "second", "generators", "loss", "statistics"):
        assert getattr(one, group).keys() == getattr(other, group).keys()
        for key, value in getattr(one, group).items():
            back = getattr(other, group)[key]
            assert back.dtype == value.dtype and torch.equal(back, value)
    for name in ("step", "seed", "loss_name", "latent_shape", "updates", "bad_steps", "bad_run"):
        assert getattr(one, name) == getattr(other, name)
    other.check(after.tensors())


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    save_training(trained(), path)
    old = path.read_bytes()

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        save_training(trained(), path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="carries no training state"):
        save_training(cloud(), tmp_path / "none.safetensors")
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match=r"junk\.safetensors is not a readable safetensors file"):
        load_training(junk)
    save_file({"x": torch.zeros(1)}, tmp_path / "lora.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="holds 'pt', expected 'distill3d training 1'"):
        load_training(tmp_path / "lora.safetensors")
    with pytest.raises(FileNotFoundError):
        load_training(tmp_path / "missing.safetensors")


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    save_training(trained(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_training(path)


def test_streams_are_independent_and_repeatable():
    draws = {name: torch.rand(4, generator=g) for name, g in random_streams(5).items()}
    again = {name: torch.rand(4, generator=g) for name, g in random_streams(5).items()}
    others = {name: torch.rand(4, generator=g) for name, g in random_streams(6).items()}
    assert set(draws) == set(STREAMS)
    assert all(torch.equal(draws[name], again[name]) for name in STREAMS)
    numbers = torch.stack([*draws.values(), *others.values()]).flatten()
    assert len(numbers.unique()) == len(numbers)


def test_a_copy_shares_no_memory_and_a_move_changes_only_the_moments_precision():
    state = trained().training
    copy = state.to("cpu", copy=True)
    assert copy.first["means"].data_ptr() != state.first["means"].data_ptr()
    assert copy.updates.data_ptr() != state.updates.data_ptr()
    double = state.to("cpu", torch.float64)
    assert double.first["sh"].dtype == double.second["sh"].dtype == torch.float64
    assert double.loss["half"].dtype == torch.bfloat16 and double.updates.dtype == torch.int64


def test_a_state_that_belongs_to_another_cloud_is_refused():
    state = trained().training
    with pytest.raises(
        ValueError, match=r"training\.first\['means'\] is of shape \(5, 3\), expected \(6, 3\)"
    ):
        state.check(cloud(6).tensors())
    with pytest.raises(ValueError, match=r"second\['sh'\] is missing"):
        replace(state, second={k: v for k, v in state.second.items() if k != "sh"}).check(
            cloud().tensors()
        )
    with pytest.raises(ValueError, match=r"statistics\['views'\]"):
        replace(state, statistics={"views": torch.zeros(4)}).check(cloud().tensors())

"""Embedded texts are remembered up to a number of bytes, and a run needs none but those it has."""

from __future__ import annotations

import pytest
import torch

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.rfds import RFDS
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.priors import text_cache
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.priors.text_cache import TextCache
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings

LOSSES = [
    CDS(), VDM(), SDS(), CSD(), NFSD(), ISM(), SDI(), SCTD(), VSD(), Picture(), RFDS(),
]  # fmt: skip


def test_rows_are_made_once_and_the_oldest_go_first():
    made = []
    cache = TextCache(lambda row: len(row), limit=10)

    def make(text):
        made.append(text)
        return text * 3

    assert cache.of(["a", "b", "a"], make) == ["aaa", "bbb", "aaa"] and made == ["a", "b"]
    cache.of(["c"], make)
    cache.of(["a"], make)  # asked for again, so that b is the oldest
    cache.of(["d"], make)
    assert made == ["a", "b", "c", "d"] and cache.bytes == 9
    cache.of(["a", "c", "d"], make)
    assert made == ["a", "b", "c", "d"]
    cache.of(["b"], make)
    assert made[4:] == ["b"] and len(cache) == 3


def test_the_null_text_and_whatever_one_call_asks_for_stay():
    cache = TextCache(len, limit=10)
    cache.of([""], lambda text: "n" * 8)
    many = cache.of(["a", "b", "c"], lambda text: text * 9)
    assert many == ["a" * 9, "b" * 9, "c" * 9]
    cache.of(["d"], lambda text: text)
    assert set(cache._rows) == {"", "d"} and cache.bytes == 9
    cache.of([""], pytest.fail)


def test_prompts_without_end_take_memory_with_an_end(pipeline_folder, monkeypatch):
    monkeypatch.setattr(text_cache, "LIMIT", 1)
    prior = load_diffusers(pipeline_folder)
    prior._rows.limit = 20 * prior.embed(["a mug"]).embeddings.nbytes
    kept = []
    for round in range(3):
        for k in range(50):
            prior.embed([f"a mug {'x' * (k % 20)} {'y' * round} {'z' * (k // 20)}"])
        prior.embed([""])
        kept.append(prior._rows.bytes)
        held = sum(row.nbytes for row, _ in prior._rows._rows.values())
        assert held == prior._rows.bytes
    assert kept[0] == kept[1] == kept[2] <= 22 * prior.embed([""]).embeddings.nbytes


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    return load_diffusers(pipeline_folder)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_no_step_of_any_loss_embeds_a_text(prior, loss, monkeypatch):
    if loss.name == "VSD":
        pytest.importorskip("peft")
    prompts, asked = view_prompts(prior, "a mug", "ugly"), []
    embed = prior.embed
    monkeypatch.setattr(prior, "embed", lambda texts: asked.append(texts) or embed(texts))
    optimize(
        random_ball(40, scale=0.06, opacity_logit=-1.4),
        loss, prior, prompts, OrbitSampler(), 3, OptimizeSettings(views=2),
    )  # fmt: skip
    assert not asked


@pytest.mark.parametrize("negative", ["", "ugly"])
def test_the_null_text_of_a_run_is_the_one_that_is_embedded(prior, negative):
    prompts, embedded = view_prompts(prior, "a mug", negative), prior.embed(["", ""])
    rows = prompts.null_rows(2)
    assert torch.equal(rows.embeddings, embedded.embeddings)
    assert rows.negative is None and not rows.led_away().any()


def test_a_text_of_which_the_encoder_makes_no_numbers_is_refused(pipeline_folder):
    broken = load_diffusers(pipeline_folder)
    with torch.no_grad():
        next(broken.text_encoder.parameters())[:] = float("nan")
    for _ in range(2):  # it is not remembered either
        with pytest.raises(ValueError, match=r"prior 'tiny': its text encoder makes numbers of 'a"):
            broken.embed(["a mug"])

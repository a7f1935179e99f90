"""CLIP's scores: the measures on similarities made up, and a tiny random CLIP from a folder."""

import json

import pytest
import torch
from tiny_clip import write_tiny_clip
from torch.nn import functional as F

from distill3d.kernels.evaluate.clip import MEAN, STD, Clip, load_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip")
    write_tiny_clip(place)
    return place


class Said(Clip):
    """A CLIP whose similarities are given: columns are the prompt, its front view, its back view,
    the rivals.
    """

    def similarities(self, pictures, texts, batch=32):
        self.asked.append(list(texts))
        return self.table[:, : len(texts)]


def scored(table, azimuths, rivals=()):
    clip = Said(None, None, MEAN, STD)
    object.__setattr__(clip, "table", torch.tensor(table))
    object.__setattr__(clip, "asked", [])
    return clip.score(
        torch.zeros(len(table), 3, 4, 4), torch.tensor(azimuths), "a mug", rivals
    ), clip.asked


def test_measures_are_shares_of_views():
    table = [
        [0.3, 0.0, 0.0, 0.2, 0.1],
        [0.1, 0.5, 0.4, 0.2, 0.0],
        [0.2, 0.1, 0.4, 0.1, 0.3],
        [0.4, 0.9, 0.1, 0.3, 0.3],
    ]
    score, asked = scored(table, [0.0, 180.0, -140.0, 150.0], ["a cube", "a mug", "a cat"])
    assert asked == [["a mug", "a mug, front view", "a mug, back view", "a cube", "a cat"]]
    assert score.clip_score == pytest.approx(25)
    assert score.r_precision == 0.5  # the first and the last view
    # three of the views are of the back, two look like a front
    assert score.janus == pytest.approx(2 / 3)


def test_what_was_not_asked_is_not_answered():
    score, _ = scored([[0.3, 0.0, 0.0]], [0.0])
    assert score.r_precision is None and score.janus is None


def test_similarities_are_those_of_transformers_own_preprocessing(folder):
    from transformers import CLIPModel

    clip, draw = load_clip(folder), torch.Generator().manual_seed(0)
    # of the model's size, so that none is resized
    pictures = torch.rand(3, 3, 16, 16, generator=draw)
    found = clip.similarities(pictures, ["a red mug", "a cat"], batch=2)
    model = CLIPModel.from_pretrained(folder)
    tokens = clip.tokenizer(["a red mug", "a cat"], padding=True, return_tensors="pt")
    pixels = (pictures - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        out = model(**tokens, pixel_values=pixels)
    cosines = out.logits_per_image / model.logit_scale.exp()
    torch.testing.assert_close(found, cosines, rtol=1e-4, atol=1e-5)
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-4  # texts matter
    larger = F.interpolate(pictures, (48, 48), mode="nearest")
    assert (clip.similarities(larger, ["a red mug"]) - found[:, :1]).abs().max() < 0.2


def test_the_folders_own_normalisation_is_used(folder, tmp_path):
    card = folder / "preprocessor_config.json"
    card.write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [1.0, 1.0, 1.0]}))
    try:
        assert load_clip(folder).mean == (0.5, 0.5, 0.5)
    finally:
        card.unlink()
    assert load_clip(folder).mean == MEAN


def test_a_text_that_is_too_long_is_refused(folder):
    with pytest.raises(ValueError, match="tokens; this CLIP reads 77"):
        load_clip(folder).similarities(torch.rand(1, 3, 16, 16), ["a" * 100])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json of a CLIP"),
        ("model.safetensors", "no .safetensors"),
        ("vocab.json", "tokenizer"),
    ],
)
def test_a_folder_that_lacks_something_is_named(folder, tmp_path, missing, message):
    for file in folder.iterdir():
        if file.name != missing and not (missing == "vocab.json" and file.name == "tokenizer.json"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)


def test_another_models_config_is_no_clip(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip_text_model"}')
    with pytest.raises(ValueError, match="model_type clip"):
        load_clip(tmp_path)

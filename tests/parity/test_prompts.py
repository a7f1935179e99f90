"""Perp-Neg and view words against LucidDreamer's and threestudio's own code."""

from dataclasses import replace

import pytest
import torch
from replay import DTYPES, Numbers, close

from distill3d.kernels.cameras.pinhole import sectors
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.perp_neg import WEIGHTS, perpendicular
from distill3d.kernels.priors.prompts import AROUND, OVERHEAD_ABOVE, ViewPrompts


@pytest.mark.parametrize("whose", ["luciddreamer", "threestudio"])
def test_perp_negs_weights_are_theirs(whose):
    file = Numbers(f"perp_neg_{whose}")
    found = torch.tensor([WEIGHTS[whose](a) for a in file["azimuths"].tolist()]).double()
    for k, side in enumerate(("front", "side")):
        # both keep their weights in single precision
        close(f"perp_neg_{whose}", found[:, k], file[side], limit=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whose", ["luciddreamer", "threestudio"])
def test_the_text_between_two_views_is_theirs(whose, dtype):
    file = Numbers(f"perp_neg_{whose}", dtype)
    names = file.settings.get("rows", ["front", "side", "back"])
    rows = {name: Conditioning(row[None]) for name, row in zip(names, file["rows"], strict=False)}
    around = Conditioning.cat([rows[name] for name in AROUND])
    blank = Conditioning(torch.zeros_like(file["rows"][:1]))
    prompts = ViewPrompts("", "", around, around.index(0), *[blank] * 3, interpolate=True)
    text = prompts.at(file["azimuths"], torch.zeros_like(file["azimuths"]))
    close(f"perp_neg_{whose}_text", text.embeddings, file["text"])


def test_directions_may_be_measured_from_the_negative_prompt():
    rows = Conditioning(torch.randn(4, 2, 3))
    null, negative = Conditioning(torch.zeros(1, 2, 3)), Conditioning(torch.ones(1, 2, 3))
    prompts = ViewPrompts("", "", rows, rows.index(0), null, null, negative, True, 1.0)
    angles = torch.tensor([30.0, 170.0])
    for origin, row in (("null", null), ("negative", negative)):
        text = replace(prompts, perp_neg_from=origin).at(angles, angles * 0)
        assert torch.equal(text.against.null.embeddings, row.embeddings.expand(2, -1, -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_perpendicular_part_is_threestudios(dtype):
    file = Numbers("perpendicular", dtype)
    close("perpendicular", perpendicular(file["x"], file["y"]), file["across"])


def test_view_words_are_threestudios_at_every_angle():
    file = Numbers("view_words")
    words, azimuths = file.settings["words"], file["azimuths"]
    for elevation in (0.0, 60.0, 60.5):
        said = [words[index] for index in file[f"said.{elevation:g}"].tolist()]
        own = [AROUND[sector] for sector in sectors(azimuths, 4).tolist()]
        if elevation > OVERHEAD_ABOVE:
            own = ["overhead"] * len(own)
        assert own == said

"""Texts that one tensor does not hold: rows of different lengths with masks and token ids."""

import pytest
import torch

from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.rows import TextRow, blend, stacked
from distill3d.kernels.priors.syntax import unread


def row(tokens, value, **more):
    values = {"cross_attn": torch.full((1, tokens, 2), float(value)), **more}
    return TextRow(values)


def text(*rows):
    return Conditioning(stacked([each.values["cross_attn"] for each in rows]), rows=rows)


def test_rows_stay_with_their_texts_through_index_repeat_and_cat():
    a, b, c = row(3, 1), row(5, 2), row(0, 3)
    joined = Conditioning.cat([text(a, b), text(c)])
    assert joined.rows == (a, b, c) and joined.embeddings.shape == (3, 5, 2)
    assert not joined.embeddings[0, 3:].any() and not joined.embeddings[2].any()
    assert joined.index(torch.tensor([2, 0])).rows == (c, a)
    assert joined.index(slice(1, 3)).rows == (b, c) and joined.index(1).rows == (b,)
    assert joined.index(1).repeat(3).rows == (b, b, b)
    assert joined.to("cpu").rows == (a, b, c)


def test_whole_weights_give_the_rows_themselves():
    a, b = row(3, 1), row(5, 2)
    chosen = Conditioning.lerp(text(a), text(b), torch.tensor([0.0, 1.0]))
    assert chosen.rows == (a, b)


def test_texts_of_one_length_are_blended_number_by_number():
    (mixed,) = Conditioning.lerp(text(row(3, 1)), text(row(3, 2)), torch.tensor([0.25])).rows
    torch.testing.assert_close(mixed.values["cross_attn"], torch.full((1, 3, 2), 1.25))


def test_the_shorter_text_ends_on_its_last_token():
    short = TextRow({"cross_attn": torch.tensor([[[1.0], [3.0]]])})
    long = TextRow({"cross_attn": torch.tensor([[[1.0], [1.0], [1.0]]])})
    mixed = blend(short, long, 0.5).values["cross_attn"]
    torch.testing.assert_close(mixed, torch.tensor([[[1.0], [2.0], [2.0]]]))
    empty = TextRow({"cross_attn": torch.zeros(1, 0, 1)})
    torch.testing.assert_close(
        blend(empty, long, 0.5).values["cross_attn"], torch.full((1, 3, 1), 0.5)
    )


@pytest.mark.parametrize(("weight", "nearer"), [(0.25, 0), (0.75, 1)])
def test_masks_and_ids_are_those_of_the_nearer_text_or_of_the_longer(weight, nearer):
    masks = torch.ones(1, 2, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)
    ids = torch.tensor([1, 2]), torch.tensor([3, 4])
    pair = [row(2, k, mask=masks[k], ids=ids[k], layers=k) for k in (0, 1)]
    mixed = blend(*pair, weight).values
    assert mixed["ids"] is ids[nearer] and mixed["mask"] is masks[1] and mixed["layers"] == nearer


@pytest.mark.parametrize(
    ("text", "weighted", "said"),
    [
        ("a (red:1.3) mug", False, "'(red:1.3)' is read letter by letter"),
        ("a (red:1.3) mug", True, None),
        ("embedding:mug, a mug", False, "'embedding:mug,' is read letter by letter"),
        ("embedding:mug, a mug", True, None),
        ("a {red|blue} mug", True, "ComfyUI's page chooses among {a|b}"),
        ("a mug <lora:mug:1>", True, "choose LoRAs in the loader"),
        ("a mug BREAK a chair", False, "leave it out"),
        ("a red mug (old), 3:4, breakfast", False, None),
    ],
)
def test_spellings_that_are_read_letter_by_letter_are_told(text, weighted, said):
    found = unread(text, weighted)
    assert (said in found[0]) if said else not found

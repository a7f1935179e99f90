import itertools
import random
from collections import Counter

import pytest
import torch

from distill3d.kernels.evaluate.judge import held_out_captions
from distill3d.kernels.toybox.captions import (
    CATEGORIES,
    COLORS,
    FINISHES,
    SYMMETRIC,
    VIEW_WORDS,
    Caption,
    all_captions,
    held_out,
    parse,
    side_of,
    spelled,
    unknown_words,
    view_of,
    vocabulary,
)
from distill3d.kernels.toybox.data import NO_VIEW, Atlas, CaptionTable, draw
from distill3d.kernels.toybox.models import TOKENS, tokenize, write_tokenizer
from distill3d.kernels.toybox.scene_captions import check_sentence, parse_scene


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("prior") / "tokenizer")


@pytest.fixture(scope="module")
def table(tokenizer):
    return CaptionTable(lambda texts: tokenize(tokenizer, texts), "cpu")


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True).replace(" ,", ",").strip()


def test_the_toybox_holds_what_it_promises():
    required = (
        "sphere cube cylinder cone torus mug table chair snowman mushroom rocket house car tree"
        " lamp duck"
    )
    assert (
        set(required.split()) <= set(CATEGORIES) and len(set(CATEGORIES)) == len(CATEGORIES) >= 24
    )
    assert set(COLORS) == set(
        "red green blue yellow purple orange white black pink cyan brown gray".split()
    )
    assert FINISHES == ("plain", "striped", "checkered", "dotted")
    assert set(CATEGORIES) > SYMMETRIC
    albedos = torch.tensor(list(COLORS.values()))
    # told apart by a judge
    assert (torch.cdist(albedos, albedos) + torch.eye(len(COLORS))).min() > 0.2


def test_all_captions_are_every_colour_and_pattern_once():
    captions = all_captions()
    assert len(set(captions)) == len(captions) == len(CATEGORIES) * 12 * (1 + 3 * 11)
    assert len({c.text for c in captions}) == len(captions)


def test_every_caption_reads_back_as_itself():
    captions = [
        *all_captions(),
        *(Caption(c, None) for c in CATEGORIES),
        Caption("mug", None, "dotted", "red"),
    ]
    assert [parse(c.text) for c in captions] == captions
    some = random.Random(0).sample(captions, 400)
    assert [parse(c.seen_from(VIEW_WORDS[i % len(VIEW_WORDS)])) for i, c in enumerate(some)] == some


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        (Caption("mug", "red"), "a red mug"),
        (Caption("mug", "orange"), "an orange mug"),
        (Caption("airplane", "red"), "a red airplane"),
        (Caption("airplane", None), "an airplane"),
        (Caption("car", None), "a car"),
        (Caption("mug", "red", "striped", "white"), "a red mug with white stripes"),
        (Caption("duck", "orange", "checkered", "black"), "an orange duck with black checks"),
        (Caption("tree", None, "dotted", "pink"), "a tree with pink dots"),
    ],
)
def test_captions_are_proper_english(caption, text):
    assert caption.text == text
    assert caption.seen_from("overhead") == f"{text}, overhead view"


def test_the_article_fits_the_next_word_of_every_caption():
    for caption in [*all_captions(), *(Caption(c, None) for c in CATEGORIES)]:
        article, following, *_ = caption.text.split()
        # no word here starts with a silent letter
        assert article == ("an" if following[0] in "aeiou" else "a")


def test_other_spellings_are_read_as_the_own_ones():
    assert parse("a Grey mug with white stripes") == Caption("mug", "gray", "striped", "white")
    assert spelled("A Grey mug, greyish") == "A gray mug, greyish"
    assert (
        parse_scene("a grey mug and a red cube on a grey ground under a blue sky").ground == "gray"
    )


@pytest.mark.parametrize("text", ["a red mug", "Mug, front view", "a grey mug with red dots"])
def test_sentences_of_the_embedded_prior_pass(text):
    check_sentence(text)
    check_sentence(
        "a red mug and a blue chair on a green ground under a cyan sky, outward left side view"
    )


@pytest.mark.parametrize(
    "text", ["red", "a red and blue mug", "a red mug on a table", "stripes", "a mug mug"]
)
def test_known_words_that_are_no_sentence_are_refused_with_the_grammar(text):
    assert not unknown_words(text.replace("and", "").replace("on a", ""))
    with pytest.raises(ValueError, match=r'(?s)no sentence.*"a COLOUR OBJECT".*Objects: sphere'):
        check_sentence(text)


def test_reading_forgives_case_punctuation_and_a_missing_article():
    wanted = Caption("mug", "red", "striped", "white")
    for text in (
        "red mug with white stripes",
        "  A Red MUG,  with white stripes. ",
        "an red mug with white stripes!",
    ):
        assert parse(text) == wanted


def test_unknown_words_are_listed_once_in_order():
    assert unknown_words("a shiny red unicorn on a shiny table, please") == [
        "shiny",
        "unicorn",
        "on",
        "please",
    ]
    with pytest.raises(
        ValueError, match=r"does not know 'crimson', 'teacup' in .*Objects: sphere.*Colours: red"
    ):
        parse("a crimson teacup")


@pytest.mark.parametrize(
    "text",
    [
        "a mug red",
        "a red",
        "red green mug",
        "a red mug car",
        "a red mug white stripes",
        "a red mug with stripes",
        "a red mug with white stripes and",
        "a red mug view front",
        "a red mug, front view with white dots",
        "a a mug",
    ],
)
def test_a_wrong_order_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"red mug with white stripes|does not know 'and'"):
        parse(text)


def test_a_pattern_in_the_objects_own_colour_is_refused():
    with pytest.raises(ValueError, match="'red' is the object's own"):
        parse("a red mug with red dots")


def test_an_empty_prompt_is_refused_with_an_example():
    for text in ("", "  ", " ,. "):
        with pytest.raises(ValueError, match="empty; try"):
            parse(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("unicorn", "red"), "category 'unicorn' is not one of sphere"),
        (("mug", "crimson"), "colour 'crimson' is not one of red"),
        (("mug", "red", "shiny", "blue"), "finish 'shiny' is not one of plain"),
        (("mug", "red", "striped"), "striped finish needs a second colour"),
        (("mug", "red", "plain", "blue"), "plain finish takes no second colour"),
        (("mug", "red", "dotted", "red"), "'red' is the object's own"),
    ],
)
def test_a_caption_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Caption(*arguments)


def test_two_colours_of_twelve_are_held_out_for_every_category_and_finish():
    held = {(c.category, c.finish, c.color) for c in all_captions() if held_out(c)}
    assert set(Counter((c, f) for c, f, _ in held).values()) == {2}
    assert len(held) == 2 * len(CATEGORIES) * len(FINISHES)
    colors = Counter(k for _, _, k in held)
    assert min(colors[k] for k in COLORS) > 0.5 * max(colors.values())  # no colour is spared
    assert not held_out(Caption("mug", None))


def test_the_second_colour_and_the_call_do_not_change_what_is_held_out():
    for caption in random.Random(1).sample([c for c in all_captions() if c.second], 300):
        other = next(c for c in COLORS if c not in (caption.color, caption.second))
        same = Caption(caption.category, caption.color, caption.finish, other)
        assert held_out(caption) == held_out(same) == held_out(caption)
    # Fixed for good: a trained prior is measured on these.
    assert [k for k in COLORS if held_out(Caption("sphere", k))] == ["red", "black"]
    striped = [Caption("mug", k, "striped", "cyan") for k in COLORS if k != "cyan"]
    assert [c.color for c in striped if held_out(c)] == ["purple", "gray"]


def test_the_measured_captions_are_held_out_and_fair_to_every_category():
    captions = held_out_captions(112, 0)
    assert captions == held_out_captions(112, 0) != held_out_captions(112, 1)
    assert all(held_out(c) for c in captions)
    assert {c.category for c in captions} == set(CATEGORIES)
    assert sum(c.finish == "plain" for c in captions) == 56


def test_the_allowed_table_is_the_split(table):
    for (c, category), (k, color), (f, finish) in itertools.product(
        enumerate(CATEGORIES), enumerate(COLORS), enumerate(FINISHES)
    ):
        second = None if finish == "plain" else next(x for x in COLORS if x != color)
        assert bool(table.allowed[c, k, f]) != held_out(Caption(category, color, finish, second))


def small_atlas():
    """Every category once, a pixel a picture."""
    count = len(CATEGORIES)
    return Atlas(
        torch.zeros(count, 8, 1, 1, dtype=torch.uint8),
        torch.arange(count),
        *(torch.zeros(count, dtype=torch.long) for _ in range(3)),
    )


def test_training_never_draws_what_is_held_out_and_draws_all_the_rest(table):
    batch = draw(small_atlas(), 60000, torch.Generator().manual_seed(0), table.allowed)
    assert table.allowed[batch.category, batch.color, batch.finish].all()
    met = torch.zeros_like(table.allowed)
    met[batch.category, batch.color, batch.finish] = True
    assert torch.equal(met, table.allowed)
    assert (batch.second != batch.color).all()
    shares = torch.bincount(batch.finish, minlength=4) / len(batch.finish)
    torch.testing.assert_close(shares, torch.tensor([0.55, 0.15, 0.15, 0.15]), atol=0.01, rtol=0)


def test_without_a_table_everything_is_drawn(table):
    batch = draw(small_atlas(), 60000, torch.Generator().manual_seed(0))
    assert not table.allowed[batch.category, batch.color, batch.finish].all()


def test_every_word_is_one_token_and_captions_need_no_other_words(tokenizer):
    words = vocabulary()
    tokens = {w: tokenizer(w, add_special_tokens=False).input_ids for w in [*words, ","]}
    assert all(len(ids) == 1 for ids in tokens.values())
    assert len({ids[0] for ids in tokens.values()}) == len(words) + 1
    spoken = (
        {w for c in all_captions() for w in c.text.split()}
        | set(" ".join(VIEW_WORDS).split())
        | {"view"}
    )
    spoken |= {w for c in CATEGORIES for w in Caption(c, None).text.split()}
    assert spoken == set(words)


def test_the_fast_tokens_are_those_of_the_tokenizer_loaded_from_its_folder(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    captions = random.Random(2).sample(all_captions(), 60)
    texts = [
        "",
        "an airplane",
        *(c.seen_from(VIEW_WORDS[i % len(VIEW_WORDS)]) for i, c in enumerate(captions)),
    ]
    wanted = loaded(
        texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    assert torch.equal(tokenize(tokenizer, texts), wanted)
    assert len(loaded) == len(tokenizer) == max(loaded.get_vocab().values()) + 1
    # as the text model has it
    assert (loaded.bos_token_id, loaded.eos_token_id) == (len(loaded) - 2, len(loaded) - 1)
    assert loaded("A Red MUG").input_ids == loaded("a red mug").input_ids


def test_table_rows_hold_the_tokens_of_their_caption(table, tokenizer):
    rng = random.Random(3)
    wanted, rows = [], []
    for _ in range(300):
        category, finish = rng.choice(CATEGORIES), rng.choice(FINISHES)
        color = rng.choice([*COLORS, None])
        second = rng.choice([c for c in COLORS if c != color])
        view = rng.choice([*VIEW_WORDS, None])
        caption = Caption(category, color, finish, None if finish == "plain" else second)
        wanted.append(caption.seen_from(view) if view else caption.text)
        rows.append(
            (
                CATEGORIES.index(category),
                list(COLORS).index(color) if color else len(COLORS),
                FINISHES.index(finish),
                list(COLORS).index(second),
                VIEW_WORDS.index(view) if view else NO_VIEW,
            )
        )
    ids = table.rows(*torch.tensor(rows).unbind(1))
    assert [decoded(tokenizer, row) for row in ids] == wanted


def test_a_row_without_a_category_is_the_empty_caption(table, tokenizer):
    ids = table.rows(*torch.tensor([[-1, 3, 1, 2, 0], [-1, 0, 0, 0, NO_VIEW]]).unbind(1))
    assert torch.equal(ids, tokenize(tokenizer, ["", ""]))


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [
        (0, 0, "front"),
        (45, 0, "front"),
        (-44, 20, "front"),
        (46, 0, "side"),
        (-90, 60, "side"),
        (134, 0, "side"),
        (135, 0, "back"),
        (-180, 0, "back"),
        (350, 0, "front"),
        (0, 61, "overhead"),
        (180, 89, "overhead"),
    ],
)
def test_view_words_split_the_sphere(azimuth, elevation, view):
    assert view_of(azimuth, elevation) == view


@pytest.mark.parametrize(
    ("azimuth", "elevation", "words"),
    [
        (0, 0, "front"),
        (-22, 60, "front"),
        (23, 0, "front left"),
        (90, 0, "left side"),
        (450, 10, "left side"),
        (-90, 0, "right side"),
        (-180, 0, "back"),
        (200, 0, "back"),
        (350, 61, "overhead front"),
        (-135, 80, "overhead back right"),
    ],
)
def test_finer_view_words_name_the_objects_own_sides(azimuth, elevation, words):
    assert side_of(azimuth, elevation) == words

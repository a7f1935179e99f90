import itertools
import math
import random
from types import SimpleNamespace

import pytest
import torch
from kit import seeded

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.cameras.scene import joined, look_around
from distill3d.kernels.toybox import scene_data
from distill3d.kernels.toybox.captions import CATEGORIES, COLORS, SIDES, VIEWS, Caption, held_out
from distill3d.kernels.toybox.meshes import mesh
from distill3d.kernels.toybox.models import tokenize, write_tokenizer
from distill3d.kernels.toybox.scene_captions import (
    GROUNDS,
    OUTWARD,
    SCENE_VIEWS,
    SCENE_WORDS,
    SKIES,
    Scene,
    held_out_scene,
    held_out_scenes,
    pair_held_out,
    parse_scene,
)
from distill3d.kernels.toybox.scene_data import (
    NO_SCENE_VIEW,
    SceneAtlas,
    SceneTable,
    draw_scenes,
    scene_said,
)
from distill3d.kernels.toybox.scenes import (
    GROUND,
    HAZE,
    HAZE_FROM,
    RADIUS,
    SCALE,
    ZENITH,
    lowest,
    render_scene,
    render_surroundings,
    render_toy,
    sky_weights,
)

TEXT = "a red mug and a blue chair on a green ground under a cyan sky"
SCENE = Scene(Caption("mug", "red"), Caption("chair", "blue"), "green", "cyan")


def scene(first="mug", second="chair", colors=("red", "blue"), ground="green", sky="cyan"):
    return Scene(Caption(first, colors[0]), Caption(second, colors[1]), ground, sky)


def rgb(color):
    return torch.tensor(COLORS[color])


# The language


def test_a_scene_reads_back_as_itself_with_any_view_words():
    rng = random.Random(0)
    assert SCENE.text == TEXT and parse_scene(TEXT) == SCENE
    for i in range(200):
        toys = [Caption(rng.choice(CATEGORIES), rng.choice(list(COLORS))) for _ in "12"]
        one = Scene(*toys, rng.choice(GROUNDS), rng.choice(SKIES))
        assert (
            parse_scene(one.text)
            == parse_scene(one.seen_from(SCENE_VIEWS[i % len(SCENE_VIEWS)]))
            == one
        )


def test_articles_fit_and_reading_forgives_case_and_missing_articles():
    text = scene(colors=("orange", "red"), sky="orange").text
    assert text == "an orange mug and a red chair on a green ground under an orange sky"
    assert parse_scene(
        "Orange MUG and red chair, on green ground under orange sky."
    ) == parse_scene(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; try"),
        ("a red mug", "is not a scene of the toybox"),
        ("a red mug and a blue chair", "is not a scene"),
        ("a red mug and a blue chair on a green ground", "is not a scene"),
        (TEXT.replace("chair", "unicorn"), "does not know 'unicorn'.*Objects: sphere"),
        (TEXT.replace("green", "red"), "ground is 'red'; choose one of green, brown"),
        (TEXT.replace("cyan", "green"), "sky is 'green'; choose one of blue"),
        (TEXT.replace("mug", "mug with white dots"), "is not a scene"),
        (TEXT.replace("red mug", "mug"), "is not a scene"),
    ],
)
def test_what_is_no_scene_is_refused_with_what_would_be(text, message):
    with pytest.raises(ValueError, match=message):
        parse_scene(text)


def test_toys_of_a_scene_have_a_colour_and_no_pattern():
    for toy in (Caption("mug", None), Caption("mug", "red", "dotted", "white")):
        with pytest.raises(ValueError, match=r"first toy is .*needs one colour and no pattern"):
            Scene(toy, Caption("car", "red"), "green", "cyan")


def test_an_eighth_of_all_pairs_is_held_out_and_every_category_in_both_places():
    pairs = [p for p in itertools.product(range(len(CATEGORIES)), repeat=2) if pair_held_out(*p)]
    assert len(pairs) == pytest.approx(len(CATEGORIES) ** 2 / 8, rel=0.1)
    assert {a for a, _ in pairs} == {b for _, b in pairs} == set(range(len(CATEGORIES)))


def test_measured_scenes_are_held_out_by_their_pair_alone():
    scenes = held_out_scenes(40, 0)
    assert scenes == held_out_scenes(40, 0) != held_out_scenes(40, 1)
    assert all(held_out_scene(s) for s in scenes)
    assert not any(held_out(toy) for s in scenes for toy in (s.first, s.second))
    assert len({(s.first.category, s.second.category) for s in scenes}) == 40
    assert held_out_scene(scene("sphere", "cube", ("black", "red")))  # for the toy's own sake


# The truth


@pytest.mark.parametrize("category", ["sphere", "mug", "airplane", "dog"])
def test_the_lowest_point_is_the_meshes(category):
    vertices, _ = mesh(category, 96)
    assert lowest(category) == pytest.approx(float(vertices[:, 1].min()), abs=2e-3)


def test_toys_stand_on_the_ground_at_their_places():
    # its middle row is the ground's height
    level = orbit(0.0, 0.0, 2.5, 40, 128, torch.tensor([0.0, GROUND, 0.0]))
    for place, side in ((0, -1), (1, 1)):
        for category in ("cylinder", "rocket", "car"):
            alpha = render_toy(category, level, place).alpha[0]
            rows, columns = torch.nonzero(alpha > 0.5).unbind(1)
            assert 62 <= rows.max() <= 65  # at the middle, give or take the depth of its foot
            assert columns.float().mean().item() == pytest.approx(
                64 + side * 0.5 / 2.5 * level.intrinsics[0, 0, 0], abs=3
            )
            height = float(mesh(category, 48)[0][:, 1].max()) - lowest(category)
            assert rows.max() - rows.min() == pytest.approx(
                SCALE * height / 2.5 * level.intrinsics[0, 0, 0], abs=3
            )


def test_the_first_toy_is_on_the_left_from_the_front_and_on_the_right_from_behind():
    for azimuth, left in ((0.0, "red"), (180.0, "blue")):
        picture = render_scene(scene("cube", "cube"), orbit(azimuth, 10.0, 2.5, 40, 64), 1)[0]
        reddish = picture[..., 0] - picture[..., 2]
        halves = reddish[:, :32].amax(), reddish[:, 32:].amax()
        assert (halves[0] > halves[1]) == (left == "red")


def test_the_nearer_toy_hides_the_farther_one():
    both = scene("cube", "cube")
    for azimuth, color in ((90.0, "blue"), (-90.0, "red")):
        middle = render_scene(both, orbit(azimuth, 0.0, 2.5, 40, 33), 1)[0, 16, 16]
        assert (middle / middle.max() - rgb(color) / rgb(color).max()).abs().max() < 1e-5


def test_ground_and_sky_are_where_the_ray_meets_plane_and_dome():
    cameras = joined(
        [
            orbit(torch.tensor([20.0]), 30.0, 2.5, 40, 9),
            look_around(140.0, -5.0, torch.tensor([0.05, 0.0, 0.02]), 65, 9),
        ]
    )
    weights = torch.stack([*vars(render_surroundings(cameras, 1)).values()], -1)
    light = 0.44 + 0.24 + 0.32 * 0.72 / math.sqrt(0.45**2 + 0.72**2 + 0.53**2)
    seen = [0, 0]
    for v, eye in enumerate(cameras.positions):
        k = cameras.intrinsics[v]
        for row, column in itertools.product(range(9), range(9)):
            ray = torch.tensor(
                [(column + 0.5 - k[0, 2]) / k[0, 0], (row + 0.5 - k[1, 2]) / k[1, 1], 1.0]
            )
            ray = cameras.viewmats[v, :3, :3].T @ (ray / ray.norm())
            hit = (
                eye + (GROUND - eye[1]) / ray[1] * ray if ray[1] < 0 else torch.full((3,), math.inf)
            )
            reach = math.hypot(hit[0], hit[2])
            if reach < RADIUS:
                seen[0] += 1
                x = min(max((reach - HAZE_FROM) / (RADIUS - HAZE_FROM), 0), 1)
                haze = HAZE * x * x * (3 - 2 * x)
                sky, white = (float(w) for w in sky_weights(torch.tensor(0.0)))
                wanted = [(1 - haze) * light, haze * sky, haze * white]
            else:
                seen[1] += 1
                low, high = 0.0, 20.0
                for _ in range(60):  # where it leaves the ball around the point below the origin
                    t = (low + high) / 2
                    inside = (eye + t * ray - torch.tensor([0.0, GROUND, 0.0])).norm() < RADIUS
                    low, high = (t, high) if inside else (low, t)
                height = float(eye[1] + low * ray[1] - GROUND) / RADIUS
                sky, white = (float(w) for w in sky_weights(torch.tensor(height)))
                wanted = [0.0, sky, white]
            torch.testing.assert_close(
                weights[v, row, column], torch.tensor(wanted), atol=2e-4, rtol=0
            )
    assert min(seen) > 10


def test_the_sky_pales_towards_the_horizon_and_darkens_towards_the_top():
    top, rim = (sum(torch.stack(sky_weights(torch.tensor(h)))) for h in (1.0, 0.0))
    assert top == pytest.approx(ZENITH) and rim == pytest.approx(1)
    assert sky_weights(torch.tensor(0.0))[1] > 0.5 > 0.01 > sky_weights(torch.tensor(1.0))[1]


@pytest.mark.parametrize("azimuth", [0.0, 77.0, -130.0])
def test_the_horizon_is_level_and_at_its_row_all_around(azimuth):
    weights = render_surroundings(look_around(azimuth, 0.0, torch.zeros(3), 65, 64), 4)
    focal = 32 / math.tan(math.radians(32.5))
    wanted = 32 + focal * -GROUND / RADIUS  # the rim's depression seen from the middle
    rows = (weights.ground[0] > 0.05).float().argmax(0).float()
    assert (rows - wanted).abs().max() < 1.5
    assert (weights.ground[0, :30] == 0).all() and (weights.ground[0, 40:] > 0.1).all()


def test_every_ray_from_inside_meets_ground_or_sky():
    cameras = joined(
        [
            orbit(torch.arange(8) * 45.0, 20.0, 2.6, 40, 16),
            look_around(torch.arange(8) * 45.0, 10.0, torch.zeros(3), 100, 16),
        ]
    )
    weights = render_surroundings(cameras, 1)
    total = weights.ground + weights.sky + weights.white
    assert total.min() > 0.7 and total.max() <= 1


def test_looking_outward_sees_the_toy_that_stands_there():
    for azimuth, color in ((90.0, "blue"), (-90.0, "red")):
        picture = render_scene(
            scene("cube", "cube"), look_around(azimuth, 0.0, torch.zeros(3), 65, 33), 1
        )[0]
        middle = picture[16, 16]
        assert (middle / middle.max() - rgb(color) / rgb(color).max()).abs().max() < 1e-5
    front = render_scene(scene("cube", "cube"), look_around(0.0, 0.0, torch.zeros(3), 40, 33), 1)[0]
    around = render_surroundings(look_around(0.0, 0.0, torch.zeros(3), 40, 33), 1).paint(
        "green", "cyan"
    )[0]
    assert torch.equal(front, around)


def test_supersampling_is_the_mean_of_finer_pictures():
    cameras = orbit(30.0, 15.0, 2.5, 40, 16)
    fine = render_scene(SCENE, cameras.resize(48), 1)[0]
    torch.testing.assert_close(
        render_scene(SCENE, cameras, 3)[0], fine.view(16, 3, 16, 3, 3).mean((1, 3))
    )


# Training data


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("prior") / "tokenizer", SCENE_WORDS)


@pytest.fixture(scope="module")
def table(tokenizer):
    return SceneTable(lambda texts: tokenize(tokenizer, texts), "cpu")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(scene_data, "SIZE", 32)
    monkeypatch.setattr(scene_data, "CATEGORIES", ("mug", "house", "torus"))


def test_painting_the_atlas_is_painting_the_render(small, monkeypatch):
    # one toy behind the other
    hidden = orbit(torch.tensor([90.0, -85.0]), torch.tensor([4.0, 12.0]), 2.5, 40, 32)
    cameras = joined([hidden, look_around(60.0, 5.0, torch.zeros(3), 65, 32)])
    monkeypatch.setattr(scene_data, "CAMERAS", SimpleNamespace(sample=lambda *arguments: cameras))
    atlas = scene_data.render_scene_atlas(3, 4, "cpu", chunk=2)
    assert atlas.layers.shape == (3, 2, 3, 5, 32, 32)
    rows = torch.arange(3)
    for toys in ((0, 1), (1, 1), (2, 0)):
        one = scene(
            *[("mug", "house", "torus")[i] for i in toys],
            colors=("orange", "purple"),
            ground="yellow",
            sky="pink",
        )
        indices = (
            [torch.full((3,), i) for i in toys],
            [torch.full((3,), list(COLORS).index(c)) for c in ("orange", "purple")],
        )
        places = (torch.full((3,), GROUNDS.index("yellow")), torch.full((3,), SKIES.index("pink")))
        got = atlas.paint(rows, *(tuple(i) for i in indices), *places)
        wanted = render_scene(one, cameras, 2).permute(0, 3, 1, 2)
        different = (got - wanted).abs().amax(1)
        # Where outlines of both toys cross in a pixel the layers' means cannot know which sample
        # saw which.
        assert (different > 3 / 255).float().mean() < 0.02 and (got - wanted).abs().mean() < 1 / 255


def test_cameras_say_their_words():
    cameras = joined(
        [
            orbit(torch.tensor([0.0, 50.0, 44.0, 180.0, -80.0]), 20.0, 2.5),
            look_around(torch.tensor([0.0, 91.0]), 3.0, torch.zeros(3)),
        ]
    )
    coarse, fine = scene_data.scene_words(cameras)
    names = [*SCENE_VIEWS, None]
    assert [names[i] for i in fine] == [
        "front",
        "front left",
        "front left",
        "back",
        "right side",
        "outward front",
        "outward left side",
    ]
    assert [names[i] for i in coarse] == [
        "front",
        None,
        None,
        "back",
        "side",
        "outward front",
        "outward left side",
    ]
    assert set(SCENE_VIEWS) == {*SIDES, *OUTWARD, *VIEWS[:3]} and len(SCENE_VIEWS) == NO_SCENE_VIEW


def test_table_rows_hold_the_tokens_of_their_caption(table, tokenizer):
    rng = random.Random(1)
    texts, rows = [], []
    for _ in range(200):
        toys, colors = rng.choices(CATEGORIES, k=2), rng.choices(list(COLORS), k=2)
        ground, sky, view = rng.choice(GROUNDS), rng.choice(SKIES), rng.choice([*SCENE_VIEWS, None])
        one = scene(*toys, colors=colors, ground=ground, sky=sky)
        texts.append(one.seen_from(view) if view else one.text)
        toy = [CATEGORIES.index(t) for t in toys]
        color = [list(COLORS).index(c) for c in colors]
        place = (
            GROUNDS.index(ground),
            SKIES.index(sky),
            SCENE_VIEWS.index(view) if view else NO_SCENE_VIEW,
        )
        rows.append([toy[0], color[0], toy[1], color[1], *place])
    ids = table.rows(*torch.tensor(rows).unbind(1))
    assert torch.equal(ids, tokenize(tokenizer, texts))
    real = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert torch.equal(ids, real)
    nothing = table.rows(*torch.tensor([[-1, 0, 1, 2, 0, 1, 3]]).unbind(1))
    assert torch.equal(nothing, tokenize(tokenizer, [""]))


def blank_atlas():
    count = len(CATEGORIES)
    return SceneAtlas(
        torch.zeros(2, 2, count, 5, 1, 1, dtype=torch.uint8), torch.zeros(2, 2, count, 1, 1, dtype=torch.half),
        torch.zeros(2, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, NO_SCENE_VIEW]), torch.tensor([0, 1]),
    )  # fmt: skip


def test_training_never_draws_held_out_scenes_and_draws_all_pairs_besides(table):
    batch = draw_scenes(blank_atlas(), 60000, seeded(), table)
    toy1, color1, toy2, color2, ground, sky, view_said, side = batch.words
    allowed = torch.zeros_like(table.pairs)
    allowed[toy1, toy2] = True
    wanted = [
        [not pair_held_out(a, b) for b in range(len(CATEGORIES))] for a in range(len(CATEGORIES))
    ]
    assert torch.equal(allowed, torch.tensor(wanted))
    colors = list(COLORS)
    for t, c in ((toy1, color1), (toy2, color2)):
        pairs = {(a, b) for a, b in zip(t.tolist(), c.tolist(), strict=True)}
        assert not any(held_out(Caption(CATEGORIES[a], colors[b])) for a, b in pairs)
        assert len(pairs) == len(CATEGORIES) * 10
    assert set(ground.tolist()) == set(range(len(GROUNDS))) and set(sky.tolist()) == set(
        range(len(SKIES))
    )
    assert set(zip(view_said.tolist(), side.tolist(), strict=True)) == {(0, 0), (NO_SCENE_VIEW, 1)}


def test_what_is_said_is_dropped_at_the_documented_rates():
    count = 200_000
    words = [torch.zeros(count, dtype=torch.long) for _ in range(6)]
    said = scene_said([*words, torch.full((count,), 3), torch.full((count,), 5)], seeded(1))
    assert (said[0] < 0).float().mean().item() == pytest.approx(0.10, abs=0.003)
    assert all(torch.equal(a, b) for a, b in zip(said[1:6], words[1:], strict=True))
    shares = {value: (said[6] == value).float().mean().item() for value in (NO_SCENE_VIEW, 3, 5)}
    assert shares == pytest.approx({NO_SCENE_VIEW: 0.12, 3: 0.88 * 0.3, 5: 0.88 * 0.7}, abs=0.004)

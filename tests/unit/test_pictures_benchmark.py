"""The benchmark of pictures: what it gives a run, and that it measures where nothing was given."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.evaluate.metrics import ring_of_views
from distill3d.kernels.run.references import References
from distill3d.kernels.toybox.captions import parse
from distill3d.kernels.toybox.render import render_truth

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("pictures"), importlib.import_module("pictures_toys")
    sys.path.remove(str(BENCHMARKS))


def test_a_toy_without_own_ways_is_its_captions_and_one_with_them_is_not(bench):
    _, toys = bench
    caption = parse("a red cube with white stripes")
    cameras = orbit(torch.tensor([30.0]), 20.0, 2.0, 40.0, 64)
    truth = render_truth(caption, cameras, 0.5, 2)
    plain = toys.Toy(caption, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), None, 0.0)
    same = toys.pictures(plain, cameras, 0.5)
    assert float((same.color - truth.color).square().mean()) < 2e-3
    own = toys.pictures(toys.drawn(caption, 0), cameras, 0.5)
    assert float((own.color - truth.color).square().mean()) > 5e-3
    assert toys.drawn(caption, 0) == toys.drawn(caption, 0) != toys.drawn(caption, 1)


def test_configs_give_what_they_say(bench):
    pictures, toys = bench
    toy = toys.drawn(parse("a red cube"), 0)
    base = References(torch.zeros(1, 1, 1, 3), ring_of_views(1, 1))
    given = {
        name: pictures.given(toy, pictures.CONFIGS[name], 0, base)
        for name in ("caption", "front", "four sides", "wrong camera, refined", "busy background")
    }
    assert given["caption"] is None and len(given["four sides"]) == 4
    for references in filter(None, given.values()):
        references.check()
    wrong, right = given["wrong camera, refined"], given["front"]
    assert torch.equal(wrong.cameras.viewmats, right.cameras.viewmats)
    assert float(wrong.masks.mean()) > 1.3 * float(right.masks.mean())  # it was taken from nearer
    assert wrong.bounds.free and not right.bounds.free
    assert given["busy background"].masks is None


def test_measured_views_are_none_of_those_that_any_config_is_given(bench):
    pictures, _ = bench
    ring = ring_of_views(24, 8)
    sides = {(a % 360, 0.0) for a in pictures.SIDES.values()}
    given = {(float(ring.azimuths[i]) % 360, float(ring.elevations[i])) for i in pictures.GIVEN}
    assert given == sides

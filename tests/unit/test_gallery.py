"""The gallery: what it is made of, that it goes on where it stopped, and one page that needs
nothing else."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny_prior import write_tiny_prior

from distill3d.farm.engines.base import Made
from distill3d.gallery import make, measure
from distill3d.gallery.__main__ import main
from distill3d.gallery.make import Settings, gallery, prepared, prompts_of, view_of
from distill3d.gallery.measure import Scorers
from distill3d.kernels.files.ply import save_ply
from distill3d.kernels.init.ball import random_ball

GRAPH = {
    "prior": ("LoadDiffusionPrior", {"model": "x", "precision": "fp32"}),
    "prompts": ("ViewPrompts", {"prior": ["prior", 0], "prompt": "x"}),
    "cameras": ("OrbitCameras", {"values": "auto"}),
    "ball": ("InitGaussians", {"count": 50, "radius": 0.5, "seed": 0, "scale": 0.05,
                               "opacity": 0.1}),
    "loss": ("VDMLoss", {"values": "auto", "guidance": 3.0, "degradation_map": ["map", 0]}),
    "map": ("DegradationMap", {"design": "linear", "widths": "16, 32", "lr": 1e-3, "lr_end": 1e-4}),
    "run": ("Optimize", {"prior": ["prior", 0], "prompts": ["prompts", 0],
                         "cameras": ["cameras", 0], "gaussians": ["ball", 0], "loss": ["loss", 0],
                         "steps": 9, "views": 1, "image_size": 0, "seed": 0}),
    "views": ("RenderViews", {"gaussians": ["run", 0], "views": 2, "size": 32, "elevation": 15.0,
                              "background": "white", "distance": 3.5, "fov_y": 31.5}),
    "save": ("SaveGaussians", {"gaussians": ["run", 0], "filename_prefix": "x/y"}),
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    nodes = {
        id: {"class_type": f"Distill3D_{kind}", "inputs": inputs}
        for id, (kind, inputs) in GRAPH.items()
    }
    given = {"images": ["views", 0], "filename_prefix": "x/y", "fps": 12.0, "lossless": False}
    nodes["turn"] = {
        "class_type": "SaveAnimatedWEBP", "inputs": given | {"quality": 80, "method": "default"},
    }  # fmt: skip
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(nodes))
    return str(file)


class Engine:
    """Makes a ball in no time, and fails for what it cannot know."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def make(self, prompt, key, saved, keep):
        text = next(n["inputs"]["prompt"] for n in prompt.values() if "prompt" in n["inputs"])
        self.asked.append(text)
        if "impossible" in text:
            raise RuntimeError("it cannot be\nand so on")
        splat, turn = self.folder / f"{key}.ply", self.folder / f"{key}.webp"
        save_ply(random_ball(30, scale=0.1), splat)
        frames = [Image.new("RGB", (300, 300), color) for color in ("red", "blue")]
        frames[0].save(turn, save_all=True, append_images=frames[1:], duration=80)
        metrics = {"run": {"steps": 9, "gaussians": 30, "bad_steps": 0}}
        return Made(files=[splat, turn], metrics=metrics, notes=["auto"])

    def memory(self):
        return 3_000_000_000

    def stop(self):
        pass


@pytest.fixture
def engine(tmp_path, monkeypatch):
    folder = tmp_path / "engine"
    folder.mkdir()
    made = Engine(folder)
    monkeypatch.setattr(make, "engine_of", lambda *_: made)
    monkeypatch.setattr(measure, "SIZE", 32)
    return made


def written(tmp_path, *prompts):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(prompts))
    return file


def test_the_published_prompts_of_both_papers_are_there():
    listed = prompts_of(Settings("model", None))
    assert len(listed) == 14 == len({each["prompt"] for each in listed})
    assert {each["of"] for each in listed} == {"DreamMapping", "Consistent3D"}
    assert len(prompts_of(Settings("model", None, limit=3))) == 3
    assert {each["of"] for each in prompts_of(Settings("toybox", None))} == {"the toybox"}


def test_model_steps_and_size_go_into_the_recipe(recipe):
    graph = prepared(Settings("toybox", None, recipe, steps=4, size=64))
    assert graph.nodes["prior"]["inputs"]["model"] == "toybox (embedded)"
    run = graph.nodes["run"]["inputs"]
    assert (run["steps"], run["image_size"]) == (4, 64) and "schedule_steps" not in run
    assert view_of(graph) == {"distance": 3.5, "fov_y": 31.5}
    shipped = prepared(Settings("toybox", None, "dreammapping_sd"))
    assert {node["inputs"].get("steps") for node in shipped.nodes.values()} == {None, 5000}


def test_a_page_holds_all_pictures_and_asks_for_nothing(tmp_path, recipe, engine):
    prompts = written(tmp_path, "a red <mug>", "an impossible chair")
    out = tmp_path / "out"
    failed = gallery(Settings("toybox", out, recipe, prompts))
    page = (out / "gallery.html").read_text(encoding="utf-8")
    assert failed == 1 and "a red &lt;mug&gt;" in page and "not made: it cannot be" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == [] and "://" not in page
    assert page.count("data:image/webp;base64,") == page.count("data:image/jpeg;base64,") == 1
    assert "3.0 GB" in page and "30 Gaussians" in page
    folder = out / "a-red-mug"
    with Image.open(folder / "turntable-small.webp") as turn:
        assert turn.width == 256 and turn.n_frames == 2
    record = json.loads((folder / "record.json").read_text())
    assert record["files"] == ["object.ply", "turntable.webp"] and record["stages"][0]["steps"] == 9
    with Image.open(out / "contact-sheet.jpg") as sheet:
        assert sheet.size == (640, 178)


def test_a_second_call_makes_only_what_is_missing_and_adds_scores(
    tmp_path, recipe, engine, monkeypatch
):
    out, prompts = tmp_path / "out", written(tmp_path, "a mug", "an impossible chair")
    settings = Settings("toybox", out, recipe, prompts)
    gallery(settings)
    asked = []
    clip = SimpleNamespace(
        similarities=lambda images, texts: (
            asked.append((tuple(images.shape), texts)) or torch.full((len(images), 1), 0.25)
        )
    )
    reward = SimpleNamespace(score=lambda prompt, picture: len(prompt) + picture.width)
    monkeypatch.setattr(Scorers, "load", staticmethod(lambda *_: Scorers(clip, reward)))
    gallery(settings)
    assert engine.asked == ["a mug", "an impossible chair", "an impossible chair"]
    assert asked == [((12, 3, 32, 32), ["a mug"])]
    record = json.loads((out / "a-mug" / "record.json").read_text())
    assert record["clip_score"] == 25.0 and record["image_reward"] == 37
    assert "CLIP 25.0" in (out / "gallery.html").read_text(encoding="utf-8")
    gallery(settings)
    assert len(asked) == 1
    gallery(Settings("toybox", out, recipe, prompts, seed=5))  # another object
    assert engine.asked[-2:] == ["a mug", "an impossible chair"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"checkpoint": "nowhere"}, "give a folder with model_index.json"),
        ({"checkpoint": "FILE"}, "is a file, which ComfyUI's loaders read"),
        ({"recipe": "nothing"}, "neither a file nor a shipped graph"),
        ({"recipe": "any_model"}, "has no Load Diffusion Prior"),
        ({"recipe": "consistent3d_sd"}, "--engine python does not know Distill3D_"),
        ({"prompts": "EMPTY"}, "holds no prompt"),
        ({"image_reward": "nowhere.pt"}, "--image-reward nowhere.pt is not there"),
        ({"clip": "nowhere"}, "holds no config.json of a CLIP model"),
    ],
)
def test_what_cannot_be_right_is_told_before_any_work(tmp_path, given, told, capsys):
    empty, file = tmp_path / "empty.txt", tmp_path / "model.safetensors"
    empty.touch()
    file.touch()
    words = {"checkpoint": "toybox", "out": str(tmp_path / "out")} | given
    paths = {"EMPTY": str(empty), "FILE": str(file)}
    line = [
        part
        for name, value in words.items()
        for part in (f"--{name.replace('_', '-')}", paths.get(value, value))
    ]
    assert main(line) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.html"))


def test_image_reward_needs_its_package(tmp_path, monkeypatch):
    file = tmp_path / "ImageReward.pt"
    file.touch()
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(ValueError, match="pip install image-reward"):
        Scorers.load(None, file)


@pytest.mark.nightly(reason="a model is made, loaded and run: 15 s")
def test_a_folder_of_yours_makes_objects(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(measure, "SIZE", 32)
    folder = tmp_path / "models" / "tiny"
    write_tiny_prior(folder)
    (folder / "distill3d.json").unlink()  # then it is a Stable Diffusion as any other
    out, prompts = tmp_path / "out", written(tmp_path, "a red mug")
    assert gallery(Settings(str(folder), out, recipe, prompts, steps=2, size=32)) == 0
    record = json.loads((out / "a-red-mug" / "record.json").read_text())
    assert record["gaussians"] == 50 and record["stages"][0]["steps"] == 2
    # what suits a folder's model was filled in, and told
    (cameras,) = (note for note in record["notes"] if "distance_max" in note)
    (loss,) = (note for note in record["notes"] if "guidance 7.5" in note)
    assert "from the authors (Consistent3D)" in cameras and "untried" in loss
    assert (out / "a-red-mug" / "object.ply").is_file()

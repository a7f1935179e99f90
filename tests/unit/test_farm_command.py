"""The farm's command: what its words ask for."""

from dataclasses import replace
from pathlib import Path

from distill3d.farm.__main__ import main
from distill3d.farm.run import Settings


def test_the_commands_words_become_its_settings(monkeypatch):
    asked = []
    monkeypatch.setattr("distill3d.farm.run.farm", lambda settings: asked.append(settings) or 0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    words = ["toys.txt", "--graph", "quickstart", "--out", "toys"]
    more = ["--comfyui-flags", "--lowvram --fp32-vae", "--hung", "2", "--per-gpu", "3"]
    assert main(words) == main([*words, *more]) == 0
    plain = Settings(Path("toys.txt"), "quickstart", "toys")
    changed = {"flags": ("--lowvram", "--fp32-vae"), "hung": 120.0, "per_gpu": 3}
    assert asked == [plain, replace(plain, **changed)]

"""The page to share, opened from the disk without a network, looked at."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.files.formats import load_gaussians
from distill3d.kernels.files.html import save_html
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.rasterize import render

HERE = Path(__file__).resolve().parent
SIZE = 400  # pixels, as share.mjs has it
GREY = 0x22 / 255
LOOK = (math.degrees(0.5), math.degrees(0.3), 40.0)  # azimuth, elevation and field, as orbit.mjs


def cloud() -> Gaussians:
    """A heap of large Gaussians that no turn brings onto itself, half transparent, with
    harmonics.
    """
    g = torch.Generator().manual_seed(0)
    return Gaussians(
        means=torch.rand(200, 3, generator=g) ** torch.tensor([2.0, 0.5, 0.7]) - 0.5,
        log_scales=torch.tensor([0.12, 0.05, 0.03]).log() + 0.2 * torch.randn(200, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(200, 4, generator=g), dim=-1),
        opacity_logits=torch.randn(200, generator=g),
        sh=torch.randn(200, 9, 3, generator=g) * torch.tensor([1.0] + [0.2] * 8)[:, None],
    )


def test_the_page_shows_the_object_asks_for_nothing_and_gives_the_file(browser, tmp_path):
    splat = cloud()
    save_html(splat, tmp_path / "duck_00001_.html")
    settings = {"browser": browser, "folder": str(tmp_path), "file": "duck_00001_.html"}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    command = ["node", HERE / "share.mjs", tmp_path / "settings.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["others"] == [] and told["turned"] > 0.1
    assert all("GPU stall" in line for line in told["said"]), told["said"]
    assert told["name"] == "duck_00001.sog"
    (tmp_path / "downloaded").rename(tmp_path / told["name"])
    assert len(load_gaussians(tmp_path / told["name"])) == len(splat)

    place, target = (torch.tensor(told["orbit"][key]) for key in ("position", "target"))
    distance = float((place - target).norm())
    target = target * torch.tensor([1.0, -1, -1])  # from the frame of splat files
    camera = orbit(*LOOK[:2], distance, LOOK[2], SIZE, target)
    plain = replace(splat, sh=splat.sh[:, :1])  # the page leaves out what depends on the view
    with torch.no_grad():
        expected = render(plain, camera, GREY, depth=False).color[0].numpy()
    seen = np.asarray(Image.open(tmp_path / "share.png").convert("RGB"), np.float32) / 255
    rows = slice(0, SIZE - 100)  # above the bar
    error = ((seen[rows] - expected[rows]) ** 2).mean()
    assert -10 * math.log10(error) > 30

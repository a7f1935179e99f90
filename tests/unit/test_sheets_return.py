"""True pictures on the cameras of a sheet, distilled with their caption: the toy comes back."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.sheets import SHEETS
from distill3d.kernels.evaluate.metrics import compare
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.references import References
from distill3d.kernels.run.settings import OptimizeSettings
from distill3d.kernels.toybox.captions import parse
from distill3d.kernels.toybox.render import render_truth

TOYBOX = Path(__file__).resolve().parents[2] / "models" / "toybox"
# as the quickstart's
LOSS = CDS(
    t_end=300, t_min=300, perturb=300, guidance_start=3.0, guidance_end=1.5, weighting="1-abar",
    weight=2.0, noise_groups=360, pull=3.0,
)  # fmt: skip
SETTINGS = OptimizeSettings(
    preview_every=0, densify=None, lambda_opacity=3000.0, lambda_gamut=20.0, views=2, lr_means=8e-3,
    lr_scales=2e-2, lr_opacities=0.1, lr_colors=6e-2,
)  # fmt: skip


@pytest.mark.nightly(reason="three runs of 200 steps")
@pytest.mark.parametrize("name", ["Zero123++ 1.2", "Zero123++ 1.1", "MVDream"])
def test_truth_on_a_sheets_cameras_comes_back(name):
    caption, cameras = parse("a red mug"), SHEETS[name].cameras(256)
    truth = render_truth(caption, cameras, 0.0)
    colors = (truth.color / truth.alpha.clamp_min(1e-4)).clamp(0, 1)
    references = References(colors, cameras, truth.alpha)
    prior = load_diffusers(TOYBOX, "cpu")
    start = random_ball(
        4000, scale=0.03, opacity_logit=-4.0, generator=torch.Generator().manual_seed(0)
    )
    cloud = optimize(
        start, LOSS, prior, view_prompts(prior, caption.text), OrbitSampler(), 200, SETTINGS,
        references=references,
    )  # fmt: skip
    scores = asdict(compare(cloud, caption))
    assert scores["iou"] >= 0.95, scores

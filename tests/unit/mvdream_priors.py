"""A tiny MVDream of random weights, and what it is asked."""

import mvdream_reference as reference
import pytest
import tiny_mvdream
import torch
from kit import normal, seeded

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.priors.view_conditioning import condition_on_views

ORBIT = OrbitSampler(elevation_min=0, elevation_max=30, overhead_share=0, target_jitter=0)


@pytest.fixture(scope="session")
def mvdream(tmp_path_factory):
    """Its folder, and the weights in it by name."""
    folder = tmp_path_factory.mktemp("mv") / "mvdream"
    return folder, tiny_mvdream.write_tiny_mvdream(folder)


def question(prior, views=8, texts=("a red mug", ""), seed=1):
    """Noisy latents, one t per group, and what was asked of them, told of the cameras."""
    cameras = ORBIT.sample(views, 16, seeded(seed), views_per_group=4)
    rows = tuple(prior.embed([text] * views) for text in texts)
    t = torch.tensor([700, 40, 333])[: views // 4].repeat_interleave(4)
    return (
        normal(seed, views, 4, 8, 8),
        t,
        condition_on_views(prior, rows, cameras, torch.ones(views, 16, 16, 1), None),
    )


def answers(prior, weights, config, z, t, texts):
    """What the plain network says, text by text."""
    with torch.no_grad():
        return [
            reference.unet(weights, config, z, t, text.embeddings, text.camera, 4) for text in texts
        ]


def agree(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 0.05
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

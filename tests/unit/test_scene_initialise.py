import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.cameras.scene import SceneSampler, joined, look_around
from distill3d.kernels.evaluate.metrics import psnr
from distill3d.kernels.gaussians.rotations import rotations
from distill3d.kernels.init.scene import SceneInit, scene_cloud
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.noise_schedule import NoiseSchedule
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings
from distill3d.kernels.toybox import scenes
from distill3d.kernels.toybox.scene_captions import parse_scene

SMALL = SceneInit(ground_count=500, sky_count=250, object_count=250, object_scale=0.035)


def cameras(size=32):
    """From around and from the middle, none of them one that the sampler draws."""
    around = orbit(
        torch.arange(4) * 90.0 + 20, torch.tensor([5.0, 15.0, 25.0, 38.0]), 2.5, 40, size
    )
    return joined([around, look_around(torch.arange(4) * 90.0 + 20, 5.0, torch.zeros(3), 65, size)])


def test_the_defaults_are_the_toyboxs_scenes():
    init = SceneInit()
    assert (init.ground_height, init.radius) == (scenes.GROUND, scenes.RADIUS)
    assert (
        init.spacing == scenes.PLACES[1] - scenes.PLACES[0]
        and init.object_radius < init.spacing / 2
    )


def test_ground_sky_and_objects_are_where_and_as_many_as_asked():
    init = SceneInit(ground_count=400, sky_count=300, object_count=100, objects=3, spacing=1.5)
    cloud = scene_cloud(init)
    assert len(cloud) == 400 + 300 + 3 * 100
    ground, sky = cloud.means[:400], cloud.means[400:700]
    assert (ground[:, 1] == init.ground_height).all() and ground[:, [0, 2]].norm(
        dim=-1
    ).max() <= init.radius
    centred = sky - torch.tensor([0, init.ground_height, 0])
    torch.testing.assert_close(centred.norm(dim=-1), torch.full((300,), init.radius))
    assert (centred[:, 1] > 0).all() and centred[:, 1].mean().item() == pytest.approx(
        init.radius / 2, rel=0.01
    )
    for index, x in enumerate((-1.5, 0.0, 1.5)):
        ball = cloud.means[700 + 100 * index : 800 + 100 * index]
        assert (ball - torch.tensor([x, 0, 0])).norm(dim=-1).max() <= init.object_radius
    torch.testing.assert_close(cloud.opacities[:700], torch.full((700,), 0.9))
    grays = [
        cloud.colors[part].mean().item() for part in (slice(400), slice(400, 700), slice(700, None))
    ]
    # a horizon to see
    assert grays == pytest.approx([init.ground_gray, init.sky_gray, 0.5], abs=0.02)


def test_ground_and_sky_are_anchored_unless_asked_otherwise():
    assert torch.equal(scene_cloud(SMALL).anchored, torch.arange(len(scene_cloud(SMALL))) < 750)
    assert scene_cloud(replace(SMALL, anchored=False)).anchored is None


def test_ground_and_sky_are_flat_and_face_the_middle():
    cloud = scene_cloud(SMALL)
    thin = rotations(cloud.quats)[:, :, 2]
    assert (cloud.log_scales[:750].argmin(-1) == 2).all()
    torch.testing.assert_close(
        thin[:500], torch.tensor([0.0, 1, 0]).expand(500, 3), atol=1e-5, rtol=0
    )
    inward = torch.nn.functional.normalize(
        torch.tensor([0, SMALL.ground_height, 0]) - cloud.means[500:750], dim=-1
    )
    torch.testing.assert_close(thin[500:750], inward, atol=1e-4, rtol=0)


def test_the_ground_is_finer_in_the_middle_and_covers_its_disc():
    cloud = scene_cloud(SceneInit(ground_count=2000))
    distance, width = cloud.means[:2000, [0, 2]].norm(dim=-1), cloud.scales[:2000, 0]
    assert width[distance < 0.5].max() < width[distance > 4].min() / 2
    area = (width[:, None] / 0.7).square().sum()  # of what each has to itself
    assert area.item() == pytest.approx(math.pi * 36, rel=0.02)


def test_no_hole_shows_from_anywhere_inside():
    alpha = render(scene_cloud(), cameras(), 0.5, depth=False).alpha
    assert alpha.min() > 0.9 and alpha.mean() > 0.985


def test_backends_agree_on_cameras_inside_the_cloud():
    pytest.importorskip("numba")
    cloud = scene_cloud(SMALL, torch.Generator().manual_seed(1))
    pictures = [
        render(cloud, cameras(24), 0.5, backend) for backend in ("reference", "torch", "numba")
    ]
    for other in pictures[1:]:
        torch.testing.assert_close(other.color, pictures[0].color, atol=2e-4, rtol=0)
        torch.testing.assert_close(other.alpha, pictures[0].alpha, atol=2e-4, rtol=0)
        assert torch.isfinite(other.depth).all()


def test_the_seed_decides():
    one, two, other = (scene_cloud(SMALL, torch.Generator().manual_seed(i)) for i in (1, 1, 2))
    assert torch.equal(one.means, two.means) and torch.equal(one.sh, two.sh)
    assert not torch.equal(one.means, other.means)
    assert torch.equal(one.means[:750], other.means[:750])  # ground and sky are no matter of chance


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ground_count": 0}, "ground_count is 0; choose a value within 1"),
        ({"opacity": 1.0}, "opacity is 1.0; choose a value within 0.001..0.999"),
        ({"radius": math.nan}, "radius is nan"),
        (
            {"objects": 20},
            "20 objects 1 apart reach 9.8 from the middle, beyond radius 6. Lower spacing",
        ),
    ],
)
def test_a_scene_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        scene_cloud(SceneInit(**settings))


class PictureLoss:
    """Half the squared difference to the true pictures of a scene, mean over views."""

    name = "pictures"

    def __init__(self, scene):
        self.scene, self.heard = scene, set()

    def check(self):
        pass

    def start(self, prior, latent_shape, generator, state=None):
        return self

    def state(self):
        return {}

    def __call__(self, latents, views, generator):
        said = views.text.embeddings.flatten().tolist()
        self.heard |= set(zip(views.cameras.outward.tolist(), said, strict=True))
        with torch.no_grad():
            truth = scenes.render_scene(self.scene, views.cameras, 1).permute(0, 3, 1, 2)
        return 0.5 * (latents - truth).square().sum() / len(latents), {}


def test_the_loop_fits_a_scene_to_its_true_pictures_seen_from_elsewhere():
    """What initialiser, cameras, rasterizers and loop allow, with no prior in the way."""
    texts = ["nothing"]

    def embed(some):  # a text is its place among the texts so far
        texts.extend(text for text in some if text not in texts)
        return Conditioning(
            torch.tensor([float(texts.index(text)) for text in some]).view(-1, 1, 1)
        )

    prior = SimpleNamespace(
        name="none", image_size=32, latent_channels=3, downscale=1, device=torch.device("cpu"), background=0.5,
        dtype=torch.float32, schedule=NoiseSchedule.scaled_linear(), vocabulary=None, check_size=lambda size: None,
        check_text=lambda text: None, embed=embed,
        encode=lambda images, generator=None: images, around_words=("in",), outward_words=("out",),
    )  # fmt: skip
    scene = parse_scene("a red cube and a blue sphere on a green ground under a pink sky")
    settings = OptimizeSettings(
        preview_every=0, densify=None, bounds_radius=7.0, lr_colors=0.1, lr_opacities=0.1
    )
    start = scene_cloud(SMALL)
    prompts = view_prompts(prior, scene.text)
    loss = PictureLoss(scene)
    fitted = optimize(start, loss, prior, prompts, SceneSampler(), 120, settings)
    with torch.no_grad():
        truth = scenes.render_scene(scene, cameras(), 2)
        before, after = (
            psnr(render(cloud, cameras(), 0.5).color, truth) for cloud in (start, fitted)
        )
    assert before < 13 and after > 24
    words = {
        f"{scene.text}, {word} view": looks_out
        for word, looks_out in (("in", False), ("out", True))
    }
    assert loss.heard == {(looks_out, texts.index(text)) for text, looks_out in words.items()}

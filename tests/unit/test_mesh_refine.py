"""Mesh refinement under a prior that knows exactly one picture."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from mesh_balls import ball, radius

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.meshes.cleanup import weld
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.rasterize import edges_of, render_mesh
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.checkpoint import load_mesh_training, load_training, save_training
from distill3d.kernels.run.refine import MeshSubject, refine_mesh
from distill3d.kernels.run.settings import RefineSettings
from distill3d.kernels.run.step import DivergedError

SIZE = 32

LOSS = SDS(guidance=1.0)

CAMERAS = OrbitSampler(distance_min=2.0, distance_max=2.0, target_jitter=0.0)


def prior(mesh):
    """Knows what ``mesh`` looks like from everywhere, which has to be alike."""
    image = render_mesh(mesh, orbit(0.0, 0.0, 2.0, 40.0, SIZE)).color.permute(0, 3, 1, 2)
    known = GaussianMixturePrior(
        {"a ball": Mixture(image, torch.full((1, 1, 1, 1), 0.01), torch.ones(1))}
    )
    known.background = 0.5
    return known


def refine(mesh, wanted, steps=40, **changes):
    known = prior(wanted)
    calls = {name: changes.pop(name) for name in ("on_step", "on_partial") if name in changes}
    loss = changes.pop("loss", LOSS)
    return refine_mesh(
        mesh,
        loss,
        known,
        view_prompts(known, "a ball"),
        CAMERAS,
        steps,
        RefineSettings(**changes),
        **calls,
    )


def test_learning_rates_fall_to_a_tenth_at_the_schedules_last_step():
    surface = SimpleNamespace(
        settings=RefineSettings(lr_vertices=0.02, lr_colors=0.3), paint="texture"
    )
    rates = [MeshSubject(surface, {}).rates(step, 5) for step in (0, 2, 4)]
    for name, rate in (("vertices", 0.02), ("texture", 0.3)):
        assert [each[name] for each in rates] == pytest.approx([rate, rate / 10**0.5, rate / 10])
    assert MeshSubject(surface, {}).rates(0, 1)["vertices"] == 0.02


@pytest.mark.slow(reason="forty steps")
def test_geometry_alone_takes_the_size_that_the_prior_wants_and_leaves_the_colours():
    start = ball(0.33)
    end = refine(start, ball(0.4), steps=80, lr_vertices=0.01, lr_colors=0.0)
    assert abs(radius(end).mean() - 0.4) < 0.01 and radius(end).std() < 0.01
    assert torch.equal(end.colors, start.colors) and torch.equal(end.faces, start.faces)
    assert torch.equal(start.vertices, ball(0.33).vertices)  # the input stays as it is


@pytest.mark.slow(reason="forty steps")
def test_texture_alone_takes_the_colours_and_leaves_the_shape():
    end = refine(ball(0.4, (0.5, 0.5, 0.5)), ball(0.4), steps=80, lr_vertices=0.0, lr_colors=0.03)
    torch.testing.assert_close(end.vertices, ball(0.4).vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(end.colors.mean(0), torch.tensor([0.9, 0.2, 0.1]), atol=0.08, rtol=0)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    ends = [refine(ball(0.35), ball(0.4), steps=3, seed=seed).vertices for seed in (5, 5, 6)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("axes", ["right up front", "front right up"])
def test_normals_are_what_the_prior_sees_if_asked(axes):
    seen = []

    class Spy:
        name = "spy"

        def check(self):
            pass

        def start(self, prior, shape, generator, state=None):
            return self

        def __call__(self, latents, views, noise):
            seen.extend([latents.detach(), views.cameras])
            return latents.square().sum(), {}

        def state(self):
            return {}

    known = prior(ball())
    refine_mesh(
        ball(), Spy(), known, view_prompts(known, "a ball"), CAMERAS, 1,
        RefineSettings(lr_colors=0.0, judged="normal", background="black", normal_axes=axes),
    )  # fmt: skip
    # pixels of a prior without encoder
    middle = seen[0][:, :, SIZE // 2, SIZE // 2] * 2 - 1
    assert (middle.norm(dim=1) - 1).abs().max() < 0.05
    towards = torch.nn.functional.normalize(seen[1].positions, dim=1)  # the ball's centre is there
    if axes == "front right up":
        towards = towards[:, [2, 0, 1]]
    assert (middle - towards).abs().max() < 0.1
    assert seen[0][:, :, 0, 0].abs().max() == 0


def test_an_interrupt_hands_out_the_mesh_so_far():
    class Stop(BaseException):
        pass

    def on_step(progress):
        if progress.step == 2:
            raise Stop

    partial = []
    with pytest.raises(Stop):
        refine(ball(0.33), ball(), steps=9, on_step=on_step, on_partial=partial.append)
    assert len(partial) == 1 and not torch.equal(partial[0].vertices, ball(0.33).vertices)


def assert_same(a, b):
    """Bit for bit, the training state included."""
    for name in ("vertices", "colors", "texture"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None and other is None) or torch.equal(one, other), name
    for group in ("first", "second", "generators", "loss", "carried"):
        one, other = getattr(a.training, group), getattr(b.training, group)
        assert one.keys() == other.keys() and all(
            torch.equal(one[key], other[key]) for key in one
        ), group
    for name in ("step", "seed", "updates", "bad_steps", "bad_run", "loss_name", "latent_shape"):
        assert getattr(a.training, name) == getattr(b.training, name), name


@pytest.mark.parametrize("kind", ["colours", "texture"])
def test_three_steps_and_three_more_are_six_bit_for_bit_also_from_a_file(kind, tmp_path):
    start = ball(0.33) if kind == "colours" else textured(ball(0.33))
    changes = {"lr_vertices": 0.01, "lr_colors": 0.5, "lambda_laplacian": 1.0, "lambda_normal": 1.0}
    changes |= {
        "schedule_steps": 6,
        "loss": CDS(guidance_start=1.0, guidance_end=1.0),
    }  # a loss with a state, colours that leave 0..1
    whole = refine(start, ball(), steps=6, **changes)
    half = refine(start, ball(), steps=3, **changes)
    save_training(half, tmp_path / "half.safetensors")
    assert_same(load_mesh_training(tmp_path / "half.safetensors"), half)
    for again in (half, load_mesh_training(tmp_path / "half.safetensors")):
        assert_same(refine(again, ball(), steps=3, **changes), whole)
    assert not torch.equal(
        refine(replace(half, training=None), ball(), steps=3, **changes).vertices, whole.vertices
    )
    with pytest.raises(ValueError, match="3 steps are done and 4 more are asked for"):
        refine(half, ball(), steps=4, **changes)
    with pytest.raises(ValueError, match="expected 'distill3d training 1'"):
        load_training(tmp_path / "half.safetensors")


def test_a_mesh_edited_since_goes_on_from_what_it_is_now():
    half = refine(ball(0.33), ball(), steps=3, lr_vertices=0.01)
    moved = refine(replace(half, vertices=half.vertices + 0.05), ball(), steps=1, lr_vertices=1e-6)
    torch.testing.assert_close(moved.vertices, half.vertices + 0.05, atol=1e-4, rtol=0)
    assert moved.training.step == 4 and int(moved.training.updates) == 1
    smoother = refine(half, ball(), steps=1, lr_vertices=1e-6, smoothness=50.0)
    torch.testing.assert_close(smoother.vertices, half.vertices, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="it was edited after its training"):
        refine(replace(ball(0.33, rounds=1), training=half.training), ball(), steps=1)


class Spoiled:
    """SDS whose value is NaN in the given steps."""

    name = "Spoiled"

    def __init__(self, steps):
        self.steps = steps

    def check(self):
        pass

    def start(self, prior, shape, generator, state=None):
        inner = LOSS.start(prior, shape, generator)

        class Run:
            def __call__(_, latents, views, noise):
                value, logs = inner(latents, views, noise)
                return (value * float("nan") if views.step in self.steps else value), logs

            def state(_):
                return {}

        return Run()


def test_a_bad_step_changes_nothing_and_is_counted():
    seen = []
    start = ball(0.33)
    end = refine(
        start,
        ball(),
        steps=2,
        loss=Spoiled({1}),
        on_step=lambda p: seen.append(p.result()) and None,
    )
    assert torch.equal(seen[0].vertices, end.vertices) and int(end.training.bad_steps) == 1
    assert int(end.training.updates) == 1


def test_a_diverging_run_stops_with_the_last_good_mesh():
    partial = []
    changes = {
        "loss": Spoiled(set(range(3, 99))),
        "max_bad_steps": 2,
        "check_every": 1,
        "schedule_steps": 20,
    }
    with pytest.raises(
        DivergedError, match="Refine Mesh: the last 3 steps up to step 6 gave"
    ) as caught:
        refine(ball(0.33), ball(), steps=20, on_partial=partial.append, **changes)
    assert partial == [caught.value.result] and caught.value.bad_steps == 3
    good = refine(ball(0.33), ball(), steps=caught.value.result.training.step, **changes)
    assert_same(caught.value.result, good)


def test_a_true_answer_ends_the_run_with_the_mesh_so_far():
    end = refine(
        ball(0.33), ball(), steps=9, schedule_steps=9, on_step=lambda progress: progress.step == 2
    )
    assert_same(end, refine(ball(0.33), ball(), steps=2, schedule_steps=9))


def test_progress_tells_of_pictures_and_of_splats_that_look_like_the_mesh():
    told = []

    def on_step(progress):
        told.append((progress.preview_due, progress.preview(), progress.viewer_cloud()))

    refine(textured(ball(rounds=3)), ball(), steps=4, preview_every=3, on_step=on_step)
    assert [due for due, *_ in told] == [False, False, True, True]
    _, picture, splats = told[-1]
    wanted = render_mesh(ball(), orbit(25.0, 15.0, 2.0, 40.0, SIZE), 0.5)
    assert picture.shape == (SIZE, SIZE, 3) and splats.training is None
    seen = render(splats, orbit(25.0, 15.0, 2.0, 40.0, SIZE), 0.5)
    assert (seen.alpha - wanted.alpha).abs().mean() < 0.12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr_vertices": 0.0, "lr_colors": 0.0}, "lr_vertices and lr_colors are both 0"),
        ({"lr_vertices": float("nan")}, "lr_vertices is nan; choose a value within 0..1"),
        ({"judged": "depth"}, "judged is 'depth'; choose one of color, normal"),
        ({"judged": "normal"}, "normals say nothing about colours"),
        ({"background": "sky"}, "background is 'sky'"),
        ({"views": 0}, "views is 0"),
    ],
)
def test_wrong_settings_are_named_before_any_work(changes, message):
    with pytest.raises(ValueError, match=message):
        refine(ball(), ball(), **changes)


def test_wrong_steps_and_meshes_are_named():
    with pytest.raises(ValueError, match="steps is 0; give a whole number of 1 or more"):
        refine(ball(), ball(), steps=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        refine(replace(ball(), vertices=torch.full((162, 3), torch.nan)), ball())


def textured(mesh, size=128, color=0.5):
    """The mesh laid out on a texture of one grey, every triangle with vertices of its own."""
    corners = mesh.vertices[mesh.faces].view(-1, 3)
    longitude, height = (
        torch.atan2(corners[:, 0], corners[:, 2]) / (2 * torch.pi),
        corners[:, 1] / 0.8,
    )
    uvs = (0.5 + torch.stack([longitude, -height], -1)).clamp(0, 1)
    faces = torch.arange(len(corners)).view(-1, 3)
    return Mesh(
        corners, faces, torch.full_like(corners, color), uvs, torch.full((size, size, 3), color)
    )


@pytest.mark.slow(reason="many steps of a textured mesh")
def test_a_texture_takes_the_colours_at_every_texel_that_pictures_show():
    end = refine(textured(ball()), ball(), steps=80, lr_vertices=0.0, lr_colors=0.03)
    assert end.texture.shape == (128, 128, 3) and torch.equal(end.uvs, textured(ball()).uvs)
    middle = end.texture[40:88]  # not the poles, which few cameras see
    torch.testing.assert_close(
        middle.mean((0, 1)), torch.tensor([0.9, 0.2, 0.1]), atol=0.08, rtol=0
    )
    assert (middle - 0.5).abs().amax(-1).min() > 0.1  # no texel was passed over
    assert torch.equal(end.colors, textured(ball()).colors)


def test_the_seams_of_a_texture_stay_closed_while_the_shape_moves():
    start = textured(ball(0.33), color=0.9)
    loose = refine(start, ball(), steps=20, lr_vertices=0.01, lr_colors=0.0)
    assert (edges_of(weld(loose).faces)[1] >= 0).all() and len(weld(loose).vertices) == len(
        ball().vertices
    )
    assert (loose.vertices - start.vertices).norm(dim=-1).mean() > 0.005 and torch.equal(
        loose.texture, start.texture
    )
    ends = [
        refine(mesh, ball(), steps=2, lr_vertices=0.01, lr_colors=0.0)
        for mesh in (start, weld(start))
    ]
    torch.testing.assert_close(weld(ends[0]).vertices, ends[1].vertices, atol=1e-4, rtol=0)

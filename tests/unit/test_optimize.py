"""The loop: convergence, purity, exact continuation, what happens when a step or a caller fails."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import turntable
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.densify import Densify, densify_and_prune
from distill3d.kernels.gaussians.mcmc import MCMC
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.combine import Combined
from distill3d.kernels.losses.degradation import Degradation
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.checkpoint import load_training, save_training
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings
from distill3d.kernels.run.step import DivergedError, Progress

SIZE = 16
LOSS = SDS(guidance=1.0)
# trains a small network beside the cloud
LEARNING = VDM(guidance=1.0, degradation=Degradation(widths=(8, 16)))
ORBIT = OrbitSampler()


def ball_image() -> Tensor:
    """A red disc on grey, [3,H,W]: what a ball looks like from everywhere."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    disc = ((x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2 < 25).float()
    return 0.5 + disc * (torch.tensor([0.9, 0.2, 0.1]).view(3, 1, 1) - 0.5)


def ball_prior() -> GaussianMixturePrior:
    image = ball_image()[None]
    prior = GaussianMixturePrior(
        {"a ball": Mixture(image, torch.full((1, 1, 1, 1), 0.01), torch.ones(1))}
    )
    prior.background = 0.5
    return prior


def haze(count: int = 50, seed: int = 1) -> Gaussians:
    """A faint grey cloud around the origin."""
    draw = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=0.2 * torch.randn(count, 3, generator=draw),
        log_scales=torch.full((count, 3), -2.5),
        quats=torch.randn(count, 4, generator=draw),
        opacity_logits=torch.full((count,), -2.0),
        sh=torch.zeros(count, 1, 3),
    )


def settings(**changes: Any) -> OptimizeSettings:
    return OptimizeSettings(
        **{"views": 2, "densify": None, "check_every": 1, "render_backend": "reference", **changes}
    )


def run(
    cloud: Gaussians,
    steps: int,
    loss: Any = LOSS,
    prior: Any = None,
    on_step=None,
    on_partial=None,
    **changes: Any,
):
    prior = prior or ball_prior()
    prompts = view_prompts(prior, "a ball")
    return optimize(
        cloud, loss, prior, prompts, ORBIT, steps, settings(**changes), on_step, on_partial
    )


def assert_same(a: Gaussians, b: Gaussians) -> None:
    """Bit for bit, the training state included."""
    for name, value in a.tensors().items():
        assert torch.equal(value, getattr(b, name)), name
    left, right = a.training, b.training
    for group in ("first", "second", "generators", "loss", "statistics"):
        one, other = getattr(left, group), getattr(right, group)
        assert one.keys() == other.keys(), group
        for key, value in one.items():
            assert torch.equal(value, other[key]), f"{group} {key}"
    for name in ("step", "seed", "updates", "bad_steps", "bad_run", "loss_name", "latent_shape"):
        assert getattr(left, name) == getattr(right, name), name


@dataclass(frozen=True)
class Spoiled:
    """SDS whose value is multiplied by ``factor``, then raised by ``offset``, in the given
    steps.
    """

    steps: frozenset[int]
    factor: float = float("nan")
    offset: float = 0.0
    name: ClassVar[str] = "Spoiled"

    def check(self) -> None: ...

    def start(self, prior, latent_shape, generator, state=None):
        inner = LOSS.start(prior, latent_shape, generator, state)

        class Run:
            def __call__(_, latents, views, generator):
                value, logs = inner(latents, views, generator)
                return (
                    value * self.factor + self.offset if views.step in self.steps else value
                ), logs

            def state(_):
                return {}

        return Run()


# What it is for


def test_the_cloud_moves_to_what_the_prior_expects_from_every_side():
    def psnr(cloud: Gaussians) -> float:
        picture = render(cloud, turntable(8, size=SIZE), 0.5).color.permute(0, 3, 1, 2)
        return float(-10 * (picture - ball_image()).square().mean().log10())

    losses: list[Tensor] = []
    before = haze()
    after = run(before, 200, views=4, on_step=lambda progress: losses.append(progress.loss))
    # 13.7 dB at the start; the image's own contrast against grey is 13 dB.
    assert psnr(after) > psnr(before) + 9
    assert torch.stack(losses[-20:]).mean() < 0.3 * torch.stack(losses[:20]).mean()


# Purity and determinism


def test_inputs_stay_as_they_are_and_the_result_is_plain():
    cloud = run(haze(), 2, loss=CDS())
    kept = {name: value.clone() for name, value in cloud.tensors().items()}
    moments = {name: value.clone() for name, value in cloud.training.first.items()}
    draws = {name: value.clone() for name, value in cloud.training.generators.items()}
    noise = {name: value.clone() for name, value in cloud.training.loss.items()}
    state = torch.get_rng_state()
    result = run(cloud, 3, loss=CDS())
    assert all(torch.equal(value, kept[name]) for name, value in cloud.tensors().items())
    assert all(torch.equal(value, moments[name]) for name, value in cloud.training.first.items())
    assert all(torch.equal(value, draws[name]) for name, value in cloud.training.generators.items())
    assert noise and all(
        torch.equal(value, noise[name]) for name, value in cloud.training.loss.items()
    )
    assert cloud.training.step == 2 and result.training.step == 5
    assert torch.equal(state, torch.get_rng_state())  # the global generator is nobody's business
    for name, value in result.tensors().items():
        assert not value.requires_grad and value.grad_fn is None
        assert value.data_ptr() != getattr(cloud, name).data_ptr()


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    first, second = run(haze(), 4, seed=7), run(haze(), 4, seed=7)
    assert_same(first, second)
    assert not torch.equal(first.means, run(haze(), 4, seed=8).means)


def test_a_change_of_one_random_part_leaves_the_others_draws_alone():
    def generators(**changes: Any) -> dict[str, Tensor]:
        return run(haze(), 2, **changes).training.generators

    plain, more_views, sampled = (
        generators(),
        generators(views=3),
        generators(sample_posterior=True),
    )
    assert not torch.equal(plain["cameras"], more_views["cameras"])
    assert all(
        torch.equal(plain[name], sampled[name])
        for name in ("cameras", "noise", "background", "densify")
    )


LOSSES = [LOSS, CDS(), LEARNING, Combined([CDS(), LEARNING], [1.0, 0.5])]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "through a file"])
def test_three_steps_and_three_more_are_six_bit_for_bit(loss, saved, tmp_path):
    whole = run(haze(), 6, loss=loss, schedule_steps=6, background="random")
    half = run(haze(), 3, loss=loss, schedule_steps=6, background="random")
    if saved:
        save_training(half, tmp_path / "half.safetensors")
        half = load_training(tmp_path / "half.safetensors")
    assert_same(run(half, 3, loss=loss, schedule_steps=6, background="random"), whole)


GROWTH = Densify(
    every=2, start=0.0, stop=1.0, grow_share=0.3, count_min=10, reset_every=5, reset_opacity=0.1
)


RESAMPLED = MCMC(every=2, start=0.0, stop=1.0, growth=1.2, min_opacity=0.11)


@pytest.mark.parametrize(
    ("loss", "first", "growth"),
    [(loss, first, GROWTH) for loss in (LOSS, LEARNING) for first in (1, 3, 4)]
    + [(LOSS, first, RESAMPLED) for first in (1, 4)],
)
def test_continuing_is_exact_across_densification(loss, first, growth, tmp_path):
    """Cut right before, right after and between two rounds."""

    def part(cloud: Gaussians, steps: int) -> Gaussians:
        return run(cloud, steps, loss=loss, densify=growth, schedule_steps=7)

    whole = part(haze(), 7)
    save_training(part(haze(), first), tmp_path / "half.safetensors")
    assert_same(part(load_training(tmp_path / "half.safetensors"), 7 - first), whole)
    assert len(whole) > len(haze())


def test_the_fastest_renderer_here_is_exact_too():
    def part(cloud: Gaussians, steps: int) -> Gaussians:
        return run(cloud, steps, densify=GROWTH, schedule_steps=5, render_backend="auto")

    whole = part(haze(), 5)
    assert_same(part(part(haze(), 3), 2), whole)
    assert_same(part(haze(), 5), whole)


def test_densification_takes_the_optimizer_along_and_stays_below_the_cap():
    seen: list[Gaussians] = []
    result = run(
        haze(), 9, densify=GROWTH, max_gaussians=70, on_step=lambda p: seen.append(p.result())
    )
    counts = [len(cloud) for cloud in seen]
    assert counts[0] == 50 and max(counts) == 70 == len(result)
    assert counts[1] > 50 and counts[2] == counts[1]  # a round after every second step
    for cloud in seen:
        cloud.training.check(cloud.tensors())
    kept = seen[1].training.second["means"].abs().sum(-1) > 0
    # survivors keep their moments, newcomers begin with none
    assert 0 < int(kept.sum()) < len(seen[1])


def test_densification_hears_of_every_good_step_since_its_last_round():
    strategy = Densify(every=4, start=0.0, stop=1.0, reset_every=6, reset_opacity=0.1)
    views: list[Tensor] = []
    opacities: list[Tensor] = []

    def on_step(progress: Progress) -> None:
        cloud = progress.result()
        views.append(cloud.training.statistics["views"].max())
        opacities.append(cloud.opacities.max())

    run(
        haze(),
        8,
        loss=Spoiled(frozenset({1}), 1.0, float("inf")),
        densify=strategy,
        on_step=on_step,
    )
    # two views a step, step 1 bad
    assert [int(count) for count in views] == [2, 2, 4, 0, 2, 4, 6, 0]
    assert opacities[4] > 0.1001 > opacities[5]  # the reset


@pytest.mark.parametrize("densify", [None, GROWTH])
def test_of_anchored_gaussians_only_the_colours_move_and_none_goes_or_doubles(densify, tmp_path):
    anchored = torch.arange(50) < 20
    start = replace(
        haze(),
        anchored=anchored,
        opacity_logits=torch.full((50,), -5.4).where(anchored, torch.zeros(50)),
    )
    save_training(run(start, 3, densify=densify), tmp_path / "half.safetensors")
    end = run(load_training(tmp_path / "half.safetensors"), 4, densify=densify)
    assert int(end.anchored.sum()) == 20 and len(end) > (50 if densify else 49)
    for name, value in start.tensors().items():
        same = torch.equal(getattr(end, name)[end.anchored], value[:20])
        assert same == (name != "sh"), name
    assert not torch.equal(end.means[~end.anchored][:30], start.means[20:])


def test_anchored_gaussians_do_not_double_however_hard_they_pull():
    cloud = replace(haze(), anchored=torch.arange(50) < 20)
    pull = torch.where(cloud.anchored, 9.0, 1.0)
    moments = {
        name: (torch.zeros_like(v), torch.zeros_like(v)) for name, v in cloud.tensors().items()
    }
    strategy = replace(GROWTH, grow_share=0.4, bounds=9.0, split_scale=9.0)
    seen = {"gradient": pull, "views": torch.ones(50)}
    grown, _ = densify_and_prune(strategy, cloud, seen, moments, torch.Generator().manual_seed(0))
    assert len(grown) == 70 and int(grown.anchored.sum()) == 20


def test_without_densification_the_number_of_gaussians_stays():
    assert len(run(haze(), 6, densify=None)) == len(run(haze(), 6, densify=Densify(every=0))) == 50


def test_another_seed_in_the_second_half_asks_for_other_views():
    half = run(haze(), 3, schedule_steps=6)
    same, other = run(half, 3, schedule_steps=6), run(half, 3, schedule_steps=6, seed=5)
    assert not torch.equal(same.means, other.means)
    assert_same(other, run(half, 3, schedule_steps=6, seed=5))


def test_a_loss_state_goes_on_with_its_own_loss_only():
    noise = run(haze(), 2, loss=CDS()).training.loss
    again = run(run(haze(), 2, loss=CDS()), 2, loss=CDS()).training.loss
    assert noise and all(torch.equal(value, again[key]) for key, value in noise.items())
    parts = Combined([CDS()], [1.0]), Combined([CDS(), CDS()], [1.0, 1.0])
    # starts afresh rather than miss the second's noise
    both = run(run(haze(), 2, loss=parts[0]), 2, loss=parts[1])
    assert len(both.training.loss) == 2 * len(noise)


def test_inference_mode_changes_nothing():
    prior = ball_prior()  # outside: making weights that backward can use is the loader's business
    with torch.inference_mode():
        cloud = haze()
        assert cloud.means.is_inference()
        result = run(run(cloud, 2, prior=prior, schedule_steps=4), 2, prior=prior, schedule_steps=4)
    assert not any(value.is_inference() for value in result.tensors().values())
    assert not result.training.first["means"].is_inference()
    assert_same(result, run(run(haze(), 2, schedule_steps=4), 2, schedule_steps=4))


def test_a_double_precision_cloud_keeps_its_precision():
    half = run(haze(), 2, schedule_steps=4)
    result = run(half.to("cpu", torch.float64), 2, schedule_steps=4)
    assert result.means.dtype == result.training.first["means"].dtype == torch.float64
    assert torch.allclose(result.means.float(), run(half, 2, schedule_steps=4).means, atol=1e-4)


# What one step costs


class Watch(TorchDispatchMode):
    """Counts operations whose result the host has to wait for: values read, shapes that depend on
    values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if masks or name in (
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "equal",
            "is_nonzero",
            "_unique2",
        ):
            self.syncs.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", [LOSS, CDS(), LEARNING], ids=lambda loss: loss.name)
def test_a_step_never_waits_for_the_device_but_where_bad_steps_are_counted(loss):
    seen: list[int] = []
    with Watch() as watch:
        penalties = {
            f"lambda_{name}": 0.1
            for name in ("opacity", "scale", "binary_alpha", "tv_color", "bounds")
        }
        run(
            haze(),
            9,
            loss=loss,
            check_every=4,
            background="random",
            densify=Densify(every=100),
            **penalties,
            on_step=lambda _: seen.append(len(watch.syncs)),
        )
    reads = [b - a for a, b in itertools.pairwise(seen)]
    assert reads == [0, 0, 1, 0, 0, 0, 1, 1], watch.syncs  # after steps 4, 8 and the last


def test_losses_are_told_what_perp_neg_and_guidance_by_view_ask_for():
    prior, seen = ball_prior(), []
    prompts = view_prompts(prior, "a ball", perp_neg=1.0, back_guidance=0.5)

    @dataclass(frozen=True)
    class Listening(SDS):
        def start(self, *args):
            inner = super().start(*args)

            class Run:
                def __call__(_, latents, views, generator):
                    seen.append(views)
                    return inner(latents, views, generator)

                state = inner.state

            return Run()

    optimize(haze(), Listening(), prior, prompts, ORBIT, 2, settings(views=3))
    for views in seen:
        angles = views.cameras.azimuths, views.cameras.elevations
        assert torch.equal(views.guidance_factor, prompts.guidance_factor(*angles))
        expected = prompts.at(*angles).against.branches
        assert [weights for _, weights in views.text.against.branches] == [
            weights for _, weights in expected
        ]
    assert len(seen) == 2 and prior.calls == 2


def test_one_render_one_encode_and_one_network_call_per_step(monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(
        "distill3d.kernels.run.optimize.render",
        lambda *a, **k: calls.append(len(a[1])) or render(*a, **k),
    )
    prior = ball_prior()
    encode, sizes = prior.encode, []
    monkeypatch.setattr(
        prior,
        "encode",
        lambda images, g=None: sizes.append(tuple(images.shape)) or encode(images, g),
    )
    run(haze(), 3, prior=prior, views=4)
    assert calls == [4] * 3 and sizes == [(4, 3, SIZE, SIZE)] * 3 and prior.calls == 3


# Bad steps


def test_a_bad_step_changes_nothing_but_the_counters():
    two = run(haze(), 2, schedule_steps=9)
    three = run(two, 1, loss=Spoiled(frozenset()), schedule_steps=9)
    four = run(three, 2, loss=Spoiled(frozenset({3})), schedule_steps=9)  # one bad step, one good
    assert int(four.training.bad_steps) == 1 and int(four.training.bad_run) == 0
    assert int(four.training.updates) == 4 and four.training.step == 5
    seen: list[Progress] = []
    with pytest.raises(RuntimeError, match="stop"):
        run(
            three,
            2,
            loss=Spoiled(frozenset({3})),
            schedule_steps=9,
            on_step=_stop_after(1, seen),
            on_partial=seen.append,
        )
    partial = seen[-1]
    for name, value in three.tensors().items():
        assert torch.equal(value, getattr(partial, name))
        assert torch.equal(three.training.first[name], partial.training.first[name])
        assert torch.equal(three.training.second[name], partial.training.second[name])


def _stop_after(step: int, seen: list) -> Any:
    def on_step(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == step:
            raise RuntimeError("stop")

    return on_step


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
def test_scattered_bad_steps_are_skipped_and_counted(factor):
    logs: list[Tensor] = []
    loss = Spoiled(frozenset({1, 2, 5}), factor)
    result = run(
        haze(), 8, loss=loss, max_bad_steps=2, on_step=lambda p: logs.append(p.logs["bad_steps"])
    )
    result.check()
    assert [int(count) for count in logs] == [0, 1, 2, 2, 2, 3, 3, 3]
    assert int(result.training.updates) == 5 and all(
        v.isfinite().all() for v in result.training.second.values()
    )


def test_too_many_bad_steps_in_a_row_stop_the_run_with_the_last_good_cloud():
    partial: list[Gaussians] = []
    loss = Spoiled(frozenset(range(4, 99)))
    with pytest.raises(DivergedError, match="last 3 steps up to step 7") as caught:
        run(haze(), 20, loss=loss, schedule_steps=20, max_bad_steps=2, on_partial=partial.append)
    # Step 4 is the first bad one, so the cloud that went into step 3 is the last whose loss is
    # known to be finite.
    assert_same(caught.value.result, run(haze(), 3, loss=loss, schedule_steps=20))
    assert partial == [caught.value.result] and caught.value.bad_steps == 3


def test_a_cloud_that_an_update_ruined_is_not_the_one_that_comes_back():
    start = haze()
    with pytest.raises(DivergedError) as caught:
        run(start, 10, lr_means=1e30, max_bad_steps=3)
    assert torch.equal(caught.value.result.means, start.means)


def test_a_call_without_one_good_step_is_an_error_however_short():
    with pytest.raises(DivergedError, match="NaN or infinite"):
        run(haze(), 2, loss=Spoiled(frozenset(range(9))))


# Interruptions


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


def test_an_interrupt_leaves_a_cloud_that_goes_on_to_the_same_result():
    def on_step(progress: Progress) -> None:
        if progress.step == 2:
            raise Interrupt

    partial: list[Gaussians] = []
    with pytest.raises(Interrupt):
        run(haze(), 5, loss=CDS(), schedule_steps=5, on_step=on_step, on_partial=partial.append)
    assert partial[0].training.step == 2
    assert_same(
        run(partial[0], 3, loss=CDS(), schedule_steps=5),
        run(haze(), 5, loss=CDS(), schedule_steps=5),
    )


@pytest.mark.parametrize("failing", [0, 2])
def test_a_failure_inside_a_step_leaves_the_cloud_before_that_step(failing):
    prior = ball_prior()
    predict, calls = prior.predict, []

    def fail_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 * failing + 1:  # CDS asks twice per step
            raise MemoryError("out of memory")
        return predict(*arguments)

    prior.predict = fail_once
    partial: list[Gaussians] = []
    with pytest.raises(MemoryError):
        run(haze(), 5, loss=CDS(), prior=prior, schedule_steps=5, on_partial=partial.append)
    assert partial[0].training.step == failing
    rest = run(partial[0], 5 - failing, loss=CDS(), prior=prior, schedule_steps=5)
    assert_same(rest, run(haze(), 5, loss=CDS(), schedule_steps=5))


# Progress


def test_progress_says_where_the_run_is_and_hands_out_snapshots():
    clouds: list[Gaussians] = []
    seen: list[Progress] = []
    pictures: list[Tensor] = []

    def on_step(progress: Progress) -> None:
        seen.append(progress)
        clouds.append(progress.result())
        if progress.preview_due:
            pictures.append(progress.preview())

    start = run(haze(), 2, schedule_steps=7)
    result = run(start, 5, schedule_steps=7, preview_every=2, on_step=on_step)
    assert [(p.step, p.steps, p.done) for p in seen] == [(i, 5, 2 + i) for i in range(1, 6)]
    assert [p.preview_due for p in seen] == [False, True, False, True, True]
    assert all(p.loss.shape == () and p.seconds > 0 and "t" in p.logs for p in seen)
    assert not any(v.requires_grad for p in seen for v in [p.loss, *p.logs.values()])
    assert all(
        picture.shape == (SIZE, SIZE, 3) and 0 <= picture.min() <= picture.max() <= 1
        for picture in pictures
    )
    assert_same(clouds[-1], result)
    assert_same(run(clouds[1], 3, schedule_steps=7), result)


def test_a_true_answer_ends_the_run_with_the_cloud_so_far_which_can_go_on():
    kept: list[Gaussians] = []
    seen: list[int] = []

    def on_step(progress: Progress) -> bool:
        seen.append(progress.step)
        assert progress.look().training is None
        assert torch.equal(progress.look().means, progress.result().means)
        return progress.step == 2

    stopped = run(haze(), 5, schedule_steps=5, on_step=on_step, on_partial=kept.append)
    assert seen == [1, 2] and not kept
    assert_same(stopped, run(haze(), 2, schedule_steps=5))
    assert_same(run(stopped, 3, schedule_steps=5), run(haze(), 5, schedule_steps=5))


def test_the_loss_is_told_the_step_over_all_calls_and_the_schedules_length():
    seen: list[tuple[int, int]] = []

    class Spy(Spoiled):
        def start(self, *arguments):
            inner = super().start(*arguments)

            class Run:
                def __call__(_, latents, views, generator):
                    seen.append((views.step, views.steps))
                    return inner(latents, views, generator)

                state = inner.state

            return Run()

    run(run(haze(), 2, loss=Spy(frozenset())), 2, loss=Spy(frozenset()))
    assert seen == [(0, 2), (1, 2), (2, 4), (3, 4)]


class Tunable(GaussianMixturePrior):
    """Notes how it is told to run, and for how long."""

    def __init__(self, like: GaussianMixturePrior) -> None:
        self.__dict__.update(like.__dict__)
        self.told: list[Any] = []

    @contextmanager
    def running(self, accelerate: bool, pictures_at_once: int) -> Iterator[None]:
        self.told.append((accelerate, pictures_at_once))
        try:
            yield
        finally:
            self.told.append("over")


def test_a_prior_is_told_how_to_run_until_the_run_ends_even_in_an_error():
    prior = Tunable(ball_prior())
    during = []
    run(
        haze(),
        1,
        prior=prior,
        pictures_at_once=1,
        on_step=lambda progress: during.append(list(prior.told)) or None,
    )
    assert during == [[(False, 1)]] and prior.told == [(False, 1), "over"]

    def fail(progress: Progress) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        run(haze(), 1, prior=prior, accelerate=True, on_step=fail)
    assert prior.told[2:] == [(True, 0), "over"]


def test_long_runs_prepare_fast_networks_unless_told_not_to():
    prior = Tunable(ball_prior())
    for accelerate, steps in [(None, 99), (None, 100), (False, 100)]:
        run(haze(), steps, prior=prior, accelerate=accelerate, on_step=lambda _: True)
    assert prior.told[::2] == [(False, 0), (True, 0), (False, 0)]


def test_a_prior_that_takes_all_pictures_at_once_says_so_when_asked_for_fewer():
    with pytest.raises(
        ValueError, match=r"pictures_at_once is 2, but prior .* takes all pictures .* Set it to 0"
    ):
        run(haze(), 1, pictures_at_once=2)
    with pytest.raises(
        ValueError, match="pictures_at_once is -1; give a whole number of 0 or more"
    ):
        settings(pictures_at_once=-1).check()

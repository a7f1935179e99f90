"""When a running node packs a picture for a page: on request alone, and within its share of the
run's time.
"""

from __future__ import annotations

import importlib
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch


@pytest.fixture
def live(monkeypatch):
    """The module, in a ComfyUI of which nothing is there but what it asks for; what it sends is in
    ``live.sent``.
    """
    sent: list[tuple[str, dict]] = []
    server, utils = ModuleType("server"), ModuleType("comfy_execution.utils")
    server.PromptServer = SimpleNamespace(
        instance=SimpleNamespace(send_sync=lambda *event: sent.append(event))
    )
    utils.get_executing_context = lambda: SimpleNamespace(node_id="7", prompt_id="p")
    monkeypatch.setitem(sys.modules, "server", server)
    monkeypatch.setitem(sys.modules, "comfy_execution", ModuleType("comfy_execution"))
    monkeypatch.setitem(sys.modules, "comfy_execution.utils", utils)
    monkeypatch.delitem(sys.modules, "distill3d.nodes.run.live", raising=False)
    module = importlib.import_module("distill3d.nodes.run.live")
    module.sent = sent
    yield module
    sys.modules.pop("distill3d.nodes.run.live", None)


def progress(step: int, seconds: float, loss: float = 1.0):
    return SimpleNamespace(
        step=step, steps=100, seconds=seconds, loss=torch.tensor(loss), viewer_cloud=lambda: "cloud"
    )


def test_nothing_is_packed_until_a_page_asks_and_then_once_per_request(live, monkeypatch):
    packed = []
    monkeypatch.setattr(
        live, "pack", lambda cloud, limit, **about: packed.append(about) or b"%d" % about["step"]
    )
    with live.Live(100, "graph") as run:
        run.step(progress(1, 10.0))
        assert not packed and not run.watched
        assert run.ask(0) is None
        for step in (2, 3, 4):
            run.step(progress(step, 10.0 * step))
        assert [about["step"] for about in packed] == [2]
        assert run.ask(0) == b"2" and run.watched
        assert run.ask(2) is None
        run.step(progress(5, 50.0))
        assert run.ask(2) == b"5"
        assert {"7": run} == live.RUNS
    assert not live.RUNS
    assert [event.partition(".")[2] for event, _ in live.sent] == ["start", "frame", "frame", "end"]
    assert all((data["node"], data["workflow"]) == ("7", "graph") for _, data in live.sent)


@pytest.mark.parametrize("since", [0.0, 3600.0])
def test_pictures_take_no_more_than_their_share_even_when_asked_for_at_every_step(
    live, monkeypatch, since
):
    cost, clock, packed = 0.004, [0.0], []

    def slow(cloud, limit, **about):
        clock[0] += cost
        packed.append(about["step"])
        return b""

    monkeypatch.setattr(live, "pack", slow)
    monkeypatch.setattr(live, "PAUSE", 0.0)
    monkeypatch.setattr(live.time, "perf_counter", lambda: clock[0])
    run = live.Live(100)
    for step in range(1, 101):
        run.ask(0)
        run.step(progress(step, since + 0.02 * step))  # also by a page that comes late
    assert 5 < len(packed) < 12
    assert cost * len(packed) < live.SHARE * 2.0 + cost


def test_on_a_cpu_there_is_a_pause_between_pictures(live, monkeypatch):
    packed = []
    monkeypatch.setattr(
        live, "pack", lambda cloud, limit, **about: packed.append(about["step"]) or b""
    )
    run = live.Live(100)
    for step in range(1, 101):
        run.ask(0)
        run.step(progress(step, 0.3 * step))
    # 2.1 s: the first step whose end is two seconds or more after the last
    assert packed == list(range(1, 101, 7))


def test_a_picture_that_fails_does_not_end_the_run(live, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(live, "pack", fails)
    run = live.Live(100)
    run.ask(0)
    assert run.step(progress(1, 1.0)) is False and run.message is None


def test_a_wish_to_stop_ends_the_run_after_the_step_it_is_at(live):
    run = live.Live(100)
    assert run.step(progress(1, 1.0)) is False
    run.stopped = True
    assert run.step(progress(2, 2.0)) is True and run.told()["stopped"] is True


def test_the_curve_has_every_loss_of_a_short_run_and_means_of_a_long_one(live):
    losses = live.Losses()
    assert losses.curve() == []
    for i in range(5):
        losses.add(torch.tensor(math.nan if i == 2 else float(i)))
    assert losses.curve() == [0.0, 1.0, None, 3.0, 4.0]
    for i in range(5, 10 * live.POINTS):
        losses.add(torch.tensor(float(i)))
    assert len(losses.waiting) < losses.BATCH  # read in between, or a long run would pile them up
    curve = losses.curve()
    assert len(curve) == live.POINTS and curve[-1] == pytest.approx(
        10 * live.POINTS - 5.5, rel=1e-3
    )

"""Timesteps, guidance and clips over the run against the authors' own code."""

import pytest
import torch
from replay import Numbers, close, published
from test_losses import (
    CDS_AS_CONSISTENT3D,
    CDS_STAGES,
    ISM_AS_LUCIDDREAMER,
    SCTD_AS_SEGMENTDREAMER,
    SDI_AS_THREESTUDIO,
    VSD_AS_THREESTUDIO,
)

from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.schedule import annealed

LONG = {
    f"{stage}_long": published(
        "consistent3d_sd_long", f"CDS Loss: {title}", CDS_AS_CONSISTENT3D[stage]
    )
    for stage, title in CDS_STAGES.items()
}


@pytest.mark.parametrize(("stage", "loss"), (CDS_AS_CONSISTENT3D | LONG).items())
def test_cds_schedule_is_consistent3ds(stage, loss):
    file = Numbers(f"cds_{stage}_schedule")
    progress = [min(step / file.settings["steps"], 1) for step in file["step"].tolist()]
    assert [loss.t_next(p) for p in progress] == file["t_next"].tolist()
    scale = [loss.guidance_at(p) for p in progress]
    close(f"cds_{stage}_schedule", torch.tensor(scale, dtype=torch.float64), file["guidance"])
    clip = [annealed(loss.clip_start, loss.clip_end, p) for p in progress]
    close(f"cds_{stage}_schedule", torch.tensor(clip, dtype=torch.float64), file["clip"])


def progress_of(loss, iteration, steps=5000):
    return loss.progress(Views(None, None, None, iteration - 1, steps))


def test_isms_timesteps_and_gap_are_luciddreamers():
    file, loss = Numbers("ism_timesteps"), ISM_AS_LUCIDDREAMER
    for k, iteration in enumerate(file["iteration"].tolist()):
        progress = progress_of(loss, iteration)
        found = (loss.timesteps.t_min, loss.timesteps.t_max(progress), loss.gap_at(progress))
        assert found == tuple(int(file[key][k]) for key in ("t_low", "t_high", "gap")), iteration


def test_sctds_window_and_segments_are_segmentdreamers(monkeypatch):
    file, loss = Numbers("sctd_timesteps"), SCTD_AS_SEGMENTDREAMER
    edges = [loss.edge_below(torch.tensor([edge])).item() for edge in file["edges"][:-1].tolist()]
    assert edges == file["edges"][:-1].tolist()
    for k, iteration in enumerate(file["iteration"].tolist()):
        official = {key: int(value[k]) for key, value in file.items() if key != "edges"}
        progress = progress_of(loss, iteration)
        assert loss.low(progress) == official["t_low"], iteration
        assert loss.highest(progress) == official["t_high"], iteration
        # their highest draw
        monkeypatch.setattr(torch, "randint", lambda low, high, *_, **__: torch.tensor([high - 1]))
        t = loss.drawn(1, progress, torch.Generator(), torch.device("cpu"))
        e = loss.edge_below(t)
        assert (int(t), int(e)) == (official["t"], official["e"])
        for share, key in ((0.0, "s_low"), (0.999999, "s_high")):
            monkeypatch.setattr(torch, "rand", lambda *_, share=share, **__: torch.tensor([share]))
            assert int(loss.between(e, t, torch.Generator())) == official[key]
        monkeypatch.undo()


@pytest.mark.parametrize("loss", [ISM_AS_LUCIDDREAMER, SCTD_AS_SEGMENTDREAMER, SDI_AS_THREESTUDIO])
def test_losses_as_published_can_be_kept_to_low_steps_and_asked_at_one(loss):
    loss.check()
    for top in (900, 500, 250):
        low = loss.below(top)
        low.check()
        assert low.timesteps.t_max(0) <= top
        loss.near(top).check()


def test_vsds_highest_step_jumps_as_threestudios():
    file, loss = Numbers("vsd_timesteps"), VSD_AS_THREESTUDIO
    steps = file.settings["steps"]
    found = [loss.timesteps.t_max(step / steps) for step in file["step"].tolist()]
    assert found == file["t_max"].tolist()

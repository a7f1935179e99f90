"""Settings that came later leave the text by which measured rows are known as it was."""

from dataclasses import fields, replace

import pytest

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.gaussians.densify import Densify
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.run.settings import OptimizeSettings, RefineSettings

LOSSES = [SDS, CSD, ISM, SCTD, SDI, VSD, CDS, VDM, Picture]
ALL = [OrbitSampler, Densify, *LOSSES, OptimizeSettings, RefineSettings]


def options(kind):
    return [field for field in fields(kind) if field.metadata.get("option")]


@pytest.mark.parametrize("kind", ALL)
def test_an_option_shows_only_where_it_is_used(kind):
    plain = kind()
    for option in options(kind):
        assert f"{option.name}=" not in repr(plain).replace("densify=Densify", "")
        changed = replace(plain, **{option.name: "another"})
        assert f"{option.name}='another'" in repr(changed)
        assert repr(replace(changed, **{option.name: option.default})) == repr(plain)
    assert options(kind)


def test_the_text_of_a_loss_is_that_of_a_dataclass():
    assert repr(SDS()) == (
        "SDS(guidance=101.0, weighting='1-abar', t_min=20, t_max_start=980, t_max_end=500,"
        " t_anneal='linear', t_anneal_share=1.0, clip=0.0, weight=1.0)"
    )

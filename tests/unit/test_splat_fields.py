from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from plyfile import PlyData

from distill3d.kernels.files.frame import settled
from distill3d.kernels.files.ply import save_ply
from distill3d.kernels.files.splat import from_splat_fields, to_splat_fields
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.rotations import rotations
from distill3d.kernels.meshes.placing import upright


def random_cloud(count=20, degree=1):
    g = torch.Generator().manual_seed(0)
    return Gaussians(
        means=torch.randn(count, 3, generator=g),
        log_scales=torch.randn(count, 3, generator=g) - 3,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        opacity_logits=2 * torch.randn(count, generator=g),
        sh=torch.randn(count, (degree + 1) ** 2, 3, generator=g),
    )


def test_the_fields_agree_with_the_ply_file(tmp_path):
    cloud = random_cloud()
    save_ply(cloud, tmp_path / "a.ply")
    vertex = PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    file = {p.name: torch.tensor(vertex[p.name]) for p in vertex.properties}

    def column(*names):
        return torch.stack([file[n] for n in names], -1)[None]

    fields = to_splat_fields(cloud)
    torch.testing.assert_close(fields["positions"], column("x", "y", "z"))
    torch.testing.assert_close(fields["scales"], column("scale_0", "scale_1", "scale_2").exp())
    torch.testing.assert_close(fields["rotations"], column("rot_0", "rot_1", "rot_2", "rot_3"))
    torch.testing.assert_close(fields["opacities"], column("opacity").sigmoid())
    torch.testing.assert_close(fields["sh"][:, :, 0], column("f_dc_0", "f_dc_1", "f_dc_2"))
    torch.testing.assert_close(
        fields["sh"][:, :, 1:, 1], column("f_rest_3", "f_rest_4", "f_rest_5")
    )


@pytest.mark.parametrize("wrap", [dict, lambda fields: SimpleNamespace(**fields, counts=None)])
def test_a_round_trip_returns_the_cloud(wrap):
    cloud = random_cloud()
    back = from_splat_fields(wrap(to_splat_fields(cloud)))
    for key, value in cloud.tensors().items():
        torch.testing.assert_close(getattr(back, key), value, atol=1e-4, rtol=1e-4)


def test_padding_rows_are_dropped():
    one, two = to_splat_fields(random_cloud(5)), to_splat_fields(random_cloud(5))
    batch = {key: torch.cat([one[key], 2 * two[key]]) for key in one}
    batch["positions"][1, 3:] = torch.nan
    back = from_splat_fields({**batch, "counts": torch.tensor([5, 3])}, batch=1)
    assert len(back) == 3
    torch.testing.assert_close(back.means, 2 * random_cloud(5).means[:3])


def test_opacities_and_scales_at_their_ends_stay_finite():
    fields = to_splat_fields(random_cloud(2))
    fields["opacities"] = torch.tensor([[[0.0], [1.0]]])
    fields["scales"][0, 0] = 0
    fields["rotations"][0, 1] = 0
    back = from_splat_fields(fields)
    assert back.opacities.tolist() == pytest.approx([0, 1], abs=1e-5)
    assert back.quats[1].norm() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sh": None}, "The splat has no sh"),
        (
            {"scales": torch.zeros(1, 20, 2)},
            r"scales has shape \(1, 20, 2\), expected \(1, 20, 3\)",
        ),
        ({"counts": torch.tensor([0])}, "holds 0 Gaussians in 20 rows"),
        (
            {"positions": torch.full((1, 20, 3), torch.nan)},
            r"splat\.means holds 60 values that are NaN",
        ),
    ],
)
def test_bad_fields_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_splat_fields(to_splat_fields(random_cloud()) | change)


def test_a_batch_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="holds 1 clouds; there is none at index 1"):
        from_splat_fields(to_splat_fields(random_cloud()), batch=1)


def test_a_splat_settles_as_its_middles_turn_and_fill_the_cube_and_is_left_alone_by_default():
    cloud = random_cloud(200)
    assert settled(cloud) is cloud
    faint = torch.tensor([True, *[False] * 199])
    cloud = replace(
        cloud,
        means=torch.where(faint[:, None], 100.0, cloud.means),  # a stray nobody sees
        opacity_logits=torch.where(faint, -9.0, 2.0),
    )
    moved = settled(cloud, 1.0, 90.0)
    seen = moved.means[1:]
    low, high = seen.amin(0), seen.amax(0)
    torch.testing.assert_close((high - low).amax(), torch.tensor(1.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(low + high, torch.zeros(3), atol=1e-5, rtol=0)
    factor = float((moved.scales / cloud.scales).mean())
    turned = upright(cloud.means, turn=90.0)[1:] * factor
    torch.testing.assert_close(seen - seen.mean(0), turned - turned.mean(0), atol=1e-5, rtol=0)
    covariance = rotations(moved.quats) @ torch.diag_embed(moved.scales) / factor
    rotated = upright((rotations(cloud.quats) @ torch.diag_embed(cloud.scales)).mT, turn=90.0).mT
    torch.testing.assert_close(
        covariance @ covariance.mT, rotated @ rotated.mT, atol=1e-5, rtol=1e-4
    )

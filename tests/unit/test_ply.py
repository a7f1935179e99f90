import errno
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from distill3d.kernels.files.atomic import atomic_write
from distill3d.kernels.files.ply import load_ply, save_ply
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.sh import sh_basis


def random_cloud(count=50, degree=0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(count, 3, generator=g),
        log_scales=torch.randn(count, 3, generator=g) - 3,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        opacity_logits=3 * torch.randn(count, generator=g),
        sh=torch.randn(count, (degree + 1) ** 2, 3, generator=g),
    )


def rotation(q):
    """Rotation matrices [N,3,3] of wxyz quaternions."""
    w, x, y, z = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def covariance(log_scales, quats):
    m = rotation(quats) * log_scales.exp()[:, None]
    return m @ m.transpose(1, 2)


def read(path):
    """The vertex element by plyfile, as float32 tensors by name."""
    vertex = PlyData.read(str(path))["vertex"]
    return {
        p.name: torch.from_numpy(np.asarray(vertex[p.name]).astype(np.float32))
        for p in vertex.properties
    }


def write_rows(path, columns, text=False, byte_order="<", types=None, extra_elements=()):
    """A PLY by plyfile from name -> array, in the mapping's order."""
    rows = np.empty(
        len(next(iter(columns.values()))), [(k, (types or {}).get(k, "f4")) for k in columns]
    )
    for key, value in columns.items():
        rows[key] = np.asarray(value)
    elements = [*extra_elements, PlyElement.describe(rows, "vertex")]
    PlyData(elements, text=text, byte_order="=" if text else byte_order).write(str(path))


def assert_same(one, two, **tolerance):
    for key, value in one.tensors().items():
        torch.testing.assert_close(
            getattr(two, key), value, msg=lambda m, k=key: f"{k}: {m}", **tolerance
        )


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_round_trip_returns_the_cloud(tmp_path, degree):
    cloud = random_cloud(degree=degree)
    save_ply(cloud, tmp_path / "a.ply")
    assert_same(cloud, load_ply(tmp_path / "a.ply"), atol=1e-6, rtol=1e-6)


def test_the_file_is_in_the_y_down_frame(tmp_path):
    cloud = random_cloud()
    save_ply(cloud, tmp_path / "a.ply")
    file = read(tmp_path / "a.ply")
    turn = torch.diag(torch.tensor([1.0, -1, -1]))
    means = torch.stack([file[k] for k in "xyz"], -1)
    torch.testing.assert_close(means, cloud.means @ turn)
    scales = torch.stack([file[f"scale_{i}"] for i in range(3)], -1)
    quats = torch.stack([file[f"rot_{i}"] for i in range(4)], -1)
    torch.testing.assert_close(
        covariance(scales, quats), turn @ covariance(cloud.log_scales, cloud.quats) @ turn
    )
    torch.testing.assert_close(quats.norm(dim=-1), torch.ones(50))
    torch.testing.assert_close(file["opacity"], cloud.opacity_logits)
    assert list(file)[:6] == ["x", "y", "z", "nx", "ny", "nz"]
    assert len(file) == 17


def test_view_dependent_colours_turn_with_the_frame(tmp_path):
    cloud = random_cloud(count=5, degree=3)
    save_ply(cloud, tmp_path / "a.ply")
    file = read(tmp_path / "a.ply")
    assert len(file) == 62
    dc = torch.stack([file[f"f_dc_{c}"] for c in range(3)], -1)
    rest = torch.stack(
        [torch.stack([file[f"f_rest_{15 * c + k}"] for c in range(3)], -1) for k in range(15)], 1
    )
    sh = torch.cat([dc[:, None], rest], 1)
    direction = torch.nn.functional.normalize(
        torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    ours = torch.einsum("dk,nkc->dnc", sh_basis(direction, 3), cloud.sh)
    theirs = torch.einsum("dk,nkc->dnc", sh_basis(direction * torch.tensor([1.0, -1, -1]), 3), sh)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_any_property_order_encoding_and_extra_properties_are_read(tmp_path, text, byte_order):
    cloud = random_cloud(degree=1)
    save_ply(cloud, tmp_path / "a.ply")
    columns = {
        k: v.numpy() for k, v in reversed(read(tmp_path / "a.ply").items()) if not k.startswith("n")
    }
    columns["confidence"] = np.arange(50)
    other = PlyElement.describe(np.array([(1, 2.5)], [("a", "u1"), ("b", "f8")]), "camera")
    types = {"confidence": "u2", "x": "f8"}
    write_rows(tmp_path / "b.ply", columns, text, byte_order, types, [other])
    assert_same(cloud, load_ply(tmp_path / "b.ply"), atol=1e-6, rtol=1e-5)


def splat_columns(count=4):
    columns = {k: np.zeros(count) for k in ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity")}
    columns |= {f"scale_{i}": np.full(count, -3.0) for i in range(3)}
    return columns | {f"rot_{i}": np.full(count, float(i == 0)) for i in range(4)}


def test_extremes_that_mean_something_become_finite(tmp_path):
    columns = splat_columns()
    columns["opacity"] = np.array([np.inf, -np.inf, 0, 0])
    columns["scale_2"] = np.array([-np.inf, -3, -3, -3])
    columns["rot_0"] = np.array([0.0, 1, 1, 1])
    write_rows(tmp_path / "a.ply", columns)
    cloud = load_ply(tmp_path / "a.ply")
    assert cloud.opacities[0] > 0.999999 and cloud.opacities[1] < 1e-6
    assert cloud.scales[0, 2] < 1e-8
    assert (cloud.quats.norm(dim=-1) == 1).all()


def drop(key):
    return lambda c: c.pop(key)


def put(key, value):
    return lambda c: c.__setitem__(key, np.full(4, value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            drop("scale_0"),
            "holds no Gaussian splats, it looks like a point cloud: its vertices lack scale_0",
        ),
        (lambda c: [c.pop(f"rot_{i}") for i in range(4)], "lack rot_0, rot_1, rot_2, rot_3"),
        (put("x", np.nan), "means holds 4 values that are NaN or infinite"),
        (put("opacity", np.nan), "opacity_logits holds 4 values that are NaN"),
        (put("scale_1", np.inf), "log_scales holds 4 values that are NaN or infinite"),
        (put("scale_1", 300.0), "scale_\\* of 300; a splat PLY holds natural logarithms"),
        (put("f_rest_0", 0.0), "has 1 f_rest properties; a splat has 0, 9, 24, 45 or 72"),
        (lambda c: [put(f"f_rest_{i + 1}", 0.0)(c) for i in range(9)], "has 9 f_rest properties"),
    ],
)
def test_files_that_are_no_sound_splat_say_why(tmp_path, change, message):
    columns = splat_columns()
    change(columns)
    write_rows(tmp_path / "a.ply", columns)
    with pytest.raises(ValueError, match=r"a\.ply.*" + message):
        load_ply(tmp_path / "a.ply")


def test_a_mesh_is_called_a_mesh(tmp_path):
    vertex = PlyElement.describe(np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4")]), "vertex")
    face = PlyElement.describe(np.array([([0, 1, 2],)], [("vertex_indices", "i4", (3,))]), "face")
    PlyData([vertex, face]).write(str(tmp_path / "mesh.ply"))
    with pytest.raises(
        ValueError, match=r"looks like a mesh: its vertices lack scale_0, .* initialise Gaussians"
    ):
        load_ply(tmp_path / "mesh.ply")


HEADER = "ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
HEADER += "".join(f"property float {k}\n" for k in splat_columns()) + "end_header\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a PLY file"),
        (b"\x89PNG\r\n", "is not a PLY file"),
        (b"ply\nformat ascii 1.0\n", "has no end_header"),
        (b"ply\nelement vertex 1\nend_header\n", "names no known format"),
        (
            b"ply\nformat ascii 1.0\nelement vertex -1\nend_header\n",
            "make sense of 'element vertex -1'",
        ),
        (b"ply\nformat ascii 1.0\nnonsense\nend_header\n", "make sense of 'nonsense'"),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n",
            "make sense of 'property quad x'",
        ),
        (
            b"ply\nformat ascii 1.0\nelement v 1\nproperty int x\nproperty int x\nend_header\n",
            "'x' appears twice",
        ),
        (HEADER.format(count=0).encode(), "holds 0 Gaussians"),
        (
            HEADER.format(count=3).encode() + bytes(100),
            "cut off: its header announces 3 Gaussians, but only 100 bytes",
        ),
        (HEADER.format(count=10**17).encode() + bytes(100), "cut off"),
        (
            HEADER.format(count=10**17).replace("binary_little_endian", "ascii").encode() + b"1 2",
            "cut off",
        ),
        (
            HEADER.format(count=1).replace("binary_little_endian", "ascii").encode()
            + b"1 " * 13
            + b"x",
            "is no number",
        ),
        (
            (
                b"ply\nformat ascii 1.0\nelement vertex 1\nproperty uint"
                b" packed_position\nend_header\n0"
            ),
            "compressed splat PLY",
        ),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, data, message):
    (tmp_path / "a.ply").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_ply(tmp_path / "a.ply")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_mutated_file_gives_a_valid_cloud_or_a_clear_error(tmp_path, data):
    path = tmp_path / "a.ply"
    save_ply(random_cloud(count=3, degree=1), path)
    text = data.draw(st.booleans())
    if text:
        write_rows(path, {k: v.numpy() for k, v in read(path).items()}, text=True)
    content = bytearray(path.read_bytes())
    end = content.index(b"end_header")
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the changes go to the header, where most of the decisions are.
        at = data.draw(st.one_of(st.integers(0, end), st.integers(0, max(0, len(content) - 1))))
        kind = data.draw(st.sampled_from(["change", "delete", "insert", "cut"]))
        some = data.draw(
            st.binary(min_size=1, max_size=4) | st.from_regex(rb"[0-9 \n]{1,8}", fullmatch=True)
        )
        if kind == "change":
            content[at : at + len(some)] = some
        elif kind == "delete":
            del content[at : at + 1 + len(some)]
        elif kind == "insert":
            content[at:at] = some
        else:
            del content[at:]
    path.write_bytes(content)
    try:
        cloud = load_ply(path)
    except ValueError as error:
        assert "a.ply" in str(error) and len(str(error)) > 30
    else:
        cloud.check()
        assert torch.isfinite(cloud.scales).all()


def test_an_invalid_cloud_is_not_written(tmp_path):
    cloud = random_cloud()
    cloud.means[3, 1] = torch.nan
    with pytest.raises(ValueError, match="means holds 1 values"):
        save_ply(cloud, tmp_path / "a.ply")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=re.escape(f"folder {(tmp_path / 'no').resolve()} does not exist")
    ):
        save_ply(random_cloud(), tmp_path / "no" / "a.ply")
    with pytest.raises(ValueError, match="is a folder"):
        save_ply(random_cloud(), tmp_path)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, full_disk):
    path = tmp_path / "a.ply"
    save_ply(random_cloud(count=1), path)
    old = path.read_bytes()
    with full_disk(1024), pytest.raises(OSError):
        save_ply(random_cloud(count=10_000), path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_a_failing_flush_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        save_ply(random_cloud(), tmp_path / "a.ply")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_file_replaces_the_old_one(tmp_path):
    save_ply(random_cloud(count=2), tmp_path / "a.ply")
    save_ply(random_cloud(count=3), tmp_path / "a.ply")
    assert len(load_ply(tmp_path / "a.ply")) == 3
    assert len(list(tmp_path.iterdir())) == 1

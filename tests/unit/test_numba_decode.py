"""The compiled decoders against the readers' own numpy code, to the bit, and that the latter judges
what is odd.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from distill3d.kernels.files import assembly
from distill3d.kernels.files.formats import FORMATS, load_gaussians
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.rasterize import available

PACKED = ["compressed ply", "splat", "spz"]
FLOATS = ["ply", "glb"]

pytestmark = pytest.mark.skipif(not available("numba"), reason="needs numba")


def cloud_of(degree, count=3000):
    g = torch.Generator().manual_seed(degree)
    return Gaussians(
        means=torch.randn(count, 3, generator=g),
        log_scales=2 * torch.randn(count, 3, generator=g) - 3,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        opacity_logits=5 * torch.randn(count, generator=g),
        sh=torch.randn(count, (degree + 1) ** 2, 3, generator=g),
    )


@pytest.fixture
def both(monkeypatch):
    """Loads a file the one way and the other: (cloud or error) twice, and how often compiled code
    was not enough.
    """

    def load(path):
        results, decoded = [], []
        store = assembly._store
        monkeypatch.setattr(assembly, "_store", lambda *a: (decoded.append(1), store(*a)))
        for least in (0, 1 << 62):
            monkeypatch.setattr(assembly, "WORTH_COMPILING", least)
            try:
                results.append(load_gaussians(path))
            except ValueError as error:
                results.append(str(error))
            results.append(len(decoded))
        monkeypatch.setattr(assembly, "_store", store)
        return results[0], results[2], results[1]

    return load


def assert_same(one, other):
    if isinstance(one, str):
        assert one == other
        return
    for key, value in one.tensors().items():
        assert torch.equal(value, other.tensors()[key]), key


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("format", PACKED + FLOATS)
def test_both_ways_give_the_same_bits(tmp_path, both, format, degree):
    path = tmp_path / f"a.{FORMATS[format].extension}"
    FORMATS[format].save(cloud_of(degree), path)
    compiled, plain, decoded = both(path)
    assert_same(compiled, plain)
    assert decoded == 0  # the compiled code was all that ran


@pytest.mark.parametrize("format", PACKED)
def test_bytes_of_any_kind_give_the_same_bits(tmp_path, both, format):
    """Every code there is, not only those that our writers use."""
    rng = np.random.default_rng(0)
    count = 4096
    if format == "splat":
        rows = rng.integers(0, 256, (count, 32)).astype(np.uint8)
        rows[:, :24] = (
            rng.uniform(0.1, 2, (count, 6)).astype("<f4").view(np.uint8).reshape(count, 24)
        )
        content = rows.tobytes()
    elif format == "spz":
        import gzip

        head = struct.pack("<IIIBBBB", 0x5053474E, 3, count, 3, 7, 0, 0)
        content = gzip.compress(head + rng.bytes(count * (9 + 1 + 3 + 3 + 4 + 45)))
    else:
        path = tmp_path / "template.ply"
        FORMATS[format].save(cloud_of(1, count), path)
        content = path.read_bytes()
        end = content.index(b"end_header\n") + 11 + count // 256 * 72
        content = content[:end] + rng.bytes(len(content) - end)
    path = tmp_path / f"a.{FORMATS[format].extension}"
    path.write_bytes(content)
    assert_same(*both(path)[:2])


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, np.nan), (2, np.inf), (3, 0.0), (4, -1.0), (5, np.nan), (3, 1e9), (5, -np.inf), (7, None)],
)
def test_odd_rows_of_a_splat_are_left_to_the_plain_way(tmp_path, both, at, value):
    path = tmp_path / "a.splat"
    FORMATS["splat"].save(cloud_of(0), path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<f", data, 32 * 100 + 4 * at, value) if value is not None else None
    if value is None:
        data[32 * 100 + 28 : 32 * 100 + 32] = bytes([128] * 4)  # a quaternion of zeros
    path.write_bytes(data)
    compiled, plain, decoded = both(path)
    assert decoded > 0
    assert_same(compiled, plain)
    if value in (-1.0, -np.inf):
        assert isinstance(plain, str)  # a scale below 0: the file is refused
    else:
        assert len(cloud_of(0)) - len(plain) == (value not in (0.0, None))  # the row is left out


ODD = [
    (0, np.nan),
    (1, np.inf),
    (3, np.nan),
    (5, -np.inf),
    (6, np.inf),
    (7, np.inf),
    (8, 30.0),
    (9, -np.inf),
    (11, np.nan),
]


@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize(("at", "value"), [*ODD, (14, np.nan), (10, None)])
def test_odd_rows_of_a_ply_are_left_to_the_plain_way(tmp_path, both, at, value, degree):
    """``at`` counts the properties without the normals, in the order of our files at degree 0."""
    path = tmp_path / "a.ply"
    FORMATS["ply"].save(cloud_of(degree), path)
    data = bytearray(path.read_bytes())
    rest = 3 * ((degree + 1) ** 2 - 1)
    row = data.index(b"end_header\n") + 11 + 4 * (17 + rest) * 2900
    if value is None:
        data[row + 4 * (13 + rest) : row + 4 * (17 + rest)] = bytes(16)  # a quaternion of zeros
    else:
        # 14: the first of f_rest, or an opacity
        place = 9 if at == 14 else at + 3 * (at > 2) + rest * (at > 5)
        struct.pack_into("<f", data, row + 4 * place, value)
    path.write_bytes(data)
    compiled, plain, decoded = both(path)
    assert decoded > 0
    assert_same(compiled, plain)
    opacity, scale = at == 6 or (at == 14 and not rest), at in (7, 8, 9)
    harmless = value is None or (opacity and value == np.inf) or (scale and value == -np.inf)
    assert len(cloud_of(degree)) - len(plain) == (not harmless)  # such a row is left out


def test_a_ply_of_any_property_order_and_a_big_endian_one_give_the_same_bits(tmp_path, both):
    path = tmp_path / "a.ply"
    FORMATS["ply"].save(cloud_of(1), path)
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().splitlines()
    names = [i for i, line in enumerate(lines) if line.startswith("property")]
    order = np.random.default_rng(0).permutation(len(names))
    rows = np.frombuffer(body, "<f4").reshape(-1, len(names))
    turned = [*lines[: names[0]], *(lines[names[i]] for i in order)]
    for encoding, kind in (("little", "<f4"), ("big", ">f4")):
        text = "\n".join([*turned, "end_header", ""]).replace("little", encoding)
        path.write_bytes(text.encode() + rows[:, order].astype(kind).tobytes())
        compiled, plain, decoded = both(path)
        assert_same(compiled, plain)
        assert (decoded == 0) == (encoding == "little")
        torch.testing.assert_close(plain.sh, cloud_of(1).sh)


@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize(
    ("plane", "value"),
    [("POSITION", np.nan), ("ROTATION", np.inf), ("ROTATION", 0), ("SCALE", 0), ("SCALE", -1.0), ("SCALE", 1e9),
     ("OPACITY", 1.5), ("OPACITY", np.nan), ("SH_DEGREE_0_COEF_0", np.inf), ("SH_DEGREE_2_COEF_3", np.nan)],
)  # fmt: skip
def test_odd_planes_of_a_gltf_are_left_to_the_plain_way(tmp_path, both, plane, value, degree):
    path = tmp_path / "a.glb"
    FORMATS["glb"].save(cloud_of(degree), path)
    data = bytearray(path.read_bytes())
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    named = {
        key.rpartition(":")[2]: at
        for key, at in tree["meshes"][0]["primitives"][0]["attributes"].items()
    }
    if plane not in named:
        pytest.skip("no such harmonic at this degree")
    view = tree["bufferViews"][tree["accessors"][named[plane]]["bufferView"]]
    width = {"ROTATION": 4, "OPACITY": 1}.get(plane, 3)
    count = width if plane == "ROTATION" and value == 0 else 1
    struct.pack_into(
        f"<{count}f",
        data,
        28 + length + view.get("byteOffset", 0) + 4 * width * 2900,
        *[value] * count,
    )
    path.write_bytes(data)
    compiled, plain, decoded = both(path)
    assert decoded > 0
    assert_same(compiled, plain)


@pytest.mark.parametrize(
    ("at", "value"), [(0, np.nan), (4, np.inf), (9, 99.0), (6, -np.inf), (12, np.nan)]
)
def test_odd_boxes_of_a_compressed_ply_are_left_to_the_plain_way(tmp_path, both, at, value):
    path = tmp_path / "a.compressed.ply"
    FORMATS["compressed ply"].save(cloud_of(0), path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<f", data, data.index(b"end_header\n") + 11 + 72 * 3 + 4 * at, value)
    path.write_bytes(data)
    compiled, plain, decoded = both(path)
    assert decoded > 0
    assert_same(compiled, plain)


def test_a_compressed_ply_with_more_properties_is_read_alike(tmp_path, both):
    path = tmp_path / "a.compressed.ply"
    FORMATS["compressed ply"].save(cloud_of(0), path)
    header, _, body = path.read_bytes().partition(b"end_header\n")
    boxes, words = body[: 12 * 72], np.frombuffer(body[12 * 72 :], "<u4").reshape(-1, 4)
    for kind in ("uint", "uchar"):  # the latter moves the words off their places of four bytes
        extra = header.replace(
            b"property uint packed_rotation",
            f"property {kind} id\nproperty uint packed_rotation".encode(),
        )
        rows = np.zeros(
            len(words),
            [("p", "<u4"), ("id", "<u4" if kind == "uint" else "u1"), ("rest", "<u4", 3)],
        )
        rows["p"], rows["id"], rows["rest"] = words[:, 0], 7, words[:, 1:]
        other = tmp_path / f"{kind}.compressed.ply"
        other.write_bytes(extra + b"end_header\n" + boxes + rows.tobytes())
        compiled, plain, _ = both(other)
        assert_same(compiled, plain)
        assert_same(compiled, load_gaussians(path))

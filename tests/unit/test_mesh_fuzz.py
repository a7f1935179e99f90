"""Damaged meshes and point clouds of every kind: valid Gaussians or a clear ValueError, in little
time and memory.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
import trimesh
from mutations import MUTATIONS, mutated, mutated_glb, mutated_tree
from PIL import Image

from distill3d.kernels.files import mesh as mesh_files
from distill3d.kernels.files.export import save_mesh
from distill3d.kernels.files.mesh import load_shape
from distill3d.kernels.init.surface import from_shape
from distill3d.kernels.meshes.mesh import Mesh

MEMORY_LIMIT = 16 << 20  # bytes, for files of some thousand bytes
SECONDS_LIMIT = 2.0  # for one file


def ball(textured):
    solid = trimesh.creation.icosphere(0)
    vertices = torch.tensor(solid.vertices, dtype=torch.float32)
    mesh = Mesh(vertices, torch.tensor(solid.faces), (vertices + 1) / 2)
    if not textured:
        return mesh
    texture = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    return Mesh(mesh.vertices, mesh.faces, mesh.colors, (vertices[:, :2] + 1) / 2, texture)


def write(kind, folder):
    """The file of that kind in the folder, with all that belongs to it."""
    name, path = kind.split()[0], folder / f"damaged.{kind.split()[0]}"
    solid = trimesh.creation.icosphere(0)
    if kind == "gltf":
        files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(solid))
        tree = json.loads(files.pop("model.gltf"))
        for key, data in files.items():
            (folder / key).write_bytes(data)
        path.write_text(json.dumps(tree))
    elif kind == "ply ascii":
        path.write_bytes(trimesh.exchange.ply.export_ply(solid, encoding="ascii"))
    elif kind == "ply points":
        colors = np.full((12, 4), 200, np.uint8)
        path.write_bytes(
            trimesh.exchange.ply.export_ply(trimesh.PointCloud(solid.vertices, colors))
        )
    elif kind == "stl ascii":
        path.write_text(trimesh.exchange.stl.export_stl_ascii(solid))
    else:
        save_mesh(ball("textured" in kind), path)
    assert name == path.suffix[1:]
    return path


def header_length(kind, content):
    if kind.startswith("ply"):
        return content.index(b"end_header") + 11
    if kind.startswith("glb"):
        return 20 + int.from_bytes(content[12:16], "little")
    return 84 if kind == "stl" else len(content)


def check(path, seen):
    """Load: valid Gaussians or an error that names the file. Returns whether there were
    Gaussians.
    """
    start = time.perf_counter()
    try:
        cloud = from_shape(load_shape(path), 50)
    except ValueError as error:
        assert path.name in str(error) or "has no area" in str(error), error
        assert len(str(error)) > 30, error
        seen.add(re.sub(r"\d+", "0", str(error))[:120])
        return False
    finally:
        assert time.perf_counter() - start < SECONDS_LIMIT
    cloud.check()
    assert torch.isfinite(cloud.scales).all()
    return True


KINDS = [
    "glb",
    "glb textured",
    "gltf",
    "obj",
    "obj textured",
    "ply",
    "ply ascii",
    "ply points",
    "stl",
    "stl ascii",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_mesh_gives_valid_gaussians_or_a_clear_error(tmp_path, caplog, kind):
    caplog.set_level(logging.ERROR, "trimesh")  # it tells of everything that it cannot read
    rng, path = random.Random(kind), write(kind, tmp_path)
    content = path.read_bytes()
    assert check(path, set())  # imports, which time and memory below should not count
    loaded, seen = 0, set()
    tracemalloc.start()
    try:
        for _ in range(MUTATIONS):
            if kind.startswith("glb") and rng.random() < 0.5:
                data = mutated_glb(content, rng)
            elif kind == "gltf" and rng.random() < 0.7:
                data = json.dumps(mutated_tree(json.loads(content), rng)).encode()
            else:
                data = mutated(content, header_length(kind, content), rng)
            path.write_bytes(data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numpy, about numbers that are none
                loaded += check(path, seen)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT
    # Both ends are reached: the mutations neither all pass nor all fail at the first check.
    assert loaded > MUTATIONS // 100
    assert len(seen) >= (2 if kind == "stl" else 4), seen


def gltf(tmp_path, change):
    """The path of a .gltf whose JSON ``change`` has been at."""
    path = write("gltf", tmp_path)
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    return path


def without_view(tree):
    tree["accessors"][1].pop("bufferView")
    tree["accessors"][1]["count"] = 10**12


def same_bytes(tree):
    tree["bufferViews"] += [{"buffer": 0, "byteLength": 1_000_000}] * 5000  # copied, each


def chain(tree):
    """Nodes one below the other, each with the mesh."""
    count = 1500
    tree["nodes"] = [{"mesh": 0, "children": [i + 1]} for i in range(count - 1)] + [{"mesh": 0}]
    tree["scenes"], tree["scene"] = [{"nodes": [0]}], 0


def ring(tree):
    tree["nodes"] = [{"mesh": 0, "children": [1]}, {"children": [0]}]


def elsewhere(tree):
    tree["buffers"][0]["uri"] = "../secret.bin"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_view, "damaged.gltf is a damaged glTF: its accessors announce 12000000000"),
        (same_bytes, "damaged.gltf is a damaged glTF: its buffer views announce"),
        (ring, "damaged.gltf is a damaged glTF: its nodes form a ring"),
        (elsewhere, r"damaged.gltf names the file '../secret.bin', which is not beside it"),
        (
            lambda tree: tree.update(extensionsRequired=["EXT_meshopt_compression"]),
            "damaged.gltf is compressed with EXT_meshopt_compression, which is not read",
        ),
    ],
)
def test_a_gltf_that_says_what_cannot_be_is_refused_at_once(tmp_path, change, message):
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (tmp_path / "below").mkdir()
    path = gltf(tmp_path / "below", change)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            load_shape(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("tail", [b"", b"\0" * 500])
def test_a_chunk_longer_than_its_file_reserves_nothing(tmp_path, tail):
    path = write("glb", tmp_path)
    data = bytearray(path.read_bytes())
    at = 20 + int.from_bytes(data[12:16], "little")
    data[at : at + 4] = b"\xff\xff\xff\xee"
    path.write_bytes(bytes(data) + tail)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a chunk of 4009754623 bytes does not fit"):
            load_shape(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_nodes_far_below_each_other_are_placed_in_good_time(tmp_path):
    start = time.perf_counter()
    assert len(load_shape(gltf(tmp_path, chain))) == 1500
    # in minutes where every node is looked for from the root
    assert time.perf_counter() - start < 10


def test_many_solids_of_one_name_are_read_in_good_time(tmp_path):
    one = (
        "solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1"
        " 0\nendloop\nendfacet\n"
    )
    (tmp_path / "a.stl").write_text(f"{one}endsolid x\n" * 3000)
    start = time.perf_counter()
    (mesh,) = load_shape(tmp_path / "a.stl")
    assert mesh.faces.shape == (3000, 3) and mesh.vertices.shape == (9000, 3)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("name", ["a.obj", "a.stl", "a.ply", "a.glb"])
def test_noise_is_refused_in_good_time(tmp_path, name):
    (tmp_path / name).write_bytes(random.Random(0).randbytes(3_000_000))
    start = time.perf_counter()
    with pytest.raises(ValueError, match=name):
        load_shape(tmp_path / name)
    assert time.perf_counter() - start < 5


def textured_obj(folder, size):
    Image.new("RGB", size, (0, 0, 255)).save(folder / "blue.png")
    (folder / "a.mtl").write_text("newmtl m\nmap_Kd blue.png\n")
    corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
    (folder / "a.obj").write_text(f"mtllib a.mtl\n{corners}usemtl m\nf 1/1 2/2 3/3\n")
    return folder / "a.obj"


def test_large_textures_shrink_and_larger_ones_are_refused(tmp_path):
    (mesh,) = load_shape(textured_obj(tmp_path, (6000, 30)))
    assert mesh.texture.shape == (20, 4096, 3)
    torch.testing.assert_close(mesh.texture[0, 0], torch.tensor([0.0, 0, 1]))
    path = textured_obj(tmp_path, (12000, 12000))
    with pytest.raises(ValueError, match=r"a.obj .* textures of 144000000 texels in all"):
        load_shape(path)


def test_many_textures_have_one_budget(tmp_path, monkeypatch):
    """A few kB of one colour may name any number of pictures, or one picture with any number of
    tints.
    """

    def scene(count, side, tints=False):
        parts = trimesh.Scene()
        for i in range(count):
            image = Image.new("RGB", (side, side), (0, 0 if tints else i, 255))
            tint = [255, 255, 255 - i, 255] if tints else None
            material = trimesh.visual.material.PBRMaterial(
                baseColorTexture=image, baseColorFactor=tint
            )
            visual = trimesh.visual.TextureVisuals(np.float32([[0, 0], [1, 0], [0, 1]]), material)
            parts.add_geometry(
                trimesh.Trimesh(np.eye(3) + i, [[0, 1, 2]], visual=visual, process=False)
            )
        (tmp_path / "a.glb").write_bytes(parts.export(file_type="glb"))
        return tmp_path / "a.glb"

    monkeypatch.setattr(mesh_files, "TEXELS", 9_000_000)
    monkeypatch.setattr(mesh_files, "SIDE", 512)
    for tints in (False, True):
        with pytest.raises(ValueError, match=r"a.glb .* its 9 textures of 9018009 texels in all"):
            load_shape(scene(9, 1001, tints))
        assert {mesh.texture.shape for mesh in load_shape(scene(64, 200, tints))} == {(128, 128, 3)}


def test_points_that_are_no_numbers_are_named(tmp_path):
    header = (
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty"
        " float z\nend_header\n"
    )
    (tmp_path / "a.ply").write_text(header + "0 0 0\n1 nan 0\n")
    with pytest.raises(ValueError, match=r"a.ply holds points or colours that are NaN"):
        load_shape(tmp_path / "a.ply")


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
def test_a_header_of_a_million_million_points_reserves_nothing(tmp_path, encoding):
    lines = ["ply", f"format {encoding} 1.0", "element vertex 1000000000000"]
    lines += [f"property float {axis}" for axis in "xyz"] + ["end_header", ""]
    (tmp_path / "a.ply").write_bytes("\n".join(lines).encode() + bytes(120))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a.ply"):
            load_shape(tmp_path / "a.ply")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()

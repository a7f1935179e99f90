"""Meshes as glTF's specification allows them: places and colours against what it says."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from distill3d.kernels.files.mesh import load_shape
from distill3d.kernels.files.notes import notes

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "<f4")
TRIANGLES = np.array([0, 1, 2, 0, 2, 3], "<u2")
KINDS = {"f": 5126, "B": 5121, "H": 5123, "I": 5125}
RED, GREEN, BLUE, WHITE, HALF = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.5, 0.5, 0.5)
FLAT = [[0, 0, 0], [1, 1, 0]]


def quarters(mode="RGB", kind="PNG"):
    """Red above left, green above right, white below left, blue below right."""
    pixels = np.repeat(np.repeat([[RED, GREEN], [WHITE, BLUE]], 4, 0), 4, 1).astype(np.uint8) * 255
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(
        file, kind, **({"lossless": True} if kind == "WEBP" else {})
    )
    return file.getvalue()


class File:
    """A .gltf that holds everything itself."""

    def __init__(self):
        self.tree = {"asset": {"version": "2.0"}, "scene": 0}
        for key in ("accessors", "bufferViews", "buffers", "meshes", "nodes", "materials"):
            self.tree[key] = []
        for key in ("images", "textures", "samplers"):
            self.tree[key] = []

    def add(self, key, entry):
        self.tree[key].append(entry)
        return len(self.tree[key]) - 1

    def view(self, data):
        uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
        buffer = self.add("buffers", {"byteLength": len(data), "uri": uri})
        return self.add("bufferViews", {"buffer": buffer, "byteLength": len(data)})

    def rows(self, values, kind=None, **more):
        values = np.asarray(values)
        kind = kind or ("SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}")
        entry = {"bufferView": self.view(values.tobytes()), "type": kind, "count": len(values)}
        return self.add("accessors", entry | {"componentType": KINDS[values.dtype.char]} | more)

    def texture(self, data=None, **more):
        image = self.add(
            "images", {"bufferView": self.view(data or quarters()), "mimeType": "image/png"}
        )
        return self.add("textures", {"source": image} | more)

    def material(self, factor=None, texture=None, **more):
        pbr = {} if factor is None else {"baseColorFactor": [*factor, 1]}
        if texture is not None:
            pbr["baseColorTexture"] = texture if isinstance(texture, dict) else {"index": texture}
        return self.add("materials", {"pbrMetallicRoughness": pbr} | more)

    def square(
        self, material=None, indices=TRIANGLES, mode=4, node=(), places=CORNERS, **attributes
    ):
        primitive = {"attributes": {"POSITION": self.rows(places)} | attributes, "mode": mode}
        if indices is not None:
            primitive["indices"] = self.rows(indices)
        if material is not None:
            primitive["material"] = material
        mesh = self.add("meshes", {"primitives": [primitive]})
        self.add("nodes", {"mesh": mesh} | dict(node))
        return primitive

    def load(self, folder):
        self.tree.setdefault("scenes", [{"nodes": list(range(len(self.tree["nodes"])))}])
        tree = {key: value for key, value in self.tree.items() if value != []}
        (folder / "a.gltf").write_text(json.dumps(tree))
        return load_shape(folder / "a.gltf")


UV = np.array([[0.1, 0.1], [0.2, 0.1], [0.2, 0.2], [0.1, 0.2]], "<f4")  # red
FAR = UV + np.float32(0.6)  # blue
CASES = {}


def case(color=RED, box=FLAT):
    def register(make):
        CASES[make.__name__] = (make, color, box)
        return make

    return register


@case()
def factor(f):
    f.square(f.material(RED))


@case(HALF)
def colours_of_16_bits(f):
    f.square(COLOR_0=f.rows(np.full((4, 4), 14080, "<u2"), normalized=True))


@case(HALF)
def colours_of_8_bits(f):
    f.square(COLOR_0=f.rows(np.full((4, 3), 55, "u1"), normalized=True))


@case()
def white_colours_times_factor(f):
    f.square(f.material(RED), COLOR_0=f.rows(np.ones((4, 4), "<f4")))


@case()
def red_colours_times_white_texture(f):
    uv = f.rows(UV + np.array([0, 0.6], "<f4"))
    red = f.rows(np.tile(np.array([1, 0, 0], "<f4"), (4, 1)))
    f.square(f.material(texture=f.texture()), COLOR_0=red, TEXCOORD_0=uv)


@case(BLUE)
def second_coordinates(f):
    look = f.material(texture={"index": f.texture(), "texCoord": 1})
    f.square(look, TEXCOORD_0=f.rows(UV), TEXCOORD_1=f.rows(FAR))


@case(BLUE)
def required_transform(f):
    f.tree["extensionsRequired"] = ["KHR_texture_transform"]
    moved = {"KHR_texture_transform": {"offset": [0.6, 0.6]}}
    f.square(f.material(texture={"index": f.texture(), "extensions": moved}), TEXCOORD_0=f.rows(UV))


@case(GREEN)
def turned_transform(f):
    # by a quarter: (u, v) becomes (v, -u), here from the left half below to the right above
    turned = {"KHR_texture_transform": {"rotation": np.pi / 2, "offset": [0, 1], "scale": [1, 1]}}
    look = f.material(texture={"index": f.texture(), "extensions": turned})
    f.square(look, TEXCOORD_0=f.rows(UV + np.array([0.6, 0.6], "<f4")))


@case(BLUE)
def clamped(f):
    f.add("samplers", {"wrapS": 33071, "wrapT": 33071})
    f.square(f.material(texture=f.texture(sampler=0)), TEXCOORD_0=f.rows(UV + np.float32(3)))


@case(GREEN)
def mirrored(f):
    f.add("samplers", {"wrapS": 33648, "wrapT": 33648})
    uv = UV + np.array([1, 0], "<f4")  # 1.1 is 0.9 on the way back
    f.square(f.material(texture=f.texture(sampler=0)), TEXCOORD_0=f.rows(uv))


@case()
def specular_glossiness(f):
    look = f.material(
        extensions={"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [1, 0, 0, 1]}}
    )
    f.square(look)


@case()
def webp(f):
    image = f.add("images", {"bufferView": f.view(quarters(kind="WEBP")), "mimeType": "image/webp"})
    texture = f.add("textures", {"extensions": {"EXT_texture_webp": {"source": image}}})
    f.square(f.material(texture=texture), TEXCOORD_0=f.rows(UV))


@case()
def black_but_glowing(f):
    f.square(f.material((0, 0, 0), emissiveFactor=[1, 0, 0]))


@case(WHITE)
def empty_material(f):
    f.square(f.material())


@case(HALF)
def no_material(f):
    f.square()


@case(HALF)
def grey_of_16_bits(f):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(file, "PNG")
    f.square(f.material(texture=f.texture(file.getvalue())), TEXCOORD_0=f.rows(UV))


@case(box=[[0, 0, 0], [1, 5, 0]])
def sparse(f):
    at, values = (
        f.view(np.array([2, 3], "<u2").tobytes()),
        f.view(np.array([[1, 5, 0], [0, 5, 0]], "<f4").tobytes()),
    )
    f.square(f.material(RED))
    f.tree["accessors"][0]["sparse"] = {
        "count": 2, "indices": {"bufferView": at, "componentType": 5123}, "values": {"bufferView": values}
    }  # fmt: skip


@case()
def strip(f):
    f.square(f.material(RED), np.array([0, 1, 3, 2], "<u2"), 5)


@case()
def fan(f):
    f.square(f.material(RED), np.array([0, 1, 2, 3], "<u2"), 6)


@case()
def quantized(f):
    f.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    f.square(f.material(RED), node={"scale": [257, 257, 257]}, places=CORNERS.astype("u1"))
    f.tree["accessors"][0]["normalized"] = True
    f.tree["nodes"][0]["scale"] = [255, 255, 255]


@case(box=[[0, 0, 0], [1, 1, 0]])
def skinned(f):
    joint = f.add("nodes", {})
    bind = f.rows(np.eye(4, dtype="<f4").reshape(1, 16), "MAT4")
    f.tree["skins"] = [{"joints": [joint], "inverseBindMatrices": bind}]
    f.square(
        f.material(RED), places=CORNERS * np.float32(100), node={"skin": 0, "scale": [9, 9, 9]},
        JOINTS_0=f.rows(np.zeros((4, 4), "u1")), WEIGHTS_0=f.rows(np.array([[1, 0, 0, 0]] * 4, "<f4")),
    )  # fmt: skip
    top = f.add("nodes", {"scale": [0.01] * 3, "children": [joint]})
    f.tree["scenes"] = [{"nodes": [top, 1]}]


@case(box=[[0, 0, 0], [1, 3, 0]])
def morphed(f):
    move = np.array([[0, 0, 0], [0, 0, 0], [0, 4, 0], [0, 4, 0]], "<f4")
    f.square(f.material(RED))["targets"] = [{"POSITION": f.rows(move)}]
    f.tree["meshes"][0]["weights"] = [0.5]


@case(box=[[0, 0, 0], [9, 1, 0]])
def instanced(f):
    f.tree["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    places = f.rows(np.array([[0, 0, 0], [4, 0, 0], [8, 0, 0]], "<f4"))
    f.square(
        f.material(RED),
        node={"extensions": {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": places}}}},
    )


@case()
def other_scene(f):
    f.square(f.material(RED))
    f.square(f.material(BLUE), node={"translation": [9, 0, 0]})
    f.tree["scenes"] = [{"nodes": [0]}, {"nodes": [1]}]


@pytest.mark.parametrize("name", CASES)
def test_a_mesh_is_read_as_the_specification_says(tmp_path, name):
    make, color, box = CASES[name]
    file = File()
    make(file)
    parts = file.load(tmp_path)
    vertices = torch.cat([part.vertices for part in parts])
    torch.testing.assert_close(
        torch.stack([vertices.amin(0), vertices.amax(0)]),
        torch.tensor(box).float(),
        atol=2e-3,
        rtol=0,
    )
    colors = torch.cat([part.colors for part in parts])
    torch.testing.assert_close(
        colors, torch.tensor(color).float().expand_as(colors), atol=0.01, rtol=0
    )
    for part in parts:  # all squares face the viewer, strips and fans too
        a, b, c = part.vertices[part.faces].unbind(1)
        assert bool((torch.linalg.cross(b - a, c - a)[:, 2] > 0).all())


def test_varying_colours_times_a_texture_are_taken_at_the_vertices_and_told(tmp_path):
    f = File()
    colors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], "<f4")
    uv = f.rows(UV + np.array([0, 0.6], "<f4"))  # white
    f.square(f.material(texture=f.texture()), COLOR_0=f.rows(colors), TEXCOORD_0=uv)
    with notes() as heard:
        (mesh,) = f.load(tmp_path)
    assert len(heard) == 1 and "multiplied" in heard[0]
    torch.testing.assert_close(mesh.colors, torch.from_numpy(colors), atol=1e-3, rtol=0)
    assert mesh.texture is None


@pytest.mark.parametrize("name", ["KHR_texture_basisu", "EXT_meshopt_compression", "VENDOR_thing"])
def test_what_is_required_and_not_read_is_refused_by_name(tmp_path, name):
    f = File()
    f.tree["extensionsRequired"] = [name]
    f.square()
    with pytest.raises(ValueError, match=name):
        f.load(tmp_path)


def test_a_texture_that_cannot_be_read_is_named(tmp_path):
    f = File()
    texture = f.add("textures", {"extensions": {"KHR_texture_basisu": {"source": 0}}})
    f.square(f.material(texture=texture), TEXCOORD_0=f.rows(UV))
    with pytest.raises(ValueError, match="texture of KHR_texture_basisu, which is not read"):
        f.load(tmp_path)


OBJ = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\n{use}f 1/1 2/2 3/3\n"
PLY = (
    "ply\nformat ascii 1.0\ncomment TextureFile tex.png\nelement vertex 3\n"
    + "".join(f"property float {axis}\n" for axis in "xyzst")
    + "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    "0 0 0 0 0\n1 0 0 1 0\n1 1 0 1 1\n3 0 1 2\n"
)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.obj": OBJ.format(use="usemtl m\n")}, "the material file 'a.mtl' is not beside it"),
        (
            {"a.obj": OBJ.format(use="usemtl m\n"), "a.mtl": "newmtl m\nmap_Kd tex.png\n"},
            "the picture 'tex.png' is not beside it",
        ),
        (
            {
                "a.obj": OBJ.format(use="usemtl m\n"),
                "a.mtl": "newmtl m\nmap_Kd tex.png\n",
                "tex.png": "x",
            },
            "the picture 'tex.png' is no picture",
        ),
        (
            {"a.obj": OBJ.format(use="usemtl m\n"), "a.mtl": "newmtl other\nKd 1 0 0\n"},
            "its material file lacks m",
        ),
        ({"a.ply": PLY}, "the picture 'tex.png' is not beside it"),
        ({"a.ply": PLY, "tex.png": "x"}, "the picture 'tex.png' is no picture"),
    ],
)
def test_missing_pictures_and_materials_are_told(tmp_path, files, told):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with notes() as heard:
        load_shape(tmp_path / next(iter(files)))
    assert len(heard) == 1 and told in heard[0]


@pytest.mark.parametrize(
    "line", ["map_Kd -s 1 1 1 -o 0 0 0 red.png", "map_Kd -clamp on a red.png", "map_kd red.png"]
)
@pytest.mark.parametrize("use", ["usemtl m\n", ""])
def test_an_objs_picture_is_found_behind_options_and_without_usemtl(tmp_path, line, use):
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "red.png")
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "a red.png")
    (tmp_path / "a.mtl").write_text(f"newmtl m\n{line}\n")
    (tmp_path / "a.obj").write_text(OBJ.format(use=use))
    with notes() as heard:
        (mesh,) = load_shape(tmp_path / "a.obj")
    assert not heard
    assert mesh.colors[0].tolist() == [1, 0, 0]

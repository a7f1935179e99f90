"""Files as other people's readers understand them: the Khronos glTF validator, three.js and Spark.

What these viewers draw in a headless Chromium is compared with our own pictures, from the same
camera. Half a turn about X is all that they are told beyond the file itself, and of splat files
other than glTF only, as in their examples.
"""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.files.export import save_mesh
from distill3d.kernels.files.formats import FORMATS
from distill3d.kernels.files.frame import mirrored
from distill3d.kernels.gaussians.cloud import SH_C0, Gaussians
from distill3d.kernels.init.surface import from_mesh
from distill3d.kernels.meshes.cleanup import simplify
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.normal_map import add_normal_map
from distill3d.kernels.meshes.rasterize import render_mesh
from distill3d.kernels.meshes.texture import add_texture
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.toybox.captions import parse
from distill3d.kernels.toybox.meshes import mesh as toy_mesh
from distill3d.kernels.toybox.meshes import mesh_colors

HERE = Path(__file__).resolve().parent
SIZE = 256  # pixels
CAMERA = orbit(35.0, 20.0, 2.2, size=SIZE)
GREY = 0.5
PLAIN = (0.8, 0.4, 0.2)  # colour of meshes in files without any
VIEW = {
    "plain": "#cc6633",
    "viewmat": CAMERA.viewmats[0].tolist(),
    "fov": 40.0,
    "size": SIZE,
    "background": GREY,
    "frames": 12,
}

# Reader and format, and the least PSNR in dB between its picture and ours.
SPLATS = {
    ("spark", "ply"): 35.0,
    ("spark", "compressed ply"): 35.0,
    ("spark", "splat"): 35.0,
    ("spark", "spz"): 35.0,
    ("spark", "spz 2"): 35.0,
    ("spark", "sog"): 35.0,
    ("three", "ply"): 33.0,  # it cuts Gaussians off at two standard deviations
    ("three", "splat"): 33.0,
    ("three", "spz 2"): 33.0,
    ("three", "glb"): 33.0,
}
GLBS = ("textured", "colored", "small", "mapped")
MESHES = {
    ("gltf", "textured"): 35.0,
    ("gltf", "colored"): 35.0,
    ("gltf", "small"): 35.0,
    ("obj", "textured"): 35.0,
    ("obj", "colored"): 35.0,
    ("ply", "colored"): 35.0,
    ("stl", "plain"): 35.0,
}

# Reader and file, drawn by the directions that they face: the mesh of few triangles with its normal
# map and without, and the one that it was made of.
NORMALS = [("gltf", "mapped"), ("obj", "mapped"), ("gltf", "simplified"), ("gltf", "colored")]


def duck() -> Mesh:
    vertices, faces = toy_mesh("duck", 64)
    return Mesh(vertices, faces, mesh_colors(parse("a yellow duck"), vertices).clamp(0, 1))


def cloud() -> Gaussians:
    """A duck, which no turn brings onto itself, and three ellipsoids; not opaque, coloured by
    direction.
    """
    body = from_mesh(duck(), 3000, size=None, opacity_logit=-1.0, sh_degree=1)
    balls = Gaussians(
        means=torch.tensor([[0.45, 0.1, 0.25], [-0.1, 0.5, 0.0], [0.1, -0.3, 0.45]]),
        log_scales=torch.tensor([[0.1, 0.03, 0.05], [0.12, 0.04, 0.04], [0.03, 0.1, 0.05]]).log(),
        quats=torch.nn.functional.normalize(
            torch.tensor([[1.0, 0.3, 0.0, 0.2], [1.0, 0.0, 0.4, 0.3], [1.0, -0.2, 0.5, 0.0]]),
            dim=-1,
        ),
        opacity_logits=torch.tensor([0.0, 0.5, -0.5]),
        sh=torch.nn.functional.pad((torch.eye(3)[:, None] - 0.5) / SH_C0, (0, 0, 0, 3)),
    )
    body.sh[:, 1:] = torch.tensor([[0.2, -0.1, 0.1], [-0.1, -0.2, 0.2], [-0.3, 0.1, 0.2]])
    parts = zip(body.tensors().items(), balls.tensors().values(), strict=True)
    return Gaussians(**{key: torch.cat([one, two]) for (key, one), two in parts})


def picture(gaussians: Gaussians) -> np.ndarray:
    with torch.no_grad():
        return render(gaussians, CAMERA, GREY, depth=False).color[0].numpy()


def file_of(format: str) -> str:
    return f"{format.replace(' ', '_')}.{FORMATS[format].kind}"


def mesh_file(reader: str, name: str) -> str:
    return f"{name}{'_mesh' if reader == 'ply' else ''}.{'glb' if reader == 'gltf' else reader}"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, object]:
    """The folder of all files, and what each must look like: pictures [H,W,3], 0..1."""
    folder = tmp_path_factory.mktemp("files")
    splat, mesh = cloud(), duck()
    for name, format in FORMATS.items():
        format.save(splat, folder / file_of(name))
    textured = add_texture(mesh, from_mesh(mesh, 6000, size=None, opacity_logit=4.0), 256, views=24)
    plain = replace(mesh, colors=torch.tensor(PLAIN).expand_as(mesh.colors).contiguous())
    shapes = {"textured": textured, "colored": mesh, "plain": plain}
    for reader, name in MESHES:
        save_mesh(
            shapes.get(name, mesh),
            folder / mesh_file(reader, name),
            scale=0.6 if name == "small" else 1.0,
        )
    few = add_texture(
        simplify(mesh, 1000), from_mesh(mesh, 3000, size=None, opacity_logit=4.0), 512, views=24
    )
    mapped = add_normal_map(few, mesh, 512)
    for name, shape in (("mapped.glb", mapped), ("mapped.obj", mapped), ("simplified.glb", few)):
        save_mesh(shape, folder / name)
    # .splat has one colour per Gaussian.
    looks = {
        name: picture(replace(splat, sh=splat.sh[:, :1]) if name == "splat" else splat)
        for name in FORMATS
    }
    shapes["small"] = Mesh(mesh.vertices * 0.6, mesh.faces, mesh.colors)
    for name, shape in shapes.items():
        looks[name] = render_mesh(shape, CAMERA, GREY).color[0].numpy()
    counts = {
        "glb": len(splat),
        "textured": len(textured.vertices),
        "colored": len(mesh.vertices),
        "small": len(mesh.vertices),
        "mapped": len(few.vertices),
    }
    return {
        "folder": folder,
        "looks": looks,
        "count": len(splat),
        "faces": len(mesh.faces),
        "vertices": counts,
    }


@pytest.fixture(scope="module")
def shown(browser, written) -> dict:
    """What each viewer told, with its picture [H,W,3] 0..1."""
    folder = written["folder"]
    shows = [
        {"reader": reader, "file": file_of(kind), "name": f"{reader} {kind}"}
        for reader, kind in SPLATS
    ]
    shows += [
        {"reader": reader, "file": mesh_file(reader, name), "name": f"{reader} {name}"}
        for reader, name in MESHES
    ]
    shows += [
        {
            "reader": f"{reader}_normals",
            "file": mesh_file(reader, name),
            "name": f"{reader} normals {name}",
        }
        for reader, name in NORMALS
    ]
    settings = folder / "settings.json"
    settings.write_text(
        json.dumps({"browser": browser, "folder": str(folder), "view": VIEW, "shows": shows})
    )
    command = ["node", HERE / "readers_scenario.mjs", settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def decibels(one: np.ndarray, two: np.ndarray) -> float:
    return -10 * math.log10(float(((one - two) ** 2).mean()))


def seen(written, shown, name: str) -> np.ndarray:
    """The viewer's picture; it must have drawn one without any complaint."""
    told = shown["told"][name]
    assert "failure" not in told and not told["said"], told
    return (
        np.asarray(Image.open(written["folder"] / f"{name}.png").convert("RGB"), np.float32) / 255
    )


@pytest.mark.parametrize(("reader", "format"), SPLATS)
def test_a_splat_looks_in_other_viewers_as_in_ours(written, shown, reader, format):
    name = f"{reader} {format}"
    found = decibels(seen(written, shown, name), written["looks"][format])
    print(f"{name}: {found:.1f} dB")
    assert found >= SPLATS[reader, format]
    assert shown["told"][name]["count"] == written["count"]


@pytest.mark.parametrize(("reader", "name"), MESHES)
def test_a_mesh_looks_in_three_js_as_in_ours(written, shown, reader, name):
    found = decibels(seen(written, shown, f"{reader} {name}"), written["looks"][name])
    print(f"{reader} {name}: {found:.1f} dB")
    assert found >= MESHES[reader, name]
    assert shown["told"][f"{reader} {name}"]["count"] == written["faces"]


@pytest.mark.parametrize("reader", ["gltf", "obj"])
def test_a_normal_map_gives_few_triangles_the_directions_of_many_in_three_js(
    written, shown, reader
):
    pictures = {
        name: seen(written, shown, f"{kind} normals {name}")
        for kind, name in NORMALS
        if kind == "gltf"
    }
    inside = (abs(pictures["colored"] - pictures["colored"][0, 0]).max(-1) > 0.02) & (
        abs(pictures["simplified"] - pictures["simplified"][0, 0]).max(-1) > 0.02
    )
    few, many = pictures["simplified"][inside], pictures["colored"][inside]
    mapped = seen(written, shown, f"{reader} normals mapped")[inside]
    print(
        f"{reader}: {decibels(few, many):.1f} dB without the map, {decibels(mapped, many):.1f}"
        " with it"
    )
    assert inside.sum() > 5000 and decibels(mapped, many) > decibels(few, many) + 3


def test_no_viewer_asks_for_anything_from_outside(shown):
    assert shown["outside"] == []


def test_wrong_axes_colours_and_opacities_would_be_seen():
    right, splat = picture(cloud()), cloud()
    wrong = {
        f"axes {signs}": mirrored(splat, *signs)
        for signs in [(1, -1, -1), (-1, 1, -1), (-1, 1, 1), (1, 1, -1)]
    }
    wrong["quaternions"] = replace(splat, quats=mirrored(splat, 1, -1, -1).quats)
    wrong["harmonics"] = replace(splat, sh=mirrored(splat, 1, -1, -1).sh)
    wrong["opacities squashed twice"] = replace(splat, opacity_logits=splat.opacities)
    wrong["scales"] = replace(splat, log_scales=splat.log_scales + 0.3)
    wrong["linear colours"] = replace(
        splat,
        sh=torch.cat(
            [(splat.colors.clamp(0, 1)[:, None] ** 2.2 - 0.5) / SH_C0, splat.sh[:, 1:]], 1
        ),
    )
    found = {name: decibels(picture(other), right) for name, other in wrong.items()}
    assert max(found.values()) < min(SPLATS.values()), found


VALIDATE = """
const [fs, validator] = [require('fs'), require('gltf-validator')];
const told = process.argv.slice(1).map(file =>
  validator.validateBytes(new Uint8Array(fs.readFileSync(file)), { maxIssues: 1000 }));
Promise.all(told).then(reports => console.log(JSON.stringify(reports)));
"""


def test_the_khronos_validator_finds_no_fault_in_any_glb(modules, written):
    names = [*GLBS, "glb"]
    files = [str(written["folder"] / f"{name}.glb") for name in names]
    done = subprocess.run(
        ["node", "-e", VALIDATE, *files], capture_output=True, text=True, check=True, cwd=HERE
    )
    for name, report in zip(names, json.loads(done.stdout), strict=True):
        assert report["info"]["totalVertexCount"] == written["vertices"][name], name
        for issue in report["issues"]["messages"]:
            # That it does not know the extension yet, and so not its attributes' names, is all that
            # it may say.
            key = {
                "UNSUPPORTED_EXTENSION": "message",
                "MESH_PRIMITIVE_INVALID_ATTRIBUTE": "pointer",
            }.get(issue["code"])
            assert name == "glb" and key and "KHR_gaussian_splatting" in issue[key], (name, issue)


def test_the_validator_would_find_a_fault(modules, written, tmp_path):
    data = written["folder"].joinpath("colored.glb").read_bytes()
    tmp_path.joinpath("bad.glb").write_bytes(data.replace(b'"COLOR_0"', b'"COLOR_x"'))
    command = ["node", "-e", VALIDATE, str(tmp_path / "bad.glb")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    assert json.loads(done.stdout)[0]["issues"]["numErrors"] > 0

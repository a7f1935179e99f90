"""The subgraph blueprint: offered by the server, and running to its end from nothing but its
defaults.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path

import plyfile
import pytest
import trimesh
from harness import prompts

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAME = "Text to 3D (Distill3D)"
PRESET, LOSS, OPTIMIZE = "Distill3D_QualityPreset", "Distill3D_CDSLoss", "Distill3D_Optimize"
INIT, MESH = "Distill3D_InitText", "Distill3D_ExportMesh"
PENALTIES = "Distill3D_Penalties"
# Where each of the preset's numbers belongs.
GOES_TO = {
    "steps": OPTIMIZE, "views": OPTIMIZE, "count": INIT, "lambda_opacity": PENALTIES,
    "resolution": MESH, "texture_size": MESH,
}  # fmt: skip


@pytest.fixture(scope="module")
def blueprint():
    return prompts.read_blueprint(NAME)


@pytest.fixture(scope="module")
def presets(comfyui, object_info):
    """What the node gives, by quality, as text."""
    names = object_info[PRESET]["output_name"]
    found = {}
    for quality in object_info[PRESET]["input"]["required"]["quality"][1]["options"]:
        prompt = {"preset": {"class_type": PRESET, "inputs": {"quality": quality}}}
        for slot, name in enumerate(names):
            prompt[name] = {"class_type": "PreviewAny", "inputs": {"source": ["preset", slot]}}
        run = comfyui.run(prompt)
        assert run.status == "success", run.error
        found[quality] = {name: run.history["outputs"][name]["text"][0] for name in names}
    return found


def of_kind(prompt, kind):
    (id,) = prompts.of_type(prompt, kind)
    return prompt[id]["inputs"]


def test_server_offers_every_blueprint_as_it_is(comfyui):
    listed = {
        id: entry
        for id, entry in comfyui.get("/global_subgraphs").items()
        if "distill3d" in str(entry["info"])
    }
    assert {entry["name"] for entry in listed.values()} == {
        file.stem for file in prompts.BLUEPRINTS.iterdir()
    }
    for id, entry in listed.items():
        assert entry["source"] == "custom_node"
        assert json.loads(comfyui.get(f"/global_subgraphs/{id}")["data"]) == prompts.read_blueprint(
            entry["name"]
        )


def test_page_finds_what_it_needs_to_list_it(blueprint):
    """One node, of the subgraph's type; description and other names where the node library looks
    for them.
    """
    (node,) = blueprint["nodes"]
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"] and node["title"] == subgraph["name"] == NAME
    assert (
        len(blueprint["extra"]["BlueprintDescription"]) > 100
        and blueprint["extra"]["BlueprintSearchAliases"]
    )
    for side in ("inputs", "outputs"):
        assert [(slot["name"], slot["type"]) for slot in node[side]] == [
            (slot["name"], slot["type"]) for slot in subgraph[side]
        ]


def test_widgets_of_the_subgraph_are_those_its_inputs_lead_to(blueprint):
    (node,), (subgraph,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    shown = [
        tuple(pair) for pair in node["properties"]["proxyWidgets"] if not pair[1].startswith("$$")
    ]
    inner = {part["id"]: part for part in subgraph["nodes"]}
    first = {slot["name"]: slot["linkIds"][0] for slot in subgraph["inputs"]}
    links = {link["id"]: link for link in subgraph["links"]}
    assert shown == [
        (
            str(links[id]["target_id"]),
            inner[links[id]["target_id"]]["inputs"][links[id]["target_slot"]]["name"],
        )
        for id in first.values()
    ]


def test_every_link_is_known_at_both_of_its_ends(blueprint):
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for link in subgraph["links"]:
        origin, target = link["origin_id"], link["target_id"]
        source = subgraph["inputs"] if origin == -10 else nodes[origin]["outputs"]
        sink = subgraph["outputs"] if target == -20 else nodes[target]["inputs"]
        assert link["id"] in (
            source[link["origin_slot"]].get("linkIds") or source[link["origin_slot"]]["links"]
        )
        slot = sink[link["target_slot"]]
        assert link["id"] in slot.get("linkIds", [slot.get("link")]), slot["name"]


@pytest.mark.parametrize("where", ["blueprint", "quickstart"])
def test_each_number_of_the_preset_goes_to_the_input_of_its_name(blueprint, object_info, where):
    prompt = prompts.api_form(
        blueprint if where == "blueprint" else prompts.read(where), object_info
    )
    (preset,) = prompts.of_type(prompt, PRESET)
    assert prompt[preset]["inputs"] == {"quality": "auto"}
    assert object_info[PRESET]["output_name"] == list(GOES_TO)
    for slot, (name, kind) in enumerate(GOES_TO.items()):
        assert of_kind(prompt, kind)[name] == [preset, slot]
    for slot, name in enumerate(GOES_TO):
        assert f"To {name} of " in object_info[PRESET]["output_tooltips"][slot]


def test_standard_is_the_quickstart(blueprint, presets, object_info):
    ours = prompts.api_form(blueprint, object_info)
    theirs = prompts.api_form(prompts.without_preset(prompts.read("quickstart")), object_info)
    for name, kind in GOES_TO.items():
        assert json.loads(presets["standard"][name]) == of_kind(theirs, kind)[name], name
    for kind in (*set(GOES_TO.values()), LOSS, "Distill3D_OrbitCameras", "Distill3D_ViewPrompts"):
        own = {
            name: value
            for name, value in of_kind(ours, kind).items()
            if not isinstance(value, list) and name != "filename_prefix"
        }
        assert own.items() <= of_kind(theirs, kind).items(), kind


@pytest.mark.parametrize(
    ("quality", "files"),
    [("draft", [64, 256]), ("standard", [96, 512]), ("fine", [96, 1024]), ("high", [128, 1024])],
)
def test_presets_have_the_settings_that_were_measured(presets, quality, files):
    """The benchmark's sweep of the same names, and what the mesh gets; high is fine with a finer
    mesh.
    """
    sys.path.insert(0, str(BENCHMARKS))
    plan = importlib.import_module("quality_plan")
    (config,) = (
        c
        for c in json.loads((BENCHMARKS / "sweeps/quickstart.json").read_text())
        if c["name"] == ("fine" if quality == "high" else quality)
    )
    measured = plan.build("cds", config["steps"], "auto", config["set"])
    loop, start = measured.settings, measured.init
    assert [json.loads(presets[quality][name]) for name in GOES_TO] == [
        measured.steps, loop.views, start.count, loop.lambda_opacity, *files,
    ]  # fmt: skip


def test_auto_is_what_a_cpu_affords_here(presets):
    assert presets["auto"] == presets["standard"]


@pytest.mark.parametrize(
    "quality", ["draft", pytest.param("high", marks=pytest.mark.nightly(reason="as draft"))]
)
def test_it_runs_to_the_end_and_leaves_a_mesh_and_a_splat(comfyui, blueprint, object_info, quality):
    prompt = prompts.reduced(prompts.api_form(blueprint, object_info), steps=3)
    prompt = prompts.set_values(prompt, PRESET, quality=quality)
    prompt = prompts.set_values(prompt, OPTIMIZE, seed=77)
    of_kind(prompt, OPTIMIZE)["views"] = 2
    (preset,) = prompts.of_type(prompt, PRESET)
    of_kind(prompt, INIT)["count"] = [preset, list(GOES_TO).index("count")]
    # Opaque from the start: three steps are too few for a surface. A coarse mesh, as elsewhere in
    # the tests.
    prompt = prompts.set_values(prompt, INIT, opacity=0.9)
    of_kind(prompt, MESH)["resolution"] = 32
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    (optimize,) = prompts.of_type(prompt, OPTIMIZE)
    assert ":" in optimize and run.progress(optimize)[-1] == (3, 3)
    ply = plyfile.PlyData.read(io.BytesIO(comfyui.fetch(run, ".ply")))
    assert ply["vertex"].count == {"draft": 4000, "high": 20_000}[quality]
    assert (
        len(
            trimesh.load(
                io.BytesIO(comfyui.fetch(run, ".glb")), file_type="glb", force="mesh"
            ).faces
        )
        > 100
    )
    assert [file["filename"].endswith(".png") for file in run.files].count(True) == 8  # the preview

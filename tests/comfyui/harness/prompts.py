"""Workflow files as the server wants them: UI form to API form, and a few values set otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .environment import ROOT

WORKFLOWS = ROOT / "workflows"
# of the files: some pages show and search nothing of a template but its file's name
PREFIX = "distill3d_"
NAMES = sorted(file.stem.removeprefix(PREFIX) for file in WORKFLOWS.glob("*.json"))
# those of published recipes, see `recipes`, which want a model; and those with the embedded prior
RECIPES = [name for name in NAMES if name.endswith(("_sd", "_sd_long"))]
EMBEDDED = [name for name in NAMES if name not in RECIPES]
BLUEPRINTS = ROOT / "subgraphs"
NODES = {
    f"Distill3D_{name}"
    for name in (
        "LoadDiffusionPrior", "DiffusionPriorFromModel", "ViewPrompts", "OrbitCameras", "InitGaussians", "InitShapE",
        "CDSLoss", "VDMLoss", "PictureLoss", "ScheduleLosses", "DegradationMap", "LearningRates", "Penalties",
        "Densification", "Refining", "RunOptions", "MeshPenalties", "InitText",
        "SDSLoss", "CSDLoss", "NFSDLoss", "ISMLoss", "VSDLoss", "SDILoss", "SCTDLoss", "RFDSLoss",
        "CombineLosses", "TraCeLoss", "RewardLoss", "PictureScorer", "Optimize",
        "RenderViews", "ScoreViews", "InspectGuidance", "ExportMesh", "RefineMesh", "SaveGaussians",
        "LoadGaussians", "ToyboxTruth", "SceneCameras", "InitScene", "InitMesh", "InitSplat", "PreviewGaussians",
        "QualityPreset", "ControlPrior", "Recover", "SamplePicture", "ReferenceViews", "CutSheet",
        "ProjectPictures",
    )
}  # fmt: skip
WITH_SPLAT = {"Distill3D_InitSplat"}  # only where ComfyUI has the SPLAT type, from 0.24.1 on
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
CONTROL_VALUES = {"fixed", "increment", "decrement", "randomize"}
# by the inputs of Optimize that they go to
SETTINGS = {
    "learning_rates": "Distill3D_LearningRates",
    "penalties": "Distill3D_Penalties",
    "densification": "Distill3D_Densification",
    "refining": "Distill3D_Refining",
    "options": "Distill3D_RunOptions",
}
NOT_EXECUTED = {"Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4


def read(name: str) -> dict:
    """A shipped workflow, UI form, by one of `NAMES`."""
    return json.loads(file_of(name).read_text(encoding="utf-8"))


def file_of(name: str) -> Path:
    return WORKFLOWS / f"{PREFIX}{name}.json"


def read_blueprint(name: str) -> dict:
    """A shipped subgraph blueprint, as a workflow in UI form whose one node is the subgraph."""
    return json.loads(BLUEPRINTS.joinpath(f"{name}.json").read_text(encoding="utf-8"))


def without_preset(workflow: dict) -> dict:
    """The workflow, UI form, with the numbers that stand in its nodes and no Quality Preset that
    gives them others.
    """
    (preset,) = (
        node["id"] for node in workflow["nodes"] if node["type"] == "Distill3D_QualityPreset"
    )
    gone = {link[0] for link in workflow["links"] if link[1] == preset}
    nodes = [
        node | {"inputs": [slot for slot in node.get("inputs", []) if slot.get("link") not in gone]}
        for node in workflow["nodes"]
        if node["id"] != preset
    ]
    return workflow | {
        "nodes": nodes,
        "links": [link for link in workflow["links"] if link[0] not in gone],
    }


def with_only(workflow: dict, kinds: set[str]) -> dict:
    """The workflow, UI form, with the nodes of these types alone, and the links between them."""
    nodes = [node for node in workflow["nodes"] if node["type"] in kinds]
    ids = {node["id"] for node in nodes}
    links = [link for link in workflow["links"] if {link[1], link[3]} <= ids]
    there = {link[0] for link in links}

    def tied(node: dict) -> dict:
        inputs = [
            slot | {"link": slot.get("link") if slot.get("link") in there else None}
            for slot in node.get("inputs", [])
        ]
        outputs = [
            slot | {"links": [link for link in slot.get("links") or [] if link in there]}
            for slot in node.get("outputs", [])
        ]
        return node | {"inputs": inputs, "outputs": outputs}

    return workflow | {"nodes": [tied(node) for node in nodes], "links": links}


def api_form(workflow: dict, object_info: dict) -> dict:
    """The API form of a UI-form workflow, as the page would queue it; nodes of a subgraph get ids
    "outer:inner".

    Raises ValueError for what shipped graphs do not have: reroutes, bypassed nodes, unknown node
    types.
    """
    prompt = {}
    for id, node, sources in _Graph(workflow).nodes():
        kind, mode = node["type"], node.get("mode", 0)
        if kind in NOT_EXECUTED or mode == MUTED:
            continue
        if mode == BYPASSED:
            raise ValueError(f"node {id} ({kind}) is bypassed; that is not handled here.")
        if kind not in object_info:
            raise ValueError(f"node {id} is of type {kind!r}, which the server does not know.")
        inputs = _widget_values(node, object_info[kind]) | sources
        title = node.get("title") or object_info[kind].get("display_name") or kind
        prompt[id] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    for node in prompt.values():  # what a muted node would have given is not there
        node["inputs"] = {
            name: value
            for name, value in node["inputs"].items()
            if not (_is_link(value) and value[0] not in prompt)
        }  # fmt: skip
    return prompt


class _Graph:
    """A workflow, or a subgraph where a node of its type stands; sources are [node id, output], as
    in API form.
    """

    INPUTS, OUTPUTS = -10, -20  # a subgraph's boundary, as node ids in its links

    def __init__(
        self,
        graph: dict,
        subgraphs: dict | None = None,
        prefix: str = "",
        given: list | None = None,
    ):
        found = graph.get("definitions", {}).get("subgraphs", [])
        self.graph, self.prefix, self.given = graph, prefix, given or []
        self.subgraphs = (
            subgraphs if subgraphs is not None else {part["id"]: part for part in found}
        )
        self.by_id = {node["id"]: node for node in graph["nodes"]}
        self.origins, self.outputs = {}, {}
        for link in graph["links"]:
            if isinstance(link, dict):  # in subgraphs
                link = [
                    link[key]
                    for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")
                ]
            self.origins[link[0]] = (link[1], link[2])
            if link[3] == self.OUTPUTS:
                self.outputs[link[4]] = (link[1], link[2])

    def nodes(self) -> Iterator[tuple[str, dict, dict]]:
        """(id, node, {input: source}) of every node that is no subgraph."""
        for node in self.graph["nodes"]:
            if node["type"] in self.subgraphs:
                yield from self.inside(node).nodes()
            else:
                sources = {
                    slot["name"]: self.source(slot.get("link")) for slot in node.get("inputs", [])
                }
                found = {name: source for name, source in sources.items() if source is not None}
                yield f"{self.prefix}{node['id']}", node, found

    def inside(self, node: dict) -> _Graph:
        if node.get("widgets_values"):
            raise ValueError(
                f"subgraph node {node['id']} has values of its own; only those inside it are read"
                " here."
            )
        given = [self.source(slot.get("link")) for slot in node.get("inputs", [])]
        return _Graph(
            self.subgraphs[node["type"]], self.subgraphs, f"{self.prefix}{node['id']}:", given
        )

    def source(self, link: int | None) -> list | None:
        return None if link is None else self.at(*self.origins[link])

    def at(self, id: int, slot: int) -> list | None:
        if id == self.INPUTS:
            return self.given[slot]
        if self.by_id[id]["type"] in self.subgraphs:
            inner = self.inside(self.by_id[id])
            return inner.at(*inner.outputs[slot])
        return [f"{self.prefix}{id}", slot]


def of_type(prompt: dict, class_type: str) -> list[str]:
    """Ids of the nodes of that type."""
    return [id for id, node in prompt.items() if node["class_type"] == class_type]


def set_values(prompt: dict, class_type: str, /, **values: Any) -> dict:
    """The prompt with these inputs of every node of that type set; links among them stay, but for
    those to a Quality Preset's numbers. Raises ValueError."""
    ids = of_type(prompt, class_type)
    if not ids:
        raise ValueError(
            f"the workflow has no {class_type} node, whose {', '.join(values)} should be set."
        )
    changed, presets = dict(prompt), of_type(prompt, "Distill3D_QualityPreset")
    for id in ids:
        inputs = prompt[id]["inputs"]
        new = {
            name: value
            for name, value in values.items()
            if not _is_link(inputs.get(name)) or inputs[name][0] in presets
        }
        changed[id] = prompt[id] | {"inputs": inputs | new}
    return changed


def with_settings(prompt: dict, object_info: dict, /, **values: Any) -> dict:
    """The prompt with these inputs of Learning Rates, Penalties, Densification, Refining or Run
    Options for every Optimize: in the nodes of that kind, and where an Optimize has none in a new
    one. Raises ValueError for an input of none of them."""
    changed, left = dict(prompt), set(values)
    for socket, kind in SETTINGS.items():
        inputs = object_info[kind]["input"]
        defaults = {
            name: spec[1]["default"]
            for name, spec in (inputs["required"] | inputs.get("optional", {})).items()
            if "default" in spec[1]
        }
        own = {name: value for name, value in values.items() if name in defaults}
        left -= own.keys()
        if not own:
            continue
        for id in of_type(prompt, "Distill3D_Optimize"):
            inputs = changed[id]["inputs"]
            if socket not in inputs:
                changed[f"{id} {socket}"] = {"class_type": kind, "inputs": dict(defaults)}
                changed[id] = changed[id] | {"inputs": inputs | {socket: [f"{id} {socket}", 0]}}
        changed = set_values(changed, kind, **own)
    if left:
        raise ValueError(f"no settings node has an input {', '.join(sorted(left))}.")
    return changed


def settings_of(prompt: dict, id: str) -> dict:
    """What the settings nodes of that Optimize say, by input, and its own inputs."""
    inputs = prompt[id]["inputs"]
    linked = (prompt[inputs[socket][0]]["inputs"] for socket in SETTINGS if socket in inputs)
    return {name: value for each in (*linked, inputs) for name, value in each.items()}


def with_steps(prompt: dict, steps: int) -> dict:
    """The prompt with so many steps per Optimize node; a schedule over several of them shrinks with
    them.
    """
    ids = of_type(prompt, "Distill3D_Optimize")
    total = steps * len(ids)
    for id in ids:
        planned = prompt[id]["inputs"].get("schedule_steps", 0)
        inputs = prompt[id]["inputs"] | {"steps": steps, "schedule_steps": total if planned else 0}
        prompt = prompt | {id: prompt[id] | {"inputs": inputs}}
    return prompt


def with_seed(prompt: dict, seed: int) -> dict:
    """The prompt with every seed set."""
    return {
        id: node | {"inputs": node["inputs"] | ({"seed": seed} if "seed" in node["inputs"] else {})}
        for id, node in prompt.items()
    }


def reduced(prompt: dict, steps: int) -> dict:
    """The prompt small enough for a test: few steps and views, small pictures, coarse mesh."""
    small = {
        "Distill3D_Optimize": {"views": 2},
        "Distill3D_RefineMesh": {"steps": steps, "views": 2},
        "Distill3D_RenderViews": {"views": 4, "size": 64},
        "Distill3D_ToyboxTruth": {"views": 4, "size": 64},
        "Distill3D_ExportMesh": {"resolution": 32, "texture_size": 128},
        "Distill3D_ScoreViews": {"views": 3},
        "Distill3D_InspectGuidance": {"views": 2},
        # Opaque from the start, or so few steps would leave no surface to mesh.
        "Distill3D_InitGaussians": {"count": 4000, "scale": 0.04, "opacity": 0.5},
        "Distill3D_InitText": {"count": 4000},
        "Distill3D_InitScene": {"ground_count": 300, "sky_count": 100, "object_count": 200},
    }
    prompt = with_steps(prompt, steps)
    for class_type, values in small.items():
        if of_type(prompt, class_type):
            prompt = set_values(prompt, class_type, **values)
    return prompt


def _widget_values(node: dict, info: dict) -> dict:
    """Names for the positional ``widgets_values``, which follow the schema's order; widgets that
    are newer than the workflow have their defaults, as on the page."""
    values = list(node.get("widgets_values") or [])
    named = {}
    for name, spec in _inputs(info):
        options = spec[1] if len(spec) > 1 else {}
        kind = "COMBO" if isinstance(spec[0], list) else spec[0]
        if kind not in WIDGET_TYPES or options.get("forceInput"):
            continue
        if not values:
            if "default" in options:
                named[name] = options["default"]
            continue
        named[name] = values.pop(0)
        # The page adds a widget of its own behind seeds.
        if options.get("control_after_generate") and values and values[0] in CONTROL_VALUES:
            values.pop(0)
    return named


def _inputs(info: dict) -> list[tuple[str, list]]:
    return [
        (name, spec)
        for group in ("required", "optional")
        for name, spec in info["input"].get(group, {}).items()
    ]


def _is_link(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )

"""What stands where in the workflows of published recipes, and what is linked: see `recipes`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from .opening import NOTE_WIDTH, note_height, opening
from .prompts import WIDGET_TYPES

SPACE = uuid.UUID("5a0d4f0e-7f35-4e51-9d1e-0d4dfd0c6f5b")
LOAD, TEXTS = "Load Diffusion Prior", "View Prompts"
SETTINGS = ("Learning Rates", "Penalties", "Densification", "Run Options")
KEEP = (
    (("Keep", "Render Views", "Save Gaussians", "Export Mesh"),),
    (("Keep", "Save the turn", "Preview splat", "Preview mesh"),),
)
ALL_SIDES = "The result from 8 sides"
# nodes that are not called as their kind is
KINDS = {
    "Save the turn": "SaveAnimatedWEBP",
    "Save the turn inside": "SaveAnimatedWEBP",
    "Preview splat": "Preview3D",
    "Preview mesh": "Preview3D",
    "Preview refined mesh": "Preview3D",
    "Around the scene": "Distill3D_RenderViews",
    "Around from its middle": "Distill3D_RenderViews",
    ALL_SIDES: "PreviewImage",
    "Small renders": "PreviewImage",
    "After the coarse stage": "PreviewImage",
}
ALIASES = {"Distill3D_Optimize": "Optimize"}
UNTITLED = {"Save the turn", "Save the turn inside"}
CORE = {  # sockets and values as the page writes them
    "Preview3D": (
        {"camera_info": "LOAD3D_CAMERA", "bg_image": "IMAGE"},
        ["", ""],
    ),
    "PreviewImage": ({}, []),
    "SaveAnimatedWEBP": ({}, ["", 12.0, False, 90, "default"]),
}
# graph units, of the nodes as the page shows them, with their advanced inputs hidden
WIDTH, COLUMN, GAP, TOP, EDGE = 360, 420, 68, 84, 20
NOTE_GAP = 50
HEIGHTS = {
    "CDSLoss": 228, "CSDLoss": 162, "DegradationMap": 170, "Densification": 195, "ExportMesh": 292,
    "InitGaussians": 195, "InitScene": 222, "ISMLoss": 162, "LearningRates": 297,
    "LoadDiffusionPrior": 163, "MeshPenalties": 228, "Optimize": 668, "OrbitCameras": 195,
    "Penalties": 260, "RefineMesh": 439, "RenderViews": 274, "RunOptions": 228,
    "SaveGaussians": 195, "SceneCameras": 195, "SCTDLoss": 162, "SDILoss": 162, "SDSLoss": 162,
    "VDMLoss": 228, "ViewPrompts": 287, "VSDLoss": 162,
    "PreviewImage": 300, "Preview3D": 420, "SaveAnimatedWEBP": 380,
}  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """Columns from left to right of groups, each (title, titles of its nodes), of which those of
    one title are one; and links, {node: {input: node}}.
    """

    columns: tuple[tuple[tuple[str, ...], ...], ...]
    links: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def titles(self) -> list[str]:
        return [title for column in self.columns for _, *titles in column for title in titles]


def graph(form: str, loss: str) -> Graph:
    """form: "object" | "two sizes" | "stages" | "scene"; loss: its node's title, which "stages" has
    three of.
    """
    forms = {"object": _object, "two sizes": _two_sizes, "scene": _scene}
    made = _stages() if form == "stages" else forms[form](loss)
    made.links[TEXTS] = {"prior": LOAD}
    return made


def _run(loss: str, cameras: str = "Orbit Cameras", options: str = SETTINGS[3]) -> dict[str, str]:
    return {
        "prior": LOAD, "prompts": TEXTS, "cameras": cameras, "gaussians": "Init Gaussians",
        "loss": loss, "learning_rates": SETTINGS[0], "penalties": SETTINGS[1],
        "densification": SETTINGS[2], "options": options,
    }  # fmt: skip


def _kept(cloud: str) -> dict[str, dict[str, str]]:
    made = ("Render Views", "Save Gaussians", "Export Mesh")
    return {title: {"gaussians": cloud} for title in made} | {
        "Save the turn": {"images": "Render Views"},
        "Preview splat": {"model_file": "Save Gaussians"},
        "Preview mesh": {"model_file": "Export Mesh"},
    }


def _object(loss: str) -> Graph:
    loop, losses, links = "Optimize N Steps", (loss,), {}
    if loss == "VDM Loss":
        losses = (loss, "Degradation Map")
        links[loss] = {"degradation_map": losses[1]}
    columns = (
        (("What", LOAD, TEXTS, "Init Gaussians"),),
        (("How", *losses, "Orbit Cameras"), ("Settings", *SETTINGS)),
        (("Distil", loop, ALL_SIDES),),
        *KEEP,
    )
    return Graph(columns, links | {loop: _run(loss), ALL_SIDES: {"images": loop}} | _kept(loop))


def _two_sizes(loss: str) -> Graph:
    small, whole = "Optimize: small renders", "Optimize: whole renders"
    options = {loop: loop.replace("Optimize", "Run Options") for loop in (small, whole)}
    columns = (
        (("What", LOAD, TEXTS, "Init Gaussians"),),
        (("How", loss, "Orbit Cameras"), ("Settings", *SETTINGS[:3])),
        (("1 Small renders", small, "Small renders", options[small]),),
        (("2 Whole renders", whole, ALL_SIDES, options[whole]),),
        *KEEP,
    )
    links = {
        small: _run(loss, options=options[small]),
        whole: _run(loss, options=options[whole]) | {"gaussians": small},
        "Small renders": {"images": small},
        ALL_SIDES: {"images": whole},
    }
    return Graph(columns, links | _kept(whole))


def _stages() -> Graph:
    loop, seen = "Optimize: coarse", "After the coarse stage"
    shape, paint = "Refine Mesh: geometry", "Refine Mesh: texture"
    later = ("Orbit Cameras: later", "Mesh Penalties", "Run Options: geometry")
    first = ("CDS Loss: coarse", "Orbit Cameras: coarse", *SETTINGS[:3], "Run Options: coarse")
    last = (paint, "CDS Loss: texture", "Run Options: texture", "Preview refined mesh")
    columns = (
        (("What", LOAD, TEXTS, "Init Gaussians"),),
        (("1 Coarse", *first),),
        (("1 Coarse", loop, seen),),
        (("2 Surface", "Save Gaussians", "Preview splat", "Export Mesh", "Preview mesh"),),
        (("3 Geometry", shape, "CDS Loss: geometry", *later),),
        (("4 Texture", *last),),
    )

    def refined(stage: str, mesh: str) -> dict[str, str]:
        return {
            "mesh": mesh, "prior": LOAD, "prompts": TEXTS, "cameras": later[0],
            "loss": f"CDS Loss: {stage}", "options": f"Run Options: {stage}",
        }  # fmt: skip

    links = {
        loop: _run("CDS Loss: coarse", "Orbit Cameras: coarse", "Run Options: coarse"),
        seen: {"images": loop},
        "Save Gaussians": {"gaussians": loop},
        "Export Mesh": {"gaussians": loop},
        "Preview splat": {"model_file": "Save Gaussians"},
        "Preview mesh": {"model_file": "Export Mesh"},
        shape: refined("geometry", "Export Mesh") | {"mesh_penalties": later[1]},
        paint: refined("texture", shape),
        "Preview refined mesh": {"model_file": paint},
    }
    return Graph(columns, links)


def _scene(loss: str) -> Graph:
    loop, views = "Optimize N Steps", ("Around the scene", "Around from its middle")
    columns = (
        (("What", LOAD, TEXTS, "Init Scene"),),
        (("How", loss, "Scene Cameras"), ("Settings", *SETTINGS)),
        (("Distil", loop, ALL_SIDES),),
        (("Keep", *views, "Save Gaussians"),),
        (("Keep", "Save the turn", "Save the turn inside", "Preview splat"),),
    )
    links = {
        loop: _run(loss, "Scene Cameras") | {"gaussians": "Init Scene"},
        ALL_SIDES: {"images": loop},
        **{title: {"gaussians": loop} for title in (*views, "Save Gaussians")},
        "Save the turn": {"images": views[0]},
        "Save the turn inside": {"images": views[1]},
        "Preview splat": {"model_file": "Save Gaussians"},
    }
    return Graph(columns, links)


def kind_of(title: str, object_info: dict) -> str:
    """The node type behind a title. Raises ValueError for one of no node."""
    if title in KINDS:
        return KINDS[title]
    name = title.partition(":")[0]
    for kind, info in object_info.items():
        if kind.startswith("Distill3D_") and name in (info["display_name"], ALIASES.get(kind)):
            return kind
    raise ValueError(f"no node is called {title!r}.")


def build(
    name: str, graph: Graph, values: dict[str, dict[str, Any]], notes: list[str], object_info: dict
) -> dict:
    """The workflow, UI form; ``notes`` stand at the left, one below the other.

    Raises ValueError for an input that a node does not have.
    """
    nodes, boxes = [], dict[str, list[int]]()
    under = 0
    for place, (note, title) in enumerate(zip(notes, ("Note", "About the values"), strict=True)):
        nodes.append(_note(place + 1, note, title, [0, under]))
        under += note_height(note) + NOTE_GAP
    ids = {title: len(nodes) + place + 1 for place, title in enumerate(graph.titles)}
    for index, column in enumerate(graph.columns):
        x, y = NOTE_WIDTH + 60 + COLUMN * index, 0
        for group, *titles in column:
            top = y - TOP
            for title in titles:
                kind = kind_of(title, object_info)
                height = HEIGHTS[kind.removeprefix("Distill3D_")]
                made = _node(ids[title], kind, title, values.get(title, {}), object_info[kind])
                nodes.append({**made, "pos": [x, y], "size": [WIDTH, height]})
                y += height + GAP
            own = [x - EDGE, top, x + WIDTH + EDGE, y - GAP + EDGE]
            box = boxes.get(group, own)
            boxes[group] = [min(box[0], own[0]), min(box[1], own[1])]
            boxes[group] += [max(box[2], own[2]), max(box[3], own[3])]
            y = own[3] + EDGE + TOP
    groups = [
        {
            "id": number, "title": title, "bounding": [left, top, right - left, bottom - top],
            "color": "#3f789e", "font_size": 24, "flags": {},
        }
        for number, (title, (left, top, right, bottom)) in enumerate(boxes.items(), 1)
    ]  # fmt: skip
    _prefixes(nodes, name)
    links = _link(graph, nodes, ids)
    for order, node in enumerate(_sorted(nodes, links)):
        node["order"] = order
    shown = opening({"nodes": nodes, "groups": groups})
    return {
        "id": str(uuid.uuid5(SPACE, name)), "revision": 0, "last_node_id": len(nodes),
        "last_link_id": len(links), "nodes": nodes, "links": links, "groups": groups, "config": {},
        "extra": {"ds": shown}, "version": 0.4,
    }  # fmt: skip


def _base(id: int, kind: str) -> dict:
    return {
        "id": id, "type": kind, "pos": [0, 0], "size": [0, 0], "flags": {}, "order": 0, "mode": 0,
        "inputs": [], "outputs": [], "properties": {"Node name for S&R": kind},
    }  # fmt: skip


def _note(id: int, text: str, title: str, at: list[int]) -> dict:
    # On the usual brown Nodes 2.0 shows names of inputs blue, which nobody can read.
    own = {"title": title, "color": "#222", "bgcolor": "#000", "widgets_values": [text]}
    return _base(id, "MarkdownNote") | own | {"pos": at, "size": [NOTE_WIDTH, note_height(text)]}


def _node(id: int, kind: str, title: str, values: dict[str, Any], info: dict) -> dict:
    node = _base(id, kind)
    if title != info["display_name"] and title not in UNTITLED:
        node["title"] = title
    declared = [
        (name, spec)
        for group in ("required", "optional")
        for name, spec in info["input"].get(group, {}).items()
    ]
    if strange := values.keys() - {name for name, _ in declared}:
        raise ValueError(f"{title} has no input {', '.join(sorted(strange))}.")
    given = dict(values)
    if "preset" in dict(declared):
        given["preset"] = _named(dict(declared)["preset"][1]["distill3d_presets"], given, declared)
    widgets: list[Any] = []
    for name, spec in declared:
        what, options = spec[0], spec[1] if len(spec) > 1 else {}
        if isinstance(what, list) or what in WIDGET_TYPES:
            widgets.append(given.get(name, options.get("default")))
            if options.get("control_after_generate"):
                widgets.append("fixed")
        else:
            node["inputs"].append({"name": name, "type": what, "link": None})
    if kind in CORE:
        sockets, widgets = CORE[kind]
        there = {slot["name"] for slot in node["inputs"]} - {"model_file"}
        node["inputs"] = [slot for slot in node["inputs"] if slot["name"] in there - sockets.keys()]
        if kind == "Preview3D":
            files = info["input"]["required"]["model_file"][0]
            slot = {"name": "model_file", "type": files, "link": None}
            node["inputs"] = [{**slot, "widget": {"name": "model_file"}}]
        node["inputs"] += [{"name": n, "type": t, "link": None} for n, t in sockets.items()]
    outputs = zip(info["output_name"], info["output"], strict=True)
    node["outputs"] = [
        {"name": name, "type": what, "slot_index": slot, "links": []}
        for slot, (name, what) in enumerate(outputs)
    ]
    return node | {"widgets_values": list(widgets)}


def _named(presets: dict, given: dict[str, Any], declared: list[tuple[str, list]]) -> str:
    """The preset that the node's values are, or "custom"."""
    defaults = {name: spec[1].get("default") for name, spec in declared if len(spec) > 1}
    whole = defaults | given
    return next(
        (
            name
            for name, values in presets.items()
            if all(whole.get(key) == value for key, value in values.items())
        ),
        "custom",
    )


def _prefixes(nodes: list[dict], name: str) -> None:
    """Where each node saves, below ComfyUI's output folder."""
    for node in nodes:
        if node["type"] in ("Distill3D_SaveGaussians", "Distill3D_ExportMesh", "SaveAnimatedWEBP"):
            node["widgets_values"][0] = f"distill3d/{name}"
        elif node["type"] == "Distill3D_RefineMesh":
            node["widgets_values"][0] = f"distill3d/{name}_{node['title'].rpartition(' ')[2]}"


def _link(graph: Graph, nodes: list[dict], ids: dict[str, int]) -> list[list]:
    by_id, links = {node["id"]: node for node in nodes}, []
    for title, ends in graph.links.items():
        node = by_id[ids[title]]
        for name, source in ends.items():
            slot = next(k for k, each in enumerate(node["inputs"]) if each["name"] == name)
            wanted = node["inputs"][slot]["type"]
            origin = by_id[ids[source]]
            out = next(
                k
                for k, each in enumerate(origin["outputs"])
                if set(each["type"].split(",")) & set(wanted.split(","))
            )
            number = len(links) + 1
            node["inputs"][slot]["link"] = number
            origin["outputs"][out]["links"].append(number)
            kind = origin["outputs"][out]["type"]
            links.append([number, origin["id"], out, node["id"], slot, kind])
    return links


def _sorted(nodes: list[dict], links: list[list]) -> list[dict]:
    """In an order in which each comes after those that it needs."""
    left, done, found = list(nodes), set[int](), []
    while left:
        for node in left:
            if all(link[1] in done for link in links if link[3] == node["id"]):
                found.append(node)
                done.add(node["id"])
                left.remove(node)
                break
    return found

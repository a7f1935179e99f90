"""Small graphs in API form that take a second or less."""

from __future__ import annotations

from random import Random
from typing import Any

from harness.nodes import node
from harness.prompts import with_settings

Graph = dict[str, Any]
LOSSES = ("SDSLoss", "CDSLoss", "VDMLoss", "CSDLoss", "NFSDLoss", "SDILoss", "RFDSLoss")
FORMATS = ("ply", "splat", "spz", "glb", "sog", "compressed ply", "spz 4", "usdz", "html")
SMALL = {"image_size": 32, "views": 1}


def started(info: Graph, prompt: str = "a red mug", count: int = 300) -> Graph:
    """The embedded prior, what it reads, cameras and a first cloud that leaves a surface to
    mesh.
    """
    return {
        "prior": node(info, "LoadDiffusionPrior"),
        "prompts": node(info, "ViewPrompts", prior=["prior", 0], prompt=prompt),
        "cameras": node(info, "OrbitCameras"),
        "start": node(info, "InitGaussians", count=count, scale=0.1, opacity=0.5),
    }


def optimizing(
    info: Graph, rng: Random, steps: int, *, loss: str = "", every: int = 1, **save: Any
) -> Graph:
    """prior -> Optimize -> Save Gaussians."""
    graph = started(info)
    graph["loss"] = node(info, loss or rng.choice(LOSSES))
    graph["optimize"] = moved(info, "start", steps, rng)
    graph["save"] = node(
        info,
        "SaveGaussians",
        gaussians=["optimize", 0],
        **{"filename_prefix": "campaign/cloud", "training": True} | save,
    )
    return with_settings(graph, info, autosave_every=every, max_bad_steps=1000)


def moved(info: Graph, start: str, steps: int, rng: Random, **inputs: Any) -> Graph:
    """An Optimize."""
    links = {name: [name, 0] for name in ("prior", "prompts", "cameras", "loss")}
    more = {"gaussians": [start, 0], "steps": steps, "seed": rng.randrange(1 << 30)}
    return node(info, "Optimize", **(links | SMALL | more | inputs))


def exporting(info: Graph, graph: Graph, source: str = "optimize", **inputs: Any) -> Graph:
    """The graph with Export Mesh."""
    small = {"resolution": 24, "texture_size": 64, "views": 6, "filename_prefix": "campaign/mesh"}
    return graph | {"mesh": node(info, "ExportMesh", gaussians=[source, 0], **(small | inputs))}


def refining(info: Graph, graph: Graph, steps: int, rng: Random, **inputs: Any) -> Graph:
    """The graph with Export Mesh and Refine Mesh."""
    graph = exporting(info, graph)
    links = {name: [name, 0] for name in ("prior", "prompts", "cameras", "loss")}
    more = {"mesh": ["mesh", 1], "steps": steps, "seed": rng.randrange(1 << 30)}
    if "options" in graph["optimize"]["inputs"]:
        more["options"] = graph["optimize"]["inputs"]["options"]
    own = {"filename_prefix": "campaign/refined"}
    return graph | {"refine": node(info, "RefineMesh", **(links | SMALL | more | own | inputs))}


def whole(info: Graph, rng: Random, steps: int = 6, **options: Any) -> Graph:
    """Optimize, Save Gaussians in some format, Export Mesh, Refine Mesh, and looks at the cloud."""
    graph = optimizing(info, rng, steps, format=rng.choice(FORMATS), **options)
    graph = refining(info, graph, 3, rng)
    graph["view"] = node(info, "PreviewGaussians", gaussians=["optimize", 0])
    graph["render"] = node(info, "RenderViews", gaussians=["optimize", 0], views=4, size=64)
    graph["pictures"] = {"class_type": "PreviewImage", "inputs": {"images": ["render", 0]}}
    return graph


def measuring(info: Graph, graph: Graph) -> Graph:
    """The graph with Score Views and Inspect Guidance."""
    score = node(info, "ScoreViews", gaussians=["optimize", 0], views=2, prompt="a red mug")
    links = {name: [name, 0] for name in ("prior", "prompts", "loss")}
    inspect = node(info, "InspectGuidance", gaussians=["optimize", 0], views=1, **links)
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["inspect", 0]}}
    said = {"class_type": "PreviewAny", "inputs": {"source": ["score", 0]}}
    return graph | {"score": score, "said": said, "inspect": inspect, "inspected": shown}


def resumed(info: Graph, graph: Graph, file: str, steps: int) -> Graph:
    """The same Optimize gone on with from what was left."""
    again = {
        id: graph[id] for id in graph if id in ("prior", "prompts", "cameras", "loss", "save")
    } | {id: each for id, each in graph.items() if id.startswith("optimize")}
    again["recover"] = node(info, "Recover", file=file)
    inputs = graph["optimize"]["inputs"] | {"gaussians": ["recover", 0], "steps": steps}
    again["optimize"] = graph["optimize"] | {"inputs": inputs}
    return again

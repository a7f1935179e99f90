"""What can be known to be wrong with a job before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..kernels.toybox.captions import spelled
from ..kernels.toybox.scene_captions import check_sentence
from .graph import Graph, Job, Prompt, is_link

EMBEDDED = "toybox (embedded)"
LOADER, TEXTS = "Distill3D_LoadDiffusionPrior", "Distill3D_ViewPrompts"


def checked(graph: Graph, jobs: list[Job], types: Mapping[str, Any] | None = None) -> list[Job]:
    """The jobs, those with a problem that can be seen in them saying so.

    ``types``: what a server says of its node types (/object_info); None: only what the pack itself
    knows is checked.
    """
    return [
        job if job.problem else replace(job, problem=_problem(graph.filled(job.values), types))
        for job in jobs
    ]


def _problem(prompt: Prompt, types: Mapping[str, Any] | None) -> str:
    for node in prompt.values():
        if node["class_type"] == TEXTS and (problem := _text_problem(prompt, node["inputs"])):
            return problem
    if types is None:
        return ""
    problems = (_node_problem(node, types) for node in prompt.values())
    return next(filter(None, problems), "")


def _text_problem(prompt: Prompt, inputs: Mapping[str, Any]) -> str:
    text, link = inputs.get("prompt"), inputs.get("prior")
    if not isinstance(text, str):
        return ""
    if not text.strip():
        return "the prompt is empty; describe one object, for instance 'a red mug'"
    source = prompt.get(link[0]) if is_link(link) and isinstance(link, list) else None
    if source is None or source["class_type"] != LOADER:
        return ""
    if source["inputs"].get("model") != EMBEDDED:
        return ""
    try:
        check_sentence(spelled(text))
    except ValueError as error:
        return str(error)
    return ""


def _node_problem(node: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    kind, given = node["class_type"], node["inputs"]
    if kind not in types:
        return f"ComfyUI has no node {kind!r}; install the pack that brings it"
    described = types[kind]["input"]
    for name, spec in described.get("required", {}).items():
        if name not in given:
            if any(each.startswith(f"{name}.") for each in given):  # inputs that grow
                continue
            return f"{kind} has no value for {name}"
        if problem := _value_problem(f"{kind}.{name}", given[name], spec):
            return problem
    for name, spec in described.get("optional", {}).items():
        if name in given and (problem := _value_problem(f"{kind}.{name}", given[name], spec)):
            return problem
    return ""


def _value_problem(where: str, value: Any, spec: Any) -> str:
    """By the bounds and choices of an input's declaration."""
    if is_link(value) or not isinstance(spec, list | tuple) or not spec:
        return ""
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    if isinstance(choices, list) and choices and value not in choices:
        listed = ", ".join(map(str, choices[:12])) + (", ..." if len(choices) > 12 else "")
        return f"{where} is {value!r}; choose one of {listed}"
    if spec[0] in ("INT", "FLOAT") and isinstance(value, int | float):
        low, high = options.get("min"), options.get("max")
        if (low is not None and value < low) or (high is not None and value > high):
            return f"{where} is {value}, which has to be from {low} to {high}"
    return ""

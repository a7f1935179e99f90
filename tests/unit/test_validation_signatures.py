"""Every node can be asked about a prompt that lacks inputs: ComfyUI then says which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

NODES = Path(__file__).resolve().parents[2] / "nodes"
FOUND = [
    (path.relative_to(NODES).as_posix(), node)
    for path in sorted(NODES.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.FunctionDef) and node.name == "validate_inputs"
]
IDS = [f"{file}-{function.lineno}" for file, function in FOUND]


@pytest.mark.parametrize(("file", "function"), FOUND, ids=IDS)
def test_no_input_is_needed_to_validate_the_others(file, function):
    arguments = function.args
    assert len(arguments.defaults) == len(arguments.args) - 1, file  # all but cls

"""Run all steps: a fresh run of a node that was stopped early, which ComfyUI would else answer from
its cache.

What was kept stays the node's result, so that whoever changes what follows goes on with the same
cloud. Only a page that asks here gets all the steps: it says which node and which values, and from
then on these have another fingerprint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from comfy_execution.utils import get_executing_context

_asked: Counter[tuple[str, frozenset[tuple[str, Any]]]] = Counter()


def ask(node: str, inputs: Mapping[str, Any]) -> None:
    """Have the node of that id run anew at the next prompt that gives it these inputs, as they
    stand in a prompt.
    """
    _asked[_key(node, inputs)] += 1


def times_asked(inputs: Mapping[str, Any]) -> int:
    """Part of the fingerprint of the node that ComfyUI looks at now."""
    context = get_executing_context()
    return _asked[_key(str(context.node_id), inputs)] if context is not None else 0


def _key(node: str, inputs: Mapping[str, Any]) -> tuple[str, frozenset[tuple[str, Any]]]:
    """Constants only: links are lists in a prompt and None in a fingerprint."""
    return node, frozenset((k, v) for k, v in inputs.items() if isinstance(v, str | int | float))

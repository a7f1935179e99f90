"""Run all steps: a fresh run of a node that was stopped early, which ComfyUI would else answer from
its cache.

What was kept stays the node's result, so that whoever changes what follows goes on with the same
cloud. Only a page that asks here gets all the steps: it says which node and which values, and from
then on these have another fingerprint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from comfy_execution.utils import get_executing_context

MOST = 1000  # requests that are remembered, some 200 bytes each

_number = itertools.count(1)
_asked: OrderedDict[bytes, int] = OrderedDict()


def ask(node: str, inputs: Mapping[str, Any]) -> None:
    """Have the node of that id run anew at the next prompt that gives it these inputs, as they
    stand in a prompt.
    """
    key = _key(node, inputs)
    _asked[key] = next(_number)
    _asked.move_to_end(key)
    if len(_asked) > MOST:
        _asked.popitem(last=False)


def times_asked(inputs: Mapping[str, Any]) -> int:
    """Part of the fingerprint of the node that ComfyUI looks at now: another number for every time
    it was asked for."""
    context = get_executing_context()
    return _asked.get(_key(str(context.node_id), inputs), 0) if context is not None else 0


def _key(node: str, inputs: Mapping[str, Any]) -> bytes:
    """A digest of the constants: links are lists in a prompt and None in a fingerprint."""
    constants = {
        name: _plain(value)
        for name, value in inputs.items()
        if isinstance(value, str | int | float)
    }
    text = json.dumps([node, constants], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _plain(value: str | float) -> str | float:
    """Numbers as ComfyUI may have converted them: 1, 1.0 and True are one."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value if isinstance(value, str) else int(value)

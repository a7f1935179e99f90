"""What pages, and whoever else reaches the server, post to our routes: an answer below 500, in
little memory, whatever it is.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import sys
import time
import tracemalloc
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from mutations import MUTATIONS, mutated, mutated_tree

web = pytest.importorskip("aiohttp.web")

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
MODULES = ("distill3d.nodes.run.routes", "distill3d.nodes.run.anew", "distill3d.nodes.run.live")


@pytest.fixture
def routes(monkeypatch):
    """The module, in a ComfyUI of which nothing is there but what it asks for; ``routes.asking`` is
    the node that ComfyUI looks at."""
    server, utils = ModuleType("server"), ModuleType("comfy_execution.utils")
    table = web.RouteTableDef()
    server.PromptServer = SimpleNamespace(
        instance=SimpleNamespace(routes=table, send_sync=lambda *event: None)
    )
    asking = SimpleNamespace(node_id="7", prompt_id="p")
    utils.get_executing_context = lambda: asking
    monkeypatch.setitem(sys.modules, "server", server)
    monkeypatch.setitem(sys.modules, "comfy_execution", ModuleType("comfy_execution"))
    monkeypatch.setitem(sys.modules, "comfy_execution.utils", utils)
    package = importlib.import_module("distill3d.nodes.run")
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(package, name.rpartition(".")[2], raising=False)
    module = importlib.import_module("distill3d.nodes.run.routes")
    module.add_routes()
    module.table, module.asking = table, asking
    yield module
    for name in MODULES:
        sys.modules.pop(name, None)


def answers(routes, requests):
    """Statuses of requests (path, body, headers), one after the other, by a real server."""

    async def run():
        from aiohttp.test_utils import TestClient, TestServer

        app = web.Application(client_max_size=100 << 20)  # as ComfyUI's
        app.add_routes(routes.table)
        async with TestClient(TestServer(app)) as client:
            found = []
            for path, body, headers in requests:
                async with client.post(path, data=body, headers=headers) as answer:
                    found.append(answer.status)
            return found

    return asyncio.run(run())


def anew(body, headers=None, node="7"):
    return f"/distill3d/anew/{node}", body, headers or {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "content", "status"),
    [
        (b'{"steps": 3}', "application/json", 204),
        ('{"prompt": "\u7ea2"}'.encode(), "application/json; charset=UTF-8", 204),
        (b'{"steps": 1' + b"0" * 400 + b"}", "application/json", 204),
        (b'{"steps": 1' + b"0" * 5000 + b"}", "application/json", 400),
        (b'{"a": NaN, "b": 1e999, "c": "\\ud800"}', "application/json", 204),
        (b"[1]", "application/json", 400),
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff\xfe\xfd", "application/json", 400),
        (b"[" * 200_000, "application/json", 400),
        (b'{"a":' * 150_000, "application/json", 400),
        (b'{"steps": 3}', "application/json; charset=klingon", 400),
        (b'{"steps": 3}', "application/json; charset=punycode", 400),
        (b'{"a": "' + b"x" * (2 << 20) + b'"}', "application/json", 413),
    ],
)
def test_a_body_is_taken_or_refused(routes, body, content, status):
    assert answers(routes, [anew(body, {"Content-Type": content})]) == [status]


def test_numbers_are_the_same_however_they_are_written(routes):
    answers(routes, [anew(b'{"steps": 3, "lr": 1, "on": true, "loss": ["4", 0]}')])
    first = routes.anew.times_asked({"steps": 3.0, "lr": 1.0, "on": True, "loss": None})
    assert first
    assert not routes.anew.times_asked({"steps": 4, "lr": 1.0, "on": True})
    assert not routes.anew.times_asked({"steps": "3", "lr": 1.0, "on": True})
    routes.asking.node_id = "8"
    assert not routes.anew.times_asked({"steps": 3.0, "lr": 1.0, "on": True})


def test_each_request_has_another_number_even_when_older_ones_are_forgotten(routes, monkeypatch):
    monkeypatch.setattr(routes.anew, "MOST", 4)
    seen = set()
    for _ in range(3):
        routes.anew.ask("7", {"steps": 1})
        seen.add(routes.anew.times_asked({"steps": 1}))
        for other in range(10):
            routes.anew.ask("7", {"steps": 100 + other})
        assert routes.anew.times_asked({"steps": 1}) == 0
    assert len(seen) == 3 and 0 not in seen


def test_what_is_kept_of_bodies_does_not_grow_with_them(routes):
    tracemalloc.start()
    try:
        kept = []
        for round in range(3):
            for k in range(routes.anew.MOST):
                routes.anew.ask(f"{round} {k}", {"prompt": f"{k} " + "x" * 20_000})
            kept.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert kept[0] < 1 << 20 and kept[2] < kept[0] + (64 << 10)


def test_mutated_workflows_get_an_answer_below_500(routes):
    rng = random.Random("workflows")
    graphs = [path.read_bytes() for path in sorted(WORKFLOWS.rglob("*.json"))]
    assert len(graphs) > 5
    requests = []
    for _ in range(MUTATIONS):
        content = rng.choice(graphs)
        if rng.random() < 0.6:
            graph = json.loads(content)
            node = rng.choice(graph.get("nodes") or list(graph.values()))
            content = json.dumps(mutated_tree(node, rng)).encode()
        else:
            content = mutated(content, len(content), rng)
        requests.append(anew(content))
    start = time.perf_counter()
    found = answers(routes, requests)
    assert set(found) == {204, 400}
    assert time.perf_counter() - start < 5 + 0.05 * MUTATIONS

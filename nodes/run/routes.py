"""What pages ask the server for: the running cloud, to stop and keep it, and all steps in place of
what was kept.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from server import PromptServer

from . import anew
from .live import RUNS

RUNNING, STOP, ANEW = "/distill3d/live", "/distill3d/stop", "/distill3d/anew"
BODY_LIMIT = 1 << 20  # bytes of a request's body; a node's inputs are some thousand
CHARSETS = ("utf-8", "utf8", "us-ascii")  # of JSON; other decoders may take long


def add_routes() -> None:
    """Once, when ComfyUI loads the pack; without a server (in tools that only list nodes) there is
    nothing to do.
    """
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    routes = server.routes

    @routes.get(RUNNING)
    async def running(request: web.Request) -> web.Response:
        """The nodes that run now: {node id: {node, prompt, workflow, steps}}."""
        return web.json_response({node: run.name() for node, run in list(RUNS.items())})

    @routes.get(RUNNING + "/{node}")
    async def picture(request: web.Request) -> web.Response:
        """The cloud later than step ?after=, in the format of `kernels.files.compact`.

        204: none later yet, an event "distill3d.frame" will tell; or the node does not run (any
        more: pages ask while a run ends, and browsers call a 404 an error).
        """
        run = RUNS.get(request.match_info["node"])
        if run is None:
            return web.Response(status=204)
        try:
            after = int(request.query.get("after", "0"))
        except ValueError:
            return web.Response(status=400, text="after: expected a step, a whole number.")
        message = run.ask(after)
        if message is None:
            return web.Response(status=204)
        return web.Response(
            body=message,
            content_type="application/octet-stream",
            headers={"Cache-Control": "no-store"},
        )

    @routes.post(STOP + "/{node}")
    async def stop(request: web.Request) -> web.Response:
        """End the node after the step it is at, in good order. 404: it does not run."""
        run = RUNS.get(request.match_info["node"])
        if run is None:
            return web.Response(status=404)
        run.stopped = True
        return web.json_response(run.name())

    @routes.post(ANEW + "/{node}")
    async def run_anew(request: web.Request) -> web.Response:
        """The body is the node's inputs, as in a prompt: the next prompt with them runs the node,
        cached or not.
        """
        inputs = await json_body(request)
        if not isinstance(inputs, dict):
            return web.Response(
                status=400, text="The body must be a JSON object, the node's inputs in a prompt."
            )
        anew.ask(request.match_info["node"], inputs)
        return web.Response(status=204)


async def json_body(request: web.Request) -> Any:
    """What a request's body says in JSON; None where it is none, whatever is wrong with it.

    Raises 413 for one of more than `BODY_LIMIT` bytes, which is not read on.
    """
    data = bytearray()
    async for part in request.content.iter_chunked(1 << 16):
        data += part
        if len(data) > BODY_LIMIT:
            raise web.HTTPRequestEntityTooLarge(BODY_LIMIT, len(data))
    if (request.charset or "utf-8").lower() not in CHARSETS:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # brackets within brackets, more than Python counts
        return None

"""A second node pack, for tests alone: faults inside a running server, by nodes and by a route.

POST /saboteur {"disk": a `disk.Plan`'s fields or null, "clock": seconds that time.time is off};
GET /saboteur tells how many operations the disk has seen since.
"""

from __future__ import annotations

from aiohttp import web
from server import PromptServer

from . import clock, disk
from .numbers import SaboteurCheck, SaboteurCloud, SaboteurLoss, SaboteurPrior

NODES = (SaboteurCheck, SaboteurCloud, SaboteurLoss, SaboteurPrior)
NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in NODES}
ROUTE = "/saboteur"


@PromptServer.instance.routes.post(ROUTE)
async def arm(request: web.Request) -> web.Response:
    asked = await request.json()
    if "disk" in asked:
        disk.arm(None if asked["disk"] is None else disk.Plan(**asked["disk"]))
    if "clock" in asked:
        clock.shift(asked["clock"])
    return web.json_response({})


@PromptServer.instance.routes.get(ROUTE)
async def tell(request: web.Request) -> web.Response:
    return web.json_response({"operations": disk.seen()})

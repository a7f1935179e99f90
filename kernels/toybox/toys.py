"""What each toy is made of: solids, each with a role for its colour.

Y up, front towards +Z, in the cube [-0.5, 0.5]^3 (lights and noses reach out of it by 0.04 at
most).
"""

from __future__ import annotations

from collections.abc import Callable

from .captions import CATEGORIES
from .distances import (
    arc,
    box,
    cylinder,
    extruded,
    revolved,
    round_cone,
    sphere,
    torus,
    turned,
)
from .roles import MAIN, Solids
from .vehicles import VEHICLES


def _sphere() -> Solids:
    return [(MAIN, sphere((0, 0, 0), 0.45))]


def _cube() -> Solids:
    return [(MAIN, box((0, 0, 0), (0.35, 0.35, 0.35), 0.02))]


def _cylinder() -> Solids:
    return [(MAIN, cylinder((0, 0, 0), 0.32, 0.44, "y", 0.02))]


def _cone() -> Solids:
    return [(MAIN, revolved((0, 0, 0), [(0, 0.48), (0.42, -0.42), (0, -0.42)]))]


def _torus() -> Solids:
    return [(MAIN, torus((0, 0, 0), 0.33, 0.14, "y"))]


def _mug() -> Solids:
    wall = [(0, -0.33), (0.25, -0.33), (0.25, 0.4), (0.31, 0.4), (0.31, -0.4), (0, -0.4)]
    return [(MAIN, revolved((-0.1, 0, 0), wall)), (MAIN, arc((0.2, 0, 0), 0.21, 0.055, 115, 0))]


def _table() -> Solids:
    top = box((0, 0.26, 0), (0.48, 0.05, 0.34), 0.02)
    return [(MAIN, top)] + [
        (MAIN, box((x, -0.06, z), (0.045, 0.3, 0.045), 0.01))
        for x in (-0.41, 0.41)
        for z in (-0.27, 0.27)
    ]


def _chair() -> Solids:
    legs = [
        (MAIN, box((x, -0.27, z), (0.04, 0.22, 0.04), 0.01))
        for x in (-0.24, 0.24)
        for z in (-0.24, 0.24)
    ]
    posts = [(MAIN, box((x, 0.2, -0.245), (0.04, 0.3, 0.035), 0.01)) for x in (-0.24, 0.24)]
    rails = [(MAIN, box((0, y, -0.245), (0.26, 0.055, 0.03), 0.01)) for y in (0.42, 0.22)]
    return [(MAIN, box((0, -0.03, 0), (0.29, 0.045, 0.29), 0.02)), *legs, *posts, *rails]


def _snowman() -> Solids:
    eyes = [("dark", sphere((x, 0.28, 0.145), 0.035)) for x in (-0.065, 0.065)]
    buttons = [("dark", sphere((0, y, z), 0.035)) for y, z in ((0.07, 0.195), (-0.05, 0.2))]
    balls = [
        (MAIN, sphere((0, -0.24, 0), 0.26)),
        (MAIN, sphere((0, 0.03, 0), 0.19)),
        (MAIN, sphere((0, 0.24, 0), 0.15)),
    ]
    hat = [
        ("dark", cylinder((0, 0.36, 0), 0.17, 0.018)),
        ("dark", cylinder((0, 0.43, 0), 0.105, 0.07)),
    ]
    arms = [
        ("wood", round_cone((s * 0.16, 0.06, 0), (s * 0.42, 0.2, 0.02), 0.026, 0.02))
        for s in (-1, 1)
    ]
    return [
        *balls,
        *hat,
        *eyes,
        *buttons,
        *arms,
        ("beak", round_cone((0, 0.23, 0.14), (0, 0.22, 0.3), 0.04, 0.012)),
    ]


def _mushroom() -> Solids:
    cap = [(0, 0.44), (0.2, 0.4), (0.36, 0.27), (0.45, 0.07), (0.43, 0.02), (0, 0.06)]
    stem = [(0, 0.1), (0.12, 0.1), (0.13, -0.2), (0.18, -0.42), (0, -0.42)]
    return [(MAIN, revolved((0, 0, 0), cap)), ("cream", revolved((0, 0, 0), stem))]


def _house() -> Solids:
    roof = [(-0.46, 0.06), (0, 0.42), (0.46, 0.06)]
    front = [("wood", box((0, -0.27, 0.31), (0.085, 0.15, 0.025)))]
    front += [("glass", box((x, -0.12, 0.31), (0.075, 0.075, 0.02))) for x in (-0.24, 0.24)]
    sides = [("glass", box((0.385, -0.14, -0.05), (0.02, 0.08, 0.1)))]
    walls = [(MAIN, box((0, -0.17, 0), (0.38, 0.25, 0.31)))]
    return [
        *walls,
        ("dark", extruded((0, 0, 0), roof, 0.36)),
        *front,
        *sides,
        (MAIN, box((0.22, 0.31, -0.12), (0.06, 0.15, 0.06))),
    ]


def _tree() -> Solids:
    tiers = [(0.48, 0.16, 0.22), (0.28, -0.06, 0.3), (0.08, -0.28, 0.38)]
    crown = [(MAIN, revolved((0, 0, 0), [(0, top), (r, low), (0, low)])) for top, low, r in tiers]
    return [*crown, ("wood", cylinder((0, -0.37, 0), 0.08, 0.11))]


def _lamp() -> Solids:
    shade = revolved((0, 0.16, 0.2), [(0, 0.24), (0.1, 0.22), (0.22, -0.04), (0, -0.04)])
    head = turned(shade, "x", -35, (0, 0.2, 0.2))
    bulb = turned(sphere((0, 0.12, 0.2), 0.12), "x", -35, (0, 0.2, 0.2))
    arms = [
        ("steel", round_cone((0, -0.4, -0.12), (0, 0.0, -0.3), 0.032, 0.032)),
        ("steel", round_cone((0, 0.0, -0.3), (0, 0.33, 0.12), 0.032, 0.032)),
    ]
    return [
        (MAIN, head),
        ("lit", bulb),
        *arms,
        (MAIN, cylinder((0, -0.44, -0.1), 0.24, 0.04, "y", 0.02)),
        ("dark", sphere((0, 0.0, -0.3), 0.055)),
    ]


def _duck() -> Solids:
    body = [
        round_cone((0, -0.2, -0.1), (0, -0.2, 0.12), 0.24, 0.22),
        round_cone((0, -0.12, -0.22), (0, 0.06, -0.42), 0.13, 0.04),
    ]
    neck = [round_cone((0, -0.1, 0.14), (0, 0.12, 0.2), 0.13, 0.11), sphere((0, 0.24, 0.21), 0.165)]
    wings = [
        round_cone((s * 0.2, -0.14, 0.06), (s * 0.24, -0.08, -0.2), 0.09, 0.05) for s in (-1, 1)
    ]
    eyes = [("dark", sphere((s * 0.09, 0.29, 0.33), 0.035)) for s in (-1, 1)]
    bill = [("beak", box((0, 0.2, 0.4), (0.08, 0.028, 0.08), 0.026))]
    return [(MAIN, d) for d in (*body, *neck, *wings)] + eyes + bill


def _teapot() -> Solids:
    belly = [
        (0, 0.2),
        (0.14, 0.2),
        (0.26, 0.1),
        (0.31, -0.05),
        (0.28, -0.22),
        (0.18, -0.32),
        (0, -0.32),
    ]
    lid = [
        ("dark", sphere((0, 0.29, 0), 0.055)),
        (MAIN, cylinder((0, 0.21, 0), 0.15, 0.03, "y", 0.02)),
    ]
    spout = [(MAIN, round_cone((0.24, -0.14, 0), (0.46, 0.14, 0), 0.075, 0.04))]
    return [
        (MAIN, revolved((0, 0, 0), belly)),
        *lid,
        *spout,
        (MAIN, arc((-0.27, -0.05, 0), 0.17, 0.042, 115, 180)),
    ]


def _sofa() -> Solids:
    seats = [("cream", box((x, -0.06, 0.05), (0.165, 0.055, 0.2), 0.03)) for x in (-0.175, 0.175)]
    arms = [(MAIN, box((x, -0.09, 0.02), (0.07, 0.18, 0.25), 0.04)) for x in (-0.42, 0.42)]
    feet = [
        ("dark", box((x, -0.31, z), (0.035, 0.04, 0.035)))
        for x in (-0.42, 0.42)
        for z in (-0.2, 0.2)
    ]
    return [
        (MAIN, box((0, -0.2, 0), (0.46, 0.09, 0.26), 0.03)),
        (MAIN, box((0, 0.08, -0.2), (0.46, 0.26, 0.08), 0.05)),
        *arms,
        *seats,
        *feet,
    ]


def _dog() -> Solids:
    legs = [
        round_cone((x, -0.12, z), (x, -0.41, z), 0.07, 0.055)
        for x in (-0.11, 0.11)
        for z in (-0.24, 0.16)
    ]
    trunk = [
        round_cone((0, -0.03, -0.22), (0, 0.0, 0.16), 0.155, 0.165),
        round_cone((0, 0.02, 0.18), (0, 0.2, 0.26), 0.11, 0.11),
    ]
    head = [sphere((0, 0.24, 0.28), 0.15), round_cone((0, 0.2, 0.36), (0, 0.18, 0.45), 0.08, 0.06)]
    tail = [round_cone((0, 0.05, -0.33), (0, 0.28, -0.45), 0.045, 0.03)]
    ears = [
        ("dark", round_cone((s * 0.12, 0.32, 0.24), (s * 0.17, 0.14, 0.26), 0.05, 0.04))
        for s in (-1, 1)
    ]
    face = [("dark", sphere((0, 0.21, 0.5), 0.038))] + [
        ("dark", sphere((s * 0.06, 0.3, 0.4), 0.03)) for s in (-1, 1)
    ]
    return [(MAIN, d) for d in (*trunk, *legs, *head, *tail)] + ears + face


def _fish() -> Solids:
    tail = [(-0.28, 0.0), (-0.48, 0.22), (-0.44, 0.0), (-0.48, -0.22)]  # (z, y)
    dorsal = [(-0.18, 0.15), (0.12, 0.2), (-0.14, 0.36)]
    body = [round_cone((0, 0, 0.16), (0, 0, -0.3), 0.23, 0.06)]
    fins = [
        ("cream", round_cone((s * 0.2, -0.05, 0.1), (s * 0.34, -0.14, -0.06), 0.04, 0.025))
        for s in (-1, 1)
    ]
    eyes = [("cream", sphere((s * 0.17, 0.07, 0.29), 0.06)) for s in (-1, 1)]
    eyes += [("dark", sphere((s * 0.19, 0.075, 0.325), 0.034)) for s in (-1, 1)]
    lips = [("beak", torus((0, -0.05, 0.37), 0.045, 0.025, "z"))]
    return [
        (MAIN, body[0]),
        (MAIN, extruded((0, 0, 0), tail, 0.03, "x")),
        ("cream", extruded((0, 0, 0), dorsal, 0.025, "x")),
        *fins,
        *eyes,
        *lips,
    ]


def _robot() -> Solids:
    arms = [
        ("steel", round_cone((s * 0.28, 0.06, 0), (s * 0.36, -0.2, 0.06), 0.06, 0.05))
        for s in (-1, 1)
    ]
    legs = [("steel", cylinder((s * 0.12, -0.32, 0), 0.06, 0.12)) for s in (-1, 1)]
    feet = [("dark", box((s * 0.12, -0.45, 0.04), (0.085, 0.04, 0.13), 0.015)) for s in (-1, 1)]
    face = [("lit", sphere((s * 0.085, 0.32, 0.155), 0.05)) for s in (-1, 1)]
    face += [("dark", box((0, 0.22, 0.165), (0.09, 0.02, 0.015)))]
    chest = [
        ("glass", box((0, 0.0, 0.165), (0.12, 0.08, 0.02))),
        ("dark", box((0, -0.02, -0.185), (0.15, 0.12, 0.05), 0.02)),
    ]
    top = [("steel", cylinder((0, 0.45, 0), 0.02, 0.05)), ("beak", sphere((0, 0.475, 0), 0.035))]
    return [
        (MAIN, box((0, -0.03, 0), (0.23, 0.19, 0.17), 0.02)),
        (MAIN, box((0, 0.28, 0), (0.19, 0.14, 0.16), 0.03)),
        *arms,
        *legs,
        *feet,
        *face,
        *chest,
        *top,
    ]


def _bed() -> Solids:
    pillows = [("cream", box((x, 0.02, -0.3), (0.13, 0.05, 0.09), 0.04)) for x in (-0.15, 0.15)]
    boards = [
        (MAIN, box((0, 0.03, -0.46), (0.36, 0.26, 0.035), 0.015)),
        (MAIN, box((0, -0.1, 0.46), (0.36, 0.13, 0.035), 0.015)),
    ]
    frame = [("wood", box((0, -0.19, 0), (0.35, 0.045, 0.46)))]
    return [
        *boards,
        *frame,
        ("cream", box((0, -0.1, -0.02), (0.33, 0.07, 0.42), 0.03)),
        (MAIN, box((0, -0.075, 0.11), (0.345, 0.085, 0.3), 0.03)),
        *pillows,
    ]


def _castle() -> Solids:
    corners = [(x, z) for x in (-0.33, 0.33) for z in (-0.33, 0.33)]
    towers = [(MAIN, cylinder((x, -0.06, z), 0.115, 0.38)) for x, z in corners]
    hats = [("dark", revolved((x, 0, z), [(0, 0.5), (0.15, 0.3), (0, 0.3)])) for x, z in corners]
    walls = [(MAIN, box((0, -0.2, 0), (0.33, 0.24, 0.33)))]
    teeth = [
        (MAIN, box((x, 0.08, z), (0.05, 0.05, 0.04)))
        for x in (-0.14, 0.0, 0.14)
        for z in (-0.29, 0.29)
    ]
    gate = [
        ("wood", box((0, -0.3, 0.33), (0.1, 0.14, 0.025))),
        ("wood", cylinder((0, -0.17, 0.33), 0.1, 0.025, "z")),
    ]
    return [*walls, *towers, *hats, *teeth, *gate]


def _windmill() -> Solids:
    body = [(0, 0.24), (0.15, 0.24), (0.25, -0.46), (0, -0.46)]
    blade = box((0.22, 0.21, 0.27), (0.17, 0.06, 0.022))
    blades = [("cream", turned(blade, "z", 45 + 90 * k, (0, 0.18, 0.27))) for k in range(4)]
    hub = [("dark", cylinder((0, 0.18, 0.23), 0.045, 0.07, "z"))]
    door = [("wood", box((0, -0.35, 0.22), (0.075, 0.11, 0.04)))]
    return [
        (MAIN, revolved((0, 0, 0), body)),
        ("dark", revolved((0, 0, 0), [(0, 0.44), (0.19, 0.23), (0, 0.23)])),
        *hub,
        *blades,
        *door,
    ]


BUILDERS: dict[str, Callable[[], Solids]] = {
    name: VEHICLES.get(name) or globals()[f"_{name}"] for name in CATEGORIES
}

"""The toys that travel; axes and size as in `toys`."""

from __future__ import annotations

from collections.abc import Callable

from .distances import (
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


def _wheels(
    xs: tuple[float, float], zs: tuple[float, ...], y: float, radius: float, half: float
) -> Solids:
    return [("dark", cylinder((x, y, z), radius, half, "x", 0.015)) for x in xs for z in zs]


def _rocket() -> Solids:
    hull = [
        (0, 0.5),
        (0.07, 0.42),
        (0.14, 0.27),
        (0.17, 0.08),
        (0.16, -0.2),
        (0.12, -0.34),
        (0, -0.34),
    ]
    fin = [(0.12, -0.05), (0.36, -0.32), (0.36, -0.46), (0.28, -0.46), (0.1, -0.3)]
    fins = [("steel", turned(extruded((0, 0, 0), fin, 0.025), "y", a)) for a in (0, 180)]
    # the third one points to the back
    fins.append(("steel", turned(extruded((0, 0, 0), fin, 0.025), "y", 90)))
    window = [
        ("glass", sphere((0, 0.12, 0.12), 0.085)),
        ("dark", torus((0, 0.12, 0.15), 0.085, 0.02, "z")),
    ]
    nozzle = [("dark", revolved((0, 0, 0), [(0, -0.3), (0.08, -0.33), (0.12, -0.46), (0, -0.46)]))]
    return [(MAIN, revolved((0, 0, 0), hull)), *fins, *window, *nozzle]


def _car() -> Solids:
    body = [(-0.5, -0.2), (0.5, -0.2), (0.5, -0.02), (0.24, 0.04), (-0.48, 0.04)]
    # (z, y): the slanted windscreen faces +Z
    cabin = [(-0.4, 0.03), (0.22, 0.03), (0.06, 0.22), (-0.32, 0.22)]
    lights = [("lit", sphere((x, -0.07, 0.49), 0.05)) for x in (-0.15, 0.15)]
    tail = [("dark", box((0, -0.09, -0.495), (0.17, 0.03, 0.02)))]
    glass = [("glass", box((x, 0.12, -0.1), (0.012, 0.065, 0.16))) for x in (-0.2, 0.2)]
    screen = [
        ("glass", turned(box((0, 0.125, 0.145), (0.15, 0.075, 0.015)), "x", -40, (0, 0.125, 0.145)))
    ]
    return [
        (MAIN, extruded((0, 0, 0), body, 0.24, "x")), (MAIN, extruded((0, 0, 0), cabin, 0.2, "x")),
        *_wheels((-0.23, 0.23), (-0.29, 0.29), -0.19, 0.115, 0.045), *lights, *tail, *glass, *screen,
    ]  # fmt: skip


def _airplane() -> Solids:
    # (x, z)
    wing = [(-0.5, -0.1), (-0.5, 0.0), (-0.05, 0.18), (0.05, 0.18), (0.5, 0.0), (0.5, -0.1)]
    tail = [(-0.2, -0.47), (-0.2, -0.4), (-0.03, -0.28), (0.03, -0.28), (0.2, -0.4), (0.2, -0.47)]
    fin = [(-0.48, 0.02), (-0.26, 0.02), (-0.4, 0.28), (-0.48, 0.28)]  # (z, y)
    hull = round_cone((0, 0, 0.36), (0, 0.02, -0.4), 0.125, 0.07)
    nose = [
        ("steel", sphere((0, 0, 0.45), 0.055)),
        ("dark", box((0, 0, 0.49), (0.2, 0.028, 0.012))),
        ("glass", sphere((0, 0.09, 0.2), 0.085)),
    ]
    return [
        (MAIN, hull),
        ("steel", extruded((0, -0.02, 0.05), wing, 0.025, "y")),
        (MAIN, extruded((0, 0.03, 0), tail, 0.022, "y")),
        (MAIN, extruded((0, 0, 0), fin, 0.022, "x")),
        *nose,
    ]


def _boat() -> Solids:
    # (x, z): the bow at +Z
    hull = [(-0.18, -0.46), (0.18, -0.46), (0.2, 0.1), (0.0, 0.5), (-0.2, 0.1)]
    sail = [(-0.3, -0.12), (0.1, -0.12), (0.06, 0.46), (0.02, 0.46)]  # (z, y)
    jib = [(0.16, -0.12), (0.42, -0.12), (0.16, 0.3)]
    mast = [("wood", cylinder((0, 0.14, 0.12), 0.028, 0.36))]
    return [
        (MAIN, extruded((0, -0.3, 0), hull, 0.1, "y")), *mast, ("wood", box((0, -0.19, -0.2), (0.13, 0.03, 0.18))),
        ("cream", extruded((0, 0, 0), sail, 0.02, "x")), ("cream", extruded((0, 0, 0), jib, 0.02, "x")),
    ]  # fmt: skip


def _truck() -> Solids:
    cab = [(0.14, -0.22), (0.5, -0.22), (0.5, 0.02), (0.4, 0.2), (0.14, 0.2)]  # (z, y)
    lights = [("lit", sphere((x, -0.12, 0.49), 0.045)) for x in (-0.15, 0.15)]
    screen = [
        ("glass", turned(box((0, 0.105, 0.452), (0.17, 0.075, 0.015)), "x", -28, (0, 0.105, 0.452)))
    ]
    doors = [("glass", box((x, 0.07, 0.3), (0.012, 0.07, 0.08))) for x in (-0.225, 0.225)]
    rear = [
        ("dark", box((0, 0.04, -0.492), (0.012, 0.22, 0.012))),
        ("dark", box((0, -0.2, -0.49), (0.2, 0.03, 0.02))),
    ]
    return [
        (MAIN, extruded((0, 0, 0), cab, 0.225, "x")), (MAIN, box((0, 0.06, -0.19), (0.26, 0.27, 0.3), 0.015)),
        *_wheels((-0.22, 0.22), (-0.33, 0.33), -0.25, 0.115, 0.05), *lights, *screen, *doors, *rear,
    ]  # fmt: skip


def _train() -> Solids:
    boiler = [
        (MAIN, cylinder((0, -0.02, 0.14), 0.17, 0.28, "z", 0.02)),
        ("dark", cylinder((0, -0.02, 0.43), 0.15, 0.025, "z")),
    ]
    cab = [
        (MAIN, box((0, 0.06, -0.3), (0.23, 0.26, 0.17), 0.015)),
        ("dark", box((0, 0.345, -0.3), (0.27, 0.03, 0.21), 0.01)),
    ]
    glass = [("glass", box((x, 0.15, -0.3), (0.012, 0.09, 0.1))) for x in (-0.23, 0.23)]
    top = [
        ("dark", revolved((0, 0, 0.3), [(0, 0.42), (0.1, 0.42), (0.06, 0.1), (0, 0.1)])),
        ("beak", sphere((0, 0.17, 0.05), 0.07)),
    ]
    plow = [
        ("steel", extruded((0, 0, 0), [(0.4, -0.2), (0.5, -0.38), (0.36, -0.38)], 0.2, "x")),
        ("lit", sphere((0, 0.0, 0.45), 0.055)),
    ]
    return [
        *boiler,
        *cab,
        *glass,
        *top,
        *plow,
        ("steel", box((0, -0.22, -0.02), (0.2, 0.05, 0.42))),
        *_wheels((-0.2, 0.2), (-0.32, -0.04, 0.24), -0.27, 0.12, 0.04),
    ]


VEHICLES: dict[str, Callable[[], Solids]] = {
    "airplane": _airplane,
    "boat": _boat,
    "car": _car,
    "rocket": _rocket,
    "train": _train,
    "truck": _truck,
}

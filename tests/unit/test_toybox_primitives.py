import math
from itertools import pairwise

import pytest
import torch

from distill3d.kernels.toybox import distances

DOUBLE = torch.float64


def points(count=400, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return spread * (2 * torch.rand(count, 3, generator=generator, dtype=DOUBLE) - 1)


def nearest(queries, surface):
    return torch.cat([torch.cdist(q, surface).amin(1) for q in queries.split(64)])


def assert_samples_of_the_surface(distance, queries, surface, spacing):
    """Samples are never nearer than the surface itself, and little further away."""
    error = nearest(queries, surface) - distance.abs()
    assert error.min() > -1e-9 and error.max() < spacing
    assert error.mean() < spacing / 10


def along(outline, spacing):
    """Points [K,2] on a closed outline, no two neighbours further apart than ``spacing``."""
    out = []
    for a, b in zip(outline, [*outline[1:], outline[0]], strict=True):
        count = max(2, math.ceil(math.dist(a, b) / spacing) + 1)
        t = torch.linspace(0, 1, count, dtype=DOUBLE)[:, None]
        out.append(torch.tensor(a, dtype=DOUBLE) * (1 - t) + torch.tensor(b, dtype=DOUBLE) * t)
    return torch.cat(out)


def winds(flat, outline):
    """Whether [K,2] lie inside: the angle under which the outline is seen adds up to a turn."""
    corners = torch.tensor(outline, dtype=DOUBLE)
    seen = corners[None] - flat[:, None]
    following = seen.roll(-1, 1)
    cross = seen[..., 0] * following[..., 1] - seen[..., 1] * following[..., 0]
    return torch.atan2(cross, (seen * following).sum(-1)).sum(1).abs() > math.pi


def spin(profile_points, spacing):
    """Points [K,3] of the surface that [K,2] (radius, height) sweep about Y."""
    rings = []
    for radius, height in profile_points.tolist():
        count = max(1, math.ceil(2 * math.pi * radius / spacing))
        angle = torch.arange(count, dtype=DOUBLE) * (2 * math.pi / count)
        rings.append(
            torch.stack(
                [radius * angle.cos(), torch.full_like(angle, height), radius * angle.sin()], -1
            )
        )
    return torch.cat(rings)


def put(flat, height, axis):
    """[K,2] across an axis and the place along it -> [K,3], as `extruded` documents its
    outlines.
    """
    a, b = flat.unbind(-1)
    h = torch.as_tensor(height, dtype=DOUBLE).expand_as(a)
    return torch.stack({"z": (a, b, h), "x": (h, b, a), "y": (a, h, b)}[axis], -1)


def test_a_sphere_is_the_way_to_its_centre_less_its_radius():
    p = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.25], [1.0, 5.0, 7.0]])
    got = distances.sphere((1, 2, 3), 0.5)(p)
    torch.testing.assert_close(got, torch.tensor([-0.5, -0.25, 4.5]))


@pytest.mark.parametrize("rounding", [0.0, 0.05])
def test_a_box_is_as_far_as_its_nearest_face_edge_or_corner(rounding):
    d = distances.box((1, 0, 0), (0.2, 0.3, 0.4), rounding)
    # a ball in the corner stands back by this along the diagonal
    bevel = rounding * (math.sqrt(3) - 1)
    edge = rounding * (math.sqrt(2) - 1)
    p = torch.tensor(
        [[1.5, 0.1, 0], [1, -0.7, 0], [1.3, 0.4, 0.5], [1, 0.4, -0.5], [1, 0, 0], [1.1, 0, 0.35]]
    ).double()
    wanted = [0.3, 0.4, math.sqrt(0.03) + bevel, math.sqrt(0.02) + edge, -0.2, -0.05]
    torch.testing.assert_close(d(p), torch.tensor(wanted, dtype=DOUBLE), atol=1e-7, rtol=0)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("rounding", [0.0, 0.06])
def test_a_cylinder_is_the_distance_to_its_swept_outline(axis, rounding):
    radius, half = 0.4, 0.25
    corner = torch.linspace(0, math.pi / 2, 40, dtype=DOUBLE)
    flat = along([(0, half), (radius - rounding, half)], 0.01)
    side = along([(radius, 0), (radius, half - rounding)], 0.01)
    round_ = torch.stack(
        [radius - rounding + rounding * corner.cos(), half - rounding + rounding * corner.sin()], -1
    )
    profile = torch.cat([flat, side, round_])
    surface = spin(torch.cat([profile, profile * torch.tensor([1, -1])]), 0.012)
    turn = {"y": [0, 1, 2], "x": [1, 0, 2], "z": [0, 2, 1]}[axis]
    p = points(250)
    got = distances.cylinder((0.1, 0.2, -0.1), radius, half, axis, rounding)(p)
    local = p - torch.tensor([0.1, 0.2, -0.1], dtype=DOUBLE)
    assert_samples_of_the_surface(got, local, surface[:, turn], 0.012)
    across = local.square().sum(-1) - local[:, "xyz".index(axis)].square()
    clearly = (across.sqrt() < radius - rounding) & (local[:, "xyz".index(axis)].abs() < half)
    assert clearly.any() and (got[clearly] < 0).all()
    outside = (across.sqrt() > radius) | (local[:, "xyz".index(axis)].abs() > half)
    assert (got[outside] > 0).all()


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_torus_is_its_tube_about_a_ring(axis):
    t = torch.arange(3000, dtype=DOUBLE) * (2 * math.pi / 3000)
    ring = put(torch.stack([t.cos(), t.sin()], -1) * 0.5, 0.0, axis)
    p = points()
    got = distances.torus((0.1, -0.2, 0.3), 0.5, 0.1, axis)(p)
    centre = torch.tensor([0.1, -0.2, 0.3], dtype=DOUBLE)
    torch.testing.assert_close(got, nearest(p - centre, ring) - 0.1, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("half_angle", "turn"), [(30, 0), (90, 40), (115, 180), (160, -100)])
def test_an_arc_is_its_tube_about_part_of_a_ring(half_angle, turn):
    t = torch.deg2rad(torch.linspace(turn - half_angle, turn + half_angle, 3000, dtype=DOUBLE))
    ring = put(torch.stack([t.cos(), t.sin()], -1) * 0.5, 0.0, "z")
    p = points()
    got = distances.arc((0.1, -0.2, 0.3), 0.5, 0.1, half_angle, turn)(p)
    centre = torch.tensor([0.1, -0.2, 0.3], dtype=DOUBLE)
    torch.testing.assert_close(got, nearest(p - centre, ring) - 0.1, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("radius_a", "radius_b"), [(0.2, 0.1), (0.1, 0.25), (0.15, 0.15)])
def test_a_round_cone_is_the_union_of_the_balls_between_its_ends(radius_a, radius_b):
    a, b = (-0.3, 0.1, 0.2), (0.2, -0.2, -0.1)
    t = torch.linspace(0, 1, 4000, dtype=DOUBLE)[:, None]
    centres = torch.tensor(a, dtype=DOUBLE) * (1 - t) + torch.tensor(b, dtype=DOUBLE) * t
    radii = (radius_a * (1 - t) + radius_b * t)[:, 0]
    p = torch.cat([points(), points(200, 0.3)])
    balls = torch.cat([(torch.cdist(q, centres) - radii).amin(1) for q in p.split(64)])
    torch.testing.assert_close(
        distances.round_cone(a, b, radius_a, radius_b)(p), balls, atol=1e-5, rtol=0
    )


def test_a_round_cone_with_one_ball_inside_the_other_is_refused():
    with pytest.raises(ValueError, match="in one another"):
        distances.round_cone((0, 0, 0), (0, 0.1, 0), 0.3, 0.1)


# no symmetry, two hollows
ARROW = [(-0.5, -0.1), (0.1, -0.1), (0.0, -0.45), (0.6, 0.1), (-0.1, 0.4), (-0.2, 0.1)]


@pytest.mark.parametrize("outline", [ARROW, ARROW[::-1]])
def test_a_polygon_is_signed_and_exact_for_either_winding(outline):
    p = points(2000)[:, :2]
    d = distances.polygon(p[:, 0], p[:, 1], outline)
    torch.testing.assert_close(d.abs(), nearest(p, along(outline, 0.002)), atol=1e-3, rtol=0)
    assert torch.equal(d < 0, winds(p, outline))


def test_a_corner_level_with_a_point_does_not_turn_it_inside_out():
    diamond = [(0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5)]
    x = torch.tensor([-0.7, 0.0, 0.3, 0.7], dtype=DOUBLE)  # in line with two corners
    assert (distances.polygon(x, torch.zeros_like(x), diamond) < 0).tolist() == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_an_extrusion_is_the_distance_to_a_prism_that_lies_as_documented(axis):
    half, spacing = 0.2, 0.015
    grid = torch.cartesian_prod(*[torch.arange(-0.6, 0.65, spacing, dtype=DOUBLE)] * 2)
    cap, rim = grid[winds(grid, ARROW)], along(ARROW, spacing)
    levels = torch.linspace(-half, half, 30, dtype=DOUBLE).tolist()
    surface = torch.cat(
        [put(cap, half, axis), put(cap, -half, axis), *(put(rim, h, axis) for h in levels)]
    )
    p = points(300, 0.8)
    got = distances.extruded((0.1, -0.1, 0.05), ARROW, half, axis)(p)
    local = p - torch.tensor([0.1, -0.1, 0.05], dtype=DOUBLE)
    assert_samples_of_the_surface(got, local, surface, spacing)
    k = "xyz".index(axis)
    flat = {"z": local[:, [0, 1]], "x": local[:, [2, 1]], "y": local[:, [0, 2]]}[axis]
    assert torch.equal(got < 0, winds(flat, ARROW) & (local[:, k].abs() < half))


CUP = [(0, -0.3), (0.25, -0.3), (0.25, 0.4), (0.35, 0.4), (0.35, -0.4), (0, -0.4)]
TOP = [(0, 0.4), (0.3, 0.1), (0.2, -0.4), (0, -0.4)]
RING = [(0.3, 0.1), (0.5, 0.0), (0.3, -0.2)]


@pytest.mark.parametrize(("profile", "closed"), [(CUP, False), (TOP, False), (RING, True)])
def test_a_solid_of_revolution_is_the_distance_to_its_swept_profile(profile, closed):
    spacing = 0.012
    ends = [*profile, profile[0]] if closed else profile
    surface = spin(torch.cat([along([a, b], spacing) for a, b in pairwise(ends)]), spacing)
    p = torch.cat([points(300, 0.7), points(50, 0.2)])  # some near the axis, where nothing ends
    got = distances.revolved((0.1, 0.05, -0.1), profile)(p)
    local = p - torch.tensor([0.1, 0.05, -0.1], dtype=DOUBLE)
    assert_samples_of_the_surface(got, local, surface, spacing)
    radial = torch.stack([local[:, [0, 2]].norm(dim=-1), local[:, 1]], -1)
    assert torch.equal(got < 0, winds(radial, profile))


@pytest.mark.parametrize(
    ("axis", "place"), [("x", (0, 0, 1)), ("y", (0, 1, 0)), ("z", (-1, 0, 0))]
)  # where a quarter turn by the right-hand rule takes the ball at +Y
def test_turned_follows_the_right_hand_rule(axis, place):
    ball = distances.turned(distances.sphere((0, 1, 0), 0.1), axis, 90)
    torch.testing.assert_close(
        ball(torch.tensor([place], dtype=DOUBLE)), torch.tensor([-0.1], dtype=DOUBLE)
    )


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_turned_turns_about_the_line_it_is_given(axis):
    about, angle = (0.3, -0.2, 0.5), 0.7
    generator = torch.zeros(3, 3, dtype=DOUBLE)  # exp of the cross-product matrix is the rotation
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    generator[j, i], generator[i, j] = angle, -angle
    rotation = torch.linalg.matrix_exp(generator)
    inner = distances.box((0.4, 0.1, 0.2), (0.3, 0.1, 0.2))
    p, middle = points(), torch.tensor(about, dtype=DOUBLE)
    moved = (p - middle) @ rotation.T + middle
    got = distances.turned(inner, axis, math.degrees(angle), about)(moved)
    torch.testing.assert_close(got, inner(p), atol=1e-12, rtol=0)

import math

import pytest
import torch
import trimesh

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.toybox.captions import CATEGORIES, COLORS, FINISHES, SYMMETRIC, Caption
from distill3d.kernels.toybox.meshes import mesh, mesh_colors
from distill3d.kernels.toybox.render import Layers, patterns, render_layers, render_truth
from distill3d.kernels.toybox.shapes import shape

# puts what lies in the origin out of the picture's middle
TARGET = torch.tensor([0.13, -0.21, 0.1])
RADIUS = 0.45  # of the toy sphere


def pixel_rays(cameras):
    """Camera centres [V,3] and unit directions [V,H*W,3] through the middles of the pixels, one
    pixel at a time.
    """
    rays = []
    for k in cameras.intrinsics:
        for row in range(cameras.height):
            for column in range(cameras.width):
                rays.append(
                    [(column + 0.5 - k[0, 2]) / k[0, 0], (row + 0.5 - k[1, 2]) / k[1, 1], 1.0]
                )
    rays = torch.tensor(rays).view(len(cameras), -1, 3) @ cameras.viewmats[:, :3, :3]
    return cameras.positions, rays / rays.norm(dim=-1, keepdim=True)


def surface_points(cameras, depth):
    """World points [V,H,W,3] of a depth picture [V,H,W,1]."""
    eye, rays = pixel_rays(cameras)
    axial = (rays * cameras.viewmats[:, None, 2, :3]).sum(-1, keepdim=True)
    points = eye[:, None] + rays / axial * depth.flatten(1, 2)
    return points.view(*depth.shape[:3], 3)


def project(cameras, points):
    """Pixel column and row, as fractions, of [K,3] in each view: two [V,K]."""
    local = (
        torch.einsum("vij,kj->vki", cameras.viewmats[:, :3, :3], points)
        + cameras.viewmats[:, None, :3, 3]
    )
    k = cameras.intrinsics
    flat = local[..., :2] / local[..., 2:] * k[:, None, [0, 1], [0, 1]] + k[:, None, :2, 2]
    return flat.unbind(-1)


def shade(normal):
    light = torch.tensor([0.45, 0.72, 0.53])
    lambert = (normal @ (light / light.norm())).clamp_min(0)
    return 0.44 + 0.24 * (0.5 + 0.5 * normal[..., 1]) + 0.32 * lambert


@pytest.mark.parametrize("category", ["mug", "duck", "windmill"])
def test_depth_silhouette_and_normals_are_those_of_the_ray_and_the_mesh(category):
    cameras = orbit(
        torch.tensor([35.0, -120.0]), torch.tensor([20.0, 70.0]), 2.0, 40, (22, 16), TARGET
    )
    truth = render_truth(Caption(category, "red"), cameras, supersample=1)
    solid = trimesh.Trimesh(*(x.numpy() for x in mesh(category, 80)), process=False)
    eye, rays = pixel_rays(cameras)
    eye = eye[:, None].expand_as(rays).reshape(-1, 3)
    rays = rays.reshape(-1, 3)
    faces, index, places = solid.ray.intersects_id(
        eye.numpy(), rays.numpy(), multiple_hits=True, return_locations=True
    )
    way = ((torch.tensor(places).float() - eye[index]) * rays[index]).sum(-1)
    first = torch.full((len(rays),), math.inf)
    normal = torch.zeros(len(rays), 3)
    for face, ray, t in zip(faces, index, way.tolist(), strict=True):
        if t < first[ray]:
            first[ray], normal[ray] = t, torch.tensor(solid.face_normals[face]).float()
    hit = first < math.inf
    differ = (truth.alpha.flatten() > 0.5) != hit
    assert differ.float().mean() < 0.02
    grazing = eye[differ, None] + torch.linspace(1, 3, 2000)[:, None] * rays[differ, None]
    # a cell: the mesh cuts edges off
    assert (shape(category).distance(grazing).amin(-1).abs() < 0.014).all()
    both = (truth.alpha.flatten() > 0.5) & hit
    assert both.sum() > 60
    forward = cameras.viewmats[:, 2, :3].repeat_interleave(22 * 16, 0)
    error = (truth.depth.flatten() - first * (rays * forward).sum(-1))[both].abs()
    assert error.median() < 1e-3 and (error < 0.01).float().mean() > 0.95
    agree = (truth.normal.view(-1, 3) * normal).sum(-1)[both]
    assert agree.median() > 0.995 and (agree > 0.9).float().mean() > 0.9
    assert (truth.depth.flatten()[~(truth.alpha.flatten() > 0)] == 0).all()


def off_centre_sphere(supersample, size=(48, 36)):
    cameras = orbit(torch.tensor([25.0, 200.0]), torch.tensor([10.0, 50.0]), 2.0, 40, size, TARGET)
    return cameras, render_truth(Caption("sphere", "orange"), cameras, 0.3, supersample)


def sphere_hits(cameras):
    """Ray and ball in closed form: discriminant, distance along the ray (nan: a miss), unit
    normals; [V,H*W,...].
    """
    eye, rays = pixel_rays(cameras)
    b = (eye[:, None] * rays).sum(-1)
    discriminant = b * b - (eye * eye).sum(-1)[:, None] + RADIUS**2
    t = -b - discriminant.sqrt()
    return discriminant, t, (eye[:, None] + t[..., None] * rays) / RADIUS


def test_every_pixel_of_an_off_centre_sphere_is_the_closed_form():
    cameras, truth = off_centre_sphere(1)
    discriminant, t, normal = sphere_hits(cameras)
    clear = discriminant.abs() > 2e-3  # a grazing ray may stop 4e-4 before the surface
    assert torch.equal((truth.alpha.flatten(1) == 1)[clear], (discriminant > 0)[clear])
    inner = (discriminant > 2e-3).flatten()
    axial = (pixel_rays(cameras)[1] * cameras.viewmats[:, None, 2, :3]).sum(-1)
    assert (truth.depth.flatten() - (t * axial).flatten())[inner].abs().max() < 8e-3
    assert (truth.depth.flatten() - (t * axial).flatten())[inner].abs().median() < 6e-4
    torch.testing.assert_close(
        truth.normal.view(-1, 3)[inner], normal.view(-1, 3)[inner], atol=0.02, rtol=0
    )


def test_the_covered_area_of_an_off_centre_sphere_is_its_ellipse():
    cameras, truth = off_centre_sphere(4)
    centre = cameras.viewmats[:, :3, 3].double()  # of the ball, seen from the camera
    # Rays r = (x, y, 1) that touch the ball: r'Qr = 0; the area of that conic is pi |det Q| /
    # det(its 2x2)^1.5.
    q = (centre.square().sum(-1) - RADIUS**2)[:, None, None] * torch.eye(3).double()
    q = q - centre[:, :, None] * centre[:, None]
    area = math.pi * torch.linalg.det(q).abs() / torch.linalg.det(q[:, :2, :2]) ** 1.5
    area = area * cameras.intrinsics[:, 0, 0] * cameras.intrinsics[:, 1, 1]
    torch.testing.assert_close(truth.alpha.double().sum((1, 2, 3)), area, rtol=5e-3, atol=0)
    # partly covered pixels along the edge
    assert ((truth.alpha > 0) & (truth.alpha < 1)).sum() > 50


def test_a_plain_sphere_is_its_albedo_times_the_light_on_each_pixel():
    cameras, truth = off_centre_sphere(1)
    discriminant, _, normal = sphere_hits(cameras)
    inner = (discriminant > 5e-3).flatten()
    wanted = torch.tensor(COLORS["orange"]) * shade(normal.view(-1, 3)[inner])[:, None]
    torch.testing.assert_close(truth.color.view(-1, 3)[inner], wanted, atol=6e-3, rtol=0)
    assert (truth.color.view(-1, 3)[inner] - wanted).abs().mean() < 1e-3
    assert torch.equal(truth.color[truth.alpha[..., 0] == 0].unique(), torch.tensor([0.3]))


@pytest.mark.parametrize(
    "caption",
    [
        Caption("car", "pink", "checkered", "brown"),
        Caption("mushroom", "cyan", "dotted", "red"),
        Caption("bed", None),
    ],
)
def test_a_picture_is_the_mesh_colours_under_the_light(caption):
    cameras = orbit(torch.tensor([30.0, 250.0]), torch.tensor([5.0, 35.0]), 2.0, size=(40, 30))
    truth = render_truth(caption, cameras, 0.0, supersample=1)
    covered = truth.alpha[..., 0] > 0
    points = surface_points(cameras, truth.depth)[covered]
    wanted = mesh_colors(caption, points) * shade(truth.normal[covered])[:, None]
    error = (truth.color[covered] - wanted).abs().amax(-1)
    assert (error < 1e-4).float().mean() > 0.99  # but where a point lies on the rim of a pattern


def test_painting_is_linear_in_colours_and_background():
    generator = torch.Generator().manual_seed(0)
    main, alpha = torch.rand(2, 2, 3, 4, generator=generator)
    second, fixed, normal = (torch.rand(2, 3, 4, 3, generator=generator) for _ in range(3))
    layers = Layers(main, second * main[..., None], fixed, alpha, alpha, normal)
    red, white = torch.tensor(COLORS["red"]), torch.tensor(COLORS["white"])
    for index, finish in enumerate(FINISHES[1:]):
        inside = layers.second[..., index, None]
        wanted = (
            fixed + (main[..., None] - inside) * red + inside * white + (1 - alpha[..., None]) * 0.4
        )
        torch.testing.assert_close(
            layers.paint(Caption("car", "red", finish, "white"), 0.4), wanted
        )
    plain = layers.paint(Caption("car", "red"), torch.tensor([0.1, 0.2, 0.3]))
    wanted = fixed + main[..., None] * red + (1 - alpha[..., None]) * torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(plain, wanted)
    gray = layers.paint(Caption("car", "gray"), 0.4)
    torch.testing.assert_close(layers.paint(Caption("car", None), 0.4), gray)


def test_every_layer_is_a_share_of_the_covered_light():
    layers = render_layers("boat", orbit(40.0, 20.0, 2.0, size=48), 2)
    assert (layers.second <= layers.main[..., None] + 1e-6).all() and (layers.second >= 0).all()
    # light never exceeds 1
    assert (layers.main + layers.fixed.amax(-1) <= layers.alpha + 1e-6).all()
    patterned = layers.second.sum((0, 1, 2)) / layers.main.sum()
    assert ((patterned > 0.1) & (patterned < 0.75)).all()  # both colours show


def test_a_pixel_is_the_mean_of_its_samples():
    cameras = orbit(torch.tensor([30.0, 250.0]), 20.0, 2.0, size=(20, 14))
    caption = Caption("boat", "pink", "striped", "brown")
    truth = render_truth(caption, cameras, 0.3, supersample=3)
    samples = render_truth(caption, cameras.resize((60, 42)), 0.3, supersample=1)

    def pooled(x):
        return torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 3).permute(0, 2, 3, 1)

    torch.testing.assert_close(truth.color, pooled(samples.color), atol=1e-4, rtol=0)
    torch.testing.assert_close(truth.alpha, pooled(samples.alpha), atol=1e-4, rtol=0)
    torch.testing.assert_close(truth.depth * truth.alpha, pooled(samples.depth), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        truth.normal,
        torch.nn.functional.normalize(pooled(samples.normal), dim=-1),
        atol=1e-4,
        rtol=0,
    )


def test_a_colour_stays_on_its_point_when_the_camera_moves():
    cameras = orbit(torch.tensor([10.0, 45.0]), torch.tensor([0.0, 30.0]), 2.0, size=64)
    for finish in FINISHES[1:]:
        truth = render_truth(Caption("duck", "blue", finish, "yellow"), cameras, 0.5, supersample=1)
        points = surface_points(cameras, truth.depth)
        mine = points[0][truth.alpha[0, ..., 0] > 0]
        column, row = (x[1].floor().long().clamp(0, 63) for x in project(cameras, mine))
        seen = (points[1][row, column] - mine).norm(dim=-1) < 0.02  # not hidden in the other view
        assert seen.sum() > 250
        there, here = truth.color[1][row, column], truth.color[0][truth.alpha[0, ..., 0] > 0]
        # blue and yellow are 0.8 apart
        assert ((there - here).abs().amax(-1)[seen] < 0.1).float().mean() > 0.85


def test_patterns_repeat_at_the_documented_places():
    assert patterns(torch.tensor([[0.4, 0.05, 0.3], [0.1, -0.05, 0.3]]))[:, 0].tolist() == [
        True,
        False,
    ]
    steps = torch.tensor(
        [[0.05, 0.05, 0.05], [0.21, 0.05, 0.05], [0.21, 0.21, 0.05], [0.21, 0.21, 0.21]]
    )
    assert patterns(steps)[:, 1].tolist() == [True, False, True, False]
    dots = torch.tensor(
        [
            [0.0, 0.0, 0.0],
            [0.0, 0.07, 0.0],
            [0.0, 0.08, 0.0],
            [0.11, 0.11, 0.11],
            [0.22, 0.44, -0.22],
        ]
    )
    assert patterns(dots)[:, 2].tolist() == [True, True, False, True, True]


def test_the_front_faces_plus_z_and_the_mugs_handle_is_on_the_right():
    cameras = orbit(torch.tensor([0.0, 180.0]), 0.0, 2.0, size=128)
    alpha = render_layers("mug", cameras, 1).alpha
    # the hole, the handle
    column, row = project(cameras, torch.tensor([[0.29, 0.0, 0.0], [0.41, 0.0, 0.0]]))
    for view, right in enumerate((True, False)):
        assert [(c > 64) == right for c in column[view]] == [True, True]
        hole, handle = (
            alpha[view, int(r), int(c)] for r, c in zip(row[view], column[view], strict=True)
        )
        assert (hole, handle) == (0, 1)
        # no hole on the other side
        assert alpha[view, int(row[view, 0]), 127 - int(column[view, 0])] == 1


@pytest.mark.parametrize("category", ["car", "truck", "train"])
def test_lights_show_from_the_front_only(category):
    cameras = orbit(torch.tensor([0.0, 180.0]), 5.0, 2.0, size=96)
    color = render_truth(Caption(category, "black"), cameras, 0.5, 1).color
    # warm and bright, like nothing else of these
    lit = (color[..., 0] > 0.6) & (color[..., 0] > 1.3 * color[..., 2])
    front, back = lit.sum((1, 2)).tolist()
    assert front > 20 and back == 0


def test_most_toys_show_which_side_is_seen(monkeypatch):
    render = render_layers.__globals__
    # the light would give the side away
    for name, value in (("_AMBIENT", 1.0), ("_SKY", 0.0), ("_KEY", 0.0)):
        monkeypatch.setitem(render, name, value)
    cameras = orbit(torch.tensor([0.0, 90.0, 180.0]), 15.0, 2.0, size=48)
    telling = []
    for category in CATEGORIES:
        layers = render_layers(category, cameras, 1)
        picture, area = layers.paint(Caption(category, "red"), 0.5), layers.alpha.sum((1, 2))

        def change(i, j, picture=picture, area=area):
            return ((picture[i] - picture[j]).abs().amax(-1) > 0.15).sum() / (
                (area[i] + area[j]) / 2
            )

        front_side, front_back, side_back = change(0, 1), change(0, 2), change(1, 2)
        if category in SYMMETRIC:
            assert front_back < 0.01
        else:
            assert front_side > 0.08 and front_back > 0.08
            telling.append(side_back > 0.1)
    assert len(telling) == len(CATEGORIES) - len(SYMMETRIC) >= 18
    assert sum(telling) >= len(telling) - 1  # the castle's gate is all that tells its sides apart

"""LucidDreamer: ISM and SDS steps, Perp-Neg, timesteps, depth pictures, widening cameras."""

import ast
import math
import types
from pathlib import Path

import numpy
import torch
from officials import Network, bare, clone, commit, kept_draws, latents, scheduler, texts, write

from recording.luciddreamer_cloud import densify, rates, total_variation

REPOSITORY = "EnVision-Research/LucidDreamer"


def record(folder):
    about = {"repository": REPOSITORY, "commit": commit(folder)}
    with clone(folder, "guidance") as load:
        diffusers_utils()
        module = load("guidance.sd_utils")
        for name, settings in STEPS.items():
            step(module, name, settings, about)
        timesteps(module, about)
    perp_neg(folder, about)
    with clone(folder, "utils") as load:
        total_variation(load, about)
        rates(load, about)
    widening(folder, about)
    disparity(folder, about)
    with clone(folder, "scene", "utils") as load:
        densify(load, about)


def diffusers_utils():
    import diffusers.utils
    from diffusers.utils.torch_utils import randn_tensor

    diffusers.utils.randn_tensor = randn_tensor  # it has moved since


OPTIONS = {  # configs/hamburger.yaml
    "annealing_intervals": True,
    "delta_t": 50,
    "delta_t_start": 100,
    "fix_noise": False,
    "xs_delta_t": 200,
    "xs_inv_steps": 5,
    "xs_eta": 0.0,
    "denoise_guidance_scale": 1.0,
    "guidance_scale": 7.5,
    "vis_interval": 10**9,
}
STEPS = {
    "ism": {"warm": 1.0, "perp": False, "sds": False, "seed": 8},
    "ism_late": {"warm": 0.0, "perp": False, "sds": False, "seed": 3},
    "ism_perp_neg": {"warm": 0.5, "perp": True, "sds": False, "seed": 8},
    "sds_sum": {"warm": 0.5, "perp": False, "sds": True, "seed": 0},
}


def guidance(module, network, sds=False, seed=0):
    table = scheduler()
    table.set_timesteps(1000)
    return bare(
        type("Guidance", (module.StableDiffusion,), {"unet": network}),
        device=torch.device("cpu"),
        precision_t=torch.float64,
        scheduler=table,
        sche_func=module.ddim_step,
        alphas=table.alphas_cumprod,
        ism=not sds,
        num_train_timesteps=1000,
        timesteps=torch.flip(table.timesteps, dims=(0,)),
        min_step=20,
        max_step=500,
        warmup_step=480,
        noise_temp=None,
        noise_gen=torch.Generator().manual_seed(seed),
    )


def step(module, name, settings, about):
    network, rows, count = Network(seed=6), texts(5), 2
    made = guidance(module, network, settings["sds"], settings["seed"])
    z0 = latents(count, seed=9)
    z0 = (z0.detach() * 0.4).requires_grad_()
    object.__setattr__(made, "encode_imgs", lambda _: (z0, None))
    object.__setattr__(made, "augmentation", lambda *pictures: pictures)
    own, negative, inverse, front, side = (row[None] for row in rows)
    text = torch.stack([own[0], own[0] + 0.1])
    stacked = [negative.expand(count, -1, -1), text]
    weights = torch.tensor([[1.0, -0.5, -0.25], [1.0, 0.0, -1.5]], dtype=torch.float64).T
    call = made.train_step
    extra = {}
    if settings["perp"]:
        stacked += [front.expand(count, -1, -1), side.expand(count, -1, -1)]
        call, extra = made.train_step_perpneg, {"weights": weights}
    picture = torch.zeros(count, 3, 32, 32, dtype=torch.float64)
    torch.manual_seed(2)
    network.rows = []
    with kept_draws(("randn", "randint")) as draws:
        loss = call(
            torch.stack(stacked),
            picture,
            picture[:, :1],
            picture[:, :1],
            grad_scale=0.1,
            iteration=1,
            warm_up_rate=settings["warm"],
            resolution=(32, 32),
            guidance_opt=types.SimpleNamespace(**OPTIONS),
            embedding_inverse=torch.cat([negative, inverse]),
            **extra,
        )
    loss.backward()
    drawn = [value for kind, value in draws if kind == "randn"][-2:]
    index = next(value for kind, value in draws if kind == "randint")
    write(
        name,
        {
            "latents": z0,
            "text": text,
            "negative": stacked[0],
            "inverse": inverse.expand(count, -1, -1),
            "front": front.expand(count, -1, -1),
            "side": side.expand(count, -1, -1),
            "weights": weights[1:].T,
            "t": made.timesteps[index],
            "noise": drawn[0],
            "offset": drawn[1].double(),
            "gradient": z0.grad,
            **network.taken(),
        },
        function="StableDiffusion." + call.__name__,
        settings={**OPTIONS, **settings, "lambda_guidance": 0.1},
        **about,
    )


def timesteps(module, about):
    """The range of t and the gap of every 50th iteration, by their own drawing of t."""
    network = Network(seed=6)
    made = guidance(module, network)
    z0 = latents(1)
    object.__setattr__(made, "encode_imgs", lambda _: (z0, None))
    object.__setattr__(made, "augmentation", lambda *pictures: pictures)
    picture, rows = torch.zeros(1, 3, 32, 32, dtype=torch.float64), texts(5)
    found = []
    for iteration in range(1, 5001, 119):
        warm = 1.0 - min(iteration / 1500, 1.0)
        network.rows, spans = [], []

        def randint(low, high, *_, spans=spans, **__):
            spans.append((low, high))
            return torch.tensor([high - 1])

        original, torch.randint = torch.randint, randint
        try:
            made.train_step(
                torch.stack([rows[:1], rows[1:2]]),
                picture,
                picture[:, :1],
                picture[:, :1],
                iteration=1,
                warm_up_rate=warm,
                resolution=(32, 32),
                guidance_opt=types.SimpleNamespace(**OPTIONS),
                embedding_inverse=rows[1:3],
            )
        finally:
            torch.randint = original
        asked = sorted({int(t) for _, t, _, _ in network.rows})
        low, high = (int(made.timesteps[index]) for index in (spans[0][0], spans[0][1] - 1))
        found.append((iteration, low, high, asked[-1] - asked[-2]))
    iteration, low, high, gap = zip(*found, strict=True)
    write(
        "ism_timesteps",
        {
            "iteration": torch.tensor(iteration),
            "t_low": torch.tensor(low),
            "t_high": torch.tensor(high),
            "gap": torch.tensor(gap),
        },
        function="StableDiffusion.train_step, warm_up_rate of train.py",
        settings={**OPTIONS, "iterations": 5000, "warmup_iter": 1500},
        **about,
    )


def part(path, wanted):
    """The syntax trees of a file that ``wanted`` chooses, compiled: for code that no import gives."""
    tree = ast.parse(Path(path).read_text())
    chosen = [node for node in ast.walk(tree) if wanted(node)]
    return compile(ast.Module(chosen[:1], []), str(path), "exec")


def perp_neg(folder, about):
    name = "get_pos_neg_text_embeddings"
    space = {"torch": torch, "math": math}
    exec(  # noqa: S102
        part(folder / "train.py", lambda n: isinstance(n, ast.FunctionDef) and n.name == name),
        space,
    )
    options = types.SimpleNamespace(front_decay_factor=2.0, side_decay_factor=10.0, negative_w=-2.0)
    rows = texts(3)
    embeddings = dict(zip(("front", "side", "back"), rows.split(1), strict=True))
    azimuths = torch.linspace(-180, 180, 145, dtype=torch.float64)
    own, front, side = [], [], []
    for azimuth in azimuths.tolist():
        text, weights = space[name](embeddings, azimuth, options)
        first = bool((text[1] == rows[0]).all())
        own.append(text[0])
        front.append(weights[1 if first else 2])
        side.append(weights[2 if first else 1])
    write(
        "perp_neg_luciddreamer",
        {
            "azimuths": azimuths,
            "rows": rows,  # front, side, back
            "text": torch.stack(own),
            "front": torch.stack(front),
            "side": torch.stack(side),
        },
        function="train.py get_pos_neg_text_embeddings",
        settings={"precision": "float32"},
        **about,
    )


def disparity(folder, about):
    """The depth picture, by the lines of render that make it of the rasterizer's two channels: the
    depth that was gathered, and what light is left, which the code calls alpha."""
    source = folder / "gaussian_renderer/__init__.py"
    render = next(
        node
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "render"
    )
    texts = {node: ast.unparse(node) for node in render.body}
    lines = [n for n, text in texts.items() if text.startswith(("focal =", "disp =", "try:"))]
    code = compile(ast.Module(lines[-4:], []), str(source), "exec")
    generator = torch.Generator().manual_seed(0)
    size, fov, files = 12, 0.5, {}
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    away = (place[:, None] ** 2 + place**2).sqrt()
    for k, thickness in enumerate((4.0, 0.3)):  # an opaque ball, and one that is nowhere opaque
        noise = torch.rand(size, size, generator=generator, dtype=torch.float64)
        left = torch.exp(-thickness * (0.4 - away).clamp(min=0) * 20 * (0.5 + noise))
        depth = (1 - left) * (3 + noise)
        space = {"torch": torch, "math": math, "depth": depth[None], "alpha": left[None]}
        space["viewpoint_camera"] = types.SimpleNamespace(FoVx=fov)
        exec(code, space)  # noqa: S102
        files |= {f"{k}.depth": depth, f"{k}.left": left, f"{k}.disparity": space["disp"][0]}
    write(
        "disparity",
        {**files, "focal": torch.tensor(1 / (2 * math.tan(fov / 2)), dtype=torch.float64)},
        function="gaussian_renderer.render, the lines of disp",
        settings={},
        **about,
    )


def widening(folder, about):
    """The ranges after every iteration that changes them, by the lines of train.py that do so."""
    code = part(
        folder / "train.py",
        lambda n: isinstance(n, ast.If) and ast.unparse(n.test) == "not opt.use_progressive",
    )
    pose = types.SimpleNamespace(
        fovy_range=[0.32, 0.60],
        max_fovy_range=[0.16, 0.60],
        radius_range=[5.2, 5.5],
        max_radius_range=[3.5, 5.0],
        theta_range=[45, 105],
        max_theta_range=[45, 105],
        phi_range=[-180, 180],
        max_phi_range=[-180, 180],
    )
    options = types.SimpleNamespace(
        use_progressive=False,
        progressive_view_iter=500,
        scale_up_cameras_iter=500,
        fovy_scale_up_factor=[0.75, 1.1],
        scale_up_factor=0.95,
        phi_scale_up_factor=1.5,
    )
    space = {
        "opt": options,
        "scene": types.SimpleNamespace(pose_args=pose),
        "print": lambda *_: None,
    }
    found = []
    for iteration in range(1, 5001):
        exec(code, {**space, "iteration": iteration})  # noqa: S102
        if iteration in (1, 499, 500, 501, 999, 1000, 1500, 2000, 2500, 3500, 5000):
            found.append((iteration, *pose.radius_range, *pose.fovy_range))
    table = numpy.array(found)
    names = ("iteration", "distance_min", "distance_max", "fov_min", "fov_max")
    write(
        "widening_cameras",
        {name: torch.tensor(table[:, k]) for k, name in enumerate(names)},
        function="train.py, the block of use_progressive",
        settings={},
        **about,
    )

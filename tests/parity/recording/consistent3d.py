"""Consistent3D: CDS in its three stages, their schedules, cameras, mesh penalties."""

import random
import types

import torch
import yaml
from officials import (
    LATENT,
    Network,
    bare,
    commit,
    kept_draws,
    latents,
    scheduler,
    threestudio,
    write,
)

from recording.threestudio import ANGLES, Prompts

REPOSITORY = "sail-sg/Consistent3D"
STAGES = ("coarse", "refine", "texture")


def record(folder):
    about = {"repository": REPOSITORY, "commit": commit(folder)}
    with threestudio(folder) as load:
        load("threestudio.utils.misc").config_to_primitive = list  # plain lists already
        network = Network(seed=2)
        for stage in STAGES:
            config = yaml.safe_load((folder / f"configs/consistency-{stage}.yaml").read_text())
            cds(load, network, stage, config["system"]["guidance"], about)
            long = yaml.safe_load((folder / f"configs/consistency-{stage}-long.yaml").read_text())
            made = guidance(load, network, long["system"]["guidance"])
            schedule(made, f"{stage}-long", about)
        cameras(load, about)
        mesh(load, about)


def guidance(load, network, config):
    module = load("threestudio.models.guidance.stable_diffusion_guidance")
    cls, table = module.StableDiffusionGuidance, scheduler()
    known = cls.Config.__dataclass_fields__
    made = cls.Config(**{key: value for key, value in config.items() if key in known})
    generator = torch.Generator().manual_seed(11)
    return bare(
        type("Guidance", (cls,), {"unet": network}),
        cfg=made,
        device=torch.device("cpu"),
        weights_dtype=torch.float64,
        scheduler=table,
        alphas=table.alphas_cumprod,
        num_train_timesteps=1000,
        grad_clip_val=None,
        sigma_min=int(1000 * made.min_sigma_percent),
        sigma_max=int(1000 * made.max_sigma_percent),
        noise=torch.randn(*LATENT, generator=generator, dtype=torch.float64),
    )


def cds(load, network, stage, config, about):
    made = guidance(load, network, config)
    steps = config["cur_steps"][3]
    files = {"noise": made.noise}
    for k, step in enumerate((0, steps // 3, steps - 1)):
        for clipped in (True, False):
            name = f"{k}." if clipped else f"{k}.free."
            made.update_step(0, step)
            if not clipped:
                made.grad_clip_val = None
            z0, prompts = latents(2, seed=step), Prompts()
            z0 = (z0.detach() * 0.3).requires_grad_()
            made.encode_images = lambda _, z0=z0: z0
            torch.manual_seed(step)
            network.rows = []
            with kept_draws(("randint",)) as draws:
                out = made(torch.zeros(2, 8, 8, 3), prompts, *ANGLES)
            out["loss_sds"].backward()
            files |= {
                f"{name}latents": z0,
                f"{name}text": prompts.own,
                f"{name}negative": prompts.null,
                f"{name}up": draws[0][1],
                f"{name}value": out["loss_sds"],
                f"{name}gradient": z0.grad,
                **network.taken(name),
            }
    write(
        f"cds_{stage}",
        files,
        function="StableDiffusionGuidance.__call__, compute_grad_consistency",
        settings={"stage": stage, "steps": steps, "at": [0, steps // 3, steps - 1]},
        **about,
    )
    schedule(made, stage, about)


def schedule(made, stage, about):
    steps = made.cfg.cur_steps[3]
    asked = [*range(0, steps, 97), steps]
    rows = []
    for step in asked:
        made.update_step(0, step)
        t_next = torch.tensor(made.cur_steps).clamp(
            made.sigma_min, made.sigma_max - made.cfg.end_gap
        )
        rows.append((int(t_next), made.guidance_scale + 1, made.grad_clip_val))
    t_next, scale, clip = zip(*rows, strict=True)
    write(
        f"cds_{stage.replace('-', '_')}_schedule",
        {
            "step": torch.tensor(asked),
            "t_next": torch.tensor(t_next),
            "guidance": torch.tensor(scale, dtype=torch.float64),
            "clip": torch.tensor(clip, dtype=torch.float64),
        },
        function=f"StableDiffusionGuidance.update_step, consistency-{stage}.yaml",
        settings={"stage": stage, "steps": steps},
        **about,
    )


CAMERAS = {
    "height": 4,
    "width": 4,
    "batch_size": 8,
    "resolution_milestones": [],
    "batch_uniform_azimuth": True,
    "use_n_views": True,
    "n_views": 4,
    "elevation_range": (-10, 45),
    "azimuth_range": (-135, 225),
    "camera_distance_range": (1.5, 2.0),
    "fovy_range": (40, 70),
    "camera_perturb": 0.1,
    "center_perturb": 0.2,
    "up_perturb": 0.02,
    "light_distance_range": (0.8, 1.5),
    "light_position_perturb": 1.0,
    "light_sample_strategy": "dreamfusion",
}


def cameras(load, about):
    module = load("threestudio.data.uncond")
    module.get_mvp_matrix = lambda *_: None  # for the rasterizer, in single precision only
    dataset = module.RandomCameraIterableDataset(types.SimpleNamespace(**CAMERAS))
    torch.set_default_dtype(torch.float64)
    try:
        files = {}
        for k, seed in enumerate((0, 1)):
            random.seed(seed)
            sphere = not random.random() < 0.5
            random.seed(seed)
            torch.manual_seed(seed)
            with kept_draws(("rand", "randn")) as draws:
                batch = dataset.collate(None)
            names = ("elevation", "azimuth", "distance", "position", "center", "up", "fov")
            files |= {f"{k}.draw.{n}": d for n, (_, d) in zip(names, draws, strict=False)}
            files |= {
                f"{k}.sphere": torch.tensor(sphere),
                f"{k}.elevations": batch["elevation"],
                f"{k}.azimuths": batch["azimuth"],
                f"{k}.distances": batch["camera_distances"],
                f"{k}.c2w": batch["c2w"],
            }
    finally:
        torch.set_default_dtype(torch.float32)
    assert {bool(files["0.sphere"]), bool(files["1.sphere"])} == {True, False}
    write(
        "cameras_consistent3d",
        files,
        function="RandomCameraIterableDataset.collate, consistency-coarse.yaml",
        settings=CAMERAS,
        **about,
    )


def mesh(load, about):
    import trimesh

    module = load("threestudio.models.mesh")
    ball = trimesh.creation.icosphere(2, 0.5)
    noise = torch.randn(
        len(ball.vertices), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    vertices = (torch.tensor(ball.vertices) + 0.02 * noise).requires_grad_()
    faces = torch.tensor(ball.faces, dtype=torch.long)
    files = {"vertices": vertices, "faces": faces}
    for name in ("laplacian", "normal_consistency"):
        value = getattr(module.Mesh(vertices, faces), name)()
        (gradient,) = torch.autograd.grad(value, vertices)
        files |= {name: value, f"{name}.gradient": gradient}
    write(
        "mesh_penalties",
        files,
        function="Mesh.laplacian, Mesh.normal_consistency",
        settings={},
        **about,
    )

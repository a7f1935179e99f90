"""SegmentDreamer: SCTD steps, its sliding window of timesteps."""

import types

import torch
from officials import Network, bare, clone, commit, kept_draws, latents, scheduler, texts, write

from recording.luciddreamer import diffusers_utils

REPOSITORY = "zjhJOJO/SegmentDreamer"
SEGMENTS = 5  # --phase_num of the README's command
OPTIONS = {  # config/bagel.yaml
    "delta_t": 80,
    "t_threshold": 150,
    "t_mode": "uniform",
    "fix_noise": True,
    "w_cp": 0.0,
    "guidance_scale": 7.5,
    "vis_interval": 10**9,
}
STEPS = {"sctd": (1.0, 0), "sctd_late": (0.3, 1), "sctd_low": (0.0, 22)}  # warm-up rate, seed


def record(folder):
    about = {"repository": REPOSITORY, "commit": commit(folder)}
    with clone(folder, "guidance") as load:
        diffusers_utils()
        module = load("guidance.sctd_utils")
        for name, (warm, seed) in STEPS.items():
            step(module, name, warm, seed, about)
        timesteps(module, about)


def guidance(module, network, seed):
    cls = next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and "timestep_setting" in vars(value)
    )
    table = scheduler()
    table.set_timesteps(1000)
    options = types.SimpleNamespace(**OPTIONS)
    made = bare(
        type("Guidance", (cls,), {"unet": network}),
        device=torch.device("cpu"),
        precision_t=torch.float64,
        scheduler=table,
        alphas=table.alphas_cumprod,
        alpha_schedule=table.alphas_cumprod.sqrt(),
        sigma_schedule=(1 - table.alphas_cumprod).sqrt(),
        num_train_timesteps=1000,
        timesteps=torch.flip(table.timesteps, dims=(0,)),
        min_step=20,
        max_step_base=500,
        warmup_step=480,
        max_step=980,
        noise_temp=None,
        noise_gen=torch.Generator().manual_seed(seed),
        logger=types.SimpleNamespace(info=lambda *_: None),
        is_perpneg=False,
    )
    solver = module.FSolver(
        made.alpha_schedule,
        made.sigma_schedule,
        1000,
        "epsilon",
        "dpmsolver++",
        1,
        precision_t=torch.float64,
    )
    object.__setattr__(made, "f_solver", solver)
    object.__setattr__(made, "edge_points", made.trajectory_segmentation(SEGMENTS, options))
    return made, options


def step(module, name, warm, seed, about):
    network, rows, count = Network(seed=8), texts(3), 2
    made, options = guidance(module, network, seed)
    z0 = (latents(count, seed=9).detach() * 0.4).requires_grad_()
    object.__setattr__(made, "encode_imgs", lambda _: (z0, None))
    object.__setattr__(made, "augmentation", lambda *pictures: pictures)
    own, negative, inverse = (row[None] for row in rows)
    text = torch.cat([own, own + 0.1])
    picture = torch.zeros(count, 3, 32, 32, dtype=torch.float64)
    torch.manual_seed(seed)
    found = []
    setting = made.timestep_setting
    object.__setattr__(
        made, "timestep_setting", lambda *a, **k: found.append(setting(*a, **k)) or found[-1]
    )
    network.rows = []
    with kept_draws(("randn",)) as draws:
        loss = made.train_step(
            torch.stack([negative.expand(count, -1, -1), text]),
            picture,
            picture[:, :1],
            picture[:, :1],
            grad_scale=0.1,
            iteration=1,
            warm_up_rate=warm,
            resolution=(32, 32),
            guidance_opt=options,
            embedding_inverse=torch.cat([negative, inverse]),
        )
    loss.backward()
    (t, s, e), _, _ = found[0]
    write(
        name,
        {
            "latents": z0,
            "text": text,
            "negative": negative.expand(count, -1, -1),
            "inverse": inverse.expand(count, -1, -1),
            "t": t,
            "s": s,
            "e": e,
            "noise": draws[0][1],
            "offset": draws[1][1].double(),
            "gradient": z0.grad,
            **network.taken(),
        },
        function="StableDiffusion.train_step",
        settings={**OPTIONS, "segments": SEGMENTS, "warm": warm, "lambda_guidance": 0.1},
        **about,
    )


def timesteps(module, about):
    made, options = guidance(module, None, 0)
    found = []
    for iteration in range(1, 5001, 119):
        warm = 1.0 - min(iteration / 1500, 1.0)
        spans = []

        def randint(low, high, *_, spans=spans, **__):
            spans.append((int(low), int(high)))
            return torch.tensor([int(high) - 1])

        original, torch.randint = torch.randint, randint
        try:
            (t, _s, e), _, _ = made.timestep_setting(warm, guidance_opt=options)
        finally:
            torch.randint = original
        low, high = spans[0]
        found.append(
            (
                iteration,
                *(int(made.timesteps[index]) for index in (low, high - 1)),
                *(int(t), spans[1][0], spans[1][1] - 1, int(e)),
            )
        )
    names = ("iteration", "t_low", "t_high", "t", "s_low", "s_high", "e")
    columns = zip(names, zip(*found, strict=True), strict=True)
    write(
        "sctd_timesteps",
        {"edges": made.edge_points, **{name: torch.tensor(values) for name, values in columns}},
        function="StableDiffusion.timestep_setting, trajectory_segmentation",
        settings={**OPTIONS, "iterations": 5000, "warmup_iter": 1500, "segments": SEGMENTS},
        **about,
    )

"""Classifier Score Distillation: its annealed negative prompt."""

import contextlib

import torch
from officials import (
    Network,
    bare,
    commit,
    kept_draws,
    latents,
    scheduler,
    texts,
    threestudio,
    write,
)

REPOSITORY = "CVMI-Lab/Classifier-Score-Distillation"
STEPS = 10000


def same(self, unet):
    return contextlib.nullcontext(unet)


class Rows:
    """A prompt processor's output for two views: text, negative, null."""

    use_perp_neg = False


def record(folder):
    about = {"repository": REPOSITORY, "commit": commit(folder)}
    with threestudio(folder) as load:
        load("threestudio.utils.misc").config_to_primitive = list
        module = load("threestudio.models.guidance.stable_diffusion_triple_guidance")
        cls = next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and "compute_grad_sds" in vars(value)
        )
        network, table = Network(seed=4), scheduler()
        config = cls.Config(
            cond_scale=1.0,
            uncond_scale=[0, -1, -0.5, STEPS],
            null_scale=[0, 0, -0.5, STEPS],
            noise_scale=0.0,
            min_step_percent=0.02,
            max_step_percent=0.5,
        )
        rows = texts(4)
        prompts = Rows()
        files = {}
        for k, step in enumerate((0, 5000, STEPS)):
            made = bare(
                type("Guidance", (cls,), {"unet": network, "disable_unet_class_embedding": same}),
                cfg=config,
                device=torch.device("cpu"),
                weights_dtype=torch.float64,
                scheduler=table,
                alphas=table.alphas_cumprod,
                num_train_timesteps=1000,
                use_controlnet=False,
            )
            made.update_step(0, step)
            z0 = latents(2, seed=step)
            kind = {"own": rows[:2], "negative": rows[2:3], "null": rows[3:4]}
            rows_of = {name: row.expand(2, -1, -1) for name, row in kind.items()}
            prompts.get_text_embeddings = lambda *_, rows=rows_of, **__: torch.cat([*rows.values()])
            object.__setattr__(made, "get_latents", lambda *_, z0=z0, **__: z0)
            torch.manual_seed(step)
            network.rows = []
            with kept_draws() as draws:
                out = made(torch.zeros(2, 8, 8, 3), prompts, *(torch.zeros(2),) * 3)
            out["loss_sds"].backward()
            files |= {
                f"{k}.latents": z0,
                **{f"{k}.{name}": row for name, row in rows_of.items()},
                f"{k}.t": draws[0][1],
                f"{k}.noise": draws[1][1],
                f"{k}.value": out["loss_sds"],
                f"{k}.gradient": z0.grad,
                **network.taken(f"{k}."),
            }
        write(
            "csd",
            files,
            function="StableDiffusionTripleGuidance.__call__, compute_grad_sds (csd-sd-refine.yaml)",
            settings={"steps": STEPS, "at": [0, 5000, STEPS]},
            **about,
        )

"""threestudio: SDS, SDI, VSD, Perp-Neg's weights and text, view words, cameras."""

import contextlib
import random
import types

import torch
from officials import (
    LATENT,
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

REPOSITORY = "threestudio-project/threestudio"


def record(folder):
    about = {"repository": REPOSITORY, "commit": commit(folder)}
    write(
        "schedule",
        {"alphas_cumprod": scheduler().alphas_cumprod},
        function="diffusers' DDIMScheduler, in single precision",
        settings={},
        **about,
    )
    with threestudio(folder) as load:
        network = Network()
        sds(load, network, about)
        sdi(load, network, about)
        vsd(load, network, about)
        perp_neg(load, about)
        words(load, about)


class Prompts:
    """A prompt processor's output for V views: text rows, then null rows; Perp-Neg's as well."""

    def __init__(self, use_perp_neg=False, own=None, negative=None, weights=None, base=None):
        self.use_perp_neg, self.weights, self.base = use_perp_neg, weights, base
        rows = texts(6)
        self.own = rows[:2] if own is None else own
        self.null = rows[2:3].expand(len(self.own), -1, -1)
        self.negative = negative if negative is not None else torch.cat([rows[3:5], rows[3:5]])

    def get_text_embeddings(self, elevation, *_, view_dependent_prompting=True, **__):
        own = self.own if view_dependent_prompting else self.base
        return torch.cat([own, self.null])

    def get_text_embeddings_perp_neg(self, *_, **__):
        return torch.cat([self.own, self.null, self.negative]), self.weights


ANGLES = (torch.zeros(2), torch.tensor([20.0, 100.0]), torch.full((2,), 2.0))


def guidance(load, module, name, network, replaced=None, **config):
    """One of their guidance objects, its networks and tables set by hand; ``replaced``: properties
    of the class that would load weights.
    """
    cls = getattr(load(f"threestudio.models.guidance.{module}"), name)
    made, table = cls.Config(**config), scheduler()
    return bare(
        type(name, (cls,), {"unet": network, **(replaced or {})}),
        cfg=made,
        device=torch.device("cpu"),
        weights_dtype=torch.float64,
        scheduler=table,
        alphas=table.alphas_cumprod,
        num_train_timesteps=1000,
        grad_clip_val=None,
        min_step=20,
        max_step=980,
    )


def sds(load, network, about):
    made = guidance(
        load, "stable_diffusion_guidance", "StableDiffusionGuidance", network, guidance_scale=100.0
    )
    made.decode_latents = lambda z: z  # of pictures for an image loss that is off
    for name, clip in (("sds", None), ("sds_clipped", 0.5)):
        z0, prompts = latents(2), Prompts()
        made.grad_clip_val = clip
        made.encode_images = lambda _, z0=z0: z0
        torch.manual_seed(1)
        with kept_draws() as draws:
            out = made(torch.zeros(2, 8, 8, 3), prompts, *ANGLES)
        out["loss_sds"].backward()
        write(
            name,
            {
                "latents": z0,
                "text": prompts.own,
                "negative": prompts.null,
                "t": draws[0][1],
                "noise": draws[1][1],
                "value": out["loss_sds"],
                "gradient": z0.grad,
                **network.taken(),
            },
            function="StableDiffusionGuidance.__call__, compute_grad_sds (dreamfusion-sd.yaml)",
            settings={"guidance": 101.0, "clip": clip or 0.0},
            **about,
        )


def sdi(load, network, about):
    from diffusers import DDIMInverseScheduler

    for name, perp in (("sdi", False), ("sdi_perp_neg", True)):
        made = guidance(
            load,
            "stable_diffusion_sdi_guidance",
            "StableDiffusionSDIGuidance",
            network,
            guidance_scale=7.5,
            inversion_guidance_scale=-7.5,
            min_step_percent=0.25,
        )
        made.inverse_scheduler = DDIMInverseScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
        made.inverse_scheduler.alphas_cumprod = made.scheduler.alphas_cumprod
        start = made.inverse_scheduler.alphas_cumprod[0]
        made.inverse_scheduler.initial_alpha_cumprod = start
        made.scheduler.set_timesteps(50)
        files = {}
        for k, step in enumerate((0, 5000, 10000)):
            made.update_step(0, step)
            z0 = latents(1, seed=step)
            own = texts(6)[:1]
            weights = torch.tensor([[-0.7, -0.4]], dtype=torch.float64) if perp else None
            prompts = Prompts(perp, own, texts(6)[3:5], weights)
            made.encode_images = lambda _, z0=z0: z0
            random.seed(step)
            torch.manual_seed(step)
            with kept_draws(("randn_like", "randint")) as draws:
                out = made(torch.zeros(1, 8, 8, 3), prompts, *(a[:1] for a in ANGLES))
            out["loss_sdi"].backward()
            random.seed(step)
            over = int(random.random() * 1000 // 10)
            files |= {
                f"{k}.latents": z0,
                f"{k}.text": own,
                f"{k}.negative": prompts.null,
                f"{k}.branches": prompts.negative,
                f"{k}.t": draws[0][1],
                f"{k}.over": torch.tensor([over]),
                f"{k}.noise": torch.stack([value for _, value in draws[1:]]),
                f"{k}.value": out["loss_sdi"],
                f"{k}.gradient": z0.grad,
                **network.taken(f"{k}."),
            }
        write(
            name,
            files,
            function="StableDiffusionSDIGuidance.__call__, update_step (sdi.yaml)",
            settings={"perp_neg": perp, "weights": [-0.7, -0.4], "steps": [0, 5000, 10000]},
            **about,
        )


def vsd(load, network, about):
    lora = Network(seed=5)
    made = guidance(
        load,
        "stable_diffusion_vsd_guidance",
        "StableDiffusionVSDGuidance",
        network,
        {
            "unet_lora": lora,
            "single_model": False,
            "disable_unet_class_embedding": lambda self, unet: contextlib.nullcontext(unet),
        },
        guidance_scale=7.5,
    )
    object.__setattr__(made, "scheduler_lora", scheduler())
    z0, prompts = latents(2), Prompts(base=texts(8)[6:7].expand(2, -1, -1))
    object.__setattr__(made, "get_latents", lambda *_, **__: (z0, None))
    object.__setattr__(made, "train_lora", lambda *_: torch.zeros(()))
    torch.manual_seed(4)
    with kept_draws() as draws:
        out = made.forward(
            torch.zeros(2, 8, 8, 3),
            prompts,
            *ANGLES,
            mvp_mtx=torch.zeros(2, 4, 4),
            c2w=torch.zeros(2, 4, 4),
        )
    out["loss_vsd"].backward()
    # the official LoRA's cfg is 1: what it says of the camera counts, of the blank one nothing
    write(
        "vsd",
        {
            "latents": z0,
            "text": prompts.own,
            "negative": prompts.null,
            "base": prompts.base,
            "t": draws[0][1],
            "noise": draws[1][1],
            "value": out["loss_vsd"],
            "gradient": z0.grad,
            **network.taken(),
            **lora.taken("lora."),
        },
        function="StableDiffusionVSDGuidance.forward, compute_grad_vsd (prolificdreamer.yaml)",
        settings={"guidance": 7.5},
        **about,
    )
    misc = load("threestudio.utils.misc")
    misc.config_to_primitive = list  # a plain list already
    steps = [0, 1, 4999, 5000, 5001, 5002, 25000]
    highest = [int(1000 * misc.C([5000, 0.98, 0.5, 5001], 0, step)) for step in steps]
    write(
        "vsd_timesteps",
        {"step": torch.tensor(steps), "t_max": torch.tensor(highest)},
        function="C, max_step_percent of prolificdreamer.yaml",
        settings={"steps": 25000},
        **about,
    )


def processor(load, azimuths, elevations):
    base = load("threestudio.models.prompt_processors.base")
    config = base.PromptProcessor.Config()
    made = bare(base.PromptProcessor, cfg=config)
    made.preprocess_prompt = lambda prompt: prompt
    made.prepare_text_embeddings = made.load_text_embeddings = lambda: None
    made.cfg = types.SimpleNamespace(**vars(config), get=lambda *_: None)
    made.configure()
    rows = texts(5)
    output = base.PromptProcessorOutput(
        text_embeddings=rows[:1],
        uncond_text_embeddings=rows[4:5],
        prompt="",
        text_embeddings_vd=rows[:4],
        uncond_text_embeddings_vd=rows[4:5].expand(4, -1, -1),
        prompts_vd=[],
        directions=made.directions,
        direction2idx=made.direction2idx,
        use_perp_neg=True,
        **{
            name: getattr(config, name)
            for name in ("perp_neg_f_sb", "perp_neg_f_fsb", "perp_neg_f_fs", "perp_neg_f_sf")
        },
    )
    return output, rows


def perp_neg(load, about):
    azimuths = torch.linspace(-180, 180, 145, dtype=torch.float64)
    elevations = torch.full_like(azimuths, 20.0)
    output, rows = processor(load, azimuths, elevations)
    found, weights = output.get_text_embeddings_perp_neg(elevations, azimuths, azimuths)
    count = len(azimuths)
    branches = found[2 * count :].reshape(count, 2, *rows.shape[1:])
    front_first = (branches[:, 0] - rows[1]).abs().amax((1, 2)) == 0
    front = torch.where(front_first, weights[:, 0], weights[:, 1])
    side = torch.where(front_first, weights[:, 1], weights[:, 0])
    write(
        "perp_neg_threestudio",
        {
            "azimuths": azimuths,
            "elevations": elevations,
            "rows": rows[:4],  # side, front, back, overhead
            "text": found[:count],
            "front": front,
            "side": side,
        },
        function="PromptProcessorOutput.get_text_embeddings_perp_neg",
        settings={"rows": ["side", "front", "back", "overhead", "null"]},
        **about,
    )
    ops = load("threestudio.utils.ops")
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, *LATENT, generator=generator, dtype=torch.float64) for _ in range(2))
    write(
        "perpendicular",
        {"x": x, "y": y, "across": ops.perpendicular_component(x, y)},
        function="perpendicular_component",
        settings={},
        **about,
    )


def words(load, about):
    azimuths = torch.cat([torch.linspace(-180, 180, 1441), torch.tensor([44.99, 45.01, -135.01])])
    azimuths = azimuths.double()
    files = {"azimuths": azimuths}
    for elevation in (0.0, 60.0, 60.5):
        elevations = torch.full_like(azimuths, elevation)
        output, _ = processor(load, azimuths, elevations)
        index = torch.zeros(len(azimuths), dtype=torch.long)
        for direction in output.directions:
            index[direction.condition(elevations, azimuths, azimuths)] = output.direction2idx[
                direction.name
            ]
        files[f"said.{elevation:g}"] = index
    write(
        "view_words",
        files,
        function="PromptProcessor.configure, directions",
        settings={"words": ["side", "front", "back", "overhead"]},
        **about,
    )

"""LucidDreamer's cloud: total variation, learning rates, densification."""

import math
import types

import torch
from officials import write


def total_variation(load, about):
    module = load("utils.loss_utils")
    generator = torch.Generator().manual_seed(0)
    color = torch.rand(2, 3, 9, 7, generator=generator, dtype=torch.float64)
    depth = torch.rand(2, 1, 9, 7, generator=generator, dtype=torch.float64)
    write(
        "total_variation",
        {
            "color": color,
            "depth": depth,
            "tv_color": module.tv_loss(color),
            "tv_depth": module.tv_loss(depth),
        },
        function="utils.loss_utils.tv_loss",
        settings={},
        **about,
    )


def rates(load, about):
    module = load("utils.general_utils")
    ends = {
        "means": (1.6e-4 * 3.5, 1.6e-6 * 3.5),
        "scales": (5e-3, 1e-3),
        "quats": (1e-3, 2e-4),
        "colors": (5e-3, 3e-3),
    }
    iterations = list(range(1, 5001, 499))
    found = {}
    for name, (first, last) in ends.items():
        schedule = module.get_expon_lr_func(first, last, lr_delay_mult=0.01, max_steps=5000)
        found[name] = torch.tensor([float(schedule(i)) for i in iterations], dtype=torch.float64)
    write(
        "learning_rates",
        {"iteration": torch.tensor(iterations), **found},
        function="utils.general_utils.get_expon_lr_func",
        settings={"ends": ends, "iterations": 5000},
        **about,
    )


class Uncuda:
    """torch, but "cuda" is the CPU and new numbers are double."""

    def __getattr__(self, name):
        value = getattr(torch, name)
        if name not in ("zeros", "ones", "tensor", "empty"):
            return value

        def made(*args, **kwargs):
            kwargs.pop("device", None)
            if name in ("zeros", "ones") and "dtype" not in kwargs:
                kwargs["dtype"] = torch.float64
            return value(*args, **kwargs)

        return made


def densify(load, about):
    general = load("utils.general_utils")
    module = load("scene.gaussian_model")
    module.torch = general.torch = Uncuda()
    torch.cuda.empty_cache = lambda: None
    count, extent = 40, 1.0
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cloud = {
        "means": normal(count, 3) * 0.3,
        "log_scales": (normal(count, 3) * 0.8 - 4).contiguous(),
        "quats": normal(count, 4),
        "opacity_logits": normal(count, 1) * 3,
        "sh": normal(count, 1, 3),
    }
    cloud["log_scales"][:3] = math.log(0.2)  # larger than a tenth of the extent
    made = module.GaussianModel(0)
    names = {"means": "_xyz", "log_scales": "_scaling", "quats": "_rotation"}
    names |= {"opacity_logits": "_opacity", "sh": "_features_dc"}
    for name, own in names.items():
        setattr(made, own, torch.nn.Parameter(cloud[name].clone()))
    made._features_rest = torch.nn.Parameter(torch.zeros(count, 0, 3, dtype=torch.float64))
    made._background = torch.nn.Parameter(torch.zeros(3, 1, 1, dtype=torch.float64))
    made.max_radii2D = torch.zeros(count, dtype=torch.float64)
    made.spatial_lr_scale = 1.0
    rate = types.SimpleNamespace(
        percent_dense=0.003,
        position_lr_init=1e-3,
        position_lr_final=1e-3,
        position_lr_delay_mult=1,
        iterations=10,
        feature_lr=1e-3,
        feature_lr_final=1e-3,
        opacity_lr=1e-3,
        scaling_lr=1e-3,
        scaling_lr_final=1e-3,
        rotation_lr=1e-3,
        rotation_lr_final=1e-3,
    )
    made.training_setup(rate)
    for group in made.optimizer.param_groups:  # so that there are moments to take along
        group["params"][0].grad = torch.zeros_like(group["params"][0])
    made.optimizer.step()
    gradient = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 2e-3
    gradient[:3] = torch.tensor([[1e-3], [1e-5], [2e-3]])
    views = torch.randint(1, 5, (count, 1), generator=generator).double()
    made.xyz_gradient_accum, made.denom = gradient * views, views
    drawn, original = [], torch.normal

    def noted(mean, std):
        drawn.append(original(mean, std) / std)
        return drawn[-1] * std + mean

    module.torch.normal = noted
    torch.manual_seed(0)
    made.densify_and_prune(0.00075, 0.005, extent, 20)
    grown = {f"after.{name}": getattr(made, own).detach() for name, own in names.items()}
    made.reset_opacity()
    write(
        "densify_luciddreamer",
        {
            **cloud,
            "gradient": (gradient * views)[:, 0],
            "views": views[:, 0],
            "draws": drawn[0],
            **grown,
            "reset.opacity_logits": made._opacity.detach(),
        },
        function="GaussianModel.densify_and_prune, reset_opacity",
        settings={"threshold": 0.00075, "percent_dense": 0.003, "extent": extent},
        **about,
    )

"""gsplat: the relocation of its MCMC strategy and the noise, by its own Python."""

import ast
import math

import torch
from officials import clone, commit, package, write

from recording.luciddreamer import part

REPOSITORY = "nerfstudio-project/gsplat"
NAMES = {"means": "means", "log_scales": "scales", "quats": "quats", "opacity_logits": "opacities"}


def record(folder):
    about = {"repository": REPOSITORY, "commit": commit(folder)}
    space = {"torch": torch, "math": math}
    reference = "_reference_relocation"
    wanted = part(
        folder / "tests/test_relocation.py",
        lambda n: isinstance(n, ast.FunctionDef) and n.name == reference,
    )
    exec(wanted, space)  # noqa: S102
    binoms = torch.tensor([[math.comb(n, k) for k in range(51)] for n in range(51)]).double()

    def relocation(opacities, scales, ratios, binoms, min_opacity):
        """Their kernel runs on CUDA only; this is the one their test holds it to."""
        return space[reference](opacities, scales, ratios, binoms, min_opacity)

    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    opacities = torch.rand(24, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    scales = normal(24, 3).exp() * 0.05
    sharers = torch.randint(1, 20, (24,), generator=generator)
    shared = relocation(opacities, scales, sharers, binoms, 0.005)
    write(
        "relocation",
        {
            "opacities": opacities,
            "scales": scales,
            "sharers": sharers,
            "new_opacities": shared[0],
            "new_scales": shared[1],
        },
        function="tests/test_relocation.py _reference_relocation, of compute_relocation",
        settings={"min_opacity": 0.005},
        **about,
    )

    with clone(folder, "gsplat", "gsplat.strategy") as load:
        turned = rotations_of(folder)
        vars(load("gsplat")).update(quat_scale_to_covar_preci=covariances(turned))
        for name, own in {
            "gsplat.relocation": {"compute_relocation": relocation},
            "gsplat.utils": {"normalized_quat_to_rotmat": turned},
        }.items():
            vars(package(name, folder)).update(own)
        ops = load("gsplat.strategy.ops")
        cloud = {
            "means": normal(30, 3),
            "log_scales": normal(30, 3) * 0.5 - 3,
            "quats": normal(30, 4),
            "opacity_logits": normal(30) * 4,
        }
        params = {own: torch.nn.Parameter(cloud[key].clone()) for key, own in NAMES.items()}
        frozen = {own: value.detach() for own, value in params.items()}
        dead = frozen["opacities"].sigmoid() <= 0.005
        draws, original = [], torch.multinomial

        def noted(weights, count, replacement):
            draws.append(original(weights, count, replacement=replacement))
            return draws[-1]

        torch.manual_seed(0)
        torch.multinomial = noted
        try:
            frozen_in_place(params)
            ops.relocate(params, {}, {}, dead, binoms, 0.005)
            moved = {key: params[own].detach().clone() for key, own in NAMES.items()}
            ops.sample_add(params, {}, {}, 4, binoms, 0.005)
        finally:
            torch.multinomial = original
        grown = {key: params[own].detach().clone() for key, own in NAMES.items()}
        noise = []
        randn_like = torch.randn_like
        torch.randn_like = lambda value: noise.append(randn_like(value)) or noise[-1]
        try:
            ops.inject_noise_to_position(params, {}, {}, 2.0)
        finally:
            torch.randn_like = randn_like
        write(
            "mcmc",
            {
                **cloud,
                "dead_drawn": draws[0],
                "alive": (~dead).nonzero()[:, 0],
                "new_drawn": draws[1],
                **{f"relocated.{key}": value for key, value in moved.items()},
                **{f"grown.{key}": value for key, value in grown.items()},
                "noise": noise[0],
                "perturbed": params["means"].detach(),
            },
            function="strategy.ops relocate, sample_add, inject_noise_to_position",
            settings={"min_opacity": 0.005, "noise_scale": 2.0, "new": 4},
            **about,
        )


def frozen_in_place(params):
    """Without an optimizer their functions want parameters that are not trained."""
    for value in params.values():
        value.requires_grad_(False)


def rotations_of(folder):
    """Their rotation matrices of unit quaternions, by the function alone."""
    name = "normalized_quat_to_rotmat"
    space = {"torch": torch, "Tensor": torch.Tensor, "F": torch.nn.functional}
    wanted = part(
        folder / "gsplat/utils.py", lambda n: isinstance(n, ast.FunctionDef) and n.name == name
    )
    exec(wanted, space)  # noqa: S102
    return space[name]


def covariances(rotations):
    """R S S^T R^T, which theirs gives on CUDA only."""

    def covariance(quats, scales, **_):
        turned = rotations(torch.nn.functional.normalize(quats, dim=-1))
        half = turned * scales[:, None, :]
        return half @ half.mT, None

    return covariance

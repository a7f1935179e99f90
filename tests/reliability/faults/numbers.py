"""NaN and infinity in the loss, in the prior's answers and in the cloud a run starts from."""

from __future__ import annotations

from random import Random

from . import graphs
from .bed import Bed
from .report import LOST, WRONG, Trial
from .servers import of_run
from .verdict import check_error, check_told

STEPS = 12
PROPERTIES = ("means", "log_scales", "quats", "opacity_logits", "sh")


def loss(bed: Bed, rng: Random, trial: Trial) -> None:
    _spoilt(bed, rng, trial, "loss", {"loss": ["loss", 0]})


def prior(bed: Bed, rng: Random, trial: Trial) -> None:
    _spoilt(bed, rng, trial, "prior", {"prior": ["prior", 0]})


def cloud(bed: Bed, rng: Random, trial: Trial) -> None:
    graph = graphs.refining(bed.info, graphs.optimizing(bed.info, rng, STEPS), 3, rng)
    graph["spoilt"] = {
        "class_type": "SaboteurCloud",
        "inputs": {
            "gaussians": ["start", 0],
            "property": rng.choice(PROPERTIES),
            "value": rng.choice(("nan", "inf", "-inf")),
        },
    }
    graph["optimize"]["inputs"]["gaussians"] = ["spoilt", 0]
    run = bed.server.run(graph, timeout=300)
    outcome = of_run(run)
    check_error(outcome, trial, "Optimize", "Gaussians", "cloud")
    if outcome.status == "success":
        trial.found(WRONG, "a cloud with numbers that are none was taken")


def _spoilt(bed: Bed, rng: Random, trial: Trial, what: str, inputs: dict) -> None:
    """Bad from a step on, for some steps or to the end; few or many of them are allowed."""
    first = rng.randrange(STEPS)
    last = first + rng.choice((0, 1, 3, STEPS, 10**6))
    graph = graphs.optimizing(bed.info, rng, STEPS, loss="SDSLoss")
    graph["spoilt"] = {
        "class_type": f"Saboteur{what.capitalize()}",
        "inputs": {**inputs, "first": first, "last": last},
    }
    graph["optimize"]["inputs"][what] = ["spoilt", 0]
    (options,) = (id for id, n in graph.items() if n["class_type"] == "Distill3D_RunOptions")
    graph[options]["inputs"]["max_bad_steps"] = rng.choice((2, 1000))
    run = bed.server.run(graph, timeout=300)
    outcome = of_run(run)
    check_error(outcome, trial, "Optimize")
    check_told(outcome, bed.output, trial)
    if outcome.status == "success":
        told = outcome.output["optimize"]["distill3d_run"][0]
        bad = min(last, STEPS - 1) - first + 1
        if what == "loss" and told["bad_steps"] != bad:
            trial.found(WRONG, f"{bad} steps were bad, and {told['bad_steps']} are told of")
        if not told["bad_steps"] or not told["notes"]:
            trial.found(WRONG, "steps were bad, and nothing is said")
    # up to check_every steps back: only what has been looked at is known to be good
    elif not bed.kept_of(run.prompt_id):
        trial.found(LOST, "the last good cloud is not kept")


FAULTS = {"NaN in the loss": loss, "NaN in the prior": prior, "NaN in the cloud": cloud}

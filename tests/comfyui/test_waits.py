"""No step of any loss asks the device for a value when a MODEL is the prior: every such question
waits for all that was asked of it before.
"""

from __future__ import annotations

import json

import pytest
from harness.nodes import PACK, node, succeeded
from test_prior_from_model import parts

# made of others, which are here themselves; and one that takes no MODEL. Scorers are others' own.
LEFT_OUT = {"CombineLosses", "ScheduleLosses", "RewardLoss", "VSDLoss"}


@pytest.mark.nightly(reason="a run of each loss; with folders the unit tests count")
def test_no_step_of_any_loss_waits_for_a_model(probing, info):
    losses = [
        name.removeprefix(PACK)
        for name, about in info.items()
        if name.startswith(PACK) and about["output"][:1] == ["DISTILL3D_LOSS"]
    ]
    prompt = parts(info, family="sd15")
    for name in sorted(set(losses) - LEFT_OUT):
        prompt[name] = node(info, name)
        prompt[f"waits {name}"] = node(info, "ProbeWaits", prior=["prior", 0], loss=[name, 0])
    prompt["waits asked"] = node(
        info, "ProbeWaits", prior=["prior", 0], loss=["SDSLoss", 0], ask=True
    )
    outputs = succeeded(probing.run(prompt)).history["outputs"]
    found = {id: json.loads(output["said"][0]) for id, output in outputs.items()}
    assert sum(found.pop("waits asked").values()) == 2  # it would be seen
    assert len(found) == len(set(losses) - LEFT_OUT) >= 10
    own = {id: [who for who in seen if who != "comfyui"] for id, seen in found.items()}
    assert not any(own.values()), own
    assert not any(seen.get("comfyui") for seen in found.values()), found

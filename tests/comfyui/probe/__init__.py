"""A second node pack for the tests: tiny models in ComfyUI's own classes, and a look at what a
prior makes of them.

It runs inside the server, hence under ComfyUI's inference mode and from weights that were loaded
there.
"""

from __future__ import annotations

from .control import ProbeControlled, ProbeControlNet
from .judged import ProbeAlpha, ProbeFamily, ProbeJudged, ProbeLong
from .look import ProbeDirect, ProbeMemory, ProbePrior, ProbePrompts, ProbeSave, ProbeViews
from .models import ProbeModel
from .patches import ProbeAdapter, ProbeSampled
from .refused import ProbeRefused
from .stand_in import ProbeStandIn
from .toybox import ProbeToyboxFile, teach

NODES = (
    ProbeModel, ProbePrior, ProbeDirect, ProbeMemory, ProbePrompts, ProbeSave, ProbeToyboxFile, ProbeViews,
    ProbeControlNet, ProbeControlled, ProbeAdapter, ProbeSampled, ProbeFamily, ProbeJudged,
    ProbeRefused, ProbeStandIn, ProbeAlpha, ProbeLong,
)  # fmt: skip
NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in NODES}

teach()

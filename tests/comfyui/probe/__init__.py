"""A second node pack for the tests: tiny models in ComfyUI's own classes, and a look at what a
prior makes of them.

It runs inside the server, hence under ComfyUI's inference mode and from weights that were loaded
there.
"""

from __future__ import annotations

from . import tiny_sd, toybox
from .control import ProbeControlled, ProbeControlNet
from .look import (
    ProbeDirect,
    ProbeMemory,
    ProbePrior,
    ProbePrompts,
    ProbeSave,
    ProbeSettings,
    ProbeViews,
)
from .models import ProbeModel
from .patches import ProbeAdapter, ProbeSampled
from .toybox import ProbeToyboxFile
from .waits import ProbeWaits

try:
    from .judged import ProbeAlpha, ProbeFamily, ProbeJudged, ProbeLong
    from .refused import ProbeRefused
    from .stand_in import ProbeStandIn

    FAMILIES = (ProbeAlpha, ProbeFamily, ProbeJudged, ProbeLong, ProbeRefused, ProbeStandIn)
except (ImportError, AttributeError):  # an older ComfyUI, which lacks some of the families
    FAMILIES = ()

NODES = (
    ProbeModel, ProbePrior, ProbeDirect, ProbeMemory, ProbePrompts, ProbeSave, ProbeSettings,
    ProbeToyboxFile, ProbeViews, ProbeControlNet, ProbeControlled, ProbeAdapter, ProbeSampled,
    ProbeWaits,
    *FAMILIES,
)  # fmt: skip
NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in NODES}

toybox.teach()
tiny_sd.teach()

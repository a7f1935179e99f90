"""Lets a CUDA-built torchvision import beside a CPU torch; does nothing where torchvision's own
library loads.

PyPI's torchvision for Linux is a CUDA build. Beside a CPU torch its C++ library cannot be loaded,
and the import stops at ``operator torchvision::nms does not exist``: the fake kernels it registers
for two operators need their schemas. ComfyUI only needs the Python parts, so the schemas are
declared here, just before torchvision's first import.
"""

import contextlib
import importlib.util
import sys
from pathlib import Path


class _DeclareOperators:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            # no torch: torchvision's own import says so better
            with contextlib.suppress(ImportError):
                _declare()
        # the usual finders do the import


def _declare():
    import torch

    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else []
    for library in (
        file
        for folder in folders
        for file in Path(folder).glob("_C*")
        if file.suffix in (".so", ".pyd")
    ):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            pass
    declarations = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        declarations.define(
            operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    torch._distill3d_torchvision_operators = declarations  # they last as long as this object


sys.meta_path.insert(0, _DeclareOperators())

#!/usr/bin/env bash
# trimesh 5.2.0: a mesh given its picture as TextureVisuals(uv=..., image=...), without a material, is written to GLB with
# a baseColorFactor of 0.4 (102 of 255) per channel. glTF multiplies the picture by it, so that the texture shows at 40 %
# of its brightness in every viewer. Expected: a factor of 1, the picture as it is. A PBRMaterial with the same picture as
# baseColorTexture is written without any factor.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "trimesh==5.2.0" pillow numpy
"$work/venv/bin/python" - <<'PY'
import json
import struct

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial


def factor(visual):
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], visual=visual, process=False)
    glb = mesh.export(file_type="glb")
    (length,) = struct.unpack("<I", glb[12:16])
    return json.loads(glb[20 : 20 + length])["materials"][0]["pbrMetallicRoughness"].get("baseColorFactor")


uv, white = np.array([[0, 0], [1, 0], [0, 1]]), Image.new("RGB", (4, 4), "white")
plain, material = factor(TextureVisuals(uv=uv, image=white)), factor(
    TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=white))
)
print("image alone:", plain, "| PBRMaterial:", material)
assert plain is not None and np.allclose(plain[:3], 0.4, atol=0.01), "the factor is no longer 0.4"
assert material is None or np.allclose(material[:3], 1)
PY

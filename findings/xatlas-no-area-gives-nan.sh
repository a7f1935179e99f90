#!/usr/bin/env bash
# xatlas 0.0.11: a mesh none of whose triangles has an area is "unwrapped" to texture coordinates that are all NaN, with
# no error and an atlas that counts as made. Expected: an error, as for other input it cannot use. A mesh with at least one
# proper triangle gets finite coordinates for all.
# Whoever writes such coordinates to a file makes one that viewers refuse, long after the step that went wrong.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "xatlas==0.0.11" numpy
"$work/venv/bin/python" - <<'PY'
import numpy as np
import xatlas

line = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], np.float32)  # all on one line
faces = np.array([[0, 1, 2], [1, 2, 3]], np.uint32)
_, _, uvs = xatlas.parametrize(line, faces)
print("no area:", uvs.tolist())
assert np.isnan(uvs).all(), "coordinates are no longer NaN"
line[3] = [0, 1, 0]  # the second triangle has an area
_, _, uvs = xatlas.parametrize(line, faces)
print("one with an area:", uvs.tolist())
assert np.isfinite(uvs).all()
PY

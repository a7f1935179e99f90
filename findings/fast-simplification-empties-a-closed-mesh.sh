#!/usr/bin/env bash
# fast-simplification 0.2.0: a target of no or one triangle on a closed mesh gives an empty mesh, without an error or a
# warning. Expected: an error, or the smallest closed mesh. Seen with numpy 2 on Python 3.11: 0 points, 0 triangles; a
# target of 4 keeps a closed mesh.
# Whoever lets users type the number of triangles has to refuse small ones, or an export is an empty file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "fast-simplification==0.2.0" "trimesh==5.2.0" numpy
"$work/venv/bin/python" - <<'PY'
import fast_simplification
import trimesh

ball = trimesh.creation.icosphere(subdivisions=3)
found = {}
for target in (0, 1, 4, 100):
    points, faces = fast_simplification.simplify(ball.vertices, ball.faces, target_count=target)
    found[target] = (len(points), len(faces))
    print(f"target_count {target}: {len(points)} points, {len(faces)} triangles")
assert found[0] == found[1] == (0, 0), "a target of 0 or 1 no longer empties the mesh"
assert found[4][1] >= 4 and 90 <= found[100][1] <= 110
PY

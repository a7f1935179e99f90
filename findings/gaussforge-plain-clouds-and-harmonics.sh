#!/usr/bin/env bash
# gaussforge 0.6.0: read() of a cloud without view dependence (SH degree 0) returns {'error': 'std::bad_cast'}, whatever
# the format; convert() of the same bytes works. And its compressed PLY and KSPLAT come out with the higher harmonics in
# another order than PlayCanvas' and GaussianSplats3D's readers take them in: read back by gaussforge itself they are
# right, by others the view-dependent colours are wrong. Expected: the arrays, and files that others read.
# Seen on Python 3.11, x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "gaussforge==0.6.0" numpy
"$work/venv/bin/python" - <<'PY'
import gaussforge
import numpy as np

BASE = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2"]
LAST = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def ply(rest):
    """One Gaussian; its harmonics of degree 1 are 0.1 to 0.9, all red ones first."""
    names = BASE + [f"f_rest_{i}" for i in range(rest)] + LAST
    row = [0, 0, 0, 0, 0, 0, *[0.1 * (i + 1) for i in range(rest)], 1, -3, -3, -3, 1, 0, 0, 0]
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 1\n"
    head += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    return head.encode() + np.array(row, "<f4").tobytes()


forge = gaussforge.GaussForge()
plain, lit = forge.read(ply(0), "ply"), forge.read(ply(9), "ply")
print("degree 0:", plain, "degree 1:", sorted(lit))
assert plain == {"error": "std::bad_cast"}, "clouds of degree 0 are read now"
assert lit["data"]["numPoints"] == 1
assert "error" not in forge.convert(ply(0), "ply", "splat")

packed = forge.convert(ply(9), "ply", "compressed.ply")["data"]
stored = (np.frombuffer(packed[-9:], np.uint8) / 256 - 0.5) * 8
print("harmonics in the compressed PLY:", stored.round(1).tolist())
expected = 0.1 * np.arange(1, 10)  # all red ones first, as in the plain file
assert abs(stored - expected).max() > 0.15, "they are in the format's order now"
PY

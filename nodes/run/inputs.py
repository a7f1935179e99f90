"""What Optimize, Refine Mesh and the nodes of their settings have in common."""

from __future__ import annotations

SETTINGS = "Distill3D/settings"

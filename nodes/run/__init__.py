"""Optimize, Refine Mesh, their presets, and what a page sees and asks while they run."""

"""The rasterizer of CPUs."""

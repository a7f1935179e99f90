"""The rasterizer of GPUs that Triton compiles for."""

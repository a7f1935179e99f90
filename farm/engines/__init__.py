"""What makes an object of a graph: a headless ComfyUI, or the kernels without it."""

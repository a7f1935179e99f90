"""What ComfyUI sees: thin V3 nodes over `kernels`, one file per stage of a graph. Only this package imports ComfyUI."""

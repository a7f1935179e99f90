"""What ComfyUI sees: thin V3 nodes over `kernels`, one room per stage of a graph. Only this package
imports ComfyUI.
"""

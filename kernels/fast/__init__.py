"""The networks of Stable Diffusion in the form a GPU likes: fused kernels, each beside a readable
reference.
"""

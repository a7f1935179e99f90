"""The rasterizer of CPUs.

In compiled functions Any is an array, a number or a vector of `lanes`, whichever the caller has:
Numba compiles one for each. In `lanes` and `memory` it also is an object of Numba's or LLVM's own,
which carry no types.
"""

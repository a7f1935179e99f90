"""What computes: plain functions and dataclasses over torch tensors. Never imports ComfyUI or the
nodes.
"""

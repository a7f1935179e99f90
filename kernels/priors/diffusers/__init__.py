"""Latent diffusion models from a diffusers folder or a checkpoint, and what makes them fast and
small in memory.
"""

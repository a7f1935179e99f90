"""Rendering Gaussians: one batched interface, a readable reference, and a fast backend for each
kind of device.
"""

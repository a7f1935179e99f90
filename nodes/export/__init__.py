"""Meshes and splat files, out and in."""

"""Readers and writers of splat and mesh files."""

"""Clouds to start from."""

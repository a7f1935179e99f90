"""Pinhole cameras, and where the views of a run come from: orbits around an object, and scenes."""

"""Clouds to start from: a ball, points, the surface of a mesh, a scene, what Shap-E makes of a
text.
"""

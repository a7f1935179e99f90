"""Procedural objects with captions and exact ground truth: they train and judge the embedded
prior.
"""

"""Published prompts made with a model of yours, on one page to share: ``python -m
distill3d.gallery``."""

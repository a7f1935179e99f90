"""A real ComfyUI for tests and for the ``object`` session: its environment, its server, its
prompts.
"""

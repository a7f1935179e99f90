"""The models that judge: loading them, ComfyUI's own as priors, control, memory."""

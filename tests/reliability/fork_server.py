"""ComfyUI imported once, and a server forked from it for each line on standard input: a start then
takes a fraction of the time.

    python fork_server.py COMFYUI FLAGS

COMFYUI: its tree. FLAGS: for its command line. A line is JSON {"port", "output", "temp", "log"};
the answer, a line too, is the id of the server's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
from typing import Any

# what ComfyUI and the pack import on their way, besides what ComfyUI's main module does
HEAVY = """
    torch torchvision torchaudio transformers diffusers safetensors.torch numpy PIL.Image scipy.ndimage
    scipy.spatial skimage.measure trimesh numba av kornia spandrel einops aiohttp sqlalchemy alembic
    torch._dynamo transformers.models.clip.modeling_clip diffusers.models.unets.unet_2d_condition
    diffusers.models.autoencoders.autoencoder_kl diffusers.schedulers pydantic cv2 fast_simplification xatlas
""".split()  # fmt: skip


def serve_forks(tree: str) -> None:
    sys.path[0] = tree
    os.chdir(tree)
    sys.argv[0] = "main.py"
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    comfyui = importlib.import_module("main")
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"{name} is not there: {error}", file=sys.stderr, flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not waited for
    gc.freeze()
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if process == 0:
            replies.close()
            serve(comfyui, asked)
            os._exit(0)
        print(process, file=replies, flush=True)


def serve(comfyui: Any, asked: dict[str, Any]) -> None:
    """One server, in the fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for descriptor, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        os.dup2(os.open(name, flags, 0o644), descriptor)
    os.dup2(1, 2)
    comfyui.args.port = asked["port"]
    comfyui.args.temp_directory = asked["temp"]
    comfyui.folder_paths.set_output_directory(asked["output"])
    loop, _, start = comfyui.start_comfyui()
    asyncio.set_event_loop(loop)
    with contextlib.suppress(KeyboardInterrupt):
        loop.run_until_complete(start())


if __name__ == "__main__":
    serve_forks(sys.argv.pop(1))

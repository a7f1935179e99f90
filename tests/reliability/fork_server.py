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
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

# what ComfyUI and the pack import on their way, besides what ComfyUI's main module does
HEAVY = """
    torch torchvision torchaudio transformers diffusers safetensors.torch numpy PIL.Image
    scipy.ndimage scipy.spatial skimage.measure trimesh numba av kornia spandrel einops aiohttp
    sqlalchemy alembic
    torch._dynamo transformers.models.clip.modeling_clip diffusers.models.unets.unet_2d_condition
    diffusers.models.autoencoders.autoencoder_kl diffusers.schedulers pydantic cv2
    fast_simplification xatlas
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
    for folder in comfyui.folder_paths.get_folder_paths("custom_nodes"):
        if (pack := Path(folder, "distill3d")).is_dir():
            warm_up(pack)
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


def warm_up(pack: Path) -> None:
    """A run by the pack's kernels, under the name that ComfyUI gives them: what they load and
    compile is there in every fork.
    """
    import torch

    torch.set_num_threads(1)  # a fork would have none of the others
    name = str(pack).replace(".", "_x_")  # as ComfyUI's load_custom_node
    spec = importlib.util.spec_from_file_location(
        name, pack / "__init__.py", submodule_search_locations=[str(pack)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)

    def of(module: str) -> Any:
        return importlib.import_module(f"{name}.kernels.{module}")

    prior = of("priors.diffusers.loading").load_diffusers(pack / "models" / "toybox")
    prompts = of("priors.prompts").view_prompts(prior, "a red mug")
    start = of("init.ball").random_ball(300, scale=0.1, opacity_logit=0.0)
    loss, orbit = of("losses.sds").SDS(), of("cameras.orbit").OrbitSampler()
    settings = of("run.settings")
    cloud = of("run.optimize").optimize(
        start, loss, prior, prompts, orbit, 2, settings.OptimizeSettings(views=1, image_size=64)
    )
    mesh = of("meshes.surface").extract_surface(cloud, resolution=32, views=8)
    mesh = of("meshes.texture").add_texture(mesh, cloud, 64, views=8)
    mesh = of("run.refine").refine_mesh(
        mesh, loss, prior, prompts, orbit, 1, settings.RefineSettings(views=1, image_size=64)
    )
    of("files.glb").glb_bytes(mesh)


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

"""Writes assets/comfyui.jpg: the quickstart in ComfyUI's page after a run. ``python
tests/browser/write_picture.py``

In the environment of ``nox -s setup``, with node, npm and Chromium; some five minutes on two cores.
Look at what it wrote.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "comfyui"))

from harness import environment, prompts  # noqa: E402
from harness.server import Server  # noqa: E402
from PIL import Image  # noqa: E402

LARGEST = 300_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=environment.ROOT / "assets" / "comfyui.jpg")
    parser.add_argument("--scale", type=float, default=0.56, help="pixels to a unit of the graph")
    parser.add_argument(
        "--corner", type=float, nargs=2, default=(-130, -190), help="graph units at the top left"
    )
    parser.add_argument(
        "--classic", action="store_true", help="the classic renderer instead of Nodes 2.0"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with Server(environment.tree(), base / "base", base / "comfyui.log") as server:
            server.post("/settings", {"Comfy.TutorialCompleted": True})
            settings = {
                "url": server.url, "browser": shutil.which("chromium") or shutil.which("google-chrome"),
                "folder": folder, "workflow": str(prompts.file_of("quickstart")), "watched": True,
                "nodes2": not options.classic, "scale": options.scale, "corner": list(options.corner),
            }  # fmt: skip
            file = base / "settings.json"
            file.write_text(json.dumps(settings))
            done = subprocess.run(
                ["node", HERE / "picture.mjs", file], capture_output=True, text=True, timeout=1500
            )
        assert done.returncode == 0, done.stderr[-3000:]
        facts = json.loads(done.stdout.splitlines()[-1])["facts"]
        print(json.dumps(facts))
        picture = Image.open(
            base / ("failure-page.png" if "failure" in facts else "picture-page.png")
        ).convert("RGB")
        for quality in range(90, 30, -5):
            picture.save(options.output, quality=quality, optimize=True)
            if options.output.stat().st_size < LARGEST:
                return


if __name__ == "__main__":
    main()

"""Pictures of every shipped workflow in ComfyUI's page, as it opens and as a whole, to be looked
at. ``python tests/browser/screenshots.py FOLDER [--page newest] [--classic] [--locale zh]``

In the environment of ``nox -s setup``, with Chromium and with what package.json names installed;
some five minutes on two cores.
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
from harness.frontend import frontend  # noqa: E402
from harness.server import Server  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="of workflows, as quickstart; all without")
    parser.add_argument("--page", choices=("installed", "newest"), default="installed")
    parser.add_argument(
        "--classic", action="store_true", help="the classic renderer instead of Nodes 2.0"
    )
    parser.add_argument("--locale", choices=("en", "zh"), default="en")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    workflows = [str(prompts.file_of(name)) for name in options.names or prompts.NAMES]
    if not options.names:
        workflows += map(str, sorted((environment.ROOT / "subgraphs").glob("*.json")))
    newest = options.page == "newest"
    arguments = ("--front-end-root", str(frontend("newest"))) if newest else ()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        files = base / "base", base / "comfyui.log"
        with Server(environment.tree(), *files, arguments=arguments) as server:
            server.post("/settings", {"Comfy.TutorialCompleted": True})
            settings = {
                "url": server.url,
                "browser": shutil.which("chromium") or shutil.which("google-chrome"),
                "folder": str(options.folder.resolve()), "watched": True, "workflows": workflows,
                "nodes2": not options.classic, "locale": options.locale,
            }  # fmt: skip
            file = base / "settings.json"
            file.write_text(json.dumps(settings))
            done = subprocess.run(
                ["node", HERE / "screenshots.mjs", file], capture_output=True, text=True
            )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    told = json.loads(done.stdout.splitlines()[-1])
    for name, seen in told["facts"].items():
        print(name, json.dumps(seen))
    print(json.dumps(told["told"]))


if __name__ == "__main__":
    main()

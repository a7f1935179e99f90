"""Pages of other ComfyUIs: the installed one belongs to the main version, and each also runs with
other servers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

from .environment import HOME, SetupError, child_environment, python

# By ComfyUI version: what its requirements.txt pins (newest: the newest that was tried), and the
# wheel's SHA-256.
WHEELS = {
    "0.20.1": ("1.42.15", "1cc906bc333cda46f3feb61da6f9b36cf1bcfe6ba6d36bb1e37af0f1c8d8c9fb"),
    "newest": ("1.58.1", "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"),
}
STATIC = "comfyui_frontend_package/static"


def frontend(version: str) -> Path:
    """The folder of that version's page, for --front-end-root; from PyPI when it is not there yet.

    Raises SetupError where that fails.
    """
    number, digest = WHEELS[version]
    folder = HOME / f"frontend-{number}"
    if folder.is_dir():
        return folder
    download = HOME / f"download-frontend-{number}"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    pinned = download / "wheel.txt"
    pinned.write_text(f"comfyui-frontend-package=={number} --hash=sha256:{digest}\n")
    command = [
        str(python()),
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "-r",
        str(pinned),
    ]
    done = subprocess.run(
        [*command, "-d", str(download)],
        capture_output=True,
        text=True,
        env=child_environment(),
        cwd=HOME,
    )
    if done.returncode:
        raise SetupError(
            f"The page of ComfyUI {version} could not be downloaded:\n{done.stderr[-1000:]}"
        )
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(
            download, [name for name in archive.namelist() if name.startswith(f"{STATIC}/")]
        )
    os.replace(download / STATIC, folder)
    shutil.rmtree(download)
    return folder

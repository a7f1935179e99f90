"""Where files go: ComfyUI's output folder, numbered like its own."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...kernels.files.atomic import appearing_together
from ...kernels.files.held import MARK, Held, clean
from .prefix import prefix_problem

FULL = "the disk is full"
FORBIDDEN = "ComfyUI may not write there"
GONE = "the folder is gone"
CAUSES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "the disk space that ComfyUI may use is used up",
    errno.EFBIG: "a file may not grow that large there",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
    errno.ENOENT: GONE,
    errno.ENOTDIR: GONE,
    errno.EIO: "the disk reports a fault",
    errno.ENAMETOOLONG: "the name is too long",
}
ELSEWHERE = "start ComfyUI with --output-directory on another disk"
CURES = {
    FULL: f"Free some space, or {ELSEWHERE}",
    GONE: f"Make the folder again, or {ELSEWHERE}",
    CAUSES[errno.ENAMETOOLONG]: "Choose a shorter filename_prefix",
}
CURE = f"Make it writable, or {ELSEWHERE}"


@dataclass(frozen=True)
class OutputFile:
    """One numbered file to be written in ComfyUI's output folder."""

    path: Path
    subfolder: str

    @property
    def result(self) -> dict[str, str]:
        """The entry for a node's ui dictionary, by which the page and /view find the file."""
        return {"filename": self.path.name, "subfolder": self.subfolder, "type": "output"}


def check_prefix(prefix: str | None) -> bool | str:
    """True, or what is wrong with a filename_prefix; None is a linked one, not known yet."""
    if prefix is None:
        return True
    return prefix_problem(prefix, Path(folder_paths.get_output_directory())) or True


@contextmanager
def new_output(
    owner: str, prefix: str, extension: str, *beside: str, root: Path | None = None
) -> Iterator[OutputFile]:
    """The next free ``prefix_00001_.extension``, which nobody else takes until the block ends; its
    folder is there.

    What is written in the block appears at its end, all of it or nothing. Counted per extension,
    unlike ComfyUI's own: the splat and the mesh of one object get one number. ``beside``:
    extensions of files that belong to it, which must be free too. ``root``: instead of the output
    folder. Raises ValueError for a bad prefix; OSError with a sentence, in which ``owner`` is the
    node, where the disk refuses.
    """
    root = root or Path(folder_paths.get_output_directory())
    if problem := prefix_problem(prefix, root):
        raise ValueError(problem)
    wanted = root / f"{prefix}.{extension}"
    try:
        # fills in %year% and the like
        place, name, _, subfolder, _ = folder_paths.get_save_image_path(prefix, str(root))
        wanted = Path(place) / f"{name}.{extension}"
        wanted.parent.mkdir(parents=True, exist_ok=True)
        clean(wanted.parent)
        number, held = _reserved(wanted.parent, name, (extension, *beside))
        wanted = wanted.with_name(f"{name}_{number:05}_.{extension}")
        try:
            with appearing_together():
                yield OutputFile(wanted, subfolder)
        finally:
            held.release()
    except OSError as error:
        if error.errno is None and str(error).startswith(owner):  # a sentence already
            raise
        raise OSError(refusal(owner, wanted, error)) from error


def refusal(owner: str, path: Path, error: OSError) -> str:
    """What to say of a file that the disk refuses: which, where, why, and the cure."""
    cause = CAUSES.get(error.errno or 0, error.strerror or str(error))
    free = ""
    if cause == FULL:
        with suppress(OSError):
            free = f" ({shutil.disk_usage(_existing(path)).free / 1e6:.0f} MB free)"
    return (
        f"{owner}: {path.name} could not be written to {path.parent}: {cause}{free}."
        f" {CURES.get(cause, CURE)}, and run again."
    )


def shown(path: Path) -> str:
    """The path as a user finds it again: relative to the folder of ComfyUI's that it is in."""
    for label, root in places().items():
        if path.is_relative_to(root):
            return f"{label}/{path.relative_to(root).as_posix()}"
    return str(path)


def places() -> dict[str, Path]:
    """ComfyUI's folders that a result may go to by their names, the best first; the last is emptied
    whenever ComfyUI starts.
    """
    return {
        "output": Path(folder_paths.get_output_directory()),
        "user": Path(folder_paths.get_user_directory()),
        "temp": Path(folder_paths.get_temp_directory()),
    }


def _reserved(folder: Path, name: str, extensions: tuple[str, ...]) -> tuple[int, Held]:
    """A number that no file of these extensions has, and what keeps it from other processes."""
    endings = "|".join(map(re.escape, extensions))
    taken = (
        re.fullmatch(rf"{re.escape(name)}_(\d+)_\.(?:{endings})", file.name)
        for file in folder.iterdir()
    )
    number = 1 + max((int(match[1]) for match in taken if match), default=0)
    while True:
        stem = f"{name}_{number:05}_"
        # a name of fixed length: the file's own may be as long as the disk allows
        digest = hashlib.blake2b(stem.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        try:
            held = Held(folder / f"{MARK}{digest}.taken")
        except FileExistsError:
            number += 1
            continue
        # written by another process since the folder was listed
        if not any((folder / f"{stem}.{extension}").exists() for extension in extensions):
            return number, held
        held.release()
        number += 1


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next((folder for folder in path.parents if folder.exists()), Path(path.anchor))

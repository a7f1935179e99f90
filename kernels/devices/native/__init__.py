"""Calls of other people's native code in a process of their own.

Some of it holds the interpreter's lock for seconds, in which nothing else of the server would run:
no page is answered and no cancel is heard. A process can also be ended in the middle.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from ..pace import reached
from . import child

POLL = 0.05  # seconds
Arrays = dict[str, Any]


class NativeError(RuntimeError):
    """A call that failed in its process."""


def apart(name: str, arrays: Arrays) -> Arrays:
    """What the function of `child` of that name makes of arrays by name, computed in another
    process, which ends if what is `reached` meanwhile raises. In this one where none can be begun.

    Raises NativeError.
    """
    # Files, not pipes: nobody has to fill or empty them while the other side waits.
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as made,
        tempfile.TemporaryFile() as said,
    ):
        try:
            np.savez(given, **arrays)
            given.seek(0)
            command = [sys.executable, child.__file__, name]
            process = subprocess.Popen(command, stdin=given, stdout=made, stderr=said)
        except OSError:  # no room for files, no processes
            return child.FUNCTIONS[name](arrays)
        try:
            while process.poll() is None:
                reached()
                try:
                    process.wait(POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            said.seek(0)
            text = said.read().decode(errors="replace").strip().splitlines()
            raise NativeError(text[-1] if text else f"{name} ended with {process.returncode}")
        made.seek(0)
        with np.load(made, allow_pickle=False) as found:
            return dict(found)

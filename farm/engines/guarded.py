"""Runs a program of the working folder and ends with whoever started it: `python guarded.py main.py
...`, with a pipe as standard input that closes when the starter dies, however it dies.

Standard library only; not imported, or this folder would be where its imports are looked for.
"""

import os
import runpy
import sys
import threading


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch, daemon=True).start()
    sys.path[0] = os.getcwd()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")

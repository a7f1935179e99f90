"""Makes the number files of tests/parity from clones of the authors' code that the user names.

    python tests/parity/record.py --threestudio DIR --consistent3d DIR --luciddreamer DIR \
        --segmentdreamer DIR --csd DIR --gsplat DIR

Each clone that is given makes its files anew; the others stay. Their code is imported, never
copied. Needs the pack's own environment, no GPU and no weights: the network is tiny and random.
"""

import argparse
import importlib
import sys
from pathlib import Path

PEERS = ("threestudio", "consistent3d", "luciddreamer", "segmentdreamer", "csd", "gsplat")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", type=Path, metavar="DIR")
    given = {peer: folder for peer, folder in vars(parser.parse_args()).items() if folder}
    if not given:
        parser.error("name at least one clone")
    sys.path.insert(0, str(Path(__file__).parent))
    for peer, folder in given.items():
        importlib.import_module(f"recording.{peer}").record(folder.resolve())
        record_config = getattr(importlib.import_module("recording.configs"), f"of_{peer}", None)
        if record_config:
            record_config(folder.resolve())


if __name__ == "__main__":
    main()

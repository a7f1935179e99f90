"""Sets up the clone's environment: `harness.environment`."""

from __future__ import annotations

import json
import sys
import time

from harness.environment import HOME, SetupError, setup


def main() -> int:
    start = time.monotonic()
    try:
        description = setup(lambda text: print(text, end="", flush=True))
    except SetupError as error:
        print(f"The set-up failed.\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Set-up interrupted; the next run goes on from here.", file=sys.stderr)
        return 130
    description["seconds"]["total"] = round(time.monotonic() - start, 1)
    HOME.joinpath("setup-seconds.json").write_text(json.dumps(description["seconds"]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

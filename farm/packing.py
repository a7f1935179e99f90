"""How many objects share a GPU: as many as its memory holds and as make it faster, by measuring."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MOST = 16  # workers on one GPU
ROOM = 0.9  # share of a GPU's memory that workers may hold together
BETTER = 1.05  # of the rate, for which one more worker stays
ROUND = 3  # objects of each worker by which a number is judged
CONTEXT = 600 << 20  # bytes that CUDA takes in each process, beside what torch holds


@dataclass
class Packing:
    """The search for the number, which grows while that pays.

    Args:
        memory: bytes of a GPU
        count: workers on each GPU now
        rates: objects an hour that were measured, by the number of workers on a GPU
        settled: whether the search is over
    """

    memory: int
    count: int = 1
    rates: dict[int, float] = field(default_factory=dict)
    settled: bool = False

    def fit(self, peak: int) -> int:
        """Workers that fit into the memory when one holds ``peak`` bytes."""
        return max(1, min(MOST, int(ROOM * self.memory / max(1, peak + CONTEXT))))

    def measured(self, rate: float, peak: int) -> int:
        """Takes the rate at the present number and a worker's memory; the number to go on with.

        Half as many more each time, back to the best where the last step did not pay.
        """
        self.rates[self.count] = rate
        if self.settled:
            return self.count
        best = max(self.rates, key=lambda count: (self.rates[count], -count))
        paid = all(
            rate >= BETTER * earlier for count, earlier in self.rates.items() if count < self.count
        )
        more = min(self.fit(peak), self.count + max(1, self.count // 2))
        if not paid or more <= self.count:
            self.settled = True
            self.count = min(self.fit(peak), self.count if paid else self._smallest(best))
        else:
            self.count = more
        return self.count

    def _smallest(self, best: int) -> int:
        """The least number whose rate is about the best one's."""
        enough = self.rates[best] / BETTER
        return min(count for count, rate in self.rates.items() if rate > enough)


def start_mps(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Has NVIDIA's Multi-Process Service let processes share a GPU's units, where it is there; the
    variables by which a process finds it. Not there or refused: none, and they take turns.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or os.name == "nt":
        return {}
    if "CUDA_MPS_PIPE_DIRECTORY" in environment:
        return {"CUDA_MPS_PIPE_DIRECTORY": environment["CUDA_MPS_PIPE_DIRECTORY"]}
    place = Path(tempfile.gettempdir()) / f"distill3d-mps-{os.getuid()}"
    variables = {
        "CUDA_MPS_PIPE_DIRECTORY": str(place / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(place / "log"),
    }
    for folder in variables.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    # All GPUs, whichever this process may see. One that runs already refuses the second and serves.
    whole = {name: text for name, text in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    subprocess.run([control, "-d"], check=False, env=whole | variables, capture_output=True)
    return variables if (place / "pipe" / "control").exists() else {}

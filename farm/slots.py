"""Where workers are: on the cores, or several on each GPU of the cluster."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from .errors import needed
from .packing import MOST, Packing
from .pool import Slot
from .worker import Options, Worker

MEMORY = 3 << 30  # bytes of main memory that a worker on the CPU may need
GPU_TIMEOUT = 30.0  # seconds until a GPU of the cluster has to be free


class Slots:
    """Makes workers of Ray's actors.

    Args:
        ray: connected
        options: of a worker on the CPU; on a GPU it has its share
        workers: on the CPU; 0: as many as fit
        per_gpu: workers on a GPU; 0: to be found
    """

    def __init__(
        self, ray: Any, options: Options, workers: int = 0, per_gpu: int = 0, kind: type = Worker
    ) -> None:
        self.ray, self.options, self.kind = ray, options, kind
        self.per_gpu, self._number = per_gpu, 0
        resources = ray.cluster_resources()
        self.gpus = 0 if workers else int(resources.get("GPU", 0))
        self.workers = workers or cpu_workers(
            int(resources.get("CPU", 1)), int(resources.get("memory", 0)), options.threads
        )
        self._groups: list[Any] = []

    def first(self) -> list[Slot]:
        """The workers to begin with."""
        if not self.gpus:
            return [
                self._slot(self.options, num_cpus=self.options.threads) for _ in range(self.workers)
            ]
        groups = needed("ray.util.placement_group")
        # one group a GPU, or Ray would fill one GPU before it takes the next
        self._groups = [groups.placement_group([{"GPU": 1}]) for _ in range(self.gpus)]
        return self.more(self.per_gpu or 1)

    def more(self, count: int) -> list[Slot]:
        """So many more workers on each GPU."""
        strategies = needed("ray.util.scheduling_strategies")
        share = 1 / (self.per_gpu or MOST)
        options = replace(self.options, gpu=share)
        return [
            self._slot(
                options,
                num_cpus=0,
                num_gpus=share,
                scheduling_strategy=strategies.PlacementGroupSchedulingStrategy(group),
            )
            for _ in range(count)
            for group in self._groups
        ]

    def packing(self, memory: int) -> Packing | None:
        """The search for the number of workers on a GPU, where that is asked for."""
        return Packing(memory) if self.gpus and not self.per_gpu and memory else None

    def _slot(self, options: Options, **resources: Any) -> Slot:
        self._number += 1
        made = self.ray.remote(self.kind).options(max_restarts=-1, max_task_retries=0, **resources)
        return Slot(made.remote(options, self._number), self._number)


def cpu_workers(cores: int, memory: int, threads: int) -> int:
    """Workers that the cores and the memory of a cluster hold."""
    by_memory = memory // MEMORY if memory else cores
    return max(1, min(cores // max(1, threads), int(by_memory)))


def cores() -> int:
    """Of this machine, that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

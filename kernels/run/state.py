"""What lets a run go on where it stopped: moments, random streams, loss state and counters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

STREAMS = (
    "cameras",
    "noise",
    "background",
    "posterior",
    "densify",
    "augment",
    "references",
)


@dataclass(frozen=True)
class TrainingState:
    """Everything a run carries from step to step besides the cloud or mesh itself. Immutable by
    convention.

    Travels as ``Gaussians.training`` or ``Mesh.training``. The tensors live where those do,
    generators on the CPU.

    Args:
        step: steps done over all calls, bad ones included
        seed: the seed the streams were derived from
        first: Adam's first moments, by the names and shapes of what the steps move
        second: second moments
        updates: [] int64, Adam steps taken (bad steps are not)
        bad_steps: [] int64, steps skipped for NaN or infinity, over all calls
        bad_run: [] int64, how many of those came directly before this point
        generators: state of each random stream, uint8
        latent_shape: (C,h,w) the loss was started for
        loss: the loss's own state: fixed noise, network weights and their moments
        statistics: what densification has gathered since it last acted, rows [N]
        carried: of a mesh: what moves in place of its own tensors
        made_with: what the run was asked for, by name, see `origin`
        references: where the cameras of reference pictures are by now, with moments, see `Guide`
    """

    step: int
    seed: int
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    updates: Tensor
    bad_steps: Tensor
    bad_run: Tensor
    generators: dict[str, Tensor]
    loss_name: str
    latent_shape: tuple[int, ...]
    loss: dict[str, Tensor]
    statistics: dict[str, Tensor]
    carried: dict[str, Tensor] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)
    references: dict[str, Tensor] = field(default_factory=dict)

    def to(
        self, device: torch.device | str, dtype: torch.dtype | None = None, copy: bool = False
    ) -> TrainingState:
        """The same state elsewhere, the moments as ``dtype``; with ``copy`` it shares no memory
        with this one.
        """

        def moved(
            values: Mapping[str, Tensor], kind: torch.dtype | None = None
        ) -> dict[str, Tensor]:
            return {
                key: value.detach().to(device, kind or value.dtype, copy=copy)
                for key, value in values.items()
            }

        return replace(
            self,
            first=moved(self.first, dtype),
            second=moved(self.second, dtype),
            updates=self.updates.to(device, copy=copy),
            bad_steps=self.bad_steps.to(device, copy=copy),
            bad_run=self.bad_run.to(device, copy=copy),
            loss=moved(self.loss),
            statistics=moved(self.statistics),
            carried=moved(self.carried),
            references=moved(self.references),
        )

    def check(self, tensors: Mapping[str, Tensor], name: str = "gaussians") -> TrainingState:
        """Return self, or raise ValueError if this state does not belong to what a run moves,
        ``tensors`` by name.
        """
        expected = {
            (group, key): tuple(v.shape)
            for group in ("first", "second")
            for key, v in tensors.items()
        }
        rows = len(next(iter(tensors.values())))
        expected |= {("statistics", key): (rows,) for key in self.statistics}
        for (group, key), shape in expected.items():
            value = getattr(self, group).get(key)
            if value is None or tuple(value.shape) != shape:
                found = "missing" if value is None else f"of shape {tuple(value.shape)}"
                raise ValueError(
                    f"{name}.training.{group}[{key!r}] is {found}, expected {shape}: it was edited"
                    f" after its training. Start afresh with dataclasses.replace({name},"
                    " training=None)."
                )
        return self


def fresh_state(tensors: Mapping[str, Tensor], seed: int) -> TrainingState:
    """The state before the first step of a run that moves ``tensors``."""
    zeros = {key: torch.zeros_like(value) for key, value in tensors.items()}
    count = torch.zeros((), dtype=torch.int64, device=next(iter(zeros.values())).device)
    generators = {name: g.get_state() for name, g in random_streams(seed).items()}
    return TrainingState(
        0, seed, zeros, dict(zeros), count, count, count, generators, "", (), {}, {}
    )


def random_streams(
    seed: int, states: Mapping[str, Tensor] | None = None
) -> dict[str, torch.Generator]:
    """One CPU generator per random part of a run, independent of each other, all from one seed;
    ``states`` goes on.

    Always on the CPU, so that a seed means the same run on every device.
    """
    streams = {}
    for name in STREAMS:
        digest = hashlib.blake2b(f"distill3d {name} {seed}".encode(), digest_size=8).digest()
        streams[name] = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        if states is not None and name in states:  # a training saved before there was this one
            streams[name].set_state(states[name])
    return streams

"""One stage of training: modules, optimizer, schedule and moving average; resumable from one
safetensors file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass
class Run:
    """One training stage: modules, optimizer, moving average, step count; saved and resumed as one
    safetensors file.

    Args:
        steps: length of the learning-rate schedule
        rate: peak learning rate
        decay: of the moving average, per step
        seconds: length of the schedule by the clock instead of by steps (0: by steps)
    """

    name: str
    modules: dict[str, nn.Module]
    steps: int
    rate: float
    work: Path
    decay: float = 0.999
    weight_decay: float = 0.01
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.parameters = [p for m in self.modules.values() for p in m.parameters()]
        names = [
            f"{m}.{n}" for m, module in self.modules.items() for n, _ in module.named_parameters()
        ]
        self.names, self.step, self.elapsed, self.losses = names, 0, 0.0, list[float]()
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            self.rate,
            (0.9, 0.99),
            weight_decay=self.weight_decay,
            fused=self.parameters[0].is_cuda,
        )
        if self.file.exists():
            self._load()

    @property
    def file(self) -> Path:
        return self.work / f"{self.name}.safetensors"

    @property
    def done(self) -> float:
        """Share of the schedule that is behind."""
        return self.elapsed / self.seconds if self.seconds else self.step / self.steps

    def update(self, loss: Tensor) -> None:
        """One optimizer step at the scheduled rate (warm-up, then cosine to 2 %), and the moving
        average.
        """
        warm, done = min(1.0, (self.step + 1) / 200), self.done
        for group in self.optimizer.param_groups:
            group["lr"] = (
                self.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1))))
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        weight = 1 - min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], weight)
        self.step += 1

    def use_average(self) -> None:
        """Put the averaged weights into the modules: for export, not for more training."""
        for p, a in zip(self.parameters, self.average, strict=True):
            p.data.copy_(a)

    def save(self) -> None:
        state = {
            f"weight.{n}": p.detach() for n, p in zip(self.names, self.parameters, strict=True)
        }
        state |= {f"average.{n}": a for n, a in zip(self.names, self.average, strict=True)}
        for n, p in zip(self.names, self.parameters, strict=True):
            if p in self.optimizer.state:
                state |= {
                    f"adam.{k}.{n}": self.optimizer.state[p][k] for k in ("exp_avg", "exp_avg_sq")
                }
        state["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        state["step"], state["elapsed"] = torch.tensor(self.step), torch.tensor(self.elapsed)
        partial = self.file.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in state.items()}, partial)
        partial.replace(self.file)

    def _load(self) -> None:
        state = load_file(self.file)
        self.step, self.losses = int(state["step"]), state["losses"].tolist()
        self.elapsed = float(state.get("elapsed", torch.zeros(())))
        for n, p, a in zip(self.names, self.parameters, self.average, strict=True):
            p.data.copy_(state[f"weight.{n}"])
            a.copy_(state[f"average.{n}"])
            if f"adam.exp_avg.{n}" in state:
                # In the weights' memory layout: the fused AdamW steps through all of them alike,
                # whatever the strides.
                kept = {k: state[f"adam.{k}.{n}"] for k in ("exp_avg", "exp_avg_sq")}
                moments = {k: torch.empty_like(p).copy_(m) for k, m in kept.items()}
                # where the fused AdamW and the plain one keep it
                at = p.device if p.is_cuda else "cpu"
                step = torch.tensor(float(self.step), device=at)
                self.optimizer.state[p] = {"step": step, **moments}


def loop(
    run: Run, loss_of: Callable[[], Tensor], seconds: float, save_every: float = 120.0
) -> Iterator[int]:
    """Train until the schedule's end or for ``seconds``, whichever is first; yields now and then,
    saves at the end.
    """
    from tqdm import tqdm

    start = saved = time.monotonic()
    before = run.elapsed
    bar = tqdm(
        total=None if run.seconds else run.steps, initial=run.step, desc=run.name, mininterval=20
    )
    kept: list[Tensor] = []
    while run.done < 1 and time.monotonic() - start < seconds:
        loss = loss_of()
        run.update(loss)
        run.elapsed = before + time.monotonic() - start
        kept.append(loss.detach())
        bar.update()
        if len(kept) == 50:
            run.losses.append(float(torch.stack(kept).mean()))
            bar.set_postfix(loss=f"{run.losses[-1]:.4f}", refresh=False)
            kept = []
            yield run.step
            if time.monotonic() - saved > save_every:
                run.save()
                saved = time.monotonic()
    run.save()
    bar.close()

"""The number files, and a prior that answers what the authors' network answered."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from harness import recipes
from safetensors import safe_open

from distill3d.kernels.losses import base
from distill3d.kernels.losses.base import Views
from distill3d.kernels.priors import perp_neg
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

NUMBERS = Path(__file__).parent / "numbers"
DTYPES = (torch.float64, torch.float32)
# greatest difference, as a share of the greatest official value
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}


def published(recipe, node, loss, **changes):
    """The loss with the authors' values that nodes/papers.json gives ``node`` in a recipe."""
    each = recipes.recipe(recipe)
    told = {k: v for k, v in each.values[node].items() if k not in each.ours[node]}
    return replace(loss, **told, **changes)


def schedule(dtype):
    """The table that all of them read, diffusers' own of Stable Diffusion."""
    return NoiseSchedule(Numbers("schedule", dtype)["alphas_cumprod"])


class Numbers(dict):
    """One file: its tensors by name, floats as ``dtype``, and what it says of itself."""

    def __init__(self, name, dtype=torch.float64):
        with safe_open(NUMBERS / f"{name}.safetensors", "pt") as file:
            self.about = json.loads(file.metadata()["about"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        self.settings, self.dtype = self.about["settings"], dtype
        super().__init__(
            {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        )

    def part(self, prefix):
        part = Numbers.__new__(Numbers)
        part.about, part.settings, part.dtype = self.about, self.settings, self.dtype
        part.update({k[len(prefix) :]: v for k, v in self.items() if k.startswith(prefix)})
        return part


class Replayed:
    """A prior whose network answers as a file says, for the very inputs that it says."""

    name, latent_channels, downscale, image_size = "replayed", 4, 8, 32
    device = torch.device("cpu")

    def __init__(self, numbers, null=None, prefix=""):
        self.rows = [numbers[f"{prefix}net.{part}"] for part in ("z", "t", "text", "out")]
        self.dtype, self.schedule, self.null = numbers.dtype, schedule(numbers.dtype), null
        self.near = 1e-8 if self.dtype == torch.float64 else 1e-4
        self.asked = set()

    def embed(self, texts):
        assert set(texts) == {""}, texts
        return Conditioning(self.null[:1].expand(len(texts), -1, -1))

    def predict(self, z_t, t, conditionings):
        return perp_neg.predict(self.network, z_t, t, conditionings)

    def network(self, z_t, t, text):
        known, steps, said, out = self.rows
        answers = []
        for z, at, own in zip(z_t, t, text.embeddings, strict=True):
            gap = (known - z).abs().amax((1, 2, 3)) / known.abs().amax((1, 2, 3))
            gap = gap + (said - own).abs().amax((1, 2)) + (steps - at).abs()
            row = int(gap.argmin())
            assert gap[row] < self.near, f"the network is asked what it was not, off by {gap[row]}"
            self.asked.add(row)
            answers.append(out[row])
        return torch.stack(answers)


def views(text, negative, step=0, steps=1, base=None):
    rows = (Conditioning(value) for value in (text, negative))
    return Views(*rows, None, step, steps, base=None if base is None else Conditioning(base))


def fed(monkeypatch, *values, modules=()):
    """`draw_noise` gives these tensors, in their order."""
    waiting = list(values)

    def draw_noise(shape, generator, like):
        value = waiting.pop(0)
        assert tuple(value.shape) == tuple(shape), (value.shape, shape)
        return value

    for module in (base, *modules):
        monkeypatch.setattr(module, "draw_noise", draw_noise)
    return waiting


def gradient(run, latents, seen):
    """Value and gradient of one step of a loss's run."""
    z0 = latents.clone().requires_grad_()
    value, _ = run(z0, seen, torch.Generator().manual_seed(0))
    value.backward()
    return value.detach(), z0.grad


def difference(found, official):
    """Greatest difference as a share of the greatest official value."""
    return float((found - official).abs().max() / official.abs().max())


MEASURED = {}


def close(name, found, official, limit=None):
    """Asserts it, and notes the difference for the table in docs."""
    off = difference(found, official)
    key = (name, str(found.dtype).removeprefix("torch."))
    MEASURED[key] = max(MEASURED.get(key, 0.0), off)
    assert off <= (LIMITS[found.dtype] if limit is None else limit), f"{name}: {off:.1e} off"

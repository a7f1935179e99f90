"""Texts as ComfyUI's samplers hand them to a model: prepared one by one, joined where they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import comfy.samplers
import torch
from torch import Tensor

from ...kernels.priors.conditioning import Conditioning
from ...kernels.priors.rows import TextRow

KINDS = ("positive", "negative")  # what samplers call them


class Texts:
    """What a model makes of each text before its network is called, kept while the text is.

    Some count a text's tokens, or run a network of their own over them: what they make of several
    texts together would be wrong, and of one in every step a waste.
    """

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[TextRow, dict[Any, dict[str, Any]]] = WeakKeyDictionary()

    def forget(self) -> None:
        """The model may be another one from now on."""
        self._made.clear()

    def of(
        self, row: TextRow, x: Tensor, told: Mapping[str, Any], model: Any, kind: int
    ) -> dict[str, Any]:
        """ComfyUI's conds of one text for latents like x [B,C,h,w], as its samplers make them."""
        key = (kind, tuple(x.shape[1:]), x.device, tuple(told.items()))
        made = self._made.setdefault(row, {})
        if key not in made:
            cond = {**row.values, **told, "model_conds": {}}
            with torch.inference_mode():  # out of it, some take a text for one to train on
                (found,) = comfy.samplers.encode_model_conds(
                    model.extra_conds, [cond], x[:1], x.device, KINDS[kind]
                )
                made[key] = {
                    name: value.process_cond(batch_size=1, device=x.device, area=None)
                    for name, value in found["model_conds"].items()
                }
        return made[key]

    def alike(
        self,
        x: Tensor,
        text: Conditioning,
        told: Mapping[str, Any],
        model: Any,
        kind: int,
        rows: Sequence[int],
    ) -> list[list[int]]:
        """Those of ``rows`` of one kind that one call can take, together."""
        groups: list[tuple[dict[str, Any], list[int]]] = []
        for row in rows:
            conds = self.of(self._row(text, row), x, told, model, kind)
            for first, group in groups:
                if _fit(first, conds):
                    group.append(row)
                    break
            else:
                groups.append((conds, [row]))
        return [group for _, group in groups]

    def joined(
        self, x: Tensor, text: Conditioning, told: Mapping[str, Any], model: Any, kind: int
    ) -> dict[str, Any]:
        """ComfyUI's conds of all rows of the text, which fit together."""
        made = [self.of(self._row(text, row), x, told, model, kind) for row in range(len(text))]
        first, rest = made[0], made[1:]
        return {
            name: value._copy_with(value.concat([other[name] for other in rest]))
            for name, value in first.items()
        }

    @staticmethod
    def _row(text: Conditioning, place: int) -> TextRow:
        if text.rows is None:
            raise ValueError(
                "prompts were embedded by another prior. Link View Prompts and Optimize to the same"
                " prior."
            )
        return text.rows[place]


def _fit(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(value.can_concat(b[name]) for name, value in a.items())


def asked(
    model: Any,
    conds: list[list[dict[str, Any]] | None],
    x: Tensor,
    level: Tensor,
    options: dict[str, Any],
    name: str,
) -> list[Tensor]:
    """The clean latents by ComfyUI's own call. Raises ValueError where text and model do not go
    together."""
    try:
        found: list[Tensor] = comfy.samplers.calc_cond_batch(model, conds, x, level, options)
        return found
    except (RuntimeError, ValueError) as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        raise ValueError(
            f"prior {name!r}: what clip makes of a text does not fit the model ({error}). Link the"
            " CLIP that belongs to the model, loaded as its type."
        ) from error

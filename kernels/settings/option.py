"""Settings that came later: where they keep their default, no text tells of them."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any


def option(default: Any) -> Any:
    """A dataclass's field that its repr leaves out while it has its default.

    Measured results are known by the repr of the settings that made them; what did not exist then
    changed nothing.
    """
    return field(default=default, metadata={"option": True})


class Settings:
    """Base of dataclasses with an `option` among their fields."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(cls):  # a dataclass leaves one that is there alone
            cls.__repr__ = Settings.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        shown = (
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)  # type: ignore[arg-type]
            if f.repr and not (f.metadata.get("option") and getattr(self, f.name) == f.default)
        )
        return f"{type(self).__qualname__}({', '.join(shown)})"

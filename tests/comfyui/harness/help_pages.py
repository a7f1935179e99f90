"""web/docs: the tables at the end of each help page, from the node's own schema. What stands before them is by hand."""

from __future__ import annotations

from harness.environment import ROOT

FOLDER = ROOT / "web" / "docs"
HEADINGS = ("\n## Inputs\n", "\n## Outputs\n")


def by_hand(page: str) -> str:
    """What a person wrote: all before the first table."""
    ends = [page.find(heading) for heading in HEADINGS if heading in page]
    return page[: min(ends)] if ends else page.rstrip("\n") + "\n"


def whole(page: str, info: dict) -> str:
    """The page with its tables made anew; ``info`` is the node's entry in /object_info."""
    return by_hand(page) + tables(info)


def tables(info: dict) -> str:
    inputs = [
        (group, name, spec) for group in ("required", "optional") for name, spec in info["input"].get(group, {}).items()
    ]
    text = ""
    if inputs:
        text += "\n## Inputs\n\n"
        if any(spec[1].get("advanced") for _, _, spec in inputs):
            text += "Those in *italics* are advanced: ComfyUI shows them on demand.\n\n"
        text += "| Input | Default | Meaning |\n|---|---|---|\n"
        text += "".join(
            f"| {_name(name, spec[1])} | {_value(group, spec)} | {spec[1]['tooltip']} |\n"
            for group, name, spec in inputs
        )
    if info["output_name"]:
        text += "\n## Outputs\n\n| Output | Meaning |\n|---|---|\n"
        named = zip(info["output_name"], info["output_tooltips"], strict=True)
        text += "".join(f"| `{name}` | {tooltip} |\n" for name, tooltip in named)
    return text


def _name(name: str, options: dict) -> str:
    return f"*`{name}`*" if options.get("advanced") else f"`{name}`"


def _value(group: str, spec: list) -> str:
    """The default, with the range of a number."""
    kind, options = spec
    default = options.get("default")
    if kind in ("INT", "FLOAT"):
        low, high = options["min"], options["max"]
        # A seed's range is that of 64 bits, which says nothing.
        return f"{_number(default)} ({_number(low)} to {_number(high)})" if high < 2**53 else _number(default)
    if kind == "BOOLEAN":
        return "on" if default else "off"
    if kind == "COMBO":
        return str(default or "the first of the list")
    if kind == "STRING":
        return f"`{default}`" if default else "empty"
    return "a link" if group == "required" else "no link"


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"

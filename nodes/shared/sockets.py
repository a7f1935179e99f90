"""What every node says of a plain value in a socket of the pack's, as only a graph written by a
program can have it, and of memory that ran out.
"""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

from ...kernels.devices.memory import trim_heap
from ...kernels.devices.streams import forget_workspaces, is_out_of_memory

if TYPE_CHECKING:
    from comfy_api.latest import io

OWN = "DISTILL3D_"  # how the types of the pack's sockets begin
PLAIN = (str, int, float, list, dict, type(None))


def guarded(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, which says so when it fails for a number or a text in place of a link, or when the
    process gets no more memory.
    """
    run: Any = node.execute.__func__

    @wraps(run)
    def execute(cls: Any, *values: Any, **inputs: Any) -> Any:
        try:
            try:
                return run(cls, *values, **inputs)
            finally:
                trim_heap()
                with suppress(RuntimeError):  # of a device whose first error is to be told
                    forget_workspaces()
        except MemoryError as error:
            if str(error):
                raise
            raise MemoryError(
                f"{cls.define_schema().display_name}: the machine's memory is used up. Close other"
                " programs, or ask for less: smaller pictures, fewer views or Gaussians, a smaller"
                " model."
            ) from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # by type and words ComfyUI knows it, and unloads all models
            raise type(error)(
                f"{cls.define_schema().display_name}: the device's memory is used up ({error})."
                " Ask for less: smaller pictures, fewer views or Gaussians, micro_batch in Run"
                " Options, low_vram in Load Diffusion Prior; or close what else uses the device."
            ) from error
        except (AttributeError, TypeError) as error:
            schema = cls.define_schema()
            for each in schema.inputs:
                value = inputs.get(each.id, each)
                if each.get_io_type().startswith(OWN) and isinstance(value, PLAIN):
                    raise ValueError(
                        f"{schema.display_name}: {each.id} is {str(value)[:40]!r}, where a link"
                        " from another node's output belongs. Link one."
                    ) from error
            raise

    node.execute = classmethod(execute)
    return node

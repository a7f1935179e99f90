"""Vectors of float32 inside compiled loops: a few numbers that one instruction adds, multiplies or
compares.

The compiler turns simple loops into such vectors by itself, but neither chooses 4x4 blocks of
pixels, nor the full width of AVX-512, nor keeps ten sums in registers over a loop in a loop. A
`Lanes` value holds COUNT numbers, a `Mask` as many truths; ``+ - * /`` work between Lanes, and with
floats, ``>= <= > <`` make masks, ``&`` joins them. On processors with shorter registers LLVM splits
them up.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

# As numba chooses them.
FEATURES = (
    getattr(config, "CPU_FEATURES", None) or llvmlite.binding.get_host_cpu_features().flatten()
)
COUNT = 16 if "+avx512f" in FEATURES.split(",") else 8
BLOCK = 4  # the lanes as a block of pixels: 4 columns, COUNT / 4 rows
FLAGS = ("contract", "nsz", "arcp")  # none that forbids NaN: comparisons with it stay false

FLOAT, BIT, INDEX = ir.FloatType(), ir.IntType(1), ir.IntType(32)
VECTOR, BITS = ir.VectorType(FLOAT, COUNT), ir.VectorType(BIT, COUNT)


class Lanes(types.Type):
    """COUNT float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{COUNT}")


class Mask(types.Type):
    """COUNT truths."""

    def __init__(self) -> None:
        super().__init__(name=f"Mask{COUNT}")


lanes, mask = Lanes(), Mask()


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """A `Lanes` in LLVM: a vector of floats."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


@register_model(Mask)
class MaskModel(models.PrimitiveModel):
    """A `Mask` in LLVM: a vector of bits."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, BITS)


def constant(numbers: Any) -> Any:
    """A vector of known numbers."""
    return ir.Constant(VECTOR, [ir.Constant(FLOAT, float(number)) for number in numbers])


def widened(builder: Any, value: Any) -> Any:
    """The value if it is a vector, else a vector of it."""
    if isinstance(value.type, ir.VectorType):
        return value
    if isinstance(value.type, ir.DoubleType):
        value = builder.fptrunc(value, FLOAT)
    kind = ir.VectorType(value.type, COUNT)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INDEX, 0))
    everywhere = ir.Constant(ir.VectorType(INDEX, COUNT), [ir.Constant(INDEX, 0)] * COUNT)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)


def define(function: Any, emit: Any, result: types.Type, operand: types.Type = lanes) -> None:
    """Teach numba an operator between two ``operand``, or one and a float."""

    @type_callable(function)
    def typed(context: Any) -> Any:
        def typer(a: Any, b: Any) -> Any:
            fits = all(
                kind is operand or (operand is lanes and isinstance(kind, types.Float))
                for kind in (a, b)
            )
            return result if fits and operand in (a, b) else None

        return typer

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(builder, *(widened(builder, value) for value in values))

    for kinds in ((operand, operand), (operand, types.Float), (types.Float, operand)):
        lower_builtin(function, *kinds)(lower)


define(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=FLAGS), lanes)
define(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=FLAGS), lanes)
define(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=FLAGS), lanes)
define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=FLAGS), lanes)
define(operator.ge, lambda builder, a, b: builder.fcmp_ordered(">=", a, b), mask)
define(operator.le, lambda builder, a, b: builder.fcmp_ordered("<=", a, b), mask)
define(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), mask)
define(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), mask)
define(operator.and_, lambda builder, a, b: builder.and_(a, b), mask, mask)


def emitted(function: Callable[..., Any]) -> Any:
    """`intrinsic` for the type checker, to whom the first argument would be missing."""
    return intrinsic(function)


@emitted
def splat(typing: Any, value: Any) -> Any:
    """Lanes that all hold the value."""
    return lanes(value), lambda context, builder, signature, values: widened(builder, values[0])


@emitted
def select(typing: Any, where: Any, a: Any, b: Any) -> Any:
    """a where the mask holds, else b; either may be a float."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(values[0], widened(builder, values[1]), widened(builder, values[2]))

    return lanes(where, a, b), emit


def smaller(sign: str) -> Any:
    """Code that takes, lane by lane, the one that compares so with the other."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, b = (widened(builder, value) for value in values)
        return builder.select(builder.fcmp_ordered(sign, a, b), a, b)

    return emit


@emitted
def least(typing: Any, a: Any, b: Any) -> Any:
    """The smaller of each pair; b where a is NaN."""
    return lanes(a, b), smaller("<")


@emitted
def most(typing: Any, a: Any, b: Any) -> Any:
    """The larger of each pair; b where a is NaN."""
    return lanes(a, b), smaller(">")


@emitted
def any_of(typing: Any, where: Any) -> Any:
    """Whether the mask holds anywhere."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = builder.bitcast(values[0], ir.IntType(COUNT))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(where), emit


@emitted
def block_x(typing: Any) -> Any:
    """Each lane's column in its block of pixels."""
    return lanes(), lambda *_: constant(lane % BLOCK for lane in range(COUNT))


@emitted
def block_y(typing: Any) -> Any:
    """Each lane's row in its block of pixels."""
    return lanes(), lambda *_: constant(lane // BLOCK for lane in range(COUNT))


def each(name: str) -> Any:
    """Emits LLVM's function of that name on every lane."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(VECTOR, [VECTOR])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{COUNT}f32")
        return builder.call(function, values)

    return emit


@emitted
def root(typing: Any, a: Any) -> Any:
    """Square roots."""
    return lanes(a), each("sqrt")


@emitted
def reciprocal(typing: Any, a: Any) -> Any:
    """1 / a of finite numbers, to the last bit or two: an estimate and one Newton step where the
    processor has them.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.fdiv(
            constant([1.0] * COUNT), values[0], flags=("arcp", "contract", "ninf", "nnan")
        )

    return lanes(a), emit


@emitted
def logarithm(typing: Any, a: Any) -> Any:
    """Natural logarithms, one by one: slow."""
    return lanes(a), each("log")


@emitted
def lowest(typing: Any, bits: Any) -> Any:
    """Index of the lowest bit of a uint64 that is set."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(BIT, 1))

    return types.uint64(types.uint64), emit

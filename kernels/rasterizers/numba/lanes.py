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


def place(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to the vector that begins at this index of a flat, contiguous float32 array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


@emitted
def load(typing: Any, array: Any, index: Any) -> Any:
    """COUNT neighbours of a flat, contiguous float32 array, from the index on. No bounds are
    checked.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(place(context, builder, signature.args[0], *values), align=4)

    return lanes(array, index), emit


@emitted
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write Lanes to COUNT neighbours of a flat, contiguous float32 array. No bounds are
    checked.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], place(context, builder, signature.args[0], *values[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), emit


@emitted
def store_whole(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write the whole parts of Lanes to COUNT neighbours of a flat, contiguous int32 array. No
    bounds are checked.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        whole = builder.fptosi(values[2], ir.VectorType(INDEX, COUNT))
        builder.store(
            whole, builder.bitcast(builder.gep(data, [values[1]]), whole.type.as_pointer()), align=4
        )
        return context.get_dummy_value()

    return types.void(array, index, value), emit


@emitted
def spans_mask(typing: Any, array: Any) -> Any:
    """64 bits, eight rows of eight: in row i those from array[8+i] up to but without array[i],
    whole numbers 0..8.

    ``array`` [16]: flat, contiguous float32; fractions are dropped.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.VectorType(INDEX, 16)
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        floats = builder.load(builder.bitcast(data, ir.VectorType(FLOAT, 16).as_pointer()), align=4)
        ones = ir.Constant(kind, [ir.Constant(INDEX, 1)] * 16)
        below = builder.sub(builder.shl(ones, builder.fptosi(floats, kind)), ones)
        octets = builder.trunc(below, ir.VectorType(ir.IntType(8), 16))
        both = builder.bitcast(octets, ir.VectorType(ir.IntType(64), 2))
        ends, starts = (builder.extract_element(both, ir.Constant(INDEX, half)) for half in (0, 1))
        return builder.and_(ends, builder.not_(starts))

    return types.uint64(array), emit


@emitted
def lowest(typing: Any, bits: Any) -> Any:
    """Index of the lowest bit of a uint64 that is set."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(BIT, 1))

    return types.uint64(types.uint64), emit


@emitted
def claim(typing: Any, counter: Any, number: Any) -> Any:
    """Raise an int64 array's first item by so much, whatever other threads do to it, and return
    what it was.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", data, values[1], "monotonic")

    return types.int64(counter, types.int64), emit


@emitted
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the line of the cache that holds this item of a flat, contiguous array."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        octet = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [octet, INDEX, INDEX, INDEX])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        address = builder.bitcast(builder.gep(data, [values[1]]), octet)
        builder.call(function, [address, *(ir.Constant(INDEX, flag) for flag in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, index), emit


@emitted
def store_sums(typing: Any, array: Any, index: Any, vectors: Any) -> Any:
    """Write the sum over the lanes of each of a tuple's Lanes, one after the other, filled up with
    zeros to a multiple of COUNT."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, index, vectors = values
        parts = cgutils.unpack_tuple(builder, vectors)
        for first in range(0, len(parts), COUNT):
            group = parts[first : first + COUNT]
            group += [constant([0.0] * COUNT)] * (COUNT - len(group))
            here = builder.add(index, ir.Constant(index.type, first))
            builder.store(
                folded(builder, group),
                place(context, builder, signature.args[0], array, here),
                align=4,
            )
        return context.get_dummy_value()

    return types.void(array, index, vectors), emit


def folded(builder: Any, vectors: list[Any]) -> Any:
    """One vector that holds the sum of each of COUNT vectors: neighbours are added until one of
    each is left.
    """
    halves = [[ir.Constant(INDEX, lane + odd) for lane in range(0, 2 * COUNT, 2)] for odd in (0, 1)]
    even, odd = (ir.Constant(ir.VectorType(INDEX, COUNT), half) for half in halves)
    while len(vectors) > 1:
        vectors = [
            builder.fadd(
                builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd), flags=FLAGS
            )
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def items(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Pointers to what each lane reads or writes: the items ``offset`` of COUNT rows of a flat,
    contiguous array.
    """
    data = context.make_array(signature.args[0])(context, builder, values[0]).data
    first, count, stride, offset = (widened(builder, value) for value in values[1:5])
    wide = first.type
    one, steps = (
        ir.Constant(wide, [ir.Constant(wide.element, i) for i in row])
        for row in ([1] * COUNT, range(COUNT))
    )
    row, last = builder.add(first, steps), builder.sub(count, one)
    row = builder.select(builder.icmp_signed("<", row, last), row, last)
    size = ir.Constant(wide.element, context.get_abi_sizeof(data.type.pointee))
    item = builder.mul(builder.add(builder.mul(row, stride), offset), widened(builder, size))
    address = builder.add(item, widened(builder, builder.ptrtoint(data, wide.element)))
    return builder.inttoptr(address, ir.VectorType(data.type, COUNT))


def masked(builder: Any, name: str, result: Any, arguments: list[Any], kind: str) -> Any:
    """Call LLVM's gather or scatter of a ``kind`` of numbers with every lane switched on."""
    function = ir.FunctionType(result, [value.type for value in arguments])
    name = f"llvm.masked.{name}.v{COUNT}{kind}.v{COUNT}p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


ALIGNED, ALL = ir.Constant(INDEX, 1), ir.Constant(BITS, [ir.Constant(BIT, 1)] * COUNT)
# first row, number of rows, items per row, which item
ROWS = (types.intp, types.intp, types.intp, types.intp)


@emitted
def pick(typing: Any, array: Any, first: Any, count: Any, stride: Any, offset: Any) -> Any:
    """One item of each of COUNT rows of a flat array, from row ``first`` on; the last row again
    beyond ``count``.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arguments = [
            items(context, builder, signature, values),
            ALIGNED,
            ALL,
            ir.Constant(VECTOR, ir.Undefined),
        ]
        return masked(builder, "gather", VECTOR, arguments, "f32")

    return lanes(array, *ROWS), emit


@emitted
def put(
    typing: Any, array: Any, first: Any, count: Any, stride: Any, offset: Any, value: Any
) -> Any:
    """Write what `pick` reads. ``value``: Lanes, or for an array of bool a Mask."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value, kind = values[5], "f32"
        if value.type.element == BIT:
            value, kind = builder.zext(value, ir.VectorType(ir.IntType(8), COUNT)), "i8"
        arguments = [value, items(context, builder, signature, values), ALIGNED, ALL]
        masked(builder, "scatter", ir.VoidType(), arguments, kind)
        return context.get_dummy_value()

    return types.void(array, *ROWS, value), emit

"""Vectors in memory: loads and stores of flat, contiguous float32 arrays as LLVM has them, no bounds
checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .lanes import BIT, BITS, COUNT, FLAGS, FLOAT, INDEX, VECTOR, constant, emitted, lanes, widened


def pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to the vector that begins at this index of a flat, contiguous float32 array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


@emitted
def load(typing: Any, array: Any, index: Any) -> Any:
    """COUNT neighbours of a flat, contiguous float32 array, from the index on. No bounds are
    checked.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(pointer(context, builder, signature.args[0], *values), align=4)

    return lanes(array, index), emit


@emitted
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write Lanes to COUNT neighbours of a flat, contiguous float32 array. No bounds are
    checked.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], pointer(context, builder, signature.args[0], *values[:2]), align=4)
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
                pointer(context, builder, signature.args[0], array, here),
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

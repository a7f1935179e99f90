"""Vectors in compiled loops against NumPy."""

import numpy as np
import pytest

pytest.importorskip("numba")
from numba import njit

from distill3d.kernels.rasterizers.numba import lanes, memory
from distill3d.kernels.rasterizers.numba.lanes import COUNT
from distill3d.kernels.rasterizers.numba.tile import exp_negative

A = np.linspace(-3, 5, COUNT).astype(np.float32)
B = np.linspace(2, -1, COUNT).astype(np.float32)


def run(function, *arrays):
    """What the compiled function of Lanes makes of arrays of COUNT numbers."""
    compiled = njit(function)
    body = {
        1: lambda out, a: memory.store(out, 0, compiled(memory.load(a, 0))),
        2: lambda out, a, b: memory.store(out, 0, compiled(memory.load(a, 0), memory.load(b, 0))),
    }[len(arrays)]
    out = np.zeros(COUNT, np.float32)
    njit(body)(out, *arrays)
    return out


def test_arithmetic_comparisons_and_choice():
    np.testing.assert_allclose(
        run(lambda a, b: (a * b + 2.0) / (3.0 - b) - a, A, B), (A * B + 2) / (3 - B) - A, 1e-6
    )
    chosen = run(lambda a, b: lanes.select((a >= b) & (a < 4.0), a, b), A, B)
    np.testing.assert_array_equal(chosen, np.where((A >= B) & (A < 4), A, B))
    np.testing.assert_array_equal(
        run(lambda a, b: lanes.least(a, b) + lanes.most(a, b), A, B), A + B
    )
    np.testing.assert_allclose(run(lambda a: lanes.root(a * a), A), np.abs(A), 1e-6)


def test_nan_compares_as_false_and_gives_way():
    a = A.copy()
    a[1] = np.nan
    assert run(lambda a: lanes.select(a >= -100.0, lanes.splat(1.0), 0.0), a).tolist() == [1, 0] + [
        1
    ] * (COUNT - 2)
    assert run(lambda a: lanes.most(a, lanes.splat(-7.0)), a)[1] == -7
    assert run(lambda a: lanes.least(a, lanes.splat(-7.0)), a)[1] == -7


def test_reciprocals_and_exponentials_are_accurate():
    x = np.linspace(0.01, 1, COUNT).astype(np.float32)
    np.testing.assert_allclose(run(lambda a: lanes.reciprocal(a), x), 1 / x, 1e-6)
    x = np.linspace(-5.6, 0, COUNT).astype(np.float32)
    np.testing.assert_allclose(run(lambda a: exp_negative(a), x), np.exp(x), 5e-6)


def test_sums_are_stored_one_after_the_other():
    out = np.full(3 * COUNT, -1, np.float32)

    @njit
    def store(out, a, b):
        x, y = memory.load(a, 0), memory.load(b, 0)
        memory.store_sums(out, 1, (x, y, x * y, lanes.block_x(), lanes.block_y()))

    store(out, A, B)
    block = np.arange(COUNT)
    truth = [A.sum(), B.sum(), (A * B).sum(), (block % 4).sum(), (block // 4).sum()]
    np.testing.assert_allclose(out[1:6], truth, rtol=1e-5)
    assert out[0] == -1 and not out[6 : 1 + COUNT].any() and (out[1 + COUNT :] == -1).all()


@pytest.mark.parametrize("first", [0, COUNT])
def test_rows_beyond_the_last_are_the_last_again(first):
    count = COUNT + 3
    table = np.arange(3 * count, dtype=np.float32)
    out, flags = np.zeros(2 * count, np.float32), np.zeros(count, np.bool_)

    @njit
    def move(table, out, flags, first, count):
        column = memory.pick(table, first, count, 3, 1)
        memory.put(out, first, count, 2, 1, column)
        memory.put(flags, first, count, 1, 0, column > 10.0)

    move(table, out, flags, first, count)
    inside = np.arange(count)
    inside = (inside >= first) & (inside < first + COUNT)
    truth = np.where(inside, table[1::3], 0)
    np.testing.assert_array_equal(out[1::2], truth)
    np.testing.assert_array_equal(flags, truth > 10)
    assert not out[::2].any()


def test_a_mask_of_blocks_and_its_lowest_bit():
    generator = np.random.default_rng(0)
    ends, starts = generator.integers(0, 9, 8), generator.integers(0, 9, 8)
    spans = np.concatenate((ends + 0.5, starts + 0.25)).astype(np.float32)
    truth = sum(1 << (8 * i + j) for i in range(8) for j in range(starts[i], ends[i]))
    assert (ends < starts).any() and (ends > starts).any()
    assert njit(lambda spans: memory.spans_mask(spans))(spans) == truth
    lowest = njit(lambda bits: lanes.lowest(bits))
    assert [lowest(np.uint64(bits)) for bits in (1, 12, 1 << 63)] == [0, 2, 63]


def test_claims_count_up():
    counter = np.zeros(1, np.int64)
    take = njit(lambda counter: memory.claim(counter, 3))
    assert [take(counter), take(counter), counter[0]] == [0, 3, 6]

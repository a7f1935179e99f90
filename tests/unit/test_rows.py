"""Networks by rows: the numbers of smaller batches, each thread in one piece."""

import threading

import pytest
import torch
from kit import normal
from torch import nn

from distill3d.kernels.devices.rows import by_rows, by_rows_with_gradient
from distill3d.kernels.devices.workers import openmp

pytestmark = pytest.mark.skipif(openmp() is None, reason="needs torch's own OpenMP runtime")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.asked = []

    def forward(self, x, scale=None):
        self.asked.append((len(x), threading.get_ident(), torch.is_grad_enabled()))
        y = self.second(torch.nn.functional.silu(self.first(x)))
        return y if scale is None else y * scale[:, None, None, None]


def network():
    torch.manual_seed(0)
    return Network().requires_grad_(False)


def test_each_thread_answers_for_its_rows():
    net, x, scale = network(), normal(1, 5, 3, 8, 8), normal(2, 5)
    found = by_rows(net, [x, scale])
    halves = [(x[:3], scale[:3]), (x[3:], scale[3:])]
    assert torch.equal(found, torch.cat([net(*half) for half in halves]))
    asked = net.asked[:2]
    assert sorted(rows for rows, _, _ in asked) == [2, 3]
    assert len({thread for _, thread, _ in asked}) == 2
    assert not any(gradient for _, _, gradient in asked)


def test_rows_that_belong_together_stay_together():
    net = network()
    by_rows(net, [normal(1, 12, 3, 8, 8)], multiple=4)
    assert sorted(rows for rows, _, _ in net.asked) == [4, 8]


@pytest.mark.parametrize(("rows", "threads"), [(1, 2), (3, 4), (4, 1)])
def test_where_rows_are_fewer_than_threads_every_operation_is_shared(rows, threads):
    torch.set_num_threads(threads)
    net = network()
    by_rows(net, [normal(1, rows, 3, 8, 8)])
    by_rows_with_gradient(net, normal(1, rows, 3, 8, 8).requires_grad_()).sum().backward()
    assert [count for count, _, _ in net.asked] == [rows, rows]


def test_gradients_reach_the_rows():
    net, x, pull = network(), normal(1, 4, 3, 8, 8), normal(3, 4, 2, 8, 8)
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    answer = by_rows_with_gradient(net, found)
    (answer * pull).sum().backward()
    assert sorted(rows for rows, _, _ in net.asked) == [2, 2]
    whole = net(expected)
    (whole * pull).sum().backward()
    torch.testing.assert_close(answer, whole)
    torch.testing.assert_close(found.grad, expected.grad)
    assert found.grad.abs().min() > 0


def test_what_fails_in_a_thread_fails_here():
    def broken(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        by_rows(broken, [normal(1, 4, 3)])

"""A number or a text in a socket of the pack is told as such, and other failures as they are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from distill3d.nodes.shared import sockets
from distill3d.nodes.shared.sockets import guarded


def node():
    class Count:
        @classmethod
        def define_schema(cls):
            inputs = [("gaussians", "DISTILL3D_GAUSSIANS"), ("size", "INT")]
            return SimpleNamespace(
                display_name="Count",
                inputs=[
                    SimpleNamespace(id=id, get_io_type=lambda kind=kind: kind)
                    for id, kind in inputs
                ],
            )

        @classmethod
        def execute(cls, gaussians, size=1):
            return len(gaussians.means) // size

    return guarded(Count)


@pytest.mark.parametrize("value", ["POSITION", 7, True, [1, 2], {"a": 1}, None])
def test_a_plain_value_where_a_link_belongs_is_told(value):
    with pytest.raises(ValueError, match=r"Count: gaussians is .* where a link from another"):
        node().execute(gaussians=value)


def test_results_and_other_failures_come_through():
    cloud = SimpleNamespace(means=[1, 2, 3, 4])
    assert node().execute(gaussians=cloud, size=2) == 2
    with pytest.raises(TypeError, match="unsupported operand"):
        node().execute(gaussians=cloud, size="many")
    with pytest.raises(ZeroDivisionError):
        node().execute(gaussians=cloud, size=0)


def test_memory_that_is_used_up_is_told_with_the_cure_and_other_words_are_kept():
    class Greedy:
        def __init__(self, *words):
            self.words = words

        @property
        def means(self):
            raise MemoryError(*self.words)

    with pytest.raises(MemoryError, match=r"Count: the machine's memory is used up. Close other"):
        node().execute(gaussians=Greedy())
    with pytest.raises(MemoryError, match=r"^22 GB are wanted$"):
        node().execute(gaussians=Greedy("22 GB are wanted"))


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_device_memory_that_is_used_up_is_told_with_the_cure_in_a_type_that_comfyui_knows(kind):
    class Greedy:
        @property
        def means(self):
            raise kind("CUDA error: out of memory")

    with pytest.raises(kind, match=r"Count: the device's memory is used up .*out of memory.*fewer"):
        node().execute(gaussians=Greedy())


def test_what_libraries_keep_of_a_device_is_given_back_however_a_node_ends(monkeypatch):
    given = []
    monkeypatch.setattr(sockets, "forget_workspaces", lambda: given.append(1))
    cloud = SimpleNamespace(means=[1, 2])
    node().execute(gaussians=cloud)
    with pytest.raises(ZeroDivisionError):
        node().execute(gaussians=cloud, size=0)
    assert len(given) == 2

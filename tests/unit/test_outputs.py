"""Names of the files that nodes write: the next free one, for all files that belong together."""

import importlib
import sys
from types import ModuleType

import pytest


@pytest.fixture
def outputs(monkeypatch, tmp_path):
    """The module, in a ComfyUI of which nothing is there but its folders."""
    paths = ModuleType("folder_paths")
    paths.get_output_directory = lambda: str(tmp_path)
    paths.get_save_image_path = lambda prefix, root: (root, prefix, 1, "", prefix)
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    monkeypatch.delitem(sys.modules, "distill3d.nodes.shared.outputs", raising=False)
    yield importlib.import_module("distill3d.nodes.shared.outputs")
    sys.modules.pop("distill3d.nodes.shared.outputs", None)


@pytest.mark.parametrize(
    ("there", "extensions", "wanted"),
    [
        ([], ("ply",), "a_00001_.ply"),
        (["a_00001_.ply", "a_00007_.ply", "b_00009_.ply"], ("ply",), "a_00008_.ply"),
        (["a_00004_.glb"], ("ply",), "a_00001_.ply"),
        # its .ply was moved elsewhere
        (["a_00003_.safetensors"], ("ply", "safetensors"), "a_00004_.ply"),
        (["a_00003_.safetensors"], ("ply",), "a_00001_.ply"),
        (["a_00002_.spz.safetensors"], ("spz", "spz.safetensors"), "a_00003_.spz"),
        (["a_00002_.compressed.ply"], ("ply",), "a_00001_.ply"),
    ],
)
def test_the_next_number_is_free_for_all_files_that_belong_together(
    outputs, tmp_path, there, extensions, wanted
):
    for name in there:
        (tmp_path / name).touch()
    assert outputs.next_output("a", *extensions).path == tmp_path / wanted

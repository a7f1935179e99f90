"""What the USD package throws for damaged files is told by the file's name; nothing else is."""

from __future__ import annotations

import pytest

from distill3d.kernels.files.usd import opened, usd

pytest.importorskip("pxr")


@pytest.mark.parametrize(
    ("thrown", "seen", "message"),
    [
        (
            RuntimeError("unidentifiable C++ exception"),
            ValueError,
            "x.usda is no USD, or a damaged",
        ),
        (RuntimeError("can't allocate memory"), RuntimeError, "can't allocate memory"),
    ],
)
def test_what_the_package_does_not_translate_is_a_damaged_file(tmp_path, thrown, seen, message):
    path = tmp_path / "x.usda"
    path.write_text("#usda 1.0\n")
    with pytest.raises(seen, match=message), opened(usd("x"), path):
        raise thrown

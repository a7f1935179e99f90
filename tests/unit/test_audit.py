"""Licences of what the pack asks for, and what would be found."""

from __future__ import annotations

import importlib.util
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "audit.py"


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(**headers):
    about = Message()
    for name, value in headers.items():
        about[name.replace("_", "-")] = value
    return SimpleNamespace(metadata=about, version="1.0")


def test_everything_that_the_pack_asks_for_may_be_installed_with_it(audit):
    found = audit.needed()
    assert {"torch", "diffusers", "numpy", "trimesh", "tqdm"} <= found.keys()  # tqdm: in turn
    assert not {"pytest", "mkdocs", "distill3d"} & found.keys()
    assert not audit.refused(found)


@pytest.mark.parametrize(
    ("headers", "fits"),
    [
        ({"License_Expression": "Apache-2.0"}, True),
        ({"License_Expression": "MIT OR GPL-3.0-only"}, True),
        ({"License_Expression": "GPL-3.0-only"}, False),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, True),
        ({"Classifier": "License :: OSI Approved :: GNU Affero General Public License v3"}, False),
        ({"License": "MIT License\n\nPermission is hereby granted"}, True),
        ({"License": "All rights reserved"}, False),
        ({}, False),
    ],
)
def test_licences_that_fit_and_that_do_not(audit, headers, fits):
    assert bool(audit.refused({"some": package(**headers)})) != fits

"""What the pack asks for: known vulnerabilities (pip-audit), and licences.

    python tests/audit.py [--licences]

Of the packages that are installed, those that the pack and its extras ask for, and what these ask
for in turn; tools of tests, docs and training are left out. Vulnerabilities want a network; without
one that part is skipped, with a word. --licences: only these. Ends with 1 if anything was found.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

OWN = "distill3d"
TOOLS = {"docs", "train", "test", "oracle"}  # extras that no user installs
# what a file may be under that users install beside an Apache-2.0 pack
FREE = re.compile(
    r"apache|\bmit\b|mit-cmu|\bbsd|\bisc\b|mpl|mozilla public|python software|\bpsf|zlib|unlicense"
    r"|hpnd|historical permission|public domain|0bsd|cc0|boost|bsl-1|ofl|llvm"
    r"|tomorrow open source|tost-1",
    re.IGNORECASE,
)
# whose metadata names none, or not in words: looked up in their source by hand
KNOWN = {"llvmlite": "BSD-2-Clause", "numba": "BSD-2-Clause"}
GNU = re.compile(r"\b(?:a|l)?gpl|general public", re.IGNORECASE)
# NVIDIA's runtimes come with torch's CUDA wheels, under terms of their own that allow this use
NVIDIA = re.compile(r"nvidia-|cuda-")


def needed(root: str = OWN) -> dict[str, metadata.Distribution]:
    """Installed packages that the root asks for, directly or not, by name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(root, frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        key = _normal(name)
        if key in found and not extras:
            continue
        found[key] = distribution
        wanted = extras
        if root == name:
            wanted = frozenset(distribution.metadata.get_all("Provides-Extra") or []) - TOOLS
        waiting += [
            (each, more)
            for each, more in _asked(distribution.requires or [], wanted)
            if _normal(each) not in found
        ]
    found.pop(_normal(root), None)
    return found


def _asked(lines: Iterable[str], extras: frozenset[str]) -> Iterable[tuple[str, frozenset[str]]]:
    """Names and extras of requirements whose marker holds."""
    from packaging.requirements import Requirement

    for line in lines:
        one = Requirement(line)
        marker = one.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield one.name, frozenset(one.extras)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(distribution: metadata.Distribution) -> str:
    """What a package's metadata says of its licence: the expression, else classifiers, else the
    text's first line; empty where it says nothing.
    """
    about = distribution.metadata
    expression = about.get("License-Expression")
    classifiers = [
        each.rpartition("::")[2].strip()
        for each in about.get_all("Classifier") or []
        if each.startswith("License ::")
    ]
    text = (about.get("License") or "").strip().splitlines()
    return expression or "; ".join(classifiers) or (text[0] if text else "")


def refused(packages: dict[str, metadata.Distribution]) -> list[str]:
    """Those whose licence is not known to allow being installed with the pack, with what it is."""
    found = []
    for name, distribution in sorted(packages.items()):
        said = KNOWN.get(name) or licence(distribution)
        if NVIDIA.match(name):
            continue
        # one of several is enough
        choices = re.split(r"\bOR\b", said)
        if not any(FREE.search(each) and not GNU.search(each) for each in choices):
            found.append(f"{name} {distribution.version}: {said or 'no licence named'}")
    return found


def vulnerable(packages: dict[str, metadata.Distribution]) -> list[str] | None:
    """Known vulnerabilities of the installed versions; None where nobody can be asked."""
    with tempfile.TemporaryDirectory() as folder:
        pins, answer = Path(folder, "pins.txt"), Path(folder, "answer.json")
        lines = (f"{name}=={d.version.partition('+')[0]}" for name, d in sorted(packages.items()))
        pins.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "pip_audit", "-r", str(pins), "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(answer)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if not answer.is_file():
            print((ended.stderr.strip().splitlines() or ["pip-audit says nothing"])[-1])
            return None
        return [
            f"{each['name']} {each['version']}: {flaw['id']}"
            f" (mended in {', '.join(flaw['fix_versions']) or 'no release'})"
            for each in json.loads(answer.read_text())["dependencies"]
            for flaw in each.get("vulns", [])
        ]


def main(words: list[str]) -> int:
    packages = needed()
    bad = refused(packages)
    print(f"licences of {len(packages)} packages: {len(bad)} not known to fit")
    if "--licences" not in words:
        found = vulnerable(packages)
        if found is None:
            print("vulnerabilities: SKIPPED, the network or pip-audit cannot be had")
        else:
            print(f"vulnerabilities of {len(packages)} packages: {len(found)}")
            bad += found
    print("\n".join(bad))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

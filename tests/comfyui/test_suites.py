"""Suites side by side: each one's output in one piece, what failed first, and an end to all by
Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.suites import first_failure, side_by_side


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_outputs_are_not_mixed_and_a_suite_ends_with_its_first_failure(capfd):
    slow = "import time; print('slow begins', flush=True); time.sleep(1); print('slow ends')"
    failing = "print('FAILED tests/a.py::b - 1'); print('FAILED tests/c.py::d'); exit(1)"
    suites = {
        "slow": [python(slow), python("print('and more')")],
        "bad": [python(failing), python("print('never')")],
    }
    assert side_by_side(suites) == ["tests/a.py::b"]
    output = capfd.readouterr().out
    assert output.index("slow begins") + 12 == output.index("slow ends")
    assert "and more" in output and "never" not in output
    assert "=== bad: FAILED" in output and "=== slow: passed" in output
    assert side_by_side({"good": [python("pass")]}) == []


def test_a_suite_without_a_summary_is_named_itself():
    assert first_failure("style", "x.py:1:1: E501") == "style"
    assert first_failure("unit", "x\nERROR tests/a.py - ImportError") == "tests/a.py"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_all_of_them_in_order(tmp_path, number):
    """Though they were started where Ctrl-C is ignored, as by ``nohup … &``."""
    waiting = (
        "import os, sys, time\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: print('tidied', flush=True)"
    )
    suites = {name: [[*python(waiting), str(tmp_path / name)]] for name in ("a", "b")}
    started = (
        f"import signal, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from harness.suites import side_by_side\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"side_by_side({suites!r})"
    )
    process = subprocess.Popen(
        python(started), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
    )  # fmt: skip
    end = time.monotonic() + 60
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(getattr(signal, number))
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.count("tidied") == 2 and "=== a: interrupted" in output
    for name in ("a", "b"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)

"""Signals that come while nobody could act on them."""

import signal
import subprocess
import sys
import time

import pytest

LONG = """\
import hashlib
from collapse_bench.interruption import end_on_signals
end_on_signals()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)
"""
"""Half a minute and more in one call of a library, in which the interpreter calls no handler."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_that_is_in_a_library(number):
    process = subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(1, signal.SIG_DFL)\n{LONG}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(number)
    began = time.monotonic()
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + number
    assert told == "interrupted; what was finished is kept\n"


def test_nohup_has_a_process_live_on_without_its_terminal():
    code = LONG.replace("100_000_000", "1") + "import time; time.sleep(1); print('done')"
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60) == ("done\n", None)
    assert process.returncode == 0

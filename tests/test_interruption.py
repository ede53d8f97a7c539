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
    assert told == "interrupted; what was finished is kept, the same command goes on\n"


def test_nohup_has_a_process_live_on_without_its_terminal():
    code = LONG.replace("100_000_000", "1") + "import time; time.sleep(1); print('done')"
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60) == ("done\n", None)
    assert process.returncode == 0


ORDERLY = """\
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from collapse_bench.interruption import end_on_signals, noted
end_on_signals()
with noted() as caught:
    print("ready", flush=True)
    while not caught:
        time.sleep(0.05)
    time.sleep(0.5)  # as cells leave their checkpoints
print("left", len(set(caught)), flush=True)
sys.exit(128 + caught[0])
"""


@pytest.mark.parametrize("apart", [0.0, 0.001, 0.2])
@pytest.mark.parametrize(("number", "orderly"), [(signal.SIGHUP, True), (signal.SIGTERM, False)])
def test_a_terminal_that_is_closed_and_says_so_twice_ends_a_run_in_order(number, orderly, apart):
    """The shell tells its jobs, and the system those that are in the foreground."""
    process = subprocess.Popen([sys.executable, "-c", ORDERLY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    time.sleep(apart)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    if orderly or apart == 0.2:  # sooner, the system may make one of the two
        assert out == ("left 1\n" if orderly else "")


STUBBORN = """\
import signal, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from collapse_bench import interruption
interruption.PATIENCE = 1.0
with interruption.noted():
    print("ready", flush=True)
    time.sleep(60)
    time.sleep(60)
"""


def test_signals_that_go_on_coming_do_not_put_the_end_off():
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert time.monotonic() - began < 5
    assert process.returncode == 128 + signal.SIGHUP

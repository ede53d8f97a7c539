"""Signals at any moment: the first is noted, and a run that has not ended soon after is ended."""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children, forkserver
from threading import Thread

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What interrupts a run: Ctrl-C, a system that shuts down, a terminal that is closed."""

GRACE = 2.5
"""Seconds that cells have to leave a checkpoint in."""

PATIENCE = GRACE + 1.0
"""Seconds after the first signal at which a run is ended that is still there: it may take a moment
until it hears of the signal, and another one to bring cells to their end."""


SOON = 0.25
"""Seconds after which it is seen that a signal has come, where nothing else happens."""


class InterruptedRunError(Exception):
    """A signal ended the run; the cells that had finished are kept."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def noted() -> Iterator[list[int]]:
    """Note signals in place of acting on them: what is half done is brought to an end first.

    The same signal twice ends the process at once, and so does one after which the block has not
    been left in `PATIENCE` seconds. Only for the main thread. A terminal that is closed may send
    SIGHUP twice by itself, by its shell and by the system, which counts as once.

    Yields:
        The signals that have come, in their order.
    """
    caught: list[int] = []
    before = {n: signal.signal(n, lambda number, frame: caught.append(number)) for n in _heeded()}
    told, tell, previous = _pipe_of_signals()
    watchdog = Thread(target=_end_in_time, args=(told,), daemon=True)
    watchdog.start()
    try:
        yield caught
    finally:
        signal.set_wakeup_fd(previous)
        os.close(tell)  # of which the watchdog hears
        watchdog.join()
        os.close(told)
        for number, handler in before.items():
            signal.signal(number, handler)


def _pipe_of_signals() -> tuple[int, int, int]:
    """A pipe into which the system writes the number of a signal even where the interpreter, which
    calls handlers, waits in a system call or in a library for something that does not come; its
    ends, and what was there before."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    return told, tell, signal.set_wakeup_fd(tell, warn_on_full_buffer=False)


def _end_in_time(told: int) -> None:
    """End the process once it is time."""
    numbers: set[int] = set()
    until = None
    while True:
        left = None if until is None else max(0.0, until - time.monotonic())
        ready, _, _ = select.select([told], [], [], left)
        some = os.read(told, 16) if ready else b""
        if ready and not some:  # the block has been left
            return
        if not ready or numbers.intersection(some) - {signal.SIGHUP}:
            end_at_once(min(numbers))
        numbers.update(n for n in some if n in SIGNALS)
        if numbers and until is None:
            until = time.monotonic() + PATIENCE


def end_on_signals() -> None:
    """End this process at once on every signal: whatever it writes is written whole or not at
    all. Only for the main thread."""
    for number in _heeded():
        signal.signal(number, end_at_once)
    told, _, _ = _pipe_of_signals()
    Thread(target=_end, args=(told,), daemon=True).start()


def _heeded() -> list[signal.Signals]:
    """Those of `SIGNALS` that are meant for this process: `nohup` has it live on without its
    terminal."""
    hangs_on = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [n for n in SIGNALS if n != signal.SIGHUP or not hangs_on]


def _end(told: int) -> None:
    """End the process in place of a handler that is not called."""
    while True:
        number = os.read(told, 1)[0]
        time.sleep(SOON)
        mine = signal.getsignal(number) is end_at_once
        if number in SIGNALS and mine:
            end_at_once(number)


def end_at_once(number: int, frame: object = None) -> None:
    """A handler of signals: end this process and those that it has started, now."""
    with suppress(OSError):
        os.write(2, b"interrupted; what was finished is kept, the same command goes on\n")
    for child in active_children():
        with suppress(OSError, ValueError):
            child.kill()
    # It would end by itself, but only after it has loaded what it forks.
    if (pid := getattr(forkserver._forkserver, "_forkserver_pid", None)) is not None:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    os._exit(128 + number)

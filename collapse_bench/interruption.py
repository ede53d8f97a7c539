"""Signals at any moment: the first is noted, and a run that has not ended soon after is ended."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children, forkserver
from threading import Thread

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What interrupts a run."""

GRACE = 2.5
"""Seconds that cells have to leave a checkpoint in."""

PATIENCE = 3.0
"""Seconds after the first signal at which a run is ended that is still there."""


class InterruptedRunError(Exception):
    """A signal ended the run; the cells that had finished are kept."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def noted() -> Iterator[list[int]]:
    """Note signals in place of acting on them: what is half done is brought to an end first.

    The same signal twice ends the process at once, and so does one after which the block has not
    been left in `PATIENCE` seconds. Only for the main thread.

    Yields:
        The signals that have come, in their order.
    """
    caught: list[int] = []
    before = {n: signal.signal(n, lambda number, frame: caught.append(number)) for n in SIGNALS}
    # The system writes the number of a signal into this pipe even where the interpreter, which
    # calls handlers, waits in a system call or in a library for something that does not come.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    previous = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    watchdog = Thread(target=_watch, args=(told,), daemon=True)
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


def _watch(told: int) -> None:
    """End the process once it is time."""
    numbers: set[int] = set()
    while True:
        ready, _, _ = select.select([told], [], [], PATIENCE if numbers else None)
        some = os.read(told, 16) if ready else b""
        if ready and not some:  # the block has been left
            return
        if not ready or numbers.intersection(some):
            end_at_once(min(numbers))
        numbers.update(n for n in some if n in SIGNALS)


def end_on_signals() -> None:
    """End this process at once on every signal: whatever it writes is written whole or not at
    all."""
    for number in SIGNALS:
        signal.signal(number, end_at_once)


def end_at_once(number: int, frame: object = None) -> None:
    """A handler of signals: end this process and those that it has started, now."""
    with suppress(OSError):
        os.write(2, b"interrupted; what was finished is kept\n")
    for child in active_children():
        with suppress(OSError, ValueError):
            child.kill()
    # It would end by itself, but only after it has loaded what it forks.
    if (pid := getattr(forkserver._forkserver, "_forkserver_pid", None)) is not None:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    os._exit(128 + number)

"""Runs that start in half a second: a server that has loaded torch forks each of them.

A run is what `python -m collapse_bench` is, down to its session, its handlers of signals and its
workers, which are forked from a real fork server; only that one serves many runs here. What a fork
server does when its run ends is seen in runs that `start_alone` starts, which take six seconds.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Condition, Thread
from types import FrameType

ROOT = Path(__file__).parents[2]


class Run:
    """A run that has been started.

    Attributes:
        pid: of its process, which leads a session.
        folder: where it runs; its workers are there, too, by which they are found.
        began: when, on the monotonic clock.
    """

    def __init__(self, pid: int, folder: Path, wait: "Server | subprocess.Popen[bytes]") -> None:
        self.pid, self.folder, self._wait = pid, folder, wait
        self.began = time.monotonic()

    def ended(self, seconds: float) -> tuple[int, float] | None:
        """Its exit code and when it ended; None where it has not after so many seconds."""
        if isinstance(self._wait, Server):
            return self._wait.ended(self.pid, seconds)
        try:
            code = self._wait.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return code, time.monotonic()

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    def workers(self) -> list[int]:
        """Processes that work for it, fork server and resource tracker included."""
        return [pid for pid in processes_in(self.folder) if pid != self.pid]

    def kill(self, whom: str, number: int) -> float | None:
        """Send a signal to the `process`, to its `group` or to one `worker`; tell when.

        None where there is no such worker, or nobody left who could get it.
        """
        targets = {"process": [self.pid], "group": [self.pid, *self.workers()]}
        pids = targets.get(whom) or [pid for pid in self.workers() if _is_at_a_cell(pid)][:1]
        now, got = time.monotonic(), False
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                got = True
        return now if got else None


class Server:
    """Forks runs, until it is closed."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
            preexec_fn=_heed_its_terminal,
        )
        self._started: list[int] = []
        self._ended: dict[int, tuple[int, float]] = {}
        self._heard = Condition()
        Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def start(self, folder: Path, *arguments: str) -> Run:
        """Run a verb in a folder; what it prints is added to the file `output` there."""
        assert self._process.stdin
        print(json.dumps([str(folder), arguments]), file=self._process.stdin, flush=True)
        with self._heard:
            self._heard.wait_for(lambda: self._started, timeout=120)
            return Run(self._started.pop(), folder, self)

    def ended(self, pid: int, seconds: float) -> tuple[int, float] | None:
        with self._heard:
            self._heard.wait_for(lambda: pid in self._ended, timeout=seconds)
            return self._ended.get(pid)

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            what, pid, *more = json.loads(line)
            with self._heard:
                if what == "started":
                    self._started.append(pid)
                else:
                    self._ended[pid] = (more[0], more[1])
                self._heard.notify_all()


@cache
def server() -> Server:
    """The one of this process, started when it is first asked for."""
    started = Server()
    atexit.register(started.close)
    return started


def start_alone(folder: Path, *arguments: str) -> Run:
    """A run as a user starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "collapse_bench", *arguments],
            cwd=folder,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            preexec_fn=_heed_its_terminal,
        )
    return Run(process.pid, folder, process)


def _heed_its_terminal() -> None:
    """Have a run do what it does where nobody has called `nohup`, as one may for these tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def processes_in(folder: Path) -> list[int]:
    """Living processes whose current folder this is."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder.resolve():
                found.append(int(entry.name))
    return found


def left_in(folder: Path, seconds: float) -> list[int]:
    """Processes that are there for longer than that."""
    until = time.monotonic() + seconds
    while (left := processes_in(folder)) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def _is_at_a_cell(pid: int) -> bool:
    """Whether a process keeps the lock of a cell."""
    with suppress(OSError):
        files = [each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir()]
        return any(each.suffix == ".lock" for each in files)
    return False


def _serve() -> None:
    """The server's process: starts what it reads of, and tells of what has ended."""
    from multiprocessing import forkserver, process

    import torch._dynamo  # noqa: F401

    from collapse_bench.cli import main
    from collapse_bench.interruption import SIGNALS, end_on_signals
    from collapse_bench.runner import attempt as attempt
    from collapse_bench.runner import local

    # Workers have the server's outputs, which must not be taken for what it tells.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    forkserver.set_forkserver_preload(["collapse_bench.runner.attempt", "torch._dynamo"])
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with local._environment():
        forkserver.ensure_running()
    forkserver._forkserver.ensure_running = lambda: None  # it is no child of a run's

    def run(folder: str, arguments: Sequence[str]) -> None:
        os.setsid()
        os.chdir(folder)
        process.ORIGINAL_DIR = folder  # where workers begin
        forkserver._forkserver._forkserver_pid = None  # a run that ends does not end it
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, output, output)):
            os.dup2(descriptor, number)
        end_on_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        sys.exit(main(arguments))

    def tell(*what: object) -> None:
        print(json.dumps(what), file=channel, flush=True)

    def reap(number: int, frame: FrameType | None) -> None:
        """Nothing: that there is a handler ends the wait below."""

    signal.signal(signal.SIGCHLD, reap)
    told, wake = os.pipe()
    os.set_blocking(told, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    server = forkserver._forkserver._forkserver_pid
    while True:
        ready, _, _ = select.select([sys.stdin, told], [], [])
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            folder, arguments = json.loads(line)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    run(folder, arguments)
                except SystemExit as end:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(end.code if isinstance(end.code, int) else 1)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
            tell("started", pid)
        if told in ready:
            os.read(told, 4096)
            with suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    if ended[0] != server:
                        code = os.waitstatus_to_exitcode(ended[1])
                        tell("ended", ended[0], code, time.monotonic())


if __name__ == "__main__":
    _serve()

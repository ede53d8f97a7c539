"""A suite that is killed at any moment, again and again, ends as one that was not."""

import itertools
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import toy
from drivers import Run, left_in, server, start_alone
from scale import FULL, MINUTES, count, told

BUDGET, SEEDS = 6000, range(1, count(2, 4))
"""Cells of one or two seconds each: four in the short form, twelve in the full."""

SHARES = range(1, count(1, 5) + 1)
"""Of the counts, each a test, which the processes of a run of the tests take from one another."""

CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}

ASKING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
"""Signals after which a run ends in order."""

LATE = 5.0 if FULL else 10.0
"""Seconds after a signal in which a run has to end, and all that it has started; it is five of them
on a machine that does nothing else, which `make test` does not wait for."""

DONE = 2.0 if FULL else 5.0
"""And in which one has to end that has no cell left to do, and ends as if there were no signal."""

LOADING = 60.0
"""Where nobody could end it: a fork server that is still loading looks for its run when it has
loaded."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = toy.write(tmp_path_factory.mktemp("whole") / "run", BUDGET, SEEDS)
    run = server().start(folder, *toy.ARGUMENTS)
    assert code_of(run, 300) == 0, run.output()
    assert len(toy.records(folder)) == 4 * len(SEEDS)
    toy.assert_whole(folder)
    return folder


def code_of(run: Run, seconds: float) -> int:
    """The exit code of a run that ends by itself."""
    ended = run.ended(seconds)
    assert ended is not None, run.output()
    return ended[0]


def end_of(run: Run, number: int, sent: float, *, alone: bool) -> float:
    """How many seconds after a signal a run was gone, and all that it had started; checks that it
    said how it ended, and that every file is whole.

    A run that had come to its end by then has no cell that is left to do.
    """
    ended = run.ended(LATE)
    assert ended is not None, f"still there {LATE:g} s after a signal\n{run.output()}"
    code, at = ended
    # A signal that comes as the interpreter leaves finds no handler any more: to a shell the same.
    if code not in (CODES[signal.Signals(number)], -number):
        assert code in (0, 1), run.output()
        assert at - sent < DONE, f"went on for {at - sent:.1f} s after a signal\n{run.output()}"
        cells = len(toy.records(run.folder))
        assert cells == 4 * len(SEEDS), f"{code}, and {cells} cells\n{run.output()}"
    assert "Traceback" not in run.output(), run.output()
    limit = LOADING if alone and number == signal.SIGKILL else LATE
    assert left_in(run.folder, limit) == [], f"still there {limit:g} s after the run"
    toy.assert_whole(run.folder)
    return at - sent


def spread(seconds: list[float]) -> str:
    """Of times: the median, the nineteenth of twenty, the longest, and how many are over 5 s."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    median, late = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
    over = sum(each > 5 for each in ordered)
    return f"{median:.2f} s, 95 % {late:.2f} s, at most {ordered[-1]:.2f} s, {over} over 5 s"


@pytest.mark.parametrize("share", SHARES)
def test_a_suite_that_is_killed_again_and_again_ends_as_one_that_was_not(
    reference: Path, tmp_path: Path, share: int
) -> None:
    draw, kills, times = random.Random(f"kills {share}"), Counter[str](), list[float]()
    suites = resumed = 0
    asked, until = count(6, 500) // len(SHARES), time.monotonic() + 60 * MINUTES
    while kills.total() < asked and time.monotonic() < until:
        folder = toy.write(tmp_path / f"{suites}", BUDGET, SEEDS)
        _to_its_end(folder, draw, kills, times)
        # One that was killed right after its record has left its checkpoints to the next run.
        assert code_of(server().start(folder, *toy.ARGUMENTS), 60) == 0
        toy.assert_same(reference, folder)
        suites += 1
        resumed += sum(each["cost"]["attempts"] > 1 for each in toy.records(folder).values())
    assert kills.total() >= asked, f"{kills.total()} of {asked} in {MINUTES:g} minutes"
    assert resumed >= max(1, suites // 2), "they begin anew"
    by = ", ".join(f"{n} {what}" for what, n in sorted(kills.items()))
    seen = (
        f"{suites} suites equal to the last bit ({by}); {resumed} cells went on from checkpoints;"
        f" ended by a signal in {spread(times)}"
    )
    print(seen)
    told(f"a suite is killed at random moments until it is done, {share}", kills.total(), seen)


def _to_its_end(folder: Path, draw: random.Random, kills: Counter[str], times: list[float]) -> None:
    """Run a suite and kill it at random until all of its cells are done."""
    retry: tuple[str, ...] = ()
    mine, most = 0, count(6, 40)
    while True:
        # In the full form every sixth or so begins as a user's does, and with it its fork server.
        alone = FULL and draw.random() < 0.15
        run = (start_alone if alone else server().start)(folder, *toy.ARGUMENTS, *retry)
        worker_killed = False
        while True:
            finished = toy.stamps(folder)
            ended = run.ended(draw.uniform(0.2, 9.0 if alone else 3.0) if mine < most else 300)
            if ended is not None:
                break
            assert mine < most, f"has not ended\n{run.output()}"
            number = draw.choice([signal.SIGKILL, signal.SIGKILL, *ASKING])
            # A worker leaves SIGINT and SIGHUP to its run, so that would be none.
            workers = ["worker"] if number in (signal.SIGKILL, signal.SIGTERM) else []
            whom = draw.choice(["process", "group", *workers])
            sent = run.kill(whom, number)
            if sent is None:
                continue
            kills[f"{number.name} {whom}"] += 1
            mine += 1
            worker_killed = worker_killed or (whom == "worker" and number == signal.SIGKILL)
            if whom != "worker":
                seconds = end_of(run, number, sent, alone=alone)
                times += [] if number == signal.SIGKILL else [seconds]
            _assert_kept(folder, finished)
            if whom != "worker":
                break
        _assert_kept(folder, finished)
        statuses = {name: told["status"] for name, told in toy.records(folder).items()}
        if ended is None:
            continue
        assert "Traceback (most" not in run.output(), run.output()
        if set(statuses.values()) == {"done"} and len(statuses) == 4 * len(SEEDS):
            assert ended[0] == 0
            return
        assert ended[0] == 1, f"{ended} {statuses}\n{run.output()}"
        # What a killed worker leaves is run again once without being asked to.
        assert worker_killed or not retry, f"{statuses}\n{run.output()}"
        retry = ("--retry", "killed")


def _assert_kept(folder: Path, finished: dict[str, tuple[int, int, bytes]]) -> None:
    """No finished cell has been touched."""
    toy.assert_whole(folder)
    now = toy.stamps(folder)
    for name, stamp in finished.items():
        assert now.get(name) == stamp, f"{name} had finished and was written again"


@pytest.mark.parametrize("share", SHARES)
def test_a_run_that_is_told_to_end_does_so_whatever_it_is_at(
    reference: Path, tmp_path: Path, share: int
) -> None:
    """Every fourth begins as a user's does, and with it its fork server."""
    draw, codes = random.Random(f"signals {share}"), Counter[int]()
    once, again = list[float](), list[float]()
    asked, until = count(5, 200) // len(SHARES), time.monotonic() + 60 * MINUTES
    for n in itertools.count():
        if codes.total() == asked or time.monotonic() > until:
            break
        folder = toy.write(tmp_path / f"{n}", BUDGET, SEEDS)
        alone = n % 4 == 3
        run = (start_alone if alone else server().start)(folder, *toy.ARGUMENTS)
        number = draw.choice(ASKING)
        whom = draw.choice(["process", "group"])
        twice = n % 5 == 4
        if run.ended(draw.uniform(0.5, 12.0 if alone else 2.0 * len(SEEDS))):
            continue
        if (sent := run.kill(whom, number)) is None:
            continue
        times = once
        if twice:
            time.sleep(0.1)
            second = run.kill(whom, number)
            if second is not None and number != signal.SIGHUP:  # which counts once
                sent, times = second, again
        times.append(end_of(run, number, sent, alone=alone))
        code = run.ended(0)[0]
        codes[code if code >= 0 else 128 - code] += 1
    assert codes.total() == asked, f"{codes.total()} of {asked} in {MINUTES:g} minutes"
    assert max(again, default=0.0) < DONE, f"a second signal does not end a run at once: {again}"
    heard = sum(codes[128 + number] for number in ASKING)
    assert heard >= asked / 2, f"signals that change nothing: {codes}"
    seen = (
        f"ended in {spread(once)}; at a second signal in {spread(again)}; exit codes {dict(codes)}"
    )
    print(seen)
    told(f"a signal at a random moment, every fifth twice, {share}", codes.total(), seen)

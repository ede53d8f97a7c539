"""A hostile suite is told as one, with its file and its line; it never ends in a traceback."""

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hostile_suites import HARD, SUITES
from mutations import mutated
from scale import FULL, count, told

from collapse_bench.cli import main
from collapse_bench.errors import UserError
from collapse_bench.plugins import remedy_files
from collapse_bench.suite import cells_of, load_suite
from collapse_bench.suite.cells import cell_id
from collapse_bench.suite.loading import MAX_CELLS
from collapse_bench.suite.yaml_reader import MAX_PROBLEMS

ROOT = Path(__file__).parents[2]
REAL = [path.read_bytes() for path in sorted((ROOT / "suites").glob("*.yaml"))]
REMEDIES = remedy_files()
LONGEST = 4000
"""Characters of a problem: the longest names all remedies."""
BLOCKED = 20.0
"""Seconds after which a suite is taken for one whose reading waits for something."""


def outcome(path: Path, content: bytes) -> str:
    """Load a suite and say what came of it: `suite`, or what kind of problem is told first.

    Raises:
        AssertionError: what is told is not as a problem is told.
    """
    path.write_bytes(content)
    try:
        suite = load_suite(path, REMEDIES)
    except UserError as error:
        return _refused(path, str(error))
    cells = cells_of(suite)
    assert 0 < len(cells) <= MAX_CELLS
    for cell in cells[:3]:  # its identity is JSON and its folder's name one
        assert re.fullmatch(r"[a-z0-9][a-z0-9_.+-]*-[0-9a-f]{8}", cell_id(cell, "x", "", None, 1))
    return "suite"


def _refused(path: Path, text: str) -> str:
    lines = text.split("\n")
    assert len(lines) <= MAX_PROBLEMS + 1
    for line in lines:
        assert line.startswith(f"{path}:")
        assert line.isprintable()
        assert len(line) < LONGEST
        line.encode()
    if len(lines) > MAX_PROBLEMS:
        lines.pop()
    for line in lines:
        assert re.match(r":[1-9]\d*: ", line.removeprefix(str(path))), line
    if "is not YAML" in lines[0] and "unknown escape" not in lines[0]:
        assert re.search(r"is not YAML(, column [1-9]\d*)?: ", lines[0])
    return "not YAML" if "is not YAML" in text else "refused"


def test_a_mutated_suite_is_read_or_refused(tmp_path, capsys):
    """Nothing but a UserError comes of it, whose lines name the file and the line; on the command
    line, which each hundredth of those that are refused is given to, it is exit code 2."""
    path, tries = tmp_path / "mutated.yaml", count(short=300, full=20_000)
    seen: Counter[str] = Counter()
    took, waited, given = (0.0, 0), (0.0, 0), 0
    for number in range(tries):
        content = mutated(number, REAL)
        began, at = time.process_time(), time.monotonic()
        try:
            what = outcome(path, content)
        except Exception as error:
            pytest.fail(f"mutated({number}): {type(error).__name__}: {error}")
        took = max(took, (time.process_time() - began, number))
        waited = max(waited, (time.monotonic() - at, number))
        if what != "suite" and (seen["refused"] + seen["not YAML"]) % 100 == 0:
            _refused_by_the_command_line(path, number, capsys)
            given += 1
        seen[what] += 1
    print(f"slowest: {took[0]:.2f} s of CPU, {waited[0]:.2f} s in all")
    assert took[0] < 1, f"mutated({took[1]}) took {took[0]:.2f} s of CPU"
    assert waited[0] < BLOCKED, f"mutated({waited[1]}) took {waited[0]:.2f} s"
    assert seen["suite"] > tries / 50
    assert seen["refused"] > tries / 10
    assert seen["not YAML"] > tries / 10
    told(
        "suites of `suites/` mutated at random",
        tries,
        f"{seen['suite']:,} were still suites, {seen['refused']:,} refused by line and rule,"
        f" {seen['not YAML']:,} as no YAML by line and column; {given} of these also on the"
        f" command line, exit code 2; slowest {took[0]:.2f} s of CPU, {waited[0]:.2f} s in all",
    )


def _refused_by_the_command_line(path: Path, number: int, capsys: pytest.CaptureFixture) -> None:
    code = main(["check", str(path)])
    out, err = capsys.readouterr()
    assert code == 2, f"mutated({number}): {code} {err}"
    assert re.match(rf"error: {re.escape(str(path))}:[1-9]\d*: ", err), f"mutated({number}): {err}"
    assert not out, f"mutated({number}): {out}"


@pytest.mark.parametrize("name", SUITES)
def test_a_crafted_suite_is_refused_in_its_line(name, tmp_path):
    content, line, part = SUITES[name]
    path = tmp_path / "crafted.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_suite(path, REMEDIES)
    text = str(caught.value)
    _refused(path, text)
    hits = [each for each in text.split("\n") if part in each]
    assert hits, text
    assert hits[0].startswith(f"{path}:{line}: "), text


@pytest.mark.parametrize("name", list(HARD)[:: count(short=4, full=1)])
def test_the_hardest_suite_takes_little_time(name, tmp_path):
    """Less than a second of CPU for what is as large as a suite may be, where that is measured."""
    path = tmp_path / "hard.yaml"
    path.write_bytes(HARD[name]())
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        load_suite(path, REMEDIES)
    took = time.process_time() - began
    _refused(path, str(caught.value))
    assert took < 1 or not FULL


def test_the_largest_suite_that_there_may_be_has_so_many_cells(tmp_path):
    path = tmp_path / "large.yaml"
    seeds = ", ".join(map(str, range(2500)))
    head = f"architectures: [lstm, transformer]\ntraining: {{budget: 9}}\nseeds: [{seeds}]\n"
    path.write_text(head + "entries: {a: [], b: []}\n")
    assert len(cells_of(load_suite(path, REMEDIES))) == MAX_CELLS
    path.write_text(head + "entries: {a: [], b: [], c: []}\n")
    with pytest.raises(UserError, match="must not have more than 10000 cells, not 15000"):
        load_suite(path, REMEDIES)


def test_the_command_line_tells_a_crafted_suite_and_ends_with_2(tmp_path):
    names = list(SUITES)[:: count(short=len(SUITES) // 5 + 1, full=1)]
    for name in names:
        path = tmp_path / "crafted.yaml"
        path.write_bytes(SUITES[name][0])
        done = subprocess.run(
            [sys.executable, "-m", "collapse_bench", "check", path.name],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2, (name, done.stderr)
        assert done.stderr.startswith("error: crafted.yaml:"), (name, done.stderr)
        assert "Traceback" not in done.stderr, (name, done.stderr)
        assert not done.stdout, (name, done.stdout)
    told(
        "crafted suites on the command line", len(names), "exit code 2, file and line, no traceback"
    )

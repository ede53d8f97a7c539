"""README and pages of `docs/`: links that lead somewhere, code that runs, and tables that say what
the code says."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import pytest

import collapse_bench
from collapse_bench.cli import build_parser, main
from collapse_bench.corpus.corpus import SPLITS
from collapse_bench.description import describe
from collapse_bench.evaluation.honesty import LAWS as HONESTY
from collapse_bench.laws import LAWS, sentence_of, signature
from collapse_bench.leaderboard.marks import MARKS
from collapse_bench.listing import page as page_of_remedies
from collapse_bench.metrics import VERDICTS, absent
from collapse_bench.model import SLOTS
from collapse_bench.plugins import LEVERS, built_in, remedy_files
from collapse_bench.record import read_record, read_records, write_record
from collapse_bench.settings import schema_of
from collapse_bench.suite import cells_of, load_suite
from collapse_bench.suite.definition import (
    Architecture,
    CorpusSettings,
    Evaluation,
    Sizes,
    Training,
)
from collapse_bench.truth.cheats import CHEATS
from collapse_bench.truth.controls import controls

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "leaderboard").glob("*.md")),
    *sorted((ROOT / "tests" / "benchmarks").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/*.md")),
]
MOST_BYTES = 20_000


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its code, in which neither headings nor links are meant."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        again = sum(
            name == kept or re.fullmatch(rf"{kept}-\d+", name) is not None for name in found
        )
        found.add(f"{kept}-{again}" if again else kept)
    return found


def links(text: str) -> list[str]:
    """Targets of links and pictures, those out into the world left out."""
    without_code = re.sub(r"`[^`\n]*`", "`code`", prose(text))
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for marked, block in found if marked == language]


def section(name: str, heading: str) -> str:
    """A page from a heading to the next of the same rank or above."""
    text = text_of(name)
    begin = re.search(rf"^(#+) {re.escape(heading)}$", text, flags=re.MULTILINE)
    assert begin, f"{name} has no section {heading}"
    rest = text[begin.end() :]
    end = re.search(rf"^#{{1,{len(begin[1])}}} ", rest, flags=re.MULTILINE)
    return rest[: end.start()] if end else rest


def tables(text: str) -> Iterator[list[list[str]]]:
    """The rows of each table, the first two being titles and rule."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text + "\n", flags=re.MULTILINE):
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in table.splitlines()
        ]
        yield rows


def rows_of(text: str) -> list[list[str]]:
    """The rows of the first table, its head left out."""
    return next(tables(text))[2:]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_anchors_are_those_of_headings_only(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Of `a_b`: x, and y's\n```\n# none\n```\n## Twice\n## Twice\n")
    assert anchors(page) == {"of-a_b-x-and-ys", "twice", "twice-1"}
    assert links("[a](b.md#c) `x[i](j)` ![p](q.png) [w](https://w) ") == ["b.md#c", "q.png"]


@pytest.mark.parametrize("page", [*PAGES, *ELSEWHERE], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    broken = []
    for target in links(page.read_text(encoding="utf-8")):
        path, _, anchor = unquote(target).partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            broken.append(target)
    assert broken == []


def test_every_page_is_linked_from_the_readme():
    linked = {target.partition("#")[0] for target in links(text_of("README.md"))}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_readme_is_short():
    assert len(text_of("README.md").encode()) <= MOST_BYTES


def test_the_remedies_and_the_suite_of_the_docs_work(tmp_path):
    [suite] = [
        block
        for page in PAGES
        for block in blocks(page.read_text(), "yaml")
        if block.startswith("corpus:") and "path:" not in block
    ]
    command = [sys.executable, "-m", "collapse_bench", "check", "mine.yaml"]
    for block in blocks("\n".join(page.read_text() for page in PAGES), "python"):
        if found := re.search(r"class (\w+)\(Remedy\):", block):
            name = re.sub(r"\B(?=[A-Z])", "_", found[1]).lower()
            (tmp_path / f"{name}.py").write_text(block)
            command += ["--plugin", f"{name}.py"]
            suite += f"  {name}: [{name}]\n"
    (tmp_path / "mine.yaml").write_text(suite)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "14 cells" in done.stdout


def test_the_signature_of_the_docs_is_printed(capsys, monkeypatch, tmp_path):
    of_page = blocks((ROOT / "docs" / "adding-a-remedy.md").read_text(), "python")
    [remedy] = [block for block in of_page if "class MeanNorm(" in block]
    [measured] = [block for block in of_page if "became(" in block]
    (tmp_path / "mean_norm.py").write_text(remedy)
    monkeypatch.chdir(tmp_path)
    short = {"nothing": replace(signature.TASKS["nothing"], updates=2)}
    monkeypatch.setattr(signature, "TASKS", short)
    exec(compile(measured, "docs/adding-a-remedy.md", "exec"), {})
    name, _, outcomes = capsys.readouterr().out.partition(" ")
    assert name == "nothing"
    assert len(ast.literal_eval(outcomes)) == 5


def test_the_entries_of_the_docs_are_legal(tmp_path):
    [entries] = blocks(section("docs/suites.md", "Entries"), "yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(f"architectures: [lstm]\ntraining: {{budget: 1000}}\n{entries}")
    swept = [f"swept-{value}" for value in (0.6, 1.2, 2.4)]
    assert [entry.name for entry in load_suite(path, remedy_files()).entries] == [
        "language_model", "language_model+length", "oracle", "vae", "chained", *swept, "longer",
    ]  # fmt: skip


def test_what_diagnose_says_of_the_example_is_in_the_docs(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    page = section("docs/diagnose.md", "An example: z is the length")
    [example] = blocks(page, "python")
    exec(compile(example, "docs/diagnose.md", "exec"), {"__name__": "__main__"})
    told = capsys.readouterr().out

    def words(text: str) -> list[str]:  # another machine may round the last digit otherwise
        return re.sub(r"-?\d+\.\d+", "N", text).split()

    assert words(told) == words(blocks(page, "")[0])


def test_the_model_of_the_docs_is_diagnosed(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    [example] = blocks(section("docs/diagnose.md", "A model of your own"), "python")
    exec(compile(example, "docs/diagnose.md", "exec"), {"__name__": "__main__"})
    assert "verdict: COLLAPSED" in capsys.readouterr().out
    assert (tmp_path / "diagnosis.png").exists()


def test_every_python_block_is_one_of_these():
    """Code that is no whole program is marked `py`, and none of that is more than a few lines."""
    count = sum(len(blocks(page.read_text(), "python")) for page in PAGES)
    assert count == 4 + 3
    [few] = [block for page in PAGES for block in blocks(page.read_text(), "py")]
    assert len(few.splitlines()) < 8


def test_the_table_of_the_layout_is_true():
    package = Path(collapse_bench.__file__).parent
    named: set[str] = set()
    for path, purpose in rows_of(section("CONTRIBUTING.md", "Where to look for what")):
        for name in code(path):
            stem, braces, rest = name.partition("{")
            kinds, _, end = rest.partition("}")
            for kind in kinds.split(",") if braces else [""]:
                full = package / f"{stem}{kind}{end}"
                assert full.exists(), name
                named.add(full.relative_to(package).parts[0])
                for part in code(purpose):
                    if path in ("`leaderboard/`", "`runner/`"):
                        assert (full / f"{part}.py").exists(), part
                    elif re.fullmatch(r"\w+\.py", part):
                        assert (full / part).exists(), part
    there = {path.name for path in package.iterdir() if not path.name.startswith("__")}
    assert named == there


def test_the_commands_are_those_of_the_parser():
    [listed] = blocks(section("README.md", "Commands"), "")
    told: dict[str, set[str]] = {}
    for line in listed.splitlines():
        if not line.startswith(" "):
            verb = line.split()[0]
        told.setdefault(verb, set()).update(re.findall(r"(--[a-z]+)", line))
    [verbs] = [action for action in build_parser()._actions if action.choices]
    assert told == {
        name: {flag for flag in parser._option_string_actions if flag.startswith("--")} - {"--help"}
        for name, parser in verbs.choices.items()
    }


@pytest.mark.parametrize(
    ("part", "settings"),
    {
        "corpus": CorpusSettings,
        "sizes": Sizes,
        "training": Training,
        "evaluation": Evaluation,
    }.items(),
)
def test_every_setting_of_a_suite_is_in_the_docs(part, settings):
    rows = rows_of(section("docs/suites.md", part))
    told = {code(row[0])[0]: row[1].strip("`") for row in rows}
    assert told == {
        setting.name: "required"
        if setting.required
        else setting.default
        if isinstance(setting.default, str)
        else json.dumps(setting.default)
        for setting in schema_of(settings).values()
    }


def test_the_suites_of_the_docs_are_those_that_come_along():
    rows = rows_of(section("docs/suites.md", "The suites that come along"))
    told = {code(suite)[0]: what for suite, what, _ in rows}
    files = sorted((ROOT / "suites").glob("*.yaml"))
    assert sorted(told) == [f"suites/{path.name}" for path in files]
    ptb = len(cells_of(load_suite(ROOT / "suites" / "ptb.yaml", remedy_files())))
    assert f"{ptb} cells" in told["suites/ptb.yaml"]
    assert f"The suite has {ptb} cells" in text_of("README.md")
    quick = len(cells_of(load_suite(ROOT / "suites" / "quick.yaml", remedy_files())))
    assert f"| {quick} cells, " in text_of("docs/suites.md")
    assert f"quick: {quick} cells on newswire" in text_of("README.md")


def test_no_page_and_no_data_card_has_a_gap_left_to_fill():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    cards = (ROOT / "collapse_bench" / "corpus").glob("*.py")
    for path in [*pages, *cards]:
        assert not re.search(r"\b[A-Z]+_(TABLE|TIME|RUN|SENTENCE)\b", path.read_text()), path


def test_the_page_of_remedies_is_what_their_files_say():
    told = page_of_remedies([describe(*each) for each in built_in().items()])
    command = "python -m collapse_bench list remedies --page > docs/remedies.md"
    assert text_of("docs/remedies.md") == told, f"write it anew: {command}"


def test_what_a_suite_can_name_is_in_the_docs():
    for architecture in get_args(Architecture):
        assert f"`{architecture}`" in section("docs/suites.md", "Every setting")


def test_the_laws_of_the_docs_are_those_that_are_held():
    rows = rows_of(section("docs/adding-a-remedy.md", "The laws"))
    told = [law for _, laws in rows for law in laws.split("; ")]
    assert sorted(told) == sorted(sentence_of(law) for law in LAWS)
    parts = [code(row[0])[0] for row in rows_of(section("docs/adding-a-remedy.md", "The contract"))]
    assert parts == [*SLOTS, *LEVERS]


def test_verdicts_laws_marks_and_families_of_the_docs_are_those_of_the_code():
    page = "docs/measurement.md"
    verdicts = {row[0] for row in rows_of(section(page, "The verdicts"))}
    assert verdicts == VERDICTS.keys() - {"no latent"}
    honesty = [row[0] for row in rows_of(section(page, "The bound is measured"))]
    assert sorted(honesty) == sorted(HONESTY.keys() - {"answers"})
    assert {row[0] for row in rows_of(section(page, "How to read the table"))} == MARKS.keys()
    lacking = {
        name: lacks not in ("", "the same")
        for family, lacks, _ in rows_of(section(page, "Posteriors of other families"))
        for name in code(family)
    }
    assert lacking == {name: bool(absent(name)) for name in lacking}


def test_the_suite_and_the_table_of_values_in_the_docs_work(tmp_path):
    told = section("docs/suites.md", "Values")
    ([suite], [table]) = (blocks(told, kind) for kind in ("yaml", "csv"))
    (tmp_path / "my" / "folder").mkdir(parents=True)
    for split in SPLITS:
        (tmp_path / "my" / "folder" / f"{split}.csv").write_text(table)
    (tmp_path / "mine.yaml").write_text(suite)
    command = [sys.executable, "-m", "collapse_bench", "check", "mine.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 / 2 / 2 sequences of 1 to 2 steps, channels x, y" in done.stderr
    assert "label (" not in done.stderr
    assert "kind (" in done.stderr


def test_what_verify_shows_is_in_the_docs():
    rows = rows_of(section("docs/measurement.md", "Why trust the numbers"))
    assert [(alive, verdict) for _, alive, verdict in rows] == [
        (", ".join(control.fooled), control.verdict) for control in controls(20)
    ]
    passed = re.search(r"^(\d+) of \1 checks passed$", text_of("docs/verify.md"), re.MULTILINE)
    assert passed
    assert f"All {passed[1]} checks pass" in text_of("docs/measurement.md")
    assert f"{passed[1]} checks, all pass" in text_of("README.md")
    assert f"{len(CHEATS)} remedies that cheat" in text_of("README.md")


def test_the_table_of_results_is_that_of_the_records():
    records: dict[str, dict[int, dict[str, float]]] = {}
    verdicts: dict[str, list[str]] = {}
    for path in sorted((ROOT / "leaderboard" / "quick").glob("*.json")):
        record = json.loads(path.read_text())
        plain = {name.partition("@")[0]: value for name, value in record["metrics"].items()}
        records.setdefault(record["entry"], {})[record["seed"]] = plain
        verdicts.setdefault(record["entry"], []).append(record["verdict"])
    assert {len(seeds) for seeds in records.values()} == {3}

    def mean(entry: str, name: str) -> float:
        return sum(metrics[name] for metrics in records[entry].values()) / 3

    rows = rows_of(section("README.md", "What comes out"))
    assert {row[0].removesuffix(" ⊘") for row in rows} == records.keys()
    columns = ("kl", "mutual_information", "useful_rate", "useful_beyond")
    for entry, nll, gap, *numbers, verdict in rows:
        name = entry.removesuffix(" ⊘")
        assert float(nll) == pytest.approx(mean(name, "nll"), abs=0.0051)
        counted = {v: verdicts[name].count(v) for v in verdicts[name]}
        told = ", ".join(v if n == 3 else f"{n} {v}" for v, n in sorted(counted.items()))
        assert verdict == told
        if name == "language_model":
            assert [gap, *numbers] == ["–"] * 5
        else:
            apart = mean(name, "nll") - mean("language_model", "nll")
            assert float(gap) == pytest.approx(apart, abs=0.0051)
            assert [float(number) for number in numbers] == [
                pytest.approx(mean(name, column), abs=0.0051) for column in columns
            ]


@pytest.mark.parametrize("page", sorted((ROOT / "leaderboard").glob("*.md")), ids=lambda p: p.stem)
def test_a_committed_page_is_that_of_the_records_beside_it(page, tmp_path, capsys):
    suite = str(ROOT / "suites" / page.name.replace(".md", ".yaml"))
    folders = ["--runs", str(page.parent), "--out", str(tmp_path)]
    assert main(["leaderboard", suite, *folders]) == 0, capsys.readouterr()
    assert (tmp_path / page.name).read_bytes() == page.read_bytes()
    published = {path.name: path.read_bytes() for path in page.with_suffix("").glob("*.json")}
    written = (tmp_path / page.stem).glob("*.json")
    assert {path.name: path.read_bytes() for path in written} == published


def test_a_published_record_that_is_not_in_the_page_is_never_lost(tmp_path, capsys):
    text = (ROOT / "suites" / "quick.yaml").read_text()
    suite = tmp_path / "quick.yaml"
    suite.write_text(text.replace("warmup: 0.25", "warmup: 0.75"))
    shutil.copytree(ROOT / "leaderboard" / "quick", tmp_path / "pages" / "quick")
    before = sorted(path.name for path in (tmp_path / "pages" / "quick").iterdir())
    command = ["leaderboard", str(suite), "--runs", str(tmp_path / "pages"), "--out"]
    assert main([*command, str(tmp_path / "pages")]) == 2
    assert "these are of earlier settings: kl_annealing-lstm-4-" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "elsewhere")]) == 0
    assert sorted(path.name for path in (tmp_path / "pages" / "quick").iterdir()) == before


def test_a_run_s_record_comes_before_a_published_one_of_the_same_cell(tmp_path):
    [path, *_] = sorted((ROOT / "leaderboard" / "quick").glob("*.json"))
    published = read_record(path)
    shutil.copy(path, tmp_path)
    (tmp_path / "notes.json").write_text("no record")
    assert read_records(tmp_path) == [published]
    write_record(tmp_path / path.stem, published | {"verdict": "newer"})
    assert [record["verdict"] for record in read_records(tmp_path)] == ["newer"]

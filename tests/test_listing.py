"""What a remedy's file says of it, as it is read, shown in a terminal, and put on the page."""

import re

import pytest

from collapse_bench.cli import main
from collapse_bench.description import CLASS_VARIABLES, describe
from collapse_bench.listing import of_kinds, page, section, table
from collapse_bench.plugins import BUILT_IN, KINDS, built_in
from collapse_bench.remedy import Remedy, find_class, levers_of

FILE = '''"""A method (Anybody 2026).

More of the method.
"""

raise SystemExit("it was run")


@dataclass(frozen=True)
class Mine(Remedy):
    """What it does: p(x_<t|z).

    A formula,

        a <b> | c,

    and more.

    Attributes:
        rate: the first line
            and the second: both.
        low, high: limits, `<unk>` too.

    What comes after.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl",)
    neutral: ClassVar = {"rate": 0.0, "kind": "one"}
    architectures: ClassVar[tuple[str, ...]] = ("lstm",)
    signature: ClassVar = {"hard": "use"}

    rate: Annotated[float, AtLeast(0)] = 0.5
    low: float = 0.0
    high: float = 1.0
    kind: Literal["one", "other"] = "other"

    def step(self, step, run):
        return step

    def build(self, model):
        return {}
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return describe("mine", path)


def test_a_file_is_described_without_being_run(mine):
    assert mine.line == FILE[: FILE.index("class Mine")].count("\n") + 1
    assert (mine.kind, mine.levers) == ("", ("build", "step"))
    assert (mine.source, mine.about) == ("A method (Anybody 2026).", "More of the method.")
    assert mine.text.startswith("What it does: p(x_<t|z).\n\nA formula,\n\n    a <b> | c,\n\nand")
    assert mine.text.endswith("and more.\n\nWhat comes after.")
    assert mine.explained == {
        "rate": "the first line and the second: both.",
        "low": "limits, `<unk>` too.",
        "high": "limits, `<unk>` too.",
    }
    assert list(mine.settings) == ["rate", "low", "high", "kind"]
    assert mine.by_construction == ("kl",)
    assert mine.neutral == {"rate": 0.0, "kind": "one"}
    assert mine.architectures == ("lstm",)
    assert mine.signature == {"hard": "use"}


def test_a_description_knows_every_class_variable_of_a_remedy():
    annotated = {name for name in vars(Remedy)["__annotations__"] if not name.startswith("_")}
    assert set(CLASS_VARIABLES) == annotated


def test_a_file_without_docstrings_has_an_empty_description(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("class Mine(Remedy):\n    rate: float = 0.5\n")
    told = describe("mine", path)
    assert (told.source, told.about, told.text, told.explained) == ("", "", "", {})
    assert (told.levers, told.by_construction, told.neutral) == ((), (), None)


@pytest.mark.parametrize("name", built_in())
def test_a_built_in_remedy_is_what_its_description_says(name):
    path = built_in()[name]
    told, remedy = describe(name, path), find_class(name, path)
    assert list(told.levers) == levers_of([remedy(**remedy.small)])
    assert told.by_construction == remedy.by_construction
    assert told.neutral == remedy.neutral
    assert told.architectures in (None, remedy.architectures)
    assert (told.signature or {}) == remedy.signature
    assert told.kind in KINDS


def test_every_kind_of_remedies_has_its_place_and_says_what_it_changes():
    folders = {path.name for path in BUILT_IN.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(KINDS)
    assert list(of_kinds([describe(*each) for each in built_in().items()])) == list(KINDS)


def test_a_section_tells_everything(mine):
    *_, what, settings, facts = section(mine, "HERE").split("\n\n")
    assert what == "What comes after."
    assert settings.splitlines() == [
        "- `rate` (default 0.5; a number at least 0): the first line and the second: both.",
        "- `low` (default 0.0; a number): limits, `<unk>` too.",
        "- `high` (default 1.0; a number): limits, `<unk>` too.",
        '- `kind` (default "other"; one or other)',
    ]
    assert facts == (
        "Lever: `build`, `step`. By construction: `kl`; the plain VAE is"
        ' `{rate: 0.0, kind: "one"}`. For lstm only. Signature: {hard: "use"}. File: HERE'
    )


def test_a_table_has_every_remedy_and_cuts_nothing(mine):
    remedies = [describe(*each) for each in built_in().items()]
    text = table([*remedies, mine])
    assert max(map(len, text.splitlines())) <= 120
    assert re.findall(r"^[a-z]\w+(?= {2,})", text, re.MULTILINE)[1:] == [
        *(each.name for those in of_kinds(remedies).values() for each in those),
        "mine",
    ]
    words = " ".join(text.split())
    assert "latent_memory build Latent memory of Optimus" in words
    assert all(metric in words for each in remedies for metric in each.by_construction)


def test_no_word_of_a_page_is_taken_for_html():
    text = page([describe(*each) for each in built_in().items()])
    outside = re.sub(r"^ {4}.*$|`[^`\n]*`", "", text, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)<[\w/!?]", outside)
    assert "x_\\<t" in text


def test_only_remedies_are_told_one_by_one_or_on_a_page(capsys):
    for arguments in (["metrics", "nll"], ["corpora", "--page"]):
        assert main(["list", *arguments]) == 2
        assert "only remedies are told" in capsys.readouterr().err
    assert main(["list", "remedies", "free_bits"]) == 0
    assert capsys.readouterr().out.startswith("free_bits\n\nFree bits (Kingma, ")

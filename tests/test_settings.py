"""The signature is the schema, whether it is read from the class or from the text of its file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapse_bench.errors import UserError
from collapse_bench.rules import way_out
from collapse_bench.settings import (
    Above,
    AtLeast,
    Between,
    Setting,
    check,
    problems_of,
    resolve,
    rule_of,
    schema_of,
    schema_of_file,
    unknown,
)


@dataclass(frozen=True)
class Sample:
    """Every form of annotation once."""

    lever: ClassVar[str] = "step"
    needed: int
    rate: Annotated[float, Between(0, 1)] = 0.25
    count: Annotated[int, AtLeast(-1)] = -1
    scale: Annotated[float, Above(0)] | None = None
    shape: Literal["linear", "logistic"] = "linear"
    slots: tuple[str, ...] = ("prior", "head")
    early: bool = False
    label: str = "a"

    def __post_init__(self) -> None:
        check(self)

    def method(self) -> int:
        """No setting."""
        local: int = 3
        return local


SCHEMA = schema_of(Sample)


def test_a_class_and_its_file_give_the_same_schema():
    assert schema_of_file(Path(__file__), "Sample") == SCHEMA
    assert list(SCHEMA) == [field.name for field in dataclasses.fields(Sample)]
    assert SCHEMA["needed"] == Setting("needed", int, None, required=True)
    assert SCHEMA["rate"] == Setting("rate", Annotated[float, Between(0, 1)], 0.25, required=False)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rate", 1.5, "a number between 0 and 1, not 1.5"),
        ("rate", "0.5", "not '0.5'; write a plain number, without quotes or underscores"),
        ("rate", True, "a number between 0 and 1, not True"),
        ("rate", float("nan"), "not nan"),
        ("rate", None, "not null"),
        ("rate", 10**400, "not 1000"),
        ("count", -2, "a whole number at least -1, not -2"),
        ("count", 1.0, "not 1.0; write 1"),
        ("count", 1e6, "not 1000000.0; write 1000000"),
        ("count", 1.5, "a whole number at least -1, not 1.5"),
        ("count", "nan", "a whole number at least -1, not 'nan'"),
        ("scale", 0, "a number above 0 or null, not 0"),
        ("scale", float("inf"), "not inf"),
        ("shape", "logistik", "linear or logistic, not 'logistik', did you mean logistic?"),
        ("shape", 0, "linear or logistic, not 0"),
        ("slots", "prior", "a list, each item text, not 'prior'"),
        ("slots", ["prior", 3], "a list, each item text, not ['prior', 3]"),
        ("early", "yes", "true or false, not 'yes'; write true or false, without quotes"),
        ("early", 1, "true or false, not 1"),
        ("label", 3, "text, not 3"),
    ],
)
def test_a_value_that_breaks_its_rule_is_told(name, value, words):
    text = problems_of({"needed": 1, name: value}, SCHEMA, "sample")[name]
    assert text.startswith(f"sample: {name} must be ")
    assert words in text
    with pytest.raises(UserError, match=f"test_settings: {name} must be"):
        Sample(**{"needed": 1, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("rate", 0), ("rate", 1), ("rate", 0.5), ("count", -1), ("scale", None), ("scale", 1)],
        *[("shape", "logistic"), ("slots", []), ("slots", ("a",)), ("early", True)],
    ],
)
def test_a_value_that_obeys_is_accepted(name, value):
    assert problems_of({"needed": 1, name: value}, SCHEMA, "sample") == {}
    assert getattr(Sample(**{"needed": 1, name: value}), name) == value


def test_all_problems_are_told_by_name():
    problems = problems_of({"rat": 0.5, "rate": 2, "label": "b"}, SCHEMA, "sample")
    assert list(problems) == ["rat", "rate", "needed"]
    assert "unknown setting 'rat', did you mean rate?; legal: count, early" in problems["rat"]
    assert problems["needed"] == "sample: needed is missing; give a whole number"


def test_resolve_gives_all_settings_in_normal_form():
    settings = resolve({"needed": 3, "rate": 1, "slots": ["a"]}, SCHEMA)
    assert list(settings) == list(SCHEMA)
    assert repr(settings["rate"]) == "1.0"
    assert settings["slots"] == ("a",)
    assert Sample(**settings) == Sample(needed=3, rate=1.0, slots=("a",))


def test_whole_numbers_in_a_list_or_a_mapping_are_written_out():
    budget = rule_of(int | dict[str, int])
    assert way_out(budget, {"ptb": 1e6, "newswire": 3}) == "; write {ptb: 1000000, newswire: 3}"
    assert way_out(rule_of(tuple[int, ...]), [1.0, 2]) == "; write [1, 2]"
    assert way_out(budget, {"ptb": 1.5}) == way_out(budget, 1.5) == ""


def test_unknown_names_what_there_is():
    assert unknown("remedy", "word_dropuot", ["word_dropout", "delta_vae"]) == (
        "unknown remedy 'word_dropuot', did you mean word_dropout?; legal: delta_vae, word_dropout"
    )
    assert unknown("setting", "x", []) == "unknown setting 'x'; legal: none"
    many = [f"{kind}_annealing" for kind in ("kl", "cyclical", "cosine", "word")]
    many += [f"prior_{i}" for i in range(9)]
    told = unknown("remedy", "kl_aneling", many)
    assert told.startswith("unknown remedy 'kl_aneling', did you mean kl_annealing")
    assert "legal" not in told
    assert unknown("remedy", "zzz", many).endswith(", ".join(sorted(many)))
    assert "legal: " in unknown("remedy", "kl_aneling", many[:12])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rate: list[int] = 3", "annotation of rate must be int, float"),
        ("rate: 'int' = 3", "not 'int'"),
        ("rate: Annotated[float, Near(3)] = 3", "not Annotated[float, Near(3)]"),
        ("rate: Annotated[float, Between(0)] = 3", "not Annotated[float, Between(0)]"),
        ("rate: Annotated[float, AtLeast(low)] = 3", "not Annotated[float, AtLeast(low)]"),
        ("rate: None | None = 3", "not None | None"),
        ("rate: float = 1 / 3", "default of rate must be a plain value, not 1 / 3"),
        ("rate: tuple[str, ...] = field(default_factory=tuple)", "must be a plain value"),
    ],
)
def test_a_file_whose_schema_needs_running_is_refused(tmp_path, line, words):
    path = tmp_path / "trial.py"
    path.write_text(f"raise SystemExit('it was run')\nclass Trial:\n    {line}\n")
    with pytest.raises(UserError) as caught:
        schema_of_file(path, "Trial")
    assert str(caught.value).startswith(f"{path}:3: the ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"class Other: pass", "must hold the class Trial; classes there: Other"),
        (b"", "classes there: none"),
        (b"x = 1\nclass Trial(:", ":2: is not Python"),
        (b"\x00", "is not Python"),
        (b"# coding: nonsense\n", "is not Python"),
        (b"x = '\xff'\n", "is not Python"),
    ],
)
def test_a_file_without_the_class_is_refused(tmp_path, content, words):
    path = tmp_path / "trial.py"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        schema_of_file(path, "Trial")
    assert words in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        schema_of_file(tmp_path / "trial.py", "Trial")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*SCHEMA, "rat"]), VALUES))
def test_values_are_legal_exactly_if_they_make_an_instance(values):
    if problems_of(values, SCHEMA, "sample"):
        with pytest.raises((UserError, TypeError)):
            Sample(**values)
    else:
        assert Sample(**resolve(values, SCHEMA))


@given(VALUES)
def test_the_normal_form_of_a_legal_value_is_legal_and_final(value):
    for setting in SCHEMA.values():
        rule = rule_of(setting.annotation)
        if rule.allows(value):
            assert rule.allows(rule.normal(value))
            assert rule.normal(rule.normal(value)) == rule.normal(value)

"""What the annotation of a setting demands of its value, and how that is said."""

import difflib
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included."""

    low: float
    high: float

    def allows(self, value: float) -> bool:
        """Tell whether the value lies within the limits."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"between {self.low} and {self.high}"


@dataclass(frozen=True)
class AtLeast:
    """A number that is `low` or more."""

    low: float

    def allows(self, value: float) -> bool:
        """Tell whether the value is large enough."""
        return value >= self.low

    def __str__(self) -> str:
        return f"at least {self.low}"


@dataclass(frozen=True)
class Above:
    """A number that is more than `low`."""

    low: float

    def allows(self, value: float) -> bool:
        """Tell whether the value is large enough."""
        return value > self.low

    def __str__(self) -> str:
        return f"above {self.low}"


def _unchanged(value: Any) -> object:
    return value


@dataclass(frozen=True)
class Rule:
    """What an annotation demands of a value.

    Attributes:
        words: The demand in words that follow "must be".
        allows: Tells whether a value obeys.
        normal: Turns a value that obeys into its one normal form, so that equal settings are equal
            however they were written: 1 is 1.0 where a float is asked for, lists are tuples.
        choices: The texts that are legal, where they can be listed.
    """

    words: str
    allows: Callable[[Any], bool]
    normal: Callable[[Any], object] = _unchanged
    choices: tuple[str, ...] = ()


def rule_of(annotation: object) -> Rule:
    """Return the rule that an annotation stands for."""
    form, parts = get_origin(annotation), get_args(annotation)
    if form is Annotated:
        number, bound = rule_of(parts[0]), parts[1]
        words = f"{number.words} {bound}"
        return Rule(words, lambda v: number.allows(v) and bound.allows(v), number.normal)
    if form is Literal:
        choices = tuple(map(str, parts))
        words = " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
        return Rule(words, lambda v: any(_same(v, part) for part in parts), choices=choices)
    if form in (Union, types.UnionType):
        rules = [rule_of(part) for part in parts]
        return Rule(
            " or ".join(rule.words for rule in rules),
            lambda v: any(rule.allows(v) for rule in rules),
            lambda v: next(rule.normal(v) for rule in rules if rule.allows(v)),
            tuple(choice for rule in rules for choice in rule.choices),
        )
    if form is tuple:
        item = rule_of(parts[0])
        return Rule(
            f"a list, each item {item.words}",
            lambda v: isinstance(v, list | tuple) and all(map(item.allows, v)),
            lambda v: tuple(map(item.normal, v)),
            item.choices,
        )
    if form is dict:
        key, item = rule_of(parts[0]), rule_of(parts[1])
        return Rule(
            f"a mapping from {key.words} to {item.words}",
            lambda v: (
                isinstance(v, Mapping)
                and all(map(key.allows, v))
                and all(map(item.allows, v.values()))
            ),
            lambda v: {name: item.normal(v[name]) for name in v},
            key.choices,
        )
    return _PLAIN_RULES[annotation]


def _same(value: object, choice: object) -> bool:
    return type(value) is type(choice) and value == choice


def _is_number(value: object) -> bool:
    # A bool is an int to Python, never to a user; math.isfinite would overflow on a huge int.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -math.inf < value < math.inf


_PLAIN_RULES: dict[object, Rule] = {
    int: Rule("a whole number", lambda v: _is_number(v) and isinstance(v, int)),
    float: Rule("a number", _is_number, float),
    bool: Rule("true or false", lambda v: isinstance(v, bool)),
    str: Rule("text", lambda v: isinstance(v, str)),
    types.NoneType: Rule("null", lambda v: v is None),
    dict: Rule("a mapping", lambda v: isinstance(v, Mapping)),
    list: Rule("a list", lambda v: isinstance(v, list)),
}


# Words for messages.


MANY, NEAR = 12, 3
"""Of more legal names than `MANY` a message lists the nearest, so many at most."""


def unknown(kind: str, name: str, legal: Iterable[str]) -> str:
    """Return what to say of an unknown name: the nearest legal name and all that are legal, or
    where these are many and some are near, the near ones."""
    names = sorted(legal)
    near = difflib.get_close_matches(name[:64].lower(), names, n=NEAR)
    if near and len(names) > MANY:
        return f"unknown {kind} {shown(name)}, did you mean {' or '.join(near)}?"
    hint = f", did you mean {near[0]}?" if near else ""
    return f"unknown {kind} {shown(name)}{hint}; legal: {', '.join(names) or 'none'}"


def shown(value: object) -> str:
    """Return a value as it is shown in a message, cut where it is long."""
    return cut("null" if value is None else repr(value))


def cut(text: str, most: int = 60) -> str:
    """Return a text that is no longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _nearest(name: str, legal: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name[:64].lower(), legal, n=1)
    return f", did you mean {matches[0]}?" if matches else ""


def way_out(rule: Rule, value: object) -> str:
    """Return what helps beyond the rule itself, if anything does."""
    texts = value if isinstance(value, list | tuple | Mapping) else [value]
    for text in texts:
        if isinstance(text, str) and text not in rule.choices:
            hint = _nearest(text, rule.choices) or _plainer(rule, text)
            if hint:
                return hint
    return _whole(rule, value)


def _plainer(rule: Rule, text: str) -> str:
    """Tell how to write a text that only looks like a number or a truth value."""
    if rule.allows(True):
        return "; write true or false, without quotes"
    try:
        number = float(text)
        looks_right = rule.allows(number) or rule.allows(int(number))
    except (ValueError, OverflowError):
        return ""
    return "; write a plain number, without quotes or underscores" if looks_right else ""


def _whole(rule: Rule, value: object) -> str:
    """Tell how to write numbers such as 1e6 or 64.0 where only whole ones are legal."""
    if isinstance(value, Mapping):
        whole: object = {key: _as_whole(each) for key, each in value.items()}
    elif isinstance(value, list | tuple):
        whole = [_as_whole(each) for each in value]
    else:
        whole = _as_whole(value)
    if not rule.allows(whole):
        return ""
    text = str(whole).replace("'", "")  # as YAML writes a mapping
    return f"; write {text}" if len(text) <= 60 else "; write the digits out"


def _as_whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value

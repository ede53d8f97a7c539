"""The three tiny tasks hold what they say, and the plain VAE becomes on them what they are for.

Every remedy is held to its signature where that tells most.
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from collapse_bench.laws import Subject
from collapse_bench.laws.check import finding
from collapse_bench.laws.law import Outcome
from collapse_bench.laws.signature import (
    BETWEEN,
    KINDS,
    OUTCOMES,
    TASKS,
    became,
    corpus_of,
    its_signature_is_as_it_says,
)
from collapse_bench.plugins import remedy_files
from collapse_bench.remedy import find_class

OF_THE_PLAIN_VAE = {"nothing": "collapsed", "hard": "collapsed", "easy": "use"}

FILES = remedy_files()

OF_THE_LSTM = [
    name
    for name, path in FILES.items()
    if "lstm" in find_class(name, path).architectures and not find_class(name, path).values
]

SUITES = Path(__file__).parents[1] / "suites"

tasks = pytest.mark.parametrize("name", TASKS)


def drawn(name, count=20_000):
    return [text.split() for text in TASKS[name].draw(count, np.random.default_rng(3))]


def colours_of(words):
    return [word for word in words if word in KINDS]


@tasks
def test_the_plain_vae_is_what_the_task_is_for(name):
    task = TASKS[name]
    found = became(Subject("", "lstm", FILES), task)
    assert found.outcome == OF_THE_PLAIN_VAE[name]
    # 256 strings of a few hundred, all of the same probability: the entropy is a floor for each.
    assert found.nll > task.entropy - 0.05
    assert found.useful <= found.rate + 0.05
    if name == "hard":  # the decoder copies, so that there is nothing left to gain
        assert found.nll < task.entropy + 0.1


@tasks
def test_a_string_has_as_many_colours_and_tokens_as_it_says(name):
    task = TASKS[name]
    for words in drawn(name, 200):
        assert len(words) + 1 == task.tokens
        assert len(colours_of(words)) == task.colours
        assert set(words) <= {*KINDS, *BETWEEN}
    split = corpus_of(task).train
    assert (split.lengths == task.tokens).all()


@tasks
def test_all_strings_are_equally_likely_and_their_number_is_the_entropy(name):
    counts = Counter(map(" ".join, drawn(name)))
    possible = math.exp(TASKS[name].entropy)
    assert possible == pytest.approx(round(possible))
    assert len(counts) <= round(possible)
    if possible < 200:
        assert len(counts) == round(possible)
        mean = 20_000 / possible
        assert max(abs(count - mean) for count in counts.values()) < 5 * math.sqrt(mean)


@tasks
def test_colours_share_their_entropy_or_nothing(name):
    colours = [colours_of(words) for words in drawn(name)]
    first, last = ([words[place] for words in colours] for place in (0, -1))

    def entropy(values):
        counts = np.array(list(Counter(values).values()))
        shares = counts / counts.sum()
        return -(shares * np.log(shares)).sum()

    shared = entropy(first) + entropy(last) - entropy(zip(first, last, strict=True))
    assert shared == pytest.approx(TASKS[name].global_information, abs=2e-3)


def test_the_tasks_are_told_apart_by_what_there_is_to_tell():
    information = {name: task.global_information for name, task in TASKS.items()}
    assert information["nothing"] == 0
    assert information["hard"] == information["easy"] > 1
    assert set(OF_THE_PLAIN_VAE) == set(TASKS)
    assert set(OF_THE_PLAIN_VAE.values()) <= set(OUTCOMES)


def telling(signature):
    """The task on which a remedy becomes what the plain VAE does not; else `easy`, on which one
    that has broken something collapses, where it is stated. `nothing` alone tells little."""
    others = [task for task, outcome in signature.items() if outcome != OF_THE_PLAIN_VAE[task]]
    return [*others, *(task for task in ("easy", "hard", "nothing") if task in signature)][0]


@pytest.mark.parametrize("name", OF_THE_LSTM)
def test_a_remedy_becomes_what_its_signature_says_where_that_tells_most(name):
    # `check` tries all three tasks; for forty remedies they would be a fifth of all tests.
    signature = find_class(name, FILES[name]).signature
    assert signature, "what came of the seeds 1 to 5 is to be stated"
    task = telling(signature)
    found = became(Subject(name, "lstm", FILES), TASKS[task])
    assert found.outcome == signature[task], found


def test_a_law_that_holds_in_one_architecture_and_has_no_place_in_the_other_is_kept():
    ok, none = Outcome("ok"), Outcome("not applicable", "signatures are those of the LSTM")
    found = finding(its_signature_is_as_it_says, {"lstm": ok, "transformer": none})
    assert (found.status, found.seen) == ("ok", ())
    broken = Outcome("BROKEN", "on easy it is 'collapsed'")
    found = finding(its_signature_is_as_it_says, {"lstm": broken, "transformer": none})
    assert found.status == "BROKEN"
    assert found.seen == ("lstm: on easy it is 'collapsed'",)


@pytest.mark.parametrize(
    ("text", "places"), [("colours", "BBBCBCBCBC"), ("distant", "BBBB" + 4 * "CBBBBBB")]
)
def test_the_colours_of_the_positive_suites_are_as_they_say(text, places):
    for split, count in {"train": 2000, "valid": 200, "test": 400}.items():
        lines = (SUITES / text / f"{split}.txt").read_text(encoding="utf-8").splitlines()
        assert len(lines) == count
        shown = Counter()
        for line in lines:
            [colour] = {word for word in line.split() if word in KINDS}
            shown[colour] += 1
            words = ["C" if word == colour else "B" for word in line.split()]
            assert "".join(words) == places
            assert set(line.split()) - {colour} <= set(BETWEEN)
        assert set(shown) == set(KINDS)
        assert max(shown.values()) < 1.3 * count / len(KINDS)

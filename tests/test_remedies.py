"""Every remedy keeps every law in both architectures, and remedies combine.

Remedies are found by their files: a new one is held to the laws without a line here.
"""

import itertools
import random
import re
from functools import cache

import numpy as np
import pytest
import torch
from conftest import change_input, make, noise_of, parameters, same_arrays

from collapse_bench.errors import UserError
from collapse_bench.laws import ARCHITECTURES, LAWS, Subject, sentence_of, tried
from collapse_bench.laws.bench import numbers
from collapse_bench.laws.evaluation import (
    evaluation_changes_nothing_and_repeats,
    evaluation_is_the_same_for_every_batch_size,
    evaluation_leaves_one_row_a_sentence,
    its_bound_is_one,
    no_sentence_depends_on_its_neighbours,
    padding_changes_nothing,
)
from collapse_bench.laws.signature import its_signature_is_as_it_says
from collapse_bench.laws.training import every_parameter_gets_a_gradient, one_seed_one_result
from collapse_bench.metrics.identities import INFINITE
from collapse_bench.model import SLOTS
from collapse_bench.plugins import remedy_files
from collapse_bench.remedy import find_class, levers_of, load_remedy

FILES = remedy_files()
REMEDIES = sorted(FILES)

OF_WORDS = [name for name in REMEDIES if not find_class(name, FILES[name]).values]
"""Remedies that can be tried on sentences; the chains of the others are in `test_values`."""

OF_THE_PLAIN_VAE = (
    every_parameter_gets_a_gradient,
    one_seed_one_result,
    evaluation_changes_nothing_and_repeats,
    evaluation_is_the_same_for_every_batch_size,
    evaluation_leaves_one_row_a_sentence,
    padding_changes_nothing,
    no_sentence_depends_on_its_neighbours,
    its_bound_is_one,
)
"""Laws that need no remedy."""

SAMPLED = 12
"""Ordered pairs that are tried of those that share no slot and no step."""

remedy_or_none = pytest.mark.parametrize("name", ["", *REMEDIES], ids=["vae", *REMEDIES])


def test_the_built_in_remedies_are_found():
    assert set(REMEDIES) >= {"beta_vae", "free_bits", "delta_vae", "limited_receptive_field"}


@pytest.mark.parametrize(
    "law", [law for law in LAWS if law is not its_signature_is_as_it_says], ids=sentence_of
)
@pytest.mark.parametrize("name", REMEDIES)
def test_a_remedy_keeps_the_law(name, law, architecture):
    outcome = tried(law, Subject(name, architecture, FILES))
    if outcome.status == "not applicable":
        pytest.skip(outcome.seen)
    assert outcome.status == "ok", outcome.seen


@pytest.mark.parametrize("law", OF_THE_PLAIN_VAE, ids=sentence_of)
def test_the_plain_vae_keeps_the_law(law, architecture):
    law(Subject("", architecture, FILES))


@remedy_or_none
def test_a_decoder_does_not_see_what_it_predicts(name, architecture, batch):
    model = make(architecture, [name] if name else []).model.eval()
    z = model.posterior(batch, noise_of(1)).mean
    before = model.decoder(batch, z)
    longest = int(batch.lengths.argmax())
    for token in (1, 4, 8):
        changed = model.decoder(change_input(batch, longest, token), z)
        assert torch.equal(changed[longest, :token], before[longest, :token])
        assert not torch.equal(changed[longest, token], before[longest, token])


# Chains


@cache
def plain(architecture):
    """The model that parts are built for, which stays as it is."""
    return make(architecture).model


@cache
def parts_of(name, architecture):
    """What a remedy builds for the plain model."""
    return load_remedy(name, find_class(name, FILES[name]).small, FILES).build(plain(architecture))


def of(name):
    """The architectures of sequences that a remedy is for."""
    return [each for each in ARCHITECTURES if each in find_class(name, FILES[name]).architectures]


@cache
def touched(name):
    """The slots that a remedy fills, and `step` where it changes the step."""
    found = find_class(name, FILES[name])
    slots = set(parts_of(name, of(name)[0])) & set(SLOTS)
    return slots | ({"step"} & set(levers_of([found(**found.small)])))


def chosen_pairs():
    """All ordered pairs of remedies that share a slot or both change the step, and some others.

    Those can meet; the others act on different things, and all of them would take minutes.
    """
    pairs = list(itertools.permutations(OF_WORDS, 2))
    meeting = [pair for pair in pairs if touched(pair[0]) & touched(pair[1])]
    others = [pair for pair in pairs if pair not in meeting]
    return meeting + random.Random(1).sample(others, min(SAMPLED, len(others)))


PAIRS = chosen_pairs()


def discarded(first, second, architecture):
    """The slot in which the second of two remedies throws away what the first installed."""
    model, before = plain(architecture), parts_of(first, architecture)
    slots = [
        slot
        for slot, part in parts_of(second, architecture).items()
        if slot in before and getattr(model, slot) not in set(part.modules())
    ]
    return slots[0] if slots else None


def both_are_for(first, second, turn):
    """An architecture that two remedies are for, each in its turn where it is both."""
    both = [each for each in of(first) if each in of(second)]
    return both[turn % len(both)]


@pytest.mark.parametrize(
    ("first", "second", "architecture"),
    [(*pair, both_are_for(*pair, turn)) for turn, pair in enumerate(PAIRS)],
)
def test_two_remedies_chain_or_say_why_not(first, second, architecture, corpus):
    if slot := discarded(first, second, architecture):
        with pytest.raises(UserError) as error:
            make(architecture, [first, second])
        assert f"{second} replaces the {slot} that {first} installed" in str(error.value)
        return
    built = make(architecture, [first, second])
    try:
        built.steps(corpus, 1)
    except UserError as error:  # in words, with the way out
        told = rf"({first}|{second}).*; put {first} after|put the remedy that shows z there before"
        told += "|leave one of the two remedies out"
        if re.search(told, str(error)):
            return
        raise
    assert all(each.isfinite().all() for each in parameters(built.model))
    arrays = built.evaluate(corpus.valid)
    assert same_arrays(arrays, built.evaluate(corpus.valid))
    assert not infinite(arrays)


def infinite(arrays):
    """Arrays with infinite numbers, but for those of which that is to be expected."""
    of = numbers(arrays).items()
    return [name for name, each in of if name not in INFINITE and np.isinf(each).any()]


def test_pairs_that_meet_are_among_those_that_are_tried():
    assert {("word_dropout", "delta_vae"), ("delta_vae", "word_dropout")} <= set(PAIRS)
    assert len(PAIRS) >= SAMPLED


def test_only_a_new_decoder_discards_a_decoder(architecture):
    for other in ("delta_vae", "word_dropout"):
        assert discarded(other, "limited_receptive_field", architecture) == "decoder"
        assert discarded("limited_receptive_field", other, architecture) is None


NOT_NORMAL = ("iaf", "vmf", "power_spherical", "spherical_cauchy")


def longest_chain(architecture):
    """Remedies one after the other, without those that would throw away what is there."""
    chosen = ["limited_receptive_field"]
    # Its twin is of what is there before.
    for name in sorted(OF_WORDS, key=lambda name: name == "coupled_vae"):
        if name in chosen or architecture not in of(name):
            continue
        # Beside these none goes that asks for a normal.
        if FILES[name].parent.name == "codes" or name in NOT_NORMAL:
            continue
        if name == "acn":  # which has a mean a sentence, where twr_vae asks for one a token
            continue
        if not any(discarded(each, name, architecture) for each in chosen):
            chosen.append(name)
    return chosen


def test_a_memory_of_sentences_is_for_no_tokens(corpus):
    built = make("lstm", ["acn", "twr_vae"])
    with pytest.raises(UserError, match="leave one of the two remedies out"):
        built.steps(corpus, 1)


def test_all_remedies_that_combine_in_one_chain(architecture, corpus):
    chosen = longest_chain(architecture)
    assert len(chosen) > len(OF_WORDS) / 2
    built = make(architecture, chosen)
    built.steps(corpus, 1, budget=10**6)  # inner loops in inner loops
    arrays = built.evaluate(corpus.valid)
    assert not infinite(arrays)
    assert same_arrays(arrays, built.evaluate(corpus.valid))


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("kl_annealing", {"warmup": -0.1}, "warmup"),
        ("cyclical_annealing", {"cycles": 0}, "cycles"),
        ("word_dropout", {"rate": 1.5}, "rate"),
        ("aggressive_inference", {"window": 0}, "window"),
        ("delta_vae", {"delta": 0.0}, "delta"),
        ("delta_vae", {"length": 3}, "length = 3 and latent = 8"),
        ("delta_vae", {"length": 16}, "length = 16 and latent = 8"),
        ("limited_receptive_field", {"window": 0}, "window"),
    ],
)
def test_a_setting_out_of_range_is_told_by_name(name, settings, told):
    with pytest.raises(UserError) as error:
        make("lstm", {name: settings})
    assert told in str(error.value)
    assert name in str(error.value) or find_class(name, remedy_files()[name]).__name__ in str(
        error.value
    )

"""The measured bound: no honest model is accused, and what breaks a law is caught at it."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import KNOWN, make
from conftest import WORDS as WORDS_OF_ALL
from remedies.pseudo_features import Mixture
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from collapse_bench.corpus import Split
from collapse_bench.errors import UserError
from collapse_bench.evaluation import (
    LAWS,
    Bound,
    Finding,
    bound_from,
    bound_of,
    findings,
    unseen,
    wider,
)
from collapse_bench.evaluation.asked import Asked, every_next_word
from collapse_bench.evaluation.words import _changes, _to_ask
from collapse_bench.honesty_controls import HONEST, honesty_controls
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.model import SLOTS, diagonal_normal
from collapse_bench.remedy import find_class, load_remedy, name_of
from collapse_bench.truth.cheats import CHEATS, cheat_files
from collapse_bench.truth.controls import controls


def laws(model, split, seed=1, batch=16):
    return [finding.law for finding in findings(model, split, batch=batch, seed=seed)]


def cheating(architecture, name, corpus):
    built = make(architecture)
    cheat = load_remedy(name, {}, cheat_files())
    built.model = built.model.with_parts(cheat.build(built.model), name_of(cheat))
    built.remedies = [cheat]
    built.steps(corpus, 10)
    return built.model


# What verify looks at


def test_no_remedy_is_accused_and_every_cheat_is_caught():
    seen = list(honesty_controls())
    assert [each for each in seen if each.expected != each.found] == []
    names = {each.name.removeprefix("cheat: ").split(",")[0] for each in seen}
    assert names == {"vae", "language_model", *HONEST, *CHEATS}
    assert {law for law, _ in CHEATS.values()} | {"positive", "padding", "answers"} == set(LAWS)


def test_remedies_of_every_slot_are_among_those_that_verify_asks():
    def filled(names):
        architectures = {name: find_class(name, KNOWN[name]).architectures[0] for name in names}
        built = [make(architectures[name], [name]) for name in names]
        return {slot for each in built for slot in each.remedies[0].build(each.model)} & set(SLOTS)

    of_words = [name for name in KNOWN if not find_class(name, KNOWN[name]).values]
    assert filled(HONEST) == filled(of_words)


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_caught_in_both_architectures_at_any_seed(corpus, architecture, name):
    law, kind = CHEATS[name]
    model = cheating(architecture, name, corpus)
    for seed in range(2):
        found = findings(model, corpus.train, batch=16, seed=seed)
        assert [finding.law for finding in found] == [law]
        assert bound_from(found) == Bound(kind, (found[0].reason,))
    assert found[0].reason[0].islower()
    assert "\n" not in found[0].reason


@pytest.mark.parametrize("name", HONEST)
def test_no_trained_remedy_is_accused(corpus, name):
    # The laws ask all of them in both, hardly trained and with larger weights.
    built = make("lstm" if name != "latent_memory" else "transformer", [name], seed=5)
    built.steps(corpus, 15)
    assert bound_of(built.model, corpus.test, batch=4, seed=0) == Bound("valid")


def test_a_language_model_is_a_bound(corpus, architecture):
    assert (
        bound_of(make(architecture, latent=0).model, corpus.train, batch=8, seed=0).kind == "valid"
    )


# What is left as it was


def test_modes_weights_and_generators_are_as_before(corpus):
    model = make("lstm", ["word_dropout"]).model
    model.train()
    model.pool.eval()
    before = [parameter.clone() for parameter in model.parameters()]
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    bound_of(model, corpus.train, batch=16, seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert model.decoder.training
    assert not model.pool.training
    assert all(map(torch.equal, before, model.parameters()))
    assert torch.is_grad_enabled()


def test_the_same_seed_tells_the_same(corpus):
    for name in ("noisy_decoder", "told_length", "centred_latent"):
        model = cheating("lstm", name, corpus)
        one, other = (findings(model, corpus.train, batch=16, seed=2) for _ in range(2))
        assert one == other
        assert one


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_sentences_are_enough_to_be_asked(corpus, architecture, count):
    few = Split(corpus.train.tokens, corpus.train.offsets[: count + 1])
    assert bound_of(make(architecture).model, few, batch=16, seed=0) == Bound("valid")


def test_sentences_of_one_length_are_enough(corpus):
    same = Split(corpus.train.tokens[:60], np.arange(0, 61, 3))
    assert bound_of(make("lstm").model, same, batch=16, seed=0) == Bound("valid")
    assert laws(cheating("lstm", "peeking_decoder", corpus), same) == ["causal"]


def test_a_sentence_that_is_very_long_is_not_asked_about(corpus):
    tokens = np.concatenate([corpus.train.tokens[:30], np.resize(corpus.train.tokens, 5000)])
    split = Split(tokens, np.array([0, 10, 20, 30, 5030]))
    asked = Asked(make("lstm").model, split, 16, 0)
    assert sorted(asked.order) == [0, 1, 2]


# Kinds


def test_only_a_prior_makes_it_conditional():
    prior, other = Finding("prior", "a"), Finding("causal", "b")
    assert bound_from(()) == Bound("valid")
    assert bound_from([prior]) == Bound("conditional", ("a",))
    assert bound_from([prior, other]) == Bound("invalid", ("a", "b"))
    assert bound_from([other]).kind == "invalid"


# Likelihoods


class Wrapped(nn.Module):
    """A part with another behaviour around it."""

    def __init__(self, part, change):
        super().__init__()
        self.part, self.change = part, change

    def forward(self, *given, **more):
        return self.change(self.part, *given, **more)

    def by_position(self, states, batch):
        return self.part.by_position(states, batch)


def with_part(slot, change, architecture="lstm"):
    model = make(architecture).model
    return model.with_parts({slot: Wrapped(getattr(model, slot), change)}, "test")


def test_a_readout_whose_sum_is_not_that_of_its_tokens(corpus):
    model = with_part("readout", lambda part, states, batch: 0.9 * part(states, batch))
    assert "positive" in laws(model, corpus.train)


def test_a_readout_that_reads_the_length(corpus):
    class Reads(Wrapped):
        def by_position(self, states, batch):
            return self.part.by_position(states * (1 + 0.1 * batch.lengths[:, None, None]), batch)

    def change(part, states, batch):
        return part(states * (1 + 0.1 * batch.lengths[:, None, None]), batch)

    model = make("lstm").model
    model = model.with_parts({"readout": Reads(model.readout, change)}, "test")
    assert laws(model, corpus.train) == ["causal"]


def test_a_decoder_that_reads_how_far_others_are_padded(corpus):
    def change(part, batch, z):
        return part(batch, z) * (1 + 0.1 * batch.mask.shape[1])

    assert laws(with_part("decoder", change), corpus.train) == ["neighbours"]


def test_a_decoder_that_ends_in_an_error_is_no_bound(corpus):
    def change(part, batch, z):
        if len(z) == 1:
            raise ValueError("a sentence alone")
        return part(batch, z)

    found = findings(with_part("decoder", change), corpus.train, batch=16, seed=0)
    assert [finding.law for finding in found] == ["answers"]
    assert "ValueError: a sentence alone" in found[0].reason


def test_a_readout_of_many_words_is_held_against_a_plain_softmax(corpus, monkeypatch):
    monkeypatch.setattr("collapse_bench.evaluation.words.PROBABILITIES", 1)
    model = make("lstm").model
    assert laws(model, corpus.train) == []
    honest = model.readout.by_position
    model.readout.by_position = lambda states, batch: honest(states, batch) + 0.02 * batch.mask
    assert laws(model, corpus.train) == ["normalised"]
    assert laws(cheating("lstm", "unnormalised_readout", corpus), corpus.train) == ["normalised"]


def test_every_next_word_is_an_unfinished_sentence():
    batch = every_next_word(torch.tensor([7, 8]), torch.tensor([4, 5, 6]), 9)
    assert batch.targets.tolist() == [[7, 8, 4], [7, 8, 5], [7, 8, 6]]
    assert batch.inputs[:, 1:].tolist() == [[7, 8]] * 3
    assert batch.index.tolist() == [9] * 3
    assert batch.lengths.tolist() == [3] * 3
    assert batch.tokens == 9


def test_an_end_that_is_told_is_seen_at_any_seed(corpus):
    model = cheating("lstm", "told_end", corpus)
    for seed in range(5):
        assert laws(model, corpus.test, seed) == ["causal"]


def test_a_peek_at_one_place_or_at_rare_words_is_seen(corpus):
    counts = np.bincount(corpus.train.tokens, minlength=WORDS_OF_ALL)
    rare = torch.from_numpy(counts == counts[counts > 0].min())
    for where in (
        lambda batch: torch.arange(batch.mask.shape[1]) == 2,
        lambda batch: rare[batch.targets],
    ):

        def change(part, batch, z, where=where):
            peek = batch.targets * where(batch)
            return part(batch, z) * (1 + 0.1 * peek[:, :, None])

        for seed in range(3):
            assert laws(with_part("decoder", change), corpus.train, seed) == ["causal"]


def test_no_sentence_is_asked_about_that_is_longer_than_the_longest(corpus):
    asked = Asked(make("lstm").model, corpus.train, 16, 0)
    sentences = [corpus.train.sentence(int(i)) for i in _to_ask(asked)]
    longest = max(map(len, sentences))
    changes = _changes(asked, sentences)
    assert longest + 1 == corpus.train.lengths.max()
    assert max(len(change) for each in changes for change in each[1:]) <= longest
    assert any(each.place == len(one) for each, one in zip(changes, sentences, strict=True))
    for each, one in zip(changes, sentences, strict=True):
        for changed in each[1:]:
            assert np.array_equal(changed[: each.place], one[: each.place])


def test_a_readout_of_ones_own_is_summed_with_words_before(corpus, monkeypatch):
    monkeypatch.setattr("collapse_bench.evaluation.words.PROBABILITIES", 1)
    model = cheating("lstm", "copying_readout", corpus)
    for seed in range(3):
        assert laws(model, corpus.train, seed) == ["normalised"]


# Densities


class Family(Distribution):
    """A distribution of functions."""

    def __init__(self, q, draw, density, family="flow"):
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)
        self.from_noise, self.log_prob, self.family = draw, density, family
        self.q = q

    @property
    def mean(self):
        return self.q.mean


def with_family(change):
    return with_part("head", lambda part, features, energy: change(part(features, energy)))


def affine(shift=0.0):
    def change(q):
        turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
        return Family(
            q,
            lambda noise: (q.mean + q.stddev * noise) @ turn,
            lambda z: q.log_prob(z @ turn.T) + shift,
        )

    return with_family(change)


def test_a_flow_is_a_bound_and_one_with_a_wrong_determinant_is_none(corpus):
    assert laws(affine(), corpus.train) == []
    assert laws(affine(-0.5), corpus.train) == ["density"]


def test_a_mixture_of_which_a_draw_is_one_component_is_a_bound(corpus):
    def change(q):
        def parts(z):
            return torch.stack([q.log_prob(z - 1), q.log_prob(z + 1)]).logsumexp(0) - np.log(2)

        def draw(noise):
            # The component from the first noise, whose remainder is used again.
            uniform = 0.5 * (1 + torch.erf(noise[:, :1] / 2**0.5))
            left = (2 * uniform) % 1
            again = 2**0.5 * torch.erfinv((2 * left - 1).clamp(-0.9999, 0.9999))
            side = torch.where(uniform < 0.5, -1.0, 1.0)
            return q.mean + q.stddev * torch.cat([again, noise[:, 1:]], 1) + side

        return Family(q, draw, parts)

    assert laws(with_family(change), corpus.train) == []


def test_codes_and_a_sphere_have_no_jacobian_to_be_held_against(corpus):
    def codes(q):
        return Family(q, lambda noise: (q.mean + noise).sign(), lambda z: 0 * z.sum(-1), "codes")

    def sphere(q):
        def draw(noise):
            return nn.functional.normalize(q.mean + noise, dim=1)

        return Family(q, draw, lambda z: 0 * z.sum(-1) - 3, "sphere")

    assert laws(with_family(codes), corpus.train) == []
    assert laws(with_family(sphere), corpus.train) == []


def test_a_prior_that_is_learned_is_a_bound(corpus):
    class Learned(nn.Module):
        def forward(self, q, batch):
            ones = torch.ones_like(q.mean)
            return diagonal_normal(0.3 * ones, 1.7 * ones)

    model = make("lstm").model
    assert laws(model.with_parts({"prior": Learned()}, "test"), corpus.train) == []


def test_a_prior_that_reads_the_number_of_a_sentence(corpus):
    class Numbered(nn.Module):
        def forward(self, q, batch):
            mean = (batch.index[:, None] % 3).to(q.mean).expand_as(q.mean)
            return diagonal_normal(mean, torch.ones_like(mean))

    model = make("lstm").model
    assert laws(model.with_parts({"prior": Numbered()}, "test"), corpus.train) == ["prior"]


def own_prior(draw, density, corpus):
    class Own(nn.Module):
        def forward(self, q, batch):
            return Family(q, draw, density)

    model = make("lstm").model
    return laws(model.with_parts({"prior": Own()}, "test"), corpus.train)


def test_a_prior_of_an_own_family_has_to_be_a_density_and_that_of_its_draws(corpus):
    one = Independent(Normal(torch.zeros(8), torch.ones(8)), 1)

    def two(z):
        return torch.stack([one.log_prob(z - 2), one.log_prob(z + 2)]).logsumexp(0) - np.log(2)

    def of_two(noise):
        # One of two far components, by a noise that is used again.
        side = torch.where(noise[:, :1] < 0, -2.0, 2.0)
        left = (torch.erf(noise[:, :1].abs() / 2**0.5) * 2 - 1).clamp(-0.99999, 0.99999)
        return torch.cat([2**0.5 * torch.erfinv(left), noise[:, 1:]], 1) + side

    assert own_prior(lambda noise: noise, one.log_prob, corpus) == []
    assert own_prior(of_two, two, corpus) == []
    assert own_prior(lambda noise: noise, lambda z: one.log_prob(z) + 0.2, corpus) == ["mass"]
    assert own_prior(lambda noise: noise, lambda z: one.log_prob(z) + 900, corpus) == ["mass"]
    assert own_prior(of_two, lambda z: two(z) + 1, corpus) == ["mass"]
    assert own_prior(lambda noise: noise / 2, one.log_prob, corpus) == ["density"]


@pytest.mark.parametrize("scale", [0.02, 0.3, 0.9])
def test_a_prior_of_many_parts_far_apart_has_to_be_a_density(corpus, scale):
    generator = torch.Generator().manual_seed(0)
    means = (1 - scale**2) ** 0.5 * torch.randn(100, 8, generator=generator)
    prior = Mixture(Normal(means, torch.full_like(means, scale)), 1)
    assert own_prior(prior.from_noise, prior.log_prob, corpus) == []
    forgetful = own_prior(prior.from_noise, lambda z: prior.log_prob(z) + np.log(100), corpus)
    assert forgetful == ["mass"]


# Models of a user's own

WORDS, TOKENS = 9, 6


@dataclass
class Own:
    """A bag of words and z, first to last; each method can be changed."""

    by_position: bool = True

    def table(self, z):
        generator = torch.Generator().manual_seed(0)
        slope, first = (torch.randn(n, WORDS, generator=generator) for n in (2, WORDS))
        return first + (z @ slope)[:, None]  # [B, WORDS, WORDS], by the word before

    def posterior(self, rows):
        mean = torch.stack([rows.float().mean(1), rows.float().var(1)], dim=1) / 5
        return Normal(mean, torch.full_like(mean, 0.4))

    def prior(self, rows):
        return Normal(torch.zeros(len(rows), 2), torch.ones(len(rows), 2))

    def logits(self, rows, z):
        before = torch.cat([torch.zeros_like(rows[:, :1]), rows[:, :-1]], dim=1)
        return self.table(z)[torch.arange(len(rows))[:, None], before]

    def tokens(self, rows, z):
        return self.logits(rows, z).log_softmax(-1).gather(2, rows[:, :, None])[:, :, 0]

    def log_likelihood(self, rows, z):
        nats = self.tokens(rows, z)
        return nats if self.by_position else nats.sum(1)


def rows(n=60, seed=0, lengths=None):
    generator = torch.Generator().manual_seed(seed)
    return Rows.of(torch.randint(1, WORDS, (n, TOKENS), generator=generator), lengths)


class Loss(Own):
    def tokens(self, rows, z):
        return -super().tokens(rows, z)


class Logits(Own):
    def tokens(self, rows, z):
        return (3 * self.logits(rows, z)).gather(2, rows[:, :, None])[:, :, 0]


class BatchNormed(Own):
    def posterior(self, rows):
        q = super().posterior(rows)
        return Normal((q.mean - q.mean.mean(0)) / (q.mean.std(0) + 1e-3), q.stddev)


class SeesOthers(Own):
    def tokens(self, rows, z):
        return super().tokens(rows, z - z.mean(0))


class Random(Own):
    def tokens(self, rows, z):
        return super().tokens(rows, z + torch.randn_like(z))


class Backwards(Own):
    def tokens(self, rows, z):
        return super().tokens(rows.flip(1), z).flip(1)


class Peeks(Own):
    def logits(self, rows, z):
        return super().logits(rows, z) + rows.float().mean(1)[:, None, None] * torch.arange(WORDS)


class Loud(Own):
    def tokens(self, rows, z):
        return super().tokens(rows, z) * 0.9


class PriorOfSentence(Own):
    def prior(self, rows):
        return Normal(self.posterior(rows).mean, torch.ones(len(rows), 2))


@pytest.mark.parametrize("by_position", [True, False])
@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Own, None),
        (Backwards, None),
        (BatchNormed, "neighbours"),
        (SeesOthers, "neighbours"),
        (Random, "repeatable"),
        (PriorOfSentence, "prior"),
    ],
)
def test_a_model_of_ones_own(kind, law, by_position):
    assert bool(unseen(Scored(kind(by_position)), rows())) != by_position
    for seed in range(3):
        found = laws(Scored(kind(by_position)), rows(), seed)
        assert (law in found) if law else not found


@pytest.mark.parametrize("values", ["tensor", "array", "list"])
def test_rows_of_any_kind_are_asked_about(values):
    table = rows().values
    given = {"tensor": table, "array": table.numpy(), "list": table.tolist()}[values]

    class Any(Own):
        def posterior(self, rows):
            return super().posterior(torch.as_tensor(np.asarray(rows)))

        def log_likelihood(self, rows, z):
            return super().log_likelihood(torch.as_tensor(np.asarray(rows)), z)

    assert laws(Scored(Any()), Rows.of(given)) == []


@pytest.mark.parametrize("kind", [Loss, Logits])
def test_a_log_likelihood_of_words_above_0_is_refused_or_seen(kind):
    class Behind(Scored):
        """Lets through what `Scored` refuses."""

        def _nats(self, batch, z):
            return self.model.log_likelihood(batch.values, z)

    with pytest.raises(UserError, match="never above 0"):
        laws(Scored(kind()), rows())
    assert "positive" in laws(Behind(kind()), rows())


def test_words_that_mean_nothing_at_a_place_are_not_tried():
    """Symbols of two alphabets in turn, where others index the table of the next row."""
    table = rows().values
    table[:, ::2] %= 2

    class InTurn(Own):
        def tokens(self, rows, z):
            nats = self.logits(rows, z)
            nats[:, ::2, 2:] = -torch.inf
            nats = nats.log_softmax(-1)
            nats[:, ::2, 2:] = 0.5
            return nats.gather(2, rows[:, :, None])[:, :, 0]

    assert laws(Scored(InTurn()), Rows.of(table)) == []


def test_one_that_peeks_and_one_that_does_not_sum_to_one():
    assert laws(Scored(Peeks()), rows()) == ["causal"]
    assert laws(Scored(Loud()), rows()) == ["normalised"]


def test_a_density_of_numbers_may_be_above_one():
    optimum = controls(60)[-1]
    narrow = replace(optimum.model, noise=1e-4 * optimum.model.noise)
    z = narrow.posterior(optimum.sentences).mean
    assert narrow.log_likelihood(optimum.sentences, z).shape[0] == 60
    assert laws(Scored(narrow), Rows.of(optimum.sentences)) == []


class Padded(Own):
    """Sums over a sentence, with its padding, which is word 0, or without it."""

    def __init__(self, counts):
        super().__init__(by_position=False)
        self.counts = counts

    def log_likelihood(self, rows, z):
        nats = self.tokens(rows, z)
        return (nats if self.counts else nats * (rows > 0)).sum(1)


def test_padding_that_counts_is_seen():
    lengths = torch.tensor([3, 4] * 30)
    table = rows().values * (torch.arange(TOKENS) < lengths[:, None])
    padded = Rows.of(table, lengths)
    assert laws(Scored(Padded(counts=False)), padded) == []
    assert laws(Scored(Padded(counts=True)), padded) == ["padding"]


@pytest.mark.parametrize("control", controls(80), ids=lambda control: control.name)
def test_no_exact_model_is_accused(control):
    assert laws(Scored(control.model), Rows.of(control.sentences, control.lengths)) == []


def test_pythons_own_generator_is_not_touched(corpus):
    random.seed(1)
    expected = random.random()
    random.seed(1)
    bound_of(make("lstm").model, corpus.train, batch=16, seed=0)
    assert random.random() == expected


def test_an_untrained_model_of_other_weights_is_still_a_bound(corpus):
    model = wider(make("transformer").model)
    assert bound_of(model, corpus.train, batch=16, seed=0).kind == "valid"

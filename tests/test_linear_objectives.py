"""An objective is what it says: minimised on a linear VAE, it ends where the closed form is.

The table holds every remedy that has an objective and no other lever. A new one states its levels
there, or where there are none in closed form, is compared with its formula as in the last test.
"""

from dataclasses import replace

import pytest
import torch
from linear_objective import (
    EIGENVALUES,
    NOISE,
    closed_form,
    least_rate,
    least_rate_each,
    minimised,
    weighted,
)

from collapse_bench.model import plain
from collapse_bench.plugins import remedy_files
from collapse_bench.remedies.objective.beta_vae import BetaVae
from collapse_bench.remedies.objective.cyclical_annealing import CyclicalAnnealing
from collapse_bench.remedies.objective.free_bits import FreeBits
from collapse_bench.remedies.objective.kl_annealing import KlAnnealing
from collapse_bench.remedy import find_class, levers_of, name_of

FILES = remedy_files()

# At weight 1 the rates are 0.69, 0.46, 0.24 and 0, together 1.39 nats.
TABLE = [
    (BetaVae(beta=0.4), weighted(0.4)),
    (BetaVae(beta=2.0), weighted(2.0)),
    (KlAnnealing(), weighted(1.0)),
    (KlAnnealing(shape="logistic"), weighted(1.0)),
    (CyclicalAnnealing(), weighted(1.0)),
    (FreeBits(target=2.0), least_rate_each(2.0)),
    (FreeBits(target=2.0, per="dimension"), least_rate_each(2.0)),
    (FreeBits(target=1.0, per="sentence"), weighted(1.0)),
    (FreeBits(target=2.0, per="sentence"), least_rate(2.0)),
    (FreeBits(target=2.0, per="batch"), least_rate(2.0)),
]

OF_WHAT_IT_HAS_NOT = {"cosine_features", "fraternal_dropout"}
"""Terms of an encoder's features and of a decoder's dropout, which a linear VAE is without."""


def told(remedy):
    settings = {k: v for k, v in vars(remedy).items() if v != getattr(type(remedy)(), k)}
    return f"{name_of(remedy)}{settings or ''}"


def assert_same(found, expected, tolerance=1e-2):
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance), (name, one, other)


@pytest.mark.parametrize(("remedy", "levels"), TABLE, ids=[told(remedy) for remedy, _ in TABLE])
def test_an_objective_ends_at_the_closed_form(remedy, levels):
    assert_same(minimised(remedy.objective), closed_form(levels()))


def test_every_remedy_that_is_an_objective_is_in_the_table():
    made = {name: find_class(name, path)() for name, path in FILES.items()}
    objectives = {name for name, remedy in made.items() if levers_of([remedy]) == ["objective"]}
    assert objectives == {name_of(remedy) for remedy, _ in TABLE} | OF_WHAT_IT_HAS_NOT


def test_the_plain_objective_ends_at_the_optimum_of_the_linear_vae():
    # Lucas et al. 2019: direction j is in use if its eigenvalue is above the noise.
    found = minimised(plain)
    assert_same(found, closed_form(weighted(1.0)()))
    assert ((found.loading > 0.01) == (EIGENVALUES > NOISE)).all()


def test_a_closed_form_is_stationary_and_no_other_level_is():
    for levels in (weighted(0.4)(), least_rate_each(2.0)(), least_rate(4.0)()):
        loading, variance, signal, rate = closed_form(levels)
        gain = (signal / EIGENVALUES).sqrt()
        weight = levels / NOISE
        used = rate > 0
        # The gradients of D + weight R by v, a and w, with w a = signal.
        by_variance = loading / NOISE + weight - weight / variance
        by_gain = -loading.sqrt() * EIGENVALUES * (1 - signal) / NOISE + weight * gain * EIGENVALUES
        by_loading = -gain * EIGENVALUES * (1 - signal) + loading.sqrt() * variance
        for slope in (by_variance, by_gain, by_loading):
            torch.testing.assert_close(slope[used], torch.zeros_like(slope[used]))
        assert used.any()


FORMULAS = {
    "sentence and dimension": lambda kl, target: kl.clamp(min=target / kl.shape[1]).sum(1),
    "sentence": lambda kl, target: kl.sum(1).clamp(min=target),
}


@pytest.mark.parametrize("per", FORMULAS)
def test_where_sentences_differ_free_bits_ends_where_its_formula_does(per):
    """No closed form: a sentence's rate grows with how far from the mean it is."""
    magnitudes = torch.tensor([0.5, 1.5], dtype=torch.float64)

    def by_hand(forward):
        rate = FORMULAS[per](forward.kl, 2.0)
        return replace(forward, kl=0 * forward.kl, extra={"rate": rate})

    found = minimised(FreeBits(target=2.0, per=per).objective, magnitudes)
    assert_same(found, minimised(by_hand, magnitudes))
    assert not torch.allclose(found.rate, minimised(plain, magnitudes).rate, atol=0.1)

"""A diagnosis of any family of posteriors: what is told, and what is said of what there is not."""

import numpy as np
import pytest
import torch
from torch.distributions import Distribution, Normal

from collapse_bench.diagnosis import diagnose
from collapse_bench.diagnosis.report import (
    ADVICE,
    ADVICE_BY_FAMILY,
    NO_VERDICT,
    missing,
    report,
)
from collapse_bench.errors import UserError
from collapse_bench.metrics import VERDICTS, absent
from collapse_bench.verification import truths

N = 120
MODELS = {
    "normal": "linear VAE, optimum",
    "flow": "flow of the linear VAE",
    "sphere": "sphere",
    "codes": "two codes, uniform prior",
}


@pytest.fixture(scope="module")
def diagnoses():
    """A diagnosis of an exact model of each family."""
    models = truths()

    def of(name):
        sentences = models[name].draw(N, torch.Generator().manual_seed(1))
        return diagnose(models[name], sentences, samples=16, batch=N, refined=4)

    return {family: of(name) for family, name in MODELS.items()}


@pytest.mark.parametrize("family", MODELS)
def test_every_family_is_diagnosed_and_what_it_has_not_is_said_with_the_reason(family, diagnoses):
    found = diagnoses[family]
    text, metrics = str(found), found.scores.metrics
    assert found.evidence.family == family
    assert found.verdict in {*VERDICTS, NO_VERDICT}
    assert "nan" not in text
    lines = text.splitlines()
    headline = next(i for i, line in enumerate(lines) if line.startswith("evidence")) + 1
    assert f"{metrics['useful_beyond']:8.2f} ±" in lines[headline]
    for name, reason in absent(family).items():
        assert name in metrics or reason in text
    assert ("has no mean and scale" in text) == (family != "normal")
    assert ("amortisation gap" in text) == (family == "normal")
    assert ("active units" in text) == ("active_units" in metrics)
    assert ("codes in use" in text) == (family == "codes")
    assert "-0.00" not in text


@pytest.mark.parametrize("family", MODELS)
def test_a_picture_is_drawn_and_use_is_told_by_position(family, diagnoses, tmp_path):
    found = diagnoses[family]
    assert found.draw(tmp_path / "a").read_bytes().startswith(b"\x89PNG")
    positions, saved, error = found.position_use
    assert len(positions) == len(saved) == len(error) > 0
    assert np.isfinite(saved).all()
    assert saved.sum() > 0, "of a model that uses z"


def test_what_a_family_has_not_is_said_once_a_reason(diagnoses):
    assert missing(diagnoses["normal"].scores, "normal") == []
    lines = missing(diagnoses["flow"].scores, "flow")
    reasons = [line.split(": ", 1)[1] for line in lines]
    assert len(set(reasons)) == len(reasons)
    assert any("total_correlation" in line for line in lines)


def test_every_verdict_has_advice():
    assert set(ADVICE) == {*VERDICTS, NO_VERDICT} - {"no latent"}
    for verdict, family in ADVICE_BY_FAMILY:
        assert verdict in ADVICE
        assert family in MODELS


@pytest.mark.parametrize("family", MODELS)
def test_nobody_is_told_to_anneal_what_has_no_gradient(family, diagnoses):
    """The rate of a code that is certain tells the encoder nothing, whatever its weight."""
    found = diagnoses[family]
    told = report("collapsed", found.scores, found.evidence).split("try next: ")[1]
    assert ("anneal the weight of the rate (" in told) == (family != "codes")
    assert ("restart" in told) == (family == "codes")


def test_a_number_that_rounds_to_nothing_has_no_sign(diagnoses):
    found = diagnoses["normal"]
    metrics = found.scores.metrics | {"shuffle_gap": -0.004, "useful_rate": -0.006}
    text = report("healthy", found.scores._replace(metrics=metrics), found.evidence)
    assert "-0.00 " not in text
    assert "-0.01" in text


class Shifted(Distribution):
    """N(mean, 1/4) that is not known to be one."""

    def __init__(self, mean):
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)
        self.mean_of_it = mean

    def from_noise(self, noise):
        return self.mean_of_it + 0.5 * noise.to(self.mean_of_it)

    def log_prob(self, z):
        return Normal(self.mean_of_it, 0.5).log_prob(z).sum(-1)


class ByRows(Shifted):
    def log_prob(self, z):
        return torch.stack(
            [
                Normal(m, 0.5).log_prob(each).sum()
                for m, each in zip(self.mean_of_it, z, strict=True)
            ]
        )


class FirstOnly(Shifted):
    def log_prob(self, z):
        return super().log_prob(z).flatten()[: len(self.mean_of_it)]


class OwnOnly(Shifted):
    def log_prob(self, z):
        told = super().log_prob(z)
        return told + 1 if told.dim() == 2 else told


class Model:
    """x = z + noise of variance 1/3, so that the posterior of variance 1/4 is exact."""

    def __init__(self, family):
        self.family = family

    def posterior(self, x):
        return self.family(0.75 * x)

    def prior(self, x):
        return Normal(torch.zeros_like(x), torch.ones_like(x))

    def log_likelihood(self, x, z):
        return Normal(z, 3**-0.5).log_prob(x)


X = (4 / 3) ** 0.5 * torch.randn(N, 2, generator=torch.Generator().manual_seed(70)).double()


def test_a_family_of_ones_own_is_as_good_as_the_normal_that_it_is():
    found = diagnose(Model(Shifted), X, samples=16)
    same = diagnose(Model(lambda mean: Normal(mean, torch.full_like(mean, 0.5))), X, samples=16)
    assert found.evidence.family == "other"
    assert found.verdict == same.verdict
    assert not found.evidence.bound.reasons
    for name in ("mutual_information", "useful_beyond", "nll", "shuffle_gap"):
        assert found.scores.metrics[name] == pytest.approx(same.scores.metrics[name], abs=0.05)


@pytest.mark.parametrize("wrong", [ByRows, FirstOnly, OwnOnly])
def test_a_density_that_does_not_broadcast_is_refused_with_what_is_wanted(wrong):
    with pytest.raises(UserError, match=rf"posterior: log_prob of a {wrong.__name__} must turn z"):
        diagnose(Model(wrong), X, samples=16)

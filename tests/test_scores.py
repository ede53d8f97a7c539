"""Arrays to scores: definitions, errors, what arrays have to be and what numbers may not say."""

import math

import numpy as np
import pytest

from collapse_bench.metrics import (
    METRICS,
    ArraysError,
    IdentityError,
    absent,
    check_arrays,
    check_identities,
    key_of,
    posterior_scores,
    score,
    versioned,
)
from collapse_bench.metrics.identities import SHAPES
from collapse_bench.metrics.labels import information_about
from collapse_bench.metrics.likelihood import perplexity
from collapse_bench.metrics.mutual_information import mutual_information
from collapse_bench.metrics.pairs import aggregate_terms, all_pairs, normal_pairs
from collapse_bench.metrics.scores import jackknife_error

OF_REFINED = {"refined_bound", "refinement_gain"}
OF_CODES = {"code_perplexity", "dead_codes"}
OF_MORE = OF_REFINED | OF_CODES | {
    "probe_information", "first_words_information", "information_about",
    "global_information_share", "negative_elbo_given_neighbours",
}  # fmt: skip
"""Metrics that need what not every evaluation leaves: first words, labels, refined posteriors,
codes, neighbours."""

NORMAL = SHAPES["normal"]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def arrays_of(rng, n=40, d=3, samples=16, **changes):
    """An exact linear-Gaussian VAE over D-dimensional x, as an evaluation leaves it."""
    x = rng.normal(scale=math.sqrt(2), size=(n, d))
    mean, scale = x / 2, np.full((n, d), math.sqrt(0.5))
    z = mean[:, None] + scale[:, None] * rng.normal(size=(n, samples, d))
    log_likelihood = -0.5 * ((x[:, None] - z) ** 2 + math.log(2 * math.pi)).sum(2)
    shuffled = -0.5 * ((x - np.roll(z[:, 0], 1, axis=0)) ** 2 + math.log(2 * math.pi)).sum(1)
    log_density = -0.5 * (math.log(math.pi) + 2 * (z[:, 0] - mean) ** 2).sum(1)
    log_prior = -0.5 * (math.log(2 * math.pi) + z[:, 0] ** 2).sum(1)
    log_evidence = (-0.25 * x**2 - 0.5 * math.log(4 * math.pi)).sum(1)
    arrays = {
        "tokens": rng.integers(2, 9, size=n),
        "kl": 0.5 * (mean**2 + scale**2 - 2 * np.log(scale) - 1),
        "distortion": -log_likelihood.mean(1),
        "log_weights": np.repeat(log_evidence[:, None], samples, axis=1),
        "draws": np.full(n, samples),
        "strata": np.array(3),
        "posterior_mean": mean,
        "posterior_scale": scale,
        "posterior_sample": z[:, 0],
        "shuffled_log_likelihood": shuffled,
        "shuffled_any_log_likelihood": shuffled,
        "later_log_likelihood": 0.5 * log_likelihood[:, 0],
        "shuffled_later_log_likelihood": 0.5 * shuffled,
        "log_density": log_density,
        "log_prior": log_prior,
        "log_ratio": log_density - log_prior,
    } | changes
    return {
        name: array.astype(np.float32) if array.dtype == np.float64 else array
        for name, array in arrays.items()
    } | {"family": np.array("normal")}


def of_other_family(arrays, family="other", **changes):
    """The same arrays as an evaluation leaves them of a family that has no scale."""
    posterior = [arrays[f"posterior_{part}"] for part in ("sample", "mean", "scale")]
    pairs = normal_pairs(*posterior)
    labels = {k.removeprefix("label_"): v for k, v in arrays.items() if "label_" in k}
    told = information_about(labels, pairs)
    return {
        **{k: v for k, v in arrays.items() if k not in ("posterior_mean", "posterior_scale")},
        **aggregate_terms(pairs, arrays["tokens"]),
        **{f"information_about_{name}": terms for name, terms in told.items()},
        "aggregate_size": np.array(len(arrays["tokens"])),
        "family": np.array(family),
        **changes,
    }


def of_codes(rng, n=400, places=(3, 2)):
    """Deterministic codes under a uniform prior, with a decoder that sees each place with noise."""
    codes = np.stack([rng.integers(0, size, size=n) for size in places], axis=1)
    rate = np.log(places).sum()
    vectors = codes.astype(np.float64)
    row, same = np.arange(n), (codes[:, None] == codes).all(axis=2)
    density = np.where(same, 0.0, -np.inf)
    tokens = rng.integers(2, 5, size=n)
    # x is the code for certain: it costs its rate, and nothing given the code.
    arrays = {
        "tokens": tokens, "kl": np.tile(np.log(places), (n, 1)), "distortion": np.zeros(n),
        "log_weights": np.full((n, 1), -rate), "draws": np.ones(n, dtype=int),
        "strata": np.array(2),
        "posterior_sample": vectors, "posterior_mean": vectors, "codes": codes,
        "log_density": np.zeros(n), "log_prior": np.full(n, -rate), "log_ratio": np.full(n, rate),
        "shuffled_log_likelihood": np.full(n, -9.0),
        "shuffled_any_log_likelihood": np.full(n, -9.0),
        "later_log_likelihood": np.full(n, -4.0),
        "shuffled_later_log_likelihood": np.full(n, -4.5),
        "family": np.array("codes"), "aggregate_size": np.array(n),
    }  # fmt: skip
    assert density[row, row].sum() == 0
    return arrays | aggregate_terms(all_pairs(lambda rows: density[rows].copy(), n), tokens)


def of_a_corpus(rng, n=40):
    """What is known of the sentences of a corpus."""
    return {
        "first_words": rng.integers(2, 5, size=(n, 3)),
        "label_topic": rng.choice(["a", "b"], size=n),
        "label_number": rng.choice(["one", "two", "three"], size=n),
    }


# Definitions


def test_score_gives_every_metric_its_definition(rng):
    arrays = arrays_of(rng)
    metrics, errors = score(arrays)
    assert list(metrics) == [name for name in METRICS if name not in OF_MORE]
    posterior = [
        arrays[f"posterior_{part}"].astype(np.float64) for part in ("sample", "mean", "scale")
    ]
    log_prior = arrays["log_prior"].astype(np.float64)
    information = mutual_information(*posterior, log_prior)
    single = [
        mutual_information(*(each[:, [j]] for each in posterior), log_prior).lower for j in range(3)
    ]
    tokens = arrays["tokens"]
    given = np.zeros(40)
    for length in np.unique(tokens):
        rows = tokens == length
        given[rows] = mutual_information(*(each[rows] for each in posterior), log_prior[rows]).lower
    share = np.array([(tokens == length).mean() for length in tokens])
    rate = arrays["kl"].sum(1, dtype=np.float64)
    nll, distortion = -arrays["log_weights"][:, 0].astype(np.float64), arrays["distortion"]
    variance = posterior[1].var(axis=0, ddof=1)
    covariance = np.cov(posterior[1].T, bias=True) + 0.5 * np.eye(3)
    expected = {
        "useful_information": min((nll - distortion).mean(), information.lower.mean()),
        "useful_rate": (nll - distortion).mean(),
        "nll": nll.mean(),
        "nll_jackknife": nll.mean(),
        "nll_gain_of_doubling": 0,
        "nll_samples": 16,
        "nll_monte_carlo_error": 0,
        "ess": 16,
        "negative_elbo": (distortion + rate).mean(),
        "distortion": distortion.mean(),
        "kl": rate.mean(),
        "mutual_information": information.lower.mean(),
        "mutual_information_upper": min(information.upper.mean(), rate.mean()),
        "information_given_length": given.mean(),
        "information_beyond": given.mean(),
        "trivial_information": information.lower.mean() - given.mean(),
        "length_entropy": -np.log(share).mean(),
        "useful_beyond": min((nll - distortion).mean(), given.mean()),
        "shuffle_gap_any": (-distortion - arrays["shuffled_any_log_likelihood"]).mean(),
        "shuffle_gap_later": (
            arrays["later_log_likelihood"] - arrays["shuffled_later_log_likelihood"]
        ).mean(),
        "marginal_kl": rate.mean() - information.lower.mean(),
        "total_correlation": np.mean(single, axis=1).sum() - information.lower.mean(),
        "dimension_kl": rate.mean() - np.mean(single, axis=1).sum(),
        # -E log p(z) is R + H(q), the entropy of the normal of these moments is known.
        "moment_kl": rate.mean()
        + 1.5 * math.log(0.5)
        - 0.5 * np.linalg.slogdet(covariance).logabsdet,
        "active_units": 3,
        **{
            f"active_units_{threshold:g}": (variance > threshold).sum()
            for threshold in (0.001, 0.05, 0.1, 0.2, 0.5)
        },
        "relative_active_units": 3,
        "whitened_active_units": 3,
        "shuffle_gap": (-distortion - arrays["shuffled_log_likelihood"]).mean(),
        "perplexity": math.exp(nll.sum() / arrays["tokens"].sum()),
    }
    missing = metrics.keys() - expected.keys()
    assert missing == {
        "mutual_information_he2019", "effective_units", "information_given_length_upper",
    }  # fmt: skip
    found = {name: metrics[name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert 1 < metrics["effective_units"] <= 3 + 1e-9
    for name, terms in {
        "kl": rate,
        "nll": nll,
        "useful_rate": nll - distortion,
        "negative_elbo": distortion + rate,
        "marginal_kl": rate - information.lower,
        "shuffle_gap": -distortion - arrays["shuffled_log_likelihood"],
    }.items():
        assert errors[name] == pytest.approx(terms.std(ddof=1) / math.sqrt(40), rel=1e-5)


def test_an_exact_model_has_the_numbers_of_its_closed_form():
    d, n = 2, 3000
    metrics, errors = score(arrays_of(np.random.default_rng(1), n=n, d=d, samples=32))
    information = 0.5 * d * math.log(2)
    for name, exact in {
        "kl": information,
        "useful_rate": information,
        "nll": 0.5 * d * math.log(4 * math.pi * math.e),
        "distortion": 0.5 * d * math.log(2 * math.pi * math.e),
        "shuffle_gap": d * 1.0,  # E (x - z')^2 = 3, E (x - z)^2 = 1
        "mutual_information": information,
        "marginal_kl": 0.0,
        "total_correlation": 0.0,
    }.items():
        # That of N posteriors, not of infinitely many.
        bias = 0.01 if name in ("mutual_information", "marginal_kl", "total_correlation") else 0
        assert abs(metrics[name] - exact) < 4 * errors[name] + bias + 1e-6, name
    assert abs(metrics["moment_kl"]) < 0.02
    assert metrics["effective_units"] == pytest.approx(2, abs=0.05)


def test_every_metric_has_an_error_a_unit_a_meaning_and_a_blind_spot(rng):
    metrics, errors = score(arrays_of(rng) | of_a_corpus(rng))
    labels = {"information_about_topic", "information_about_number"}
    others = {"information_about", "negative_elbo_given_neighbours"}
    assert set(metrics) == METRICS.keys() - others - OF_REFINED - OF_CODES | labels
    assert set(errors) == set(metrics)
    assert all(np.isfinite(error) and error >= 0 for error in errors.values())
    assert all(type(number) is float for number in (*errors.values(), *metrics.values()))
    for name, metric in METRICS.items():
        assert all((metric.unit, metric.meaning, metric.blind)), name
        assert metric.version >= 1, name


def test_keys_carry_the_version_and_one_of_an_attribute_that_of_all(monkeypatch):
    monkeypatch.setitem(METRICS, "nll", METRICS["nll"]._replace(version=3))
    monkeypatch.setitem(
        METRICS, "information_about", METRICS["information_about"]._replace(version=2)
    )
    assert key_of("nll") == "nll@3"
    assert key_of("information_about_topic") == "information_about_topic@2"
    assert key_of("kl") == "kl@1"
    assert versioned({"nll": 1.5, "kl": None}) == {"nll@3": 1.5, "kl@1": None}
    for name in ("nil", "nll@3", "information"):
        with pytest.raises(KeyError):
            key_of(name)


def test_posterior_scores_are_those_of_score_without_the_decoder(rng):
    normal = arrays_of(rng)
    for arrays, units in (
        (normal, {"active_units"}),
        (of_other_family(normal), set()),
        (of_other_family(normal, posterior_mean=normal["posterior_mean"]), {"active_units"}),
    ):
        whole = score(arrays)
        without = {
            name: array
            for name, array in arrays.items()
            if name not in ("distortion", "log_weights", "draws", "log_ratio")
            and not name.startswith("shuffled")
        }
        posterior = posterior_scores(without)
        assert posterior.metrics.items() <= whole.metrics.items()
        assert posterior.standard_errors.items() <= whole.standard_errors.items()
        names = {"kl", "mutual_information", "mutual_information_upper"}
        assert set(posterior.metrics) == names | units


def test_useful_information_has_the_error_of_what_it_is(rng):
    arrays = arrays_of(rng, n=200)
    for name, decoder in {"useful_rate": 1.0, "mutual_information": -1.0}.items():
        other = arrays | {"distortion": arrays["distortion"] + np.float32(0.5 * decoder)}
        # Where D falls, the rate has to grow for what it saves.
        other["kl"] = arrays["kl"] + np.float32(0.5)
        metrics, errors = score(other)
        assert metrics["useful_information"] == metrics[name]
        assert errors["useful_information"] == errors[name]
        assert errors["useful_rate"] != errors["mutual_information"]


# Families of posteriors


def test_another_family_has_the_numbers_of_a_normal_of_these_densities(rng):
    arrays = arrays_of(rng) | of_a_corpus(rng)
    normal = score(arrays)
    for family in ("flow", "sphere", "other"):
        metrics, errors = score(of_other_family(arrays, family))
        assert normal.metrics.keys() - metrics.keys() == absent(family).keys() - OF_REFINED
        for name, number in metrics.items():
            assert number == pytest.approx(normal.metrics[name], rel=1e-6, abs=1e-9), name
            assert errors[name] == pytest.approx(normal.standard_errors[name], rel=1e-6, abs=1e-9)


def test_a_known_mean_has_units_but_on_a_sphere(rng):
    arrays = arrays_of(rng)
    mean = {"posterior_mean": arrays["posterior_mean"]}
    assert score(of_other_family(arrays, "flow", **mean)).metrics["active_units"] == 3
    assert "active_units" not in score(of_other_family(arrays, "sphere", **mean)).metrics


def test_why_a_metric_is_absent_is_said_of_metrics_that_are():
    assert absent("normal") == {}
    for family in SHAPES:
        assert absent(family).keys() <= METRICS.keys()
        assert all(absent(family).values())
    with pytest.raises(KeyError):
        absent("vmf")


def plug_in(*places):
    """Entropy of the joint frequencies of these values."""
    counts = np.unique(np.stack(places, axis=1), axis=0, return_counts=True)[1]
    return -(counts / counts.sum() * np.log(counts / counts.sum())).sum()


def test_codes_tell_their_entropy(rng):
    arrays = of_codes(rng)
    metrics, errors = score(arrays)
    codes, rate = arrays["codes"], math.log(6)
    joint = plug_in(*codes.T)
    assert metrics["mutual_information"] == pytest.approx(joint)
    assert joint <= metrics["mutual_information_upper"] <= rate == pytest.approx(metrics["kl"])
    assert metrics["marginal_kl"] == pytest.approx(rate - joint)
    single = sum(plug_in(place) for place in codes.T)
    assert metrics["total_correlation"] == pytest.approx(single - joint)
    assert metrics["dimension_kl"] == pytest.approx(rate - single)
    assert metrics["active_units"] == 2
    assert 1 < metrics["effective_units"] <= 2
    assert metrics["useful_rate"] == pytest.approx(rate)
    given = plug_in(*codes.T, arrays["tokens"]) - plug_in(arrays["tokens"])
    assert metrics["information_given_length"] == pytest.approx(given)
    missing = METRICS.keys() - OF_MORE - metrics.keys()
    assert (
        missing - {"nll_monte_carlo_error", "nll_gain_of_doubling"}
        == absent("codes").keys() - OF_REFINED
    )
    assert errors.keys() == metrics.keys()


def test_codes_in_use_are_counted_by_place(rng):
    arrays = of_codes(rng)
    one, other = arrays["codes"].T
    metrics, errors = score(arrays | {"codebook_size": np.array(4)})
    expected = (math.exp(plug_in(one)) + math.exp(plug_in(other))) / 2
    assert metrics["code_perplexity"] == pytest.approx(expected)
    assert 0 < errors["code_perplexity"] < 0.1
    assert metrics["dead_codes"] == 4 - (3 + 2) / 2
    assert errors["dead_codes"] == 0
    # Of how many codes there are, not every evaluation knows.
    assert "dead_codes" not in score(arrays).metrics
    with pytest.raises(ArraysError, match="codebook_size: 2"):
        score(arrays | {"codebook_size": np.array(2)})


def test_codes_that_no_two_sentences_share_have_the_rate_for_an_upper_bound(rng):
    metrics, errors = score(of_codes(rng, n=20, places=(1000, 1000)))
    assert metrics["mutual_information"] == pytest.approx(math.log(20))
    assert metrics["mutual_information_upper"] == pytest.approx(2 * math.log(1000))
    assert metrics["information_given_length_upper"] == pytest.approx(2 * math.log(1000))
    assert np.isfinite([*metrics.values(), *errors.values()]).all()


def test_a_family_that_is_not_known_is_refused(rng):
    arrays = arrays_of(rng)
    with pytest.raises(ArraysError, match=r"^family: must be one of normal, .* not 'vmf'"):
        score(arrays | {"family": np.array("vmf")})
    del arrays["family"]
    for of in (score, posterior_scores):
        with pytest.raises(ArraysError, match="no array family"):
            of(arrays)


@pytest.mark.parametrize("family", [family for family in SHAPES if family != "normal"])
def test_a_family_that_only_its_model_knows_has_to_leave_its_mixtures(rng, family):
    known = of_a_corpus(rng)
    arrays = of_other_family(arrays_of(rng) | known, family) | {
        "posterior_mean": np.ones((40, 3)), "codes": np.ones((40, 2), dtype=int),
    }  # fmt: skip
    check_arrays(arrays)
    for name in (*SHAPES[family], "information_about_topic"):
        less = {k: array for k, array in arrays.items() if k != name}
        with pytest.raises(ArraysError, match=rf"no array {name}\b"):
            check_arrays(less)
    with pytest.raises(ArraysError, match=r"^aggregate_size: 0: "):
        check_arrays(arrays | {"aggregate_size": np.array(0)})
    with pytest.raises(ArraysError, match=r"^log_others: inf in sentence 0 "):
        check_arrays(arrays | {"log_others": np.full(40, np.inf)})


# Sentences without a label


def test_sentences_without_a_label_are_left_out_of_it(rng):
    arrays = arrays_of(rng, n=200) | of_a_corpus(rng, n=200)
    topic = arrays["label_topic"].copy()
    topic[::2] = ""
    some = score(arrays | {"label_topic": topic})
    odd = {k: array[1::2] if array.ndim else array for k, array in arrays.items()}
    alone, whole = score(odd), score(arrays)
    for part in ("metrics", "standard_errors"):
        told, expected, before = (getattr(of, part) for of in (some, alone, whole))
        name = "information_about_topic"
        assert told[name] == pytest.approx(expected[name], abs=1e-12)
        assert told["information_about_number"] == before["information_about_number"]
    share = some.metrics["information_about_topic"] + some.metrics["information_about_number"]
    known = plug_in(topic[1::2]) + plug_in(arrays["label_number"])
    assert some.metrics["global_information_share"] == pytest.approx(share / known)
    # Of half of the sentences less is known than of all.
    error = some.standard_errors["global_information_share"]
    assert 0.5 < error / whole.standard_errors["global_information_share"] < 3


def test_an_attribute_without_any_label_is_no_metric(rng):
    arrays = arrays_of(rng) | of_a_corpus(rng)
    nothing = np.full(40, "")
    metrics = score(arrays | {"label_topic": nothing}).metrics
    assert "information_about_topic" not in metrics
    assert "information_about_number" in metrics
    metrics = score(arrays | {"label_topic": nothing, "label_number": nothing}).metrics
    assert not any("information_about" in name or "global" in name for name in metrics)


# Standard errors of what is no mean


@pytest.mark.parametrize("n", [2, 3, 19, 20])
def test_the_jackknife_of_a_mean_is_its_standard_error(rng, n):
    values = rng.normal(size=n)
    error = jackknife_error(lambda rows: values[rows].mean(), n)
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(n))


def test_the_error_of_perplexity_is_that_of_other_sentences(rng):
    n, tokens = 500, np.full(500, 10)

    def measure(values):
        return perplexity(values, tokens[: len(values)])

    draws = rng.normal(50, 8, size=(200, n))
    true = np.std([measure(values) for values in draws])
    told = [jackknife_error(lambda rows, v=values: measure(v[rows]), n) for values in draws]
    assert np.mean(told) == pytest.approx(true, rel=0.15)
    # Delta method: exp(mean / 10) * 8 / sqrt(N) / 10.
    assert true == pytest.approx(math.exp(5) * 0.8 / math.sqrt(n), rel=0.15)


def test_of_one_sentence_and_of_a_constant_there_is_no_error():
    assert jackknife_error(lambda rows: 1 / 0, 1) == 0
    assert jackknife_error(lambda rows: 7.0, 100) == 0


# Little to score


@pytest.mark.parametrize("d", [0, 1])
def test_a_latent_of_size_zero_or_one_is_scored(rng, d):
    metrics, errors = score(arrays_of(rng, d=d) | of_a_corpus(rng))
    assert metrics["active_units"] == metrics["whitened_active_units"] == d
    assert errors.keys() == metrics.keys()
    assert metrics["total_correlation"] == pytest.approx(0, abs=1e-9)
    if d == 0:
        for name in ("kl", "mutual_information", "useful_information", "moment_kl", "marginal_kl",
                     "effective_units", "probe_information", "information_about_topic",
                     "global_information_share"):  # fmt: skip
            assert metrics[name] == 0, name
        assert metrics["nll"] == metrics["negative_elbo"] == metrics["distortion"]


def test_one_sentence_is_scored(rng):
    arrays = arrays_of(rng, n=1) | of_a_corpus(rng, n=1)
    arrays["distortion"] = -arrays["log_weights"][:, 0]
    metrics, errors = score(arrays)
    for name in ("mutual_information", "active_units", "total_correlation", "probe_information"):
        assert metrics[name] == 0
    assert metrics["marginal_kl"] == metrics["kl"]
    assert set(errors.values()) == {0.0}
    assert errors.keys() == metrics.keys()


@pytest.mark.parametrize("n", [2, 5, 300])
def test_equal_sentences_tell_nothing(rng, n):
    one = arrays_of(rng, n=1) | of_a_corpus(rng, n=1)
    arrays = {k: np.repeat(array, n, axis=0) if array.ndim else array for k, array in one.items()}
    mean, scale = arrays["posterior_mean"], arrays["posterior_scale"]
    arrays["posterior_sample"] = mean + scale * rng.normal(size=mean.shape).astype(np.float32)
    arrays["distortion"] = -arrays["log_weights"][:, 0]
    metrics, errors = score(arrays)
    for name in ("mutual_information", "total_correlation", "active_units", "whitened_active_units",
                 "effective_units", "useful_information", "information_about_topic"):  # fmt: skip
        assert metrics[name] == pytest.approx(0, abs=1e-9), name
    assert metrics["marginal_kl"] == pytest.approx(metrics["kl"])
    # One normal is its own moments.
    assert metrics["moment_kl"] == pytest.approx(metrics["kl"], abs=1e-5)
    assert errors["kl"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("samples", "unknown"),
    [
        (1, {"nll_gain_of_doubling", "nll_monte_carlo_error"}),
        (2, {"nll_gain_of_doubling"}),
        (3, set()),
    ],
)
def test_of_few_draws_no_error_or_gain_is_told_that_is_not_known(rng, samples, unknown):
    metrics, errors = score(arrays_of(rng, samples=samples))
    assert metrics.keys() == METRICS.keys() - OF_MORE - unknown == errors.keys()
    assert metrics["nll_samples"] == samples
    assert metrics["ess"] == pytest.approx(samples)
    assert metrics["nll_jackknife"] == pytest.approx(metrics["nll"])


def test_a_perplexity_that_is_no_number_is_left_out(rng):
    arrays = arrays_of(rng)
    arrays["log_weights"] = arrays["log_weights"] - 1e4
    arrays["distortion"] = arrays["distortion"] + 1e4
    metrics, errors = score(arrays)
    assert metrics.keys() == METRICS.keys() - OF_MORE - {"perplexity"} == errors.keys()
    assert metrics["nll"] > 1e4


def test_few_sentences_of_an_exact_evaluation_contradict_nothing():
    for seed in range(20):
        for n in (1, 2, 3, 5):
            score(arrays_of(np.random.default_rng(seed), n=n, samples=1))


# What arrays have to be


def broken(rng, name, value):
    """Good arrays but for one entry, in sentence 5."""
    arrays = arrays_of(rng)
    arrays[name] = array = arrays[name].copy()
    array[(5, *[1] * (array.ndim - 1))] = value
    return arrays


def test_arrays_of_an_evaluation_are_good(rng):
    check_arrays(arrays_of(rng) | of_a_corpus(rng))
    fewer = arrays_of(rng, draws=np.full(40, 8))
    fewer["log_weights"][:, 8:] = -np.inf
    check_arrays(fewer)


@pytest.mark.parametrize("name", NORMAL)
def test_a_missing_array_is_named(rng, name):
    arrays = arrays_of(rng)
    del arrays[name]
    for check in (check_arrays, score):
        with pytest.raises(ArraysError, match=rf"no array {name}:"):
            check(arrays)


def test_all_missing_arrays_are_named_at_once(rng):
    arrays = arrays_of(rng)
    del arrays["kl"], arrays["draws"]
    with pytest.raises(ArraysError, match="no array kl, draws"):
        check_arrays(arrays)


@pytest.mark.parametrize("strata", [0, 1, 4, -1])
def test_a_proposal_that_there_is_not_is_refused(rng, strata):
    with pytest.raises(ArraysError, match=rf"^strata: {strata}: nothing can be computed from it"):
        score(arrays_of(rng) | {"strata": np.array(strata)})
    with pytest.raises(ArraysError, match=r"^no array strata: of another version"):
        score({name: array for name, array in arrays_of(rng).items() if name != "strata"})


@pytest.mark.parametrize("name", [name for name in NORMAL if name != "strata"])
@pytest.mark.parametrize(
    "change",
    [
        lambda array: array[:-1],
        lambda array: array[..., None],
        lambda array: array.reshape(-1, 2, *array.shape[1:]),
        lambda array: array[0],
        lambda array: array[:0],
    ],
    ids=["shorter", "one axis more", "folded", "one sentence of it", "empty"],
)
def test_an_array_of_another_shape_is_refused_by_name(rng, name, change):
    arrays = arrays_of(rng)
    arrays[name] = np.asarray(change(arrays[name]))
    with pytest.raises(ArraysError) as error:
        score(arrays)
    # The number of sentences is that of the tokens: where these are wrong, all others are.
    assert str(error.value).startswith((name, "kl") if name == "tokens" else name)


@pytest.mark.parametrize("name", ["posterior_scale", "posterior_mean"])
def test_a_latent_of_another_size_is_refused_by_name(rng, name):
    with pytest.raises(ArraysError, match=rf"^{name}: must have the shape \[N, D\]"):
        score(arrays_of(rng, **{name: np.ones((40, 2))}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", [name for name in NORMAL if name not in ("tokens", "draws", "strata")]
)
def test_a_number_that_is_not_finite_is_told_with_its_sentence(rng, name, value):
    if name == "log_weights" and value == -math.inf:
        score(broken(rng, name, value))  # a draw that explains nothing
        return
    if ("shuffled" in name or "later" in name) and math.isnan(value):
        score(broken(rng, name, value))  # a sentence that was not looked at
        return
    with pytest.raises(ArraysError, match=rf"^{name}: {value} in sentence 5 \(1 such"):
        score(broken(rng, name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("posterior_scale", 0.0),
        ("posterior_scale", -0.5),
        ("tokens", 0),
        ("tokens", -3),
        ("draws", 0),
        ("draws", -1),
        ("draws", 17),
    ],
)
def test_an_impossible_number_is_told_with_its_sentence(rng, name, value):
    with pytest.raises(ArraysError, match=rf"^{name}: {value} in sentence 5 "):
        score(broken(rng, name, value))


def test_a_sentence_without_any_weight_is_refused(rng):
    arrays = arrays_of(rng)
    arrays["log_weights"][[3, 9]] = -np.inf
    with pytest.raises(ArraysError, match=r"^log_weights: -inf in sentence 3 "):
        score(arrays)


@pytest.mark.parametrize("name", ["first_words", "label_topic"])
def test_what_is_known_of_another_number_of_sentences_is_refused(rng, name):
    known = of_a_corpus(rng)
    with pytest.raises(ArraysError, match=rf"^{name}: must have"):
        score(arrays_of(rng) | known | {name: known[name][:-1]})


def test_no_sentence_at_all_is_refused(rng):
    arrays = {name: array[:0] if array.ndim else array for name, array in arrays_of(rng).items()}
    with pytest.raises(ArraysError, match="there is no sentence"):
        score(arrays)


def test_arrays_are_looked_at_before_the_numbers(rng):
    arrays = broken(rng, "kl", math.nan)
    arrays["distortion"] -= 100
    with pytest.raises(ArraysError):
        score(arrays)


# What numbers may not say


GOOD = {
    "useful_information": 2.0, "useful_rate": 2.0, "nll": 100.0, "nll_samples": 16, "ess": 9.0,
    "nll_gain_of_doubling": 0.05, "negative_elbo": 100.5, "distortion": 98.0, "kl": 2.5,
    "mutual_information": 2.0, "mutual_information_upper": 2.4, "marginal_kl": 0.5,
    "moment_kl": 0.3, "total_correlation": 0.1, "dimension_kl": 0.4, "active_units": 5,
    "perplexity": 99.0, "information_given_length": 1.5, "length_entropy": 0.7,
}  # fmt: skip
ERRORS = {
    "information_given_length": 0.02, "length_entropy": 0.001,
    "nll": 0.5, "negative_elbo": 0.5, "distortion": 0.5, "kl": 0.01, "mutual_information": 0.02,
    "mutual_information_upper": 0.02, "moment_kl": 0.01, "nll_gain_of_doubling": 0.01,
}  # fmt: skip


def check(sentences=1000, gap_error=0.02, errors=None, draws=16, strata=2, **changes):
    # The length takes its half of a nat of whatever there is.
    information = changes.get("mutual_information", GOOD["mutual_information"])
    metrics = GOOD | {"information_given_length": information - 0.5} | changes
    draws = np.full(sentences, draws)
    check_identities(metrics, ERRORS | (errors or {}), draws, strata, gap_error)


def test_numbers_that_agree_pass():
    check()
    # Within four standard errors of the difference.
    check(mutual_information=-0.07, total_correlation=0.1, dimension_kl=2.47, marginal_kl=2.57)
    check(mutual_information=2.6, total_correlation=-0.1, dimension_kl=0.0)
    check(negative_elbo=99.93, draws=1)
    check(marginal_kl=0.15)
    check(nll_gain_of_doubling=-0.04)
    # By as much as the prior's two of sixteen draws cost an exact posterior: log(16 / 14) = 0.1335.
    check(nll=100.5 + 0.1335, gap_error=0.0)
    # Where some sentence had but eight draws, that costs log(8 / 7) = 0.1335 too, as 64 and 56.
    check(nll=100.5 + 0.1335, gap_error=0.0, draws=64)
    # Of three strata every other draw is from the posterior.
    check(nll=100.5 + math.log(2), gap_error=0.0, strata=3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", sorted(ERRORS))
def test_an_error_that_is_not_finite_is_one(name, value):
    with pytest.raises(IdentityError, match=f"standard error of {name} = {value}"):
        check(errors={name: value})


def test_numbers_of_an_evaluation_with_one_draw_have_no_gain_to_look_at():
    metrics = {name: GOOD[name] for name in GOOD if name != "nll_gain_of_doubling"}
    errors = {name: ERRORS[name] for name in ERRORS if name != "nll_gain_of_doubling"}
    check_identities(metrics, errors, np.ones(1000, dtype=int), 2, 0.02)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("I >= 0", {"mutual_information": -0.1, "dimension_kl": 2.5}),
        ("I <= R", {"mutual_information": 2.63, "dimension_kl": -0.23}),
        ("I <= R", {"kl": 1.8, "useful_rate": 1.8, "dimension_kl": -0.3}),
        ("I <= log N", {"sentences": 7}),
        ("I <= log N", {"sentences": 7, "errors": {"mutual_information": 5.0, "kl": 5.0}}),
        ("I given length <= I", {"information_given_length": 2.2}),
        ("I <= I given length + H(length)", {"information_given_length": 1.1}),
        ("D + R >= NLL", {"negative_elbo": 99.7}),
        ("D + R >= NLL", {"nll": 100.8}),
        ("D + R >= NLL", {"nll": 100.502, "draws": 1, "gap_error": 0.0}),
        ("I + TC + dimension-wise KL = R", {"total_correlation": 0.102}),
        ("I + TC + dimension-wise KL = R", {"dimension_kl": 0.398}),
        ("marginal KL >= its bound by moments", {"marginal_kl": 0.1}),
        ("marginal KL >= its bound by moments", {"moment_kl": 0.7}),
        ("NLL_K/2 >= NLL_K", {"nll_gain_of_doubling": -0.05}),
    ],
)
def test_a_contradiction_is_an_error_that_names_the_rule(rule, changes):
    with pytest.raises(IdentityError) as error:
        check(**changes)
    assert f"{rule} is off by " in str(error.value)
    assert str(error.value).count(" is off by ") == 1


def test_every_contradiction_is_told_at_once():
    with pytest.raises(IdentityError, match=r"I <= R .*; I <= log N .*; D \+ R >= NLL.*; I \+ TC"):
        check(mutual_information=50.0, nll=200.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_number_that_is_not_finite_is_an_error(name, value):
    with pytest.raises(IdentityError, match=f"{name} = {value}"):
        check(**{name: value})


def edit_rate(arrays):
    # A rate that forgets most of its dimensions, of a decoder that gains nothing.
    arrays["kl"] = np.full((400, 1), 0.01)
    arrays["distortion"] = -arrays["log_weights"][:, 0]


def edit_samples(arrays):
    # Draws from another sentence's posterior.
    arrays["posterior_sample"] = np.roll(arrays["posterior_sample"], 1, axis=0)


def edit_noise(arrays):
    # Means in place of draws: they tell more than posteriors of that width can.
    arrays["posterior_sample"] = arrays["posterior_mean"]
    arrays["kl"] = arrays["kl"] + 2


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (edit_rate, "I <= R"),
        (edit_samples, "I >= 0"),
        (edit_noise, "marginal KL >= its bound by moments"),
        (lambda arrays: arrays.update(distortion=np.ones(400)), "D + R >= NLL"),
        (lambda arrays: arrays.update(log_weights=arrays["log_weights"] - 1), "D + R >= NLL"),
    ],
)
def test_score_refuses_arrays_that_contradict_themselves(rng, edit, rule):
    arrays = arrays_of(rng, n=400)
    score(arrays)
    edit(arrays)
    with pytest.raises(IdentityError) as error:
        score(arrays)
    assert f"{rule} is off by " in str(error.value)
    assert str(error.value).count(" is off by ") == 1


def test_no_arrays_without_a_contradiction_have_information_above_the_cap():
    # So far apart that every draw tells its sentence: log N, and not more.
    rng = np.random.default_rng(0)
    mean = 1e3 * rng.normal(size=(30, 2))
    arrays = arrays_of(
        rng, n=30, d=2, kl=0.5 * mean**2, posterior_mean=mean,
        posterior_sample=mean + rng.normal(size=(30, 2)) * math.sqrt(0.5),
    )  # fmt: skip
    assert score(arrays).metrics["mutual_information"] == pytest.approx(math.log(30), abs=1e-9)

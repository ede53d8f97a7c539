"""The exact models with a discrete latent: sums against brute force, and the evaluation on them."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logsumexp

from collapse_bench.evaluation import evaluate
from collapse_bench.latent_model import Rows, Scored
from collapse_bench.metrics.active_units import active_units
from collapse_bench.metrics.likelihood import importance_weighted_nll, monte_carlo_errors
from collapse_bench.metrics.mutual_information import mutual_information
from collapse_bench.truth.blahut_arimoto import curve, point, rate_and_distortion
from collapse_bench.truth.copy_strings import CopyStrings
from collapse_bench.truth.hmm import HiddenMarkov
from collapse_bench.truth.line import aggregate_posterior
from collapse_bench.truth.strings import Smooth, Steps, Strings, all_strings, matched


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def probabilities(*shape, seed, sharpness=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (sharpness * logits).softmax(-1)


def steps(components=3, vocabulary=3, seed=0, sharpness=1.0):
    weights = probabilities(components, seed=seed, sharpness=0.5)
    words = probabilities(
        components, vocabulary + 1, vocabulary, seed=seed + 1, sharpness=sharpness
    )
    return Steps(weights, words)


def smooth(vocabulary=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    intercept, slope = torch.randn(
        2, vocabulary + 1, vocabulary, generator=generator, dtype=torch.float64
    )
    return Smooth(intercept, 0.7 * slope)


def misset(model: Strings):
    return replace(model, mean=0.6 * model.mean + 0.3, scale=0.8 * model.scale)


def hmm(length=4, seed=0):
    return HiddenMarkov(
        probabilities(3, seed=seed),
        probabilities(3, 3, seed=seed + 1, sharpness=1.5),
        probabilities(3, 4, seed=seed + 2, sharpness=1.5),
        length,
    )


def copy_strings(window=1, reads=True, error=0.05, mean=1.0, scale=0.5):
    noise = probabilities(2, 2, seed=3)
    return CopyStrings(2, 3, 2, noise, window, reads, error, mean, scale)


STRINGS = {
    "steps": lambda: matched(steps(), 4),
    "steps, two": lambda: matched(steps(2, 2, seed=5, sharpness=2.0), 5),
    "steps, misset": lambda: misset(matched(steps(), 4)),
    "smooth": lambda: matched(smooth(), 4),
    "smooth, misset": lambda: misset(matched(smooth(), 4)),
}
COPIES = {
    "copy, read": copy_strings,
    "copy, blind": lambda: copy_strings(reads=False),
    "copy, seen": lambda: copy_strings(window=4),
    "copy, sharp": lambda: copy_strings(mean=1.5, scale=0.2, error=0.01),
}
MODELS = {**STRINGS, "hmm": hmm, **COPIES}


@pytest.fixture(params=STRINGS)
def strings(request):
    return STRINGS[request.param]()


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def entropy_of(p):
    return float(-(p * np.log(p)).sum())


# What every one of them has to obey.


def test_the_identities_of_the_bound(model):
    exact = model.exact()
    assert exact["kl"] == pytest.approx(
        exact["mutual_information"] + exact["marginal_kl"], abs=1e-9
    )
    assert exact["negative_elbo"] == pytest.approx(exact["distortion"] + exact["kl"])
    assert exact["useful_rate"] == pytest.approx(exact["nll"] - exact["distortion"])
    assert exact["negative_elbo"] >= exact["nll"] - 1e-12
    entropy = exact.get("entropy", exact["nll"])
    assert exact["nll"] >= entropy - 1e-12
    assert entropy - exact["distortion"] <= exact["mutual_information"] + 1e-12
    assert exact["mutual_information"] <= exact["kl"] + 1e-12


def test_what_is_drawn_has_the_population_values(model):
    exact, x = model.exact(), model.draw(4000, generator())
    for name in ("nll", "distortion"):
        values = getattr(model, f"exact_{name}")(x).numpy()
        assert abs(values.mean() - exact[name]) <= 4 * stats.sem(values) + 1e-12, name


def test_the_nll_is_the_mean_likelihood_under_the_prior(model):
    x = model.draw(3, generator())
    z = model.prior(x).sample((20_000,))
    for row in range(len(x)):
        many = x[row].expand(len(z), -1)
        likelihood = model.log_likelihood(many, z[:, row]).sum(1).exp().numpy()
        expected = math.exp(-model.exact_nll(x)[row])
        assert abs(likelihood.mean() - expected) <= 4.5 * stats.sem(likelihood) + 1e-12


def test_the_evaluation_finds_the_exact_values(model):
    """Against this sample's own values where only z is random, else against the population's.

    The NLL of a few draws is too high by half its squared Monte-Carlo error, to second order
    (delta method), and twice that is allowed for.
    """
    exact = model.exact()
    x = model.draw(500, generator())
    arrays = evaluate(Scored(model), Rows.of(x), samples=512, batch=4096, seed=1)
    nll, distortion = importance_weighted_nll(arrays["log_weights"]), arrays["distortion"]
    mean, scale, z = (arrays[f"posterior_{name}"] for name in ("mean", "scale", "sample"))
    lower, upper = mutual_information(z, mean, scale, arrays["log_prior"])
    bias = (monte_carlo_errors(arrays["log_weights"], arrays["draws"], 3) ** 2).mean()
    expected = {
        "nll of these": (nll - model.exact_nll(x).numpy(), 0),
        "distortion of these": (distortion - model.exact_distortion(x).numpy(), 0),
        "nll": (nll, exact["nll"]),
        "distortion": (distortion, exact["distortion"]),
        "kl": (arrays["kl"].sum(1), exact["kl"]),
        "useful_rate": (nll - distortion, exact["useful_rate"]),
        "shuffle_gap": (-distortion - arrays["shuffled_log_likelihood"], exact["shuffle_gap"]),
    }
    for name, (values, truth) in expected.items():
        allowed = bias if name.split()[0] in ("nll", "useful_rate") else 0.0
        assert abs(values.mean() - truth) <= 4 * stats.sem(values) + allowed + 1e-9, name
    assert lower.mean() - 4 * stats.sem(lower) - 1e-9 <= exact["mutual_information"]
    assert exact["mutual_information"] <= upper.mean() + 4 * stats.sem(upper) + 1e-9
    assert active_units(mean) == exact["active_units"]


# Strings.


def test_strings_are_all_there_and_their_probabilities_sum_to_one(strings):
    x = all_strings(strings.vocabulary, strings.length)
    assert len({tuple(row) for row in x.tolist()}) == len(x) == strings.vocabulary**strings.length
    assert torch.exp(-strings.exact_nll(x)).sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(strings.posterior(x).mean[:, 0], strings.mean, rtol=0)
    np.testing.assert_allclose(strings.posterior(x).stddev[:, 0], strings.scale, rtol=0)


def test_the_likelihood_of_a_step_is_that_of_its_interval_by_hand():
    model = matched(Steps(doubles(0.3, 0.7), steps(2).words), 2)
    edge, words = stats.norm.ppf(0.3), model.decoder.words
    x, z = torch.tensor([[2, 0], [2, 0]]), doubles([edge - 0.01], [edge + 0.01])
    expected = [[words[k, 3, 2].log(), words[k, 2, 0].log()] for k in (0, 1)]
    np.testing.assert_allclose(model.log_likelihood(x, z), expected, rtol=1e-12)


def line_integral(model, x, density, of):
    """An integral over z by adaptive quadrature between the steps."""
    inner = model.decoder.edges.tolist() if isinstance(model.decoder, Steps) else [0.0]
    ends = [-9.0, *inner, 9.0]

    def value(z):
        nats = model.log_likelihood(x[None], torch.tensor([[z]], dtype=torch.float64)).sum()
        return density(z) * of(float(nats))

    parts = itertools.pairwise(ends)
    return sum(integrate.quad(value, *part, epsabs=1e-11, limit=200)[0] for part in parts)


def test_nll_and_distortion_by_adaptive_quadrature(strings):
    x = all_strings(strings.vocabulary, strings.length)[[1, -2]]
    for row in x:
        q = strings.posterior(row[None])
        normal = stats.norm(float(q.mean), float(q.stddev))
        evidence = line_integral(strings, row, stats.norm.pdf, math.exp)
        distortion = -line_integral(strings, row, normal.pdf, lambda nats: nats)
        assert strings.exact_nll(row[None]).item() == pytest.approx(-math.log(evidence), abs=1e-8)
        assert strings.exact_distortion(row[None]).item() == pytest.approx(distortion, abs=1e-7)


def test_the_matched_posterior_has_the_moments_of_the_true_one(strings):
    model = matched(strings.decoder, strings.length)
    row = all_strings(model.vocabulary, model.length)[3]
    moments = [
        line_integral(model, row, lambda z, n=n: z**n * stats.norm.pdf(z), math.exp)
        for n in range(3)
    ]
    mean, second = moments[1] / moments[0], moments[2] / moments[0]
    assert model.mean[3].item() == pytest.approx(mean, abs=1e-8)
    assert model.scale[3].item() == pytest.approx(math.sqrt(second - mean**2), abs=1e-8)


def test_the_models_own_information_is_a_difference_of_entropies():
    model = matched(steps(), 4)
    x = all_strings(3, 4)
    given = model.log_likelihood_by_cell(x).exp().numpy()  # [X, K]
    weights = model.decoder.weights.numpy()
    expected = entropy_of(given @ weights) - sum(
        weights[k] * entropy_of(given[:, k]) for k in range(len(weights))
    )
    exact = model.exact()
    assert exact["mutual_information_model"] == pytest.approx(expected, abs=1e-12)
    assert exact["nll"] == pytest.approx(entropy_of(given @ weights), abs=1e-12)


def test_the_models_own_information_bounds_what_the_true_posterior_could_use(strings):
    """With the exact posterior R = I and D = H - I, and no posterior has a larger H - D."""
    exact = strings.exact()
    assert 0 < exact["mutual_information_model"] < exact["nll"]
    assert exact["useful_rate"] <= exact["kl"]
    widest = replace(
        strings, mean=torch.zeros_like(strings.mean), scale=torch.ones_like(strings.scale)
    ).exact()
    assert widest["kl"] == pytest.approx(0, abs=1e-12)
    assert widest["mutual_information"] == pytest.approx(0, abs=1e-9)
    assert widest["useful_rate"] < 0
    assert widest["shuffle_gap"] == pytest.approx(0, abs=1e-12)


def test_the_information_of_two_normals_by_another_quadrature():
    for mean, scale in ((0.1, 1.0), (1.0, 0.7), (3.0, 0.5), (2.0, 0.1)):
        weights, means, scales = doubles(0.3, 0.7), doubles(-mean, mean), doubles(scale, scale)

        def density(z, mean=mean, scale=scale):
            return 0.3 * stats.norm.pdf(z, -mean, scale) + 0.7 * stats.norm.pdf(z, mean, scale)

        def integral(of, mean=mean, scale=scale):
            reach = mean + 10 * scale
            return integrate.quad(
                of, -reach, reach, points=[-mean, 0, mean], limit=500, epsabs=1e-11
            )[0]

        def against(base, density=density):
            return lambda z: (
                density(z) * (np.log(max(density(z), 1e-300)) - base(z))
            )  # fmt: skip

        entropy = -integral(against(lambda z: 0.0))
        found = aggregate_posterior(weights, means, scales)
        expected = entropy - 0.5 * math.log(2 * math.pi * math.e * scale**2)
        assert found.mutual_information == pytest.approx(expected, abs=1e-8)
        assert found.marginal_kl == pytest.approx(integral(against(stats.norm.logpdf)), abs=1e-7)


def test_posteriors_far_apart_tell_the_whole_label():
    weights = doubles(0.2, 0.3, 0.5)
    found = aggregate_posterior(weights, doubles(-1, 0, 1), doubles(0.05, 0.05, 0.05))
    assert found.mutual_information == pytest.approx(entropy_of(weights.numpy()), abs=1e-9)


def test_a_smooth_decoder_has_the_gradient_of_its_likelihood():
    model = matched(smooth(), 4)
    x = model.draw(5, generator())
    z = torch.randn(5, 1, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: model.log_likelihood(x, z).sum(1), (z,))
    assert torch.autograd.grad(model.log_likelihood(x, z).sum(), z)[0].abs().min() > 1e-3


def test_strings_that_cannot_be_known_are_refused():
    with pytest.raises(ValueError, match="enumerated"):
        all_strings(10, 5)
    with pytest.raises(ValueError, match="positive"):
        Steps(doubles(0.5, 0.5), doubles(0, 1).expand(2, 3, 2))
    with pytest.raises(ValueError, match="fit"):
        Steps(doubles(1), steps(2).words)
    narrow = matched(smooth(), 3)
    with pytest.raises(ValueError, match="narrower"):
        replace(narrow, scale=narrow.scale * 1e-3).exact()


# The rate-distortion curve.


@pytest.fixture(scope="module")
def coding():
    """p(x), d(x, k) and pi of a mixture of well separated strings."""
    model = matched(steps(seed=2, sharpness=2.0), 4)
    x = all_strings(3, 4)
    p = torch.exp(-model.exact_nll(x)).numpy()
    return p, -model.log_likelihood_by_cell(x).numpy(), model.decoder.weights.numpy(), model


def test_at_slope_one_the_curve_touches_the_entropy_at_the_true_posterior(coding):
    p, distortion, weights, model = coding
    found = point(p, distortion, 1.0)
    log_joint = np.log(weights) - distortion
    true = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    rate, cost = rate_and_distortion(p, distortion, true)
    assert rate == pytest.approx(model.exact()["mutual_information_model"], abs=1e-12)
    assert rate + cost == pytest.approx(entropy_of(p), abs=1e-12)
    assert found.rate + found.distortion == pytest.approx(entropy_of(p), abs=1e-8)
    np.testing.assert_allclose(found.conditional, true, atol=1e-3)
    assert found.rate == pytest.approx(rate, abs=1e-4)


def test_the_curve_is_convex_falls_and_stays_above_the_entropy(coding):
    p, distortion, _, _ = coding
    betas = np.array([3.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.2])
    points = curve(p, distortion, betas)
    rates = np.array([at.rate for at in points])
    costs = np.array([at.distortion for at in points])
    assert (np.diff(rates) > 1e-3).all()
    assert (np.diff(costs) < -1e-3).all()
    slopes = -np.diff(costs) / np.diff(rates)
    assert (np.diff(slopes) < 0).all()
    assert (rates + costs >= entropy_of(p) - 1e-12).all()
    # The slope between two points lies between those at them.
    assert (slopes <= betas[:-1] + 1e-6).all()
    assert (slopes >= betas[1:] - 1e-6).all()


def test_no_other_conditional_is_below_the_curve(coding):
    p, distortion, _, _ = coding
    rng = np.random.default_rng(0)
    for beta in (0.5, 1.0, 2.0):
        best = point(p, distortion, beta)
        least = best.distortion + beta * best.rate
        for spread in (0.01, 0.3, 3.0):
            other = best.conditional * np.exp(spread * rng.normal(size=distortion.shape))
            other /= other.sum(axis=1, keepdims=True)
            rate, cost = rate_and_distortion(p, distortion, other)
            assert cost + beta * rate >= least - 1e-9
            # The bound is tight: what is nearly the best is nearly as good.
            if spread == 0.01:
                assert cost + beta * rate <= least + 1e-3


def test_the_binary_source_has_the_curve_of_the_books():
    """R(D) = h(p) - h(D) with Hamming distortion (Cover & Thomas 2006, theorem 10.3.1)."""

    def h(u):
        return -u * math.log(u) - (1 - u) * math.log(1 - u)

    for beta in (0.3, 0.5, 0.8):
        found = point(np.array([0.3, 0.7]), 1.0 - np.eye(2), beta)
        assert found.distortion == pytest.approx(1 / (1 + math.exp(1 / beta)), abs=1e-5)
        assert found.rate == pytest.approx(h(0.3) - h(found.distortion), abs=1e-8)
    far = point(np.array([0.3, 0.7]), 1.0 - np.eye(2), 5.0)
    assert (far.rate, far.distortion) == pytest.approx((0, 0.3), abs=1e-6)


def test_a_curve_that_cannot_be_drawn_is_refused():
    p, d = np.array([0.5, 0.5]), 1.0 - np.eye(2)
    wrong = [(p, d, 0.0, "beta"), (p, d[:1], 1.0, "fit"), (2 * p, d, 1.0, "sum to 1")]
    for source, distortion, beta, what in [*wrong, (p, np.full((2, 2), np.inf), 1.0, "finite")]:
        with pytest.raises(ValueError, match=what):
            point(source, distortion, beta)


# Hidden Markov models.


def paths(model, x):
    """log p(x, k) of every state sequence, by hand, [K^T]."""
    log = []
    for k in all_strings(len(model.initial), model.length).tolist():
        p = model.initial[k[0]]
        for a, b in itertools.pairwise(k):
            p = p * model.transitions[a, b]
        for state, word in zip(k, x.tolist(), strict=True):
            p = p * model.emissions[state, word]
        log.append(math.log(p) if p > 0 else -math.inf)
    return np.array(log)


def test_the_forward_pass_against_every_path():
    model = hmm()
    x = model.draw(4, generator())
    nll, entropy = model.exact_nll(x), model.state_entropy(x)
    for row in range(4):
        joint = paths(model, x[row])
        assert nll[row].item() == pytest.approx(-logsumexp(joint), abs=1e-12)
        assert entropy[row].item() == pytest.approx(
            entropy_of(np.exp(joint - logsumexp(joint))), abs=1e-12
        )


def test_the_information_of_the_states_three_ways():
    """By its closed form, as H(k) - H(k|x) with forward passes, and from the whole joint table."""
    model = hmm(length=3)
    x = all_strings(4, 3)
    p = torch.exp(-model.exact_nll(x))
    assert p.sum() == pytest.approx(1, abs=1e-12)
    chain = entropy_of(model.initial.numpy()) + sum(
        float(model.state_probabilities()[t, k]) * entropy_of(model.transitions[k].numpy())
        for t in range(2)
        for k in range(3)
    )
    table = np.exp([paths(model, row) for row in x])  # [V^T, K^T]
    independent = table.sum(1, keepdims=True) * table.sum(0)
    expected = (table * np.log(table / independent)).sum()
    exact = model.exact()["mutual_information_model"]
    assert exact == pytest.approx(expected, abs=1e-12)
    assert exact == pytest.approx(chain - float(p @ model.state_entropy(x)), abs=1e-12)


def test_states_that_are_impossible_do_no_harm():
    """From left to right only, and never back."""
    model = replace(
        hmm(length=3),
        initial=doubles(1, 0, 0),
        transitions=doubles([0.5, 0.5, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]),
    )
    x = model.draw(3, generator())
    joint = np.exp([paths(model, row) for row in x])
    np.testing.assert_allclose(model.exact_nll(x), -np.log(joint.sum(1)), rtol=1e-12)
    posterior = joint / joint.sum(1, keepdims=True)
    expected = -np.where(posterior > 0, posterior * np.log(np.maximum(posterior, 1e-300)), 0).sum(1)
    np.testing.assert_allclose(model.state_entropy(x), expected, atol=1e-12)
    states = model.states(torch.randn(1000, 3, generator=generator(), dtype=torch.float64))
    assert (states[:, 0] == 0).all()
    assert (states.diff(dim=1) >= 0).all()
    assert (states[:, 2] == 2).any()


def test_states_have_their_probabilities():
    model = hmm()
    n = 40_000
    states = model.states(torch.randn(n, 4, generator=generator(), dtype=torch.float64))
    p = model.state_probabilities()
    for t in range(4):
        shares = torch.bincount(states[:, t], minlength=3) / n
        assert ((shares - p[t]).abs() <= 4.5 * (p[t] * (1 - p[t]) / n).sqrt()).all()


def test_the_entropy_rate_is_bracketed_ever_closer():
    brackets = [hmm(length).entropy_rate() for length in (2, 3, 4, 5)]
    lower, upper = np.array(brackets).T
    assert (np.diff(lower) > 0).all()
    assert (np.diff(upper) < 0).all()
    assert (lower <= upper).all()
    model = hmm()
    stationary = model.stationary()
    np.testing.assert_allclose(stationary @ model.transitions, stationary, atol=1e-12)
    # A long string has it too: -log p(x) / T, by the forward algorithm.
    long = replace(model, initial=stationary, length=3000)
    values = long.exact_nll(long.draw(20, generator())).numpy() / 3000
    assert lower[-1] - 4 * stats.sem(values) <= values.mean() <= upper[-1] + 4 * stats.sem(values)


def test_the_entropy_rate_where_the_states_are_seen_or_mean_nothing():
    blind = replace(hmm(3), emissions=probabilities(4, seed=8).expand(3, 4))
    assert blind.entropy_rate() == pytest.approx([entropy_of(blind.emissions[0].numpy())] * 2)
    assert blind.exact()["mutual_information_model"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="two words"):
        hmm(1).entropy_rate()
    with pytest.raises(ValueError, match="stationary"):
        replace(hmm(2), transitions=torch.eye(3, dtype=torch.float64)).entropy_rate()


# Copies.


def test_copy_strings_sum_to_one_over_all_that_can_be_said():
    """Every string of their form, whether the bits of its repeats agree or not."""
    for window in (1, 3):
        model = CopyStrings(
            bits=1, repeats=2, gap=2, noise=probabilities(2, 2, seed=3), window=window, reads=True,
            error=0.1, mean=1.0, scale=0.5,
        )  # fmt: skip
        bits, noise = all_strings(2, 2), 2 + all_strings(2, 4)
        x = torch.stack([torch.cat([b[:1], n[:2], b[1:], n[2:]]) for b in bits for n in noise])
        z = doubles([0.7], [-0.7])
        for each in z:
            likelihood = model.log_likelihood(x, each.expand(len(x), 1)).sum(1).exp()
            assert likelihood.sum() == pytest.approx(1, abs=1e-12)


def test_the_entropy_of_copy_strings_by_enumeration():
    """Of a single block, all of whose strings can be drawn; its noise is not stationary."""
    noise = doubles([0.9, 0.1], [0.8, 0.2])
    for model in (copy_strings(), copy_strings(reads=False)):
        model = replace(model, repeats=1, gap=4, noise=noise)
        x = torch.stack(
            [torch.cat([b, n]) for b in all_strings(2, 2) for n in 2 + all_strings(2, 4)]
        )
        p = torch.exp(-model.exact_nll(x))
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert model.exact()["entropy"] == pytest.approx(entropy_of(p.numpy()), abs=1e-12)


def test_what_is_drawn_repeats_its_bits_and_their_entropy_is_the_nll_of_a_perfect_reader():
    model = copy_strings(error=1e-9)
    x = model.draw(2000, generator())
    repeats = x.reshape(2000, 3, 4)
    assert (repeats[:, 1:, :2] == repeats[:, :1, :2]).all()
    assert set(repeats[:, :, :2].unique().tolist()) == {0, 1}
    assert set(repeats[:, :, 2:].unique().tolist()) == {2, 3}
    exact = model.exact()
    assert exact["nll"] == pytest.approx(exact["entropy"], abs=1e-7)
    # Strings counted: 2^2 bits by 2^6 of noise.
    shares = torch.unique(x, dim=0, return_counts=True)[1] / 2000
    estimate = entropy_of(shares.numpy())
    bias = (2**8 - 1) / (2 * 2000)  # Miller 1955
    assert estimate + bias == pytest.approx(exact["entropy"], abs=0.05)


def test_a_short_window_pays_for_every_repeat_or_once_for_the_latent():
    bits = 2 * math.log(2)
    blind, reader = copy_strings(reads=False), copy_strings(mean=1.5, scale=0.1, error=1e-6)
    assert blind.needed_rate == reader.needed_rate == pytest.approx(bits)
    assert blind.bits_without_latent == pytest.approx(3 * bits)
    gain = blind.exact()["nll"] - reader.exact()["nll"]
    assert gain == pytest.approx(2 * bits, abs=1e-4)
    exact = reader.exact()
    assert exact["mutual_information"] == pytest.approx(bits, abs=1e-9)
    assert exact["useful_rate"] == pytest.approx(bits, abs=1e-4)
    # The blind one has as much in its posterior, and uses none of it.
    hashed = replace(reader, reads=False).exact()
    assert hashed["mutual_information"] == pytest.approx(bits, abs=1e-9)
    assert hashed["useful_rate"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("error", [1e-6, 0.1, 0.5])
def test_from_the_distance_on_it_makes_no_difference_whether_z_is_read(error):
    for window in (4, 9):
        reader = copy_strings(window=window, error=error)
        blind = replace(reader, reads=False)
        assert reader.needed_rate == 0
        assert reader.bits_without_latent == pytest.approx(2 * math.log(2))
        assert reader.exact()["nll"] == pytest.approx(blind.exact()["nll"], abs=1e-12)
        x = reader.draw(20, generator())
        np.testing.assert_allclose(reader.exact_nll(x), blind.exact_nll(x), rtol=1e-12)
        assert blind.exact()["nll"] == pytest.approx(blind.exact()["entropy"], abs=1e-12)
    short = copy_strings(window=3, error=error)
    assert short.needed_rate > 0
    assert replace(short, repeats=1).needed_rate == 0


def test_copies_that_make_no_sense_are_refused():
    for wrong in ({"bits": 0}, {"window": 0}, {"error": 0.0}, {"scale": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(copy_strings(), **wrong)

"""Likelihood, distortion and rate from per-sentence arrays, in nats per sentence."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.floating]


STRATUM = 4
"""Draws from which on a variance is believed."""


def proposal_draws(samples: int) -> tuple[int, int]:
    """How many of S draws come from the posterior and from the prior: about one in eight.

    The proposal r is then a mixture that bounds every weight (Hesterberg 1995). With draws from the
    posterior alone, a posterior far from the true one has an NLL that is nats too high at any
    affordable S: a delta-VAE at its floor whose decoder is blind would lose 2.9 nats at S = 8. For
    an exact posterior the price is log(S / draws from it), 0.13 nats at S = 8.

    Args:
        samples: S, at least 1; a single draw is from the posterior.
    """
    from_prior = max(1, samples // 8) if samples > 1 else 0
    return samples - from_prior, from_prior


def importance_weighted_nll(
    log_weights: Floats, draws: NDArray[np.integer] | None = None
) -> Floats:
    """-log (1/S) sum_s w_s of each sentence (Burda et al. 2016, equation 8).

    An upper bound on -log p(x) in expectation, tighter with more samples; exact if the weights of
    a sentence are all equal.

    Args:
        log_weights: log p(x|z_s) + log p(z_s) - log r(z_s|x), r being what the z_s were drawn
            from, [N, S]; -inf where nothing was drawn.
        draws: how many were drawn for each sentence, [N]; None is S.

    Returns:
        [N].
    """
    weights = np.asarray(log_weights, dtype=np.float64)
    count = weights.shape[1] if draws is None else draws
    return np.asarray(np.log(count) - logsumexp(weights, axis=1))


def monte_carlo_error(from_posterior: Floats, from_prior: Floats) -> Floats:
    """Standard error of a sentence's importance-weighted NLL, in nats, by the delta method.

    Draws from the posterior and from the prior are strata: only what varies within each is an
    error of the mean weight. A stratum of fewer than `STRATUM` draws may by chance seem not to vary
    and end the draws too soon; then all draws count as one stratum, which is cautious.

    Args:
        from_posterior: log weights of the draws from the posterior, [N, A].
        from_prior: log weights of those from the prior, [N, B], B may be 0.

    Returns:
        [N]; infinite where there is but one draw.
    """
    strata = [np.asarray(part, dtype=np.float64) for part in (from_posterior, from_prior)]
    both = np.concatenate(strata, axis=1)
    if both.shape[1] < 2:
        return np.full(len(both), np.inf)
    if min(part.shape[1] for part in strata) < STRATUM:
        strata = [both]
    largest = both.max(axis=1, keepdims=True)
    variance = sum(part.shape[1] * np.exp(part - largest).var(axis=1, ddof=1) for part in strata)
    return np.asarray(np.sqrt(variance) / np.exp(both - largest).sum(axis=1))


def monte_carlo_errors(log_weights: Floats, draws: NDArray[np.integer]) -> Floats:
    """`monte_carlo_error` of sentences that have had different numbers of draws.

    Args:
        log_weights: [N, S], those of posterior draws first, as an evaluation leaves them.
        draws: how many there were for each sentence, [N].

    Returns:
        [N].
    """
    errors = np.empty(len(draws))
    for rows, from_posterior, from_prior in _by_draws(log_weights, draws):
        errors[rows] = monte_carlo_error(from_posterior, from_prior)
    return errors


def nll_gain_of_doubling(log_weights: Floats, draws: NDArray[np.integer]) -> Floats:
    """What the last doubling of the draws took off the NLL of each sentence, in nats, [N].

    The mean NLL of two halves of the draws less that of all. In expectation it is the slope of the
    bound in S (Burda et al. 2016, theorem 1): where it is not near zero the bound has not settled.
    It cannot see a mode of the true posterior that no draw has met.

    Every second draw from the posterior, and from the prior, makes a half; both strata keep their
    shares of the proposal in either half. A single draw from the prior serves both.

    Args:
        log_weights: [N, S], those of posterior draws first, as an evaluation leaves them.
        draws: how many there were for each sentence, [N].

    Returns:
        [N]; NaN where there are fewer than two draws from the posterior.
    """
    gain = np.full(len(draws), np.nan)
    for rows, from_posterior, from_prior in _by_draws(log_weights, draws):
        n, m = from_posterior.shape[1], from_prior.shape[1]
        if n < 2:
            continue
        shares = np.log([n / (n + m), m / (n + m)]) if m else np.zeros(1)
        of_halves = np.zeros(len(from_posterior))
        for first in (0, 1):
            half = from_posterior[:, first::2]
            strata = [half, from_prior[:, first::2] if m > 1 else from_prior][: len(shares)]
            weight = half.shape[1] / n
            of_halves += weight * _stratified_nll([_log_mean(part) for part in strata], shares)
        whole = [_log_mean(part) for part in (from_posterior, from_prior)][: len(shares)]
        gain[rows] = of_halves - _stratified_nll(whole, shares)
    return gain


def jackknife_nll(log_weights: Floats, draws: NDArray[np.integer]) -> Floats:
    """NLL with its bias of order 1/S removed, in nats, [N]: first-order jackknife (Nowozin 2018).

    Draws from the posterior and from the prior are strata, and a draw is left out of its own: the
    NLL less (n - 1) times what leaving one of n draws out adds to it in the mean, for each stratum
    of two draws or more. No bound: it may lie on either side. Where one weight is nats above all
    others it falls by almost as many: believe it only where the effective sample size is not near
    1. It cannot see a mode of the true posterior that no draw has met.

    Args:
        log_weights: [N, S], those of posterior draws first, as an evaluation leaves them.
        draws: how many were drawn for each sentence, [N].

    Returns:
        [N]; where there is but one draw, the plain estimate.
    """
    result = importance_weighted_nll(log_weights, draws)
    for rows, *strata in _by_draws(log_weights, draws):
        strata = [part for part in strata if part.shape[1]]
        shares = np.log([part.shape[1] for part in strata]) - np.log(draws[rows][0])
        means = [_log_mean(part) for part in strata]
        nll = _stratified_nll(means, shares)
        corrected = nll.copy()
        for h, part in enumerate(strata):
            n = part.shape[1]
            if n < 2:
                continue
            others = np.stack([_log_mean(np.delete(part, k, axis=1)) for k in range(n)])
            left_out = [others if i == h else mean for i, mean in enumerate(means)]
            corrected -= (n - 1) * (_stratified_nll(left_out, shares).mean(axis=0) - nll)
        result[rows] = corrected
    return result


def _by_draws(
    log_weights: Floats, draws: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.bool_], Floats, Floats]]:
    """Sentences with equally many draws: which [N], weights from posterior and from prior."""
    most_from_posterior, _ = proposal_draws(log_weights.shape[1])
    for total in np.unique(draws).tolist():
        rows = draws == total
        weights = np.asarray(log_weights[rows], dtype=np.float64)
        n, m = proposal_draws(total)
        yield rows, weights[:, :n], weights[:, most_from_posterior : most_from_posterior + m]


def _log_mean(log_weights: Floats) -> Floats:
    return np.asarray(logsumexp(log_weights, axis=1) - np.log(log_weights.shape[1]))


def _stratified_nll(log_means: Sequence[Floats], log_shares: Floats) -> Floats:
    """-log of the strata's mean weights, added up by their shares of the proposal."""
    parts = np.broadcast_arrays(
        *(mean + share for mean, share in zip(log_means, log_shares, strict=True))
    )
    return np.asarray(-np.logaddexp.reduce(parts))


def effective_sample_size(log_weights: Floats) -> Floats:
    """(sum w)^2 / sum w^2 of each sentence (Kong 1992), from 1 to S.

    Args:
        log_weights: [N, S]; -inf where nothing was drawn.

    Returns:
        [N].
    """
    weights = np.asarray(log_weights, dtype=np.float64)
    return np.asarray(np.exp(2 * logsumexp(weights, axis=1) - logsumexp(2 * weights, axis=1)))


def perplexity(nll: Floats, tokens: NDArray[np.integer]) -> float:
    """exp(total NLL / total tokens); EOS is a token, BOS and padding are not.

    Args:
        nll: nats of each sentence, [N].
        tokens: tokens of each sentence, EOS counted, [N].
    """
    return float(np.exp(np.sum(nll, dtype=np.float64) / np.sum(tokens)))

"""Likelihood, distortion and rate from per-sentence arrays, in nats per sentence."""

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
    most_from_posterior, _ = proposal_draws(log_weights.shape[1])
    for total in np.unique(draws):
        weights = log_weights[draws == total]
        from_posterior, from_prior = proposal_draws(int(total))
        errors[draws == total] = monte_carlo_error(
            weights[:, :from_posterior],
            weights[:, most_from_posterior : most_from_posterior + from_prior],
        )
    return errors


def nll_gain_of_doubling(log_weights: Floats, draws: NDArray[np.integer]) -> Floats:
    """What the last doubling of the draws took off the NLL of each sentence, in nats, [N].

    The mean NLL of two halves of the draws, weighted by their sizes, less that of all; never
    negative. In expectation it is the slope of the bound in S (Burda et al. 2016, theorem 1): where
    it is not near zero the bound has not settled. It cannot see a mode of the true posterior that
    no draw has met.

    Every second draw from the posterior, and from the prior, makes a half. The weights stay those
    of the whole mixture: where a stratum is odd the halves have slightly other shares of it.

    Args:
        log_weights: [N, S], those of posterior draws first, as an evaluation leaves them.
        draws: how many there were for each sentence, [N].

    Returns:
        [N]; NaN where there is but one draw.
    """
    gain = np.full(len(draws), np.nan)
    most_from_posterior, _ = proposal_draws(log_weights.shape[1])
    for total in np.unique(draws[draws > 1]).tolist():
        from_posterior, from_prior = proposal_draws(total)
        weights = log_weights[draws == total]
        drawn = np.hstack(
            [
                weights[:, :from_posterior],
                weights[:, most_from_posterior : most_from_posterior + from_prior],
            ]
        )
        halves = drawn[:, ::2], drawn[:, 1::2]
        of_halves = sum(half.shape[1] / total * importance_weighted_nll(half) for half in halves)
        gain[draws == total] = of_halves - importance_weighted_nll(drawn)
    return gain


def jackknife_nll(log_weights: Floats, draws: NDArray[np.integer]) -> Floats:
    """NLL with its bias of order 1/S removed, in nats, [N]: first-order jackknife (Nowozin 2018).

    S NLL_S - (S - 1) times the mean of NLL_(S-1) over the draws left out. No bound: it may lie on
    either side. Where one weight is nats above the sum of all others it falls by almost as many:
    believe it only where the effective sample size is not near 1. It cannot see a mode of the true
    posterior that no draw has met.

    Args:
        log_weights: [N, S]; -inf where nothing was drawn.
        draws: how many were drawn for each sentence, [N].

    Returns:
        [N]; where there is but one draw, the plain estimate.
    """
    nll = importance_weighted_nll(log_weights, draws)
    many = draws > 1
    weights, count = np.asarray(log_weights, dtype=np.float64)[many], draws[many]
    total = logsumexp(weights, axis=1)
    largest = np.arange(len(weights)), weights.argmax(axis=1)
    # log(1 - share) of each draw. All but the largest have a share of at most a half; what is left
    # without the largest is summed by itself, where 1 - share would lose every digit.
    share = np.exp(weights - total[:, None])
    share[largest] = 0
    weights[largest] = -np.inf
    left = np.log1p(-share).sum(axis=1) + logsumexp(weights, axis=1) - total
    nll[many] += (count - 1) * (left / count - np.log1p(-1 / count))
    return nll


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

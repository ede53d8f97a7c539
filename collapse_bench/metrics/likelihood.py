"""Likelihood, distortion and rate from per-sentence arrays, in nats per sentence."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.floating]


STRATUM = 4
"""Draws from which on a variance is believed."""


def proposal_draws(samples: int, strata: int) -> tuple[int, ...]:
    """How many of S draws come from each stratum of the proposal, the posterior first.

    The proposal r is their mixture, which bounds every weight (Hesterberg 1995). Of two strata the
    prior has one draw in eight; of three the widened posterior and the prior have one in four each,
    so that the first round of eight already has a variance to believe, see `monte_carlo_error`.
    With draws from the posterior alone, one that is far from the true one has an NLL that is nats
    too high at any affordable S. The price for an exact posterior is at most log(S / draws from
    it), and nothing where draws of the others never hit what it covers.

    No count falls as S grows: the draws of a round are among those of the next.

    Args:
        samples: S, at least 1; a single draw is from the posterior.
        strata: 2, posterior and prior, or 3, posterior, widened posterior and prior.
    """
    if strata == 3:
        from_posterior, from_widened = (samples + 1) // 2, samples // 4
        return from_posterior, from_widened, samples - from_posterior - from_widened
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


def monte_carlo_error(strata: Sequence[Floats]) -> Floats:
    """Standard error of a sentence's importance-weighted NLL, in nats, by the delta method.

    Draws from each part of the proposal are a stratum: only what varies within each is an error of
    the mean weight. A stratum of fewer than `STRATUM` draws may by chance seem not to vary and end
    the draws too soon: those that are so small count as one, and where that is still too small all
    draws do, which is cautious.

    Args:
        strata: log weights of the draws from each, [N, A], [N, B] and so on; none is empty.

    Returns:
        [N]; infinite where there is but one draw.
    """
    parts = [np.asarray(part, dtype=np.float64) for part in strata]
    together = np.concatenate(parts, axis=1)
    if together.shape[1] < 2:
        return np.full(len(together), np.inf)
    small = [part for part in parts if part.shape[1] < STRATUM]
    if small:
        pool = np.concatenate(small, axis=1)
        believed = [part for part in parts if part.shape[1] >= STRATUM]
        parts = [*believed, pool] if pool.shape[1] >= STRATUM else [together]
    largest = together.max(axis=1, keepdims=True)
    variance = sum(part.shape[1] * np.exp(part - largest).var(axis=1, ddof=1) for part in parts)
    return np.asarray(np.sqrt(variance) / np.exp(together - largest).sum(axis=1))


def monte_carlo_errors(log_weights: Floats, draws: NDArray[np.integer], strata: int) -> Floats:
    """`monte_carlo_error` of sentences that have had different numbers of draws.

    Args:
        log_weights: [N, S], stratum after stratum, as an evaluation leaves them.
        draws: how many there were for each sentence, [N].
        strata: as for `proposal_draws`.

    Returns:
        [N].
    """
    errors = np.empty(len(draws))
    for rows, parts in _by_draws(log_weights, draws, strata):
        errors[rows] = monte_carlo_error(parts)
    return errors


def nll_gain_of_doubling(log_weights: Floats, draws: NDArray[np.integer], strata: int) -> Floats:
    """What the last doubling of the draws took off the NLL of each sentence, in nats, [N].

    The mean NLL of two halves of the draws less that of all. In expectation it is the slope of the
    bound in S (Burda et al. 2016, theorem 1): where it is not near zero the bound has not settled.
    It cannot see a mode of the true posterior that no draw has met.

    Every second draw of a stratum makes a half; all strata keep their shares of the proposal in
    either half. A single draw of a stratum other than the posterior serves both.

    Args:
        log_weights: [N, S], stratum after stratum, as an evaluation leaves them.
        draws: how many there were for each sentence, [N].
        strata: as for `proposal_draws`.

    Returns:
        [N]; NaN where there are fewer than two draws from the posterior.
    """
    gain = np.full(len(draws), np.nan)
    for rows, parts in _by_draws(log_weights, draws, strata):
        if parts[0].shape[1] < 2:
            continue
        shares = _log_shares(parts)
        of_halves = np.zeros(len(parts[0]))
        for first in (0, 1):
            half = [part[:, first::2] if part.shape[1] > 1 else part for part in parts]
            weight = half[0].shape[1] / parts[0].shape[1]
            of_halves += weight * _stratified_nll([_log_mean(part) for part in half], shares)
        gain[rows] = of_halves - _stratified_nll([_log_mean(part) for part in parts], shares)
    return gain


def jackknife_nll(log_weights: Floats, draws: NDArray[np.integer], strata: int) -> Floats:
    """NLL with its bias of order 1/S removed, in nats, [N]: first-order jackknife (Nowozin 2018).

    A draw is left out of its own stratum: the NLL less (n - 1) times what leaving one of n draws
    out adds to it in the mean, for each stratum of two draws or more. No bound: it may lie on
    either side. Where one weight is nats above all others it falls by almost as many: believe it
    only where the effective sample size is not near 1. It cannot see a mode of the true posterior
    that no draw has met.

    Args:
        log_weights: [N, S], stratum after stratum, as an evaluation leaves them.
        draws: how many were drawn for each sentence, [N].
        strata: as for `proposal_draws`.

    Returns:
        [N]; where there is but one draw, the plain estimate.
    """
    result = importance_weighted_nll(log_weights, draws)
    for rows, parts in _by_draws(log_weights, draws, strata):
        shares = _log_shares(parts)
        means = [_log_mean(part) for part in parts]
        nll = _stratified_nll(means, shares)
        corrected = nll.copy()
        for h, part in enumerate(parts):
            n = part.shape[1]
            if n < 2:
                continue
            left_out = [
                _log_means_of_others(part) if i == h else mean[:, None]
                for i, mean in enumerate(means)
            ]
            corrected -= (n - 1) * (_stratified_nll(left_out, shares).mean(axis=1) - nll)
        result[rows] = corrected
    return result


def _by_draws(
    log_weights: Floats, draws: NDArray[np.integer], strata: int
) -> Iterator[tuple[NDArray[np.bool_], list[Floats]]]:
    """Sentences with equally many draws: which [N], and the weights of each stratum with a draw."""
    most = proposal_draws(log_weights.shape[1], strata)
    starts = np.cumsum([0, *most[:-1]])
    for total in np.unique(draws).tolist():
        rows = draws == total
        weights = np.asarray(log_weights[rows], dtype=np.float64)
        counts = proposal_draws(total, strata)
        yield rows, [weights[:, s : s + n] for s, n in zip(starts, counts, strict=True) if n]


def _log_shares(parts: Sequence[Floats]) -> Floats:
    counts = np.array([part.shape[1] for part in parts])
    return np.asarray(np.log(counts / counts.sum()))


def _log_mean(log_weights: Floats) -> Floats:
    return np.asarray(logsumexp(log_weights, axis=1) - np.log(log_weights.shape[1]))


def _log_means_of_others(log_weights: Floats) -> Floats:
    """Logarithm of the mean weight without each draw in turn, [N, n] to [N, n], n at least 2.

    What is before a draw and what is after it: a difference from the sum of all would lose every
    digit where that draw has nearly all of the weight.
    """
    nothing = np.full((len(log_weights), 1), -np.inf)
    before = np.logaddexp.accumulate(log_weights[:, :-1], axis=1)
    after = np.logaddexp.accumulate(log_weights[:, :0:-1], axis=1)[:, ::-1]
    others = np.logaddexp(np.hstack([nothing, before]), np.hstack([after, nothing]))
    return np.asarray(others - np.log(log_weights.shape[1] - 1))


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

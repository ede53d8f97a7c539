"""A hidden Markov model as a model with a normal latent whose posterior does not infer.

z ~ N(0, I_T): z_1 is the quantile of the first state and z_t that of state t in the row of state
t - 1. The posterior is the prior whatever the sentence, though the true one is not: inference
collapse (He et al. 2019), with a rate of exactly 0 beside a known information.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import entr, ndtri

from collapse_bench.truth.line import standard_normal
from collapse_bench.truth.strings import all_strings, check_probabilities


@dataclass(frozen=True, eq=False)
class HiddenMarkov:
    """A `LatentModel` over strings of T words with K hidden states.

    Sentences are words [B, T], int64; the latent is [B, T].

    Attributes:
        initial: p(k_1), [K].
        transitions: p(k_t | k_{t-1}), [K, K].
        emissions: p(x_t | k_t), [K, V], positive.
        length: T, at least 1.

    Raises:
        ValueError: these are no probabilities, or do not fit together.
    """

    initial: Tensor
    transitions: Tensor
    emissions: Tensor
    length: int

    def __post_init__(self) -> None:
        k = len(self.initial)
        if self.transitions.shape != (k, k) or len(self.emissions) != k:
            raise ValueError("initial [K], transitions [K, K] and emissions [K, V] do not fit")
        check_probabilities("initial", self.initial, positive=False)
        check_probabilities("transitions", self.transitions, positive=False)
        check_probabilities("emissions", self.emissions, positive=True)

    def posterior(self, sentences: Tensor) -> Distribution:
        """N(0, I), [B, T]: nothing is inferred."""
        return standard_normal(len(sentences), self.length)

    def prior(self, sentences: Tensor) -> Distribution:
        """N(0, I), [B, T]."""
        return standard_normal(len(sentences), self.length)

    def states(self, z: Tensor) -> Tensor:
        """k_1 to k_T, [B, T] to [B, T]."""
        first = ndtri(self.initial.cumsum(0)[:-1].clamp(max=1))
        later = ndtri(self.transitions.cumsum(1)[:, :-1].clamp(max=1))
        states = [(z[:, :1] >= first).sum(1)]
        for t in range(1, self.length):
            states.append((z[:, t : t + 1] >= later[states[-1]]).sum(1))
        return torch.stack(states, 1)

    def log_likelihood(self, sentences: Tensor, z: Tensor) -> Tensor:
        """log p(x_t | k_t), [B, T] and [B, T] to [B, T]."""
        return self.emissions.log()[self.states(z), sentences]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Sentences of the model, [n, T]."""
        z = torch.randn(n, self.length, generator=generator, dtype=torch.float64)
        words = torch.multinomial(self.emissions[self.states(z).flatten()], 1, generator=generator)
        return words.reshape(n, self.length)

    def state_probabilities(self) -> Tensor:
        """p(k_t), [T, K]."""
        p = [self.initial]
        for _ in range(1, self.length):
            p.append(p[-1] @ self.transitions)
        return torch.stack(p)

    def exact_nll(self, sentences: Tensor) -> Tensor:
        """-log p(x) by the forward algorithm (Baum et al. 1970), [N, T] to [N]; any T."""
        return self._forward(sentences)[0]

    def state_entropy(self, sentences: Tensor) -> Tensor:
        """H(k_1..k_T | x) of each sentence in nats, by one forward pass, [N, T] to [N]; any T.

        The entropy semiring divided by the forward probabilities, which keeps it in range: the
        entropy of the states before t given the one at t is carried along (Hernando, Crespi &
        Cybenko 2005; Cortes et al. 2008).
        """
        return self._forward(sentences)[1]

    def _forward(self, sentences: Tensor) -> tuple[Tensor, Tensor]:
        emitted = self.emissions.log()[:, sentences].permute(2, 1, 0)  # [T, N, K]
        log_alpha = self.initial.log() + emitted[0]
        before = torch.zeros_like(log_alpha)  # H(k_<t | k_t, x_<=t)
        for log_emission in emitted[1:]:
            joint = log_alpha[:, :, None] + self.transitions.log()  # [N, j, k]
            log_reached = joint.logsumexp(1)
            # A state that cannot be reached has no past; nothing later asks for it.
            past = (joint - log_reached[:, None]).exp().nan_to_num(0.0)
            before = (past * before[:, :, None] + entr(past)).sum(1)
            log_alpha = log_reached + log_emission
        last = log_alpha.softmax(1)
        return -log_alpha.logsumexp(1), (last * before + entr(last)).sum(1)

    def exact_distortion(self, sentences: Tensor) -> Tensor:
        """-E log p(x|z) with z from the posterior, here the prior, [N, T] to [N]."""
        nats = self.state_probabilities() @ self.emissions.log()  # [T, V]
        return -nats[torch.arange(self.length), sentences].sum(1)

    def exact(self) -> dict[str, float]:
        """Population values under x of the model, in nats; x is enumerated.

        `mutual_information_model` = I(x; k) = H(x) - sum_t sum_k p(k_t = k) H(x_t | k), which is
        I(x; z) as x depends on z by the states only. The useful rate is minus the inference gap.

        Raises:
            ValueError: there are too many strings, see `all_strings`.
        """
        nll = self._entropy()
        by_position = self.state_probabilities()  # [T, K]
        words = by_position @ self.emissions  # p(x_t), [T, V]
        distortion = -float((words * (by_position @ self.emissions.log())).sum())
        emitted = float((by_position @ entr(self.emissions).sum(1)).sum())
        return {
            "nll": nll,
            "distortion": distortion,
            "kl": 0.0,
            "negative_elbo": distortion,
            "mutual_information": 0.0,
            "marginal_kl": 0.0,
            "total_correlation": 0.0,
            "dimension_kl": 0.0,
            "useful_rate": nll - distortion,
            "mutual_information_model": nll - emitted,
            "shuffle_gap": 0.0,
            "active_units": 0.0,
        }

    def stationary(self) -> Tensor:
        """The distribution of states that a step leaves as it is, [K].

        Raises:
            ValueError: there is more than one.
        """
        k = len(self.initial)
        eye = torch.eye(k, dtype=torch.float64)
        equations = torch.cat([self.transitions.T - eye, torch.ones(1, k, dtype=torch.float64)])
        if torch.linalg.matrix_rank(equations) < k:
            raise ValueError("transitions: the chain has more than one stationary distribution")
        right = torch.cat([torch.zeros(k, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
        solution: Tensor = torch.linalg.lstsq(equations, right[:, None]).solution
        return solution[:, 0].clamp(min=0)

    def entropy_rate(self) -> tuple[float, float]:
        """A lower and an upper bound on the entropy rate of the stationary chain, nats a word.

        H(x_T | x_<T, k_1) <= rate <= H(x_T | x_<T) (Cover & Thomas 2006, theorem 4.5.1); they close
        exponentially with T.

        Raises:
            ValueError: T is 1, or there are too many strings.
        """
        if self.length < 2:
            raise ValueError("the entropy rate is bounded from two words on")
        stationary = self.stationary()
        longer = replace(self, initial=stationary)
        shorter = replace(longer, length=self.length - 1)
        starts = torch.eye(len(stationary), dtype=torch.float64)
        given_first = [
            replace(longer, initial=start)._entropy() - replace(shorter, initial=start)._entropy()
            for start in starts
        ]
        lower = sum(float(p) * h for p, h in zip(stationary, given_first, strict=True))
        return lower, longer._entropy() - shorter._entropy()

    def _entropy(self) -> float:
        """H(x_1..x_T) by enumeration."""
        nll = self.exact_nll(all_strings(self.emissions.shape[1], self.length))
        return float((nll * (-nll).exp()).sum())

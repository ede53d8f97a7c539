"""A model on held-out sentences: per-sentence arrays, by the same code for every entry.

Dropout and word dropout are off and the objective is the plain one, whatever the training was.
The exactly solvable models of `truth` and a user's own go through the same functions.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from collapse_bench.corpus import Split, evaluation_batches
from collapse_bench.corpus.batches import MOST_PADDED, collate
from collapse_bench.evaluation.aggregate import sentences_of_aggregate, terms_of_aggregate
from collapse_bench.evaluation.importance import first_draws, importance_weights, strata_of
from collapse_bench.evaluation.noise import SentenceNoise, Sentences
from collapse_bench.evaluation.partners import partners
from collapse_bench.evaluation.refined import refined_terms
from collapse_bench.latent_model import Rows
from collapse_bench.model import Noise
from collapse_bench.model.distributions import (
    base,
    closed_rate,
    draw,
    family_of,
    rate,
    shape_of,
)
from collapse_bench.model.distributions.codes import Codebook
from collapse_bench.model.distributions.mixture import MixtureOfNeighbours
from collapse_bench.model.modes import eval_mode
from collapse_bench.precision import products_in

LOOKED_AT = 300
"""Sentences that are also decoded with the z of one of any length, and token by token: enough for
the error of a mean, and a thirtieth of the decoding of a large split."""

MOST_ON_GPU = 2**17
"""Padded places that a GPU decodes at once: 6,000 rows of 22 tokens. A state of 256 float32 numbers
at each of them takes 128 MiB, so that several cells fit; the vocabulary is done in parts anyway."""

FIRST_WORDS = 3
"""Words of a sentence that are kept, for what the first of them tell of the latent."""


class Evaluable(Protocol):
    """What is asked of a model: `SequenceVAE` and `Scored` offer it."""

    def posterior(self, batch: Any, noise: Noise) -> Distribution: ...
    @property
    def prior(self) -> Callable[[Distribution, Any], Distribution]: ...
    def log_likelihood(self, batch: Any, z: Tensor) -> Tensor: ...
    def log_likelihood_by_position(self, batch: Any, z: Tensor) -> Tensor | None: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


@contextmanager
def evaluating(model: Evaluable, gradients: bool = False) -> Iterator[None]:
    """Eval mode inside, without gradients or with; every part in the mode it was in afterwards."""
    with eval_mode(model.modules()), torch.set_grad_enabled(gradients):
        yield


def evaluate(
    model: Evaluable,
    split: Split | Rows,
    *,
    samples: int,
    batch: int,
    seed: int,
    standard_error: float = 0.0,
    precision: str = "float32",
    shuffled: bool = True,
    refinement: int = 0,
) -> dict[str, NDArray[Any]]:
    """Score every sentence of a split, in the split's order.

    The noise belongs to the sentence, not to the batch: the batch size changes nothing.

    Args:
        model: on any device; its mode and weights are as before afterwards.
        split: N sentences.
        samples: S, most draws for a sentence, from each stratum as many as `proposal_draws` tells;
            0 leaves the decoder out.
        batch: sentences decoded at once.
        seed: of the noise.
        standard_error: nats; a sentence whose NLL has a smaller Monte-Carlo error gets no further
            draws. They come in rounds, each doubling their number, the first of `FIRST_ROUND`.
            With 0 there is one round, of S. The error is itself an estimate, which cannot see a
            large weight that no draw has hit.
        precision: of the decoder's products; posteriors are in float32 whatever it is.
        shuffled: whether each sentence is also decoded with another one's z.
        refinement: steps of a descent that refines each posterior; 0 leaves the refined ones out.

    Returns:
        Nats, in the model's dtype; a latent sequence is flattened.

        - `family` of the posterior; `tokens` [N], EOS counted; `kl` [N, K], in closed form or,
          where there is none, the mean of log q - log p over the posterior's draws;
        - `posterior_sample` [N, D], a draw from each posterior, with `log_density` [N], log q(z|x),
          and `log_prior` [N], log p(z); of a normal `posterior_mean` and `posterior_scale` [N, D],
          of another family what `terms_of_aggregate` leaves, `posterior_mean` where it is known,
          and of codes those of the draw, `codes` [N, n], and K, `codebook_size`, where known;
        - of a prior that is a `MixtureOfNeighbours`, `kl_given_neighbours` [N];
        - unless `samples` is 0, `distortion` and `log_ratio` [N], means over the posterior's draws
          in the first round of -log p(x|z) and of log q(z|x) - log p(z); `log_weights` [N, S],
          stratum after stratum, those of posterior draws first, -inf where nothing was drawn;
          `draws` [N], their number, and how many `strata` there are, see `strata_of`;
        - of a refined normal `refined_distortion` [N] and `refined_kl` [N, K], see `refined_terms`;
        - if `shuffled`, log p(x|z') with z' the posterior sample of another sentence, [N]:
          `shuffled_log_likelihood` of the same length, NaN for a sentence alone in its length;
          `shuffled_any_log_likelihood` of any length, of `LOOKED_AT` sentences, NaN for the others;
          of a corpus, for these sentences, also `later_log_likelihood`, with the
          sentence's own z, and `shuffled_later_log_likelihood`, with another's of the same length,
          both of the tokens after the first `FIRST_WORDS`;
        - of a corpus of words `first_words` [N, 3], ids, -1 past the end; of any corpus
          `label_<name>` [N]; `density`, where the likelihood is that of values.
    """
    device = device_of(model)
    noise = SentenceNoise(len(split), seed)

    def log_likelihood(sentences: Sentences, z: Tensor) -> Tensor:
        with products_in(precision, device.type):
            return model.log_likelihood(sentences, z)

    def log_likelihood_by_position(sentences: Sentences, z: Tensor) -> Tensor | None:
        with products_in(precision, device.type):
            return model.log_likelihood_by_position(sentences, z)

    parts: list[dict[str, Tensor]] = []
    with evaluating(model):
        for sentences in batches_of(split, sentences_at_once(split, batch, device)):
            at_once = rows_at_once(batch, int(sentences.lengths.max()), device)
            sentences = sentences.to(device)
            q = model.posterior(sentences, noise.of_refinement(sentences))
            p: Distribution = model.prior(q, sentences)
            z = draw(q, noise.of(sentences, 0)(shape_of(q)))
            arrays = {"index": sentences.index, "tokens": sentences.lengths}
            arrays |= _of_posterior(q, p, z)
            if samples:
                strata = strata_of(q, p)
                arrays |= importance_weights(
                    log_likelihood,
                    sentences,
                    strata,
                    z,
                    noise,
                    samples=samples,
                    standard_error=standard_error,
                    at_once=at_once,
                )
                if closed_rate(q, p) is None:
                    arrays["kl"] = arrays["log_ratio"][:, None]
                if refinement:
                    drawn = first_draws(samples, standard_error, len(strata))
                    arrays |= refined_terms(
                        log_likelihood, sentences, q, p, noise, steps=refinement, draws=drawn
                    )
            parts.append({name: array.cpu() for name, array in arrays.items()})
        found = _in_order(parts) | {"family": np.asarray(family_of(q))}
        codebook = getattr(base(q), "codebook", None)
        if isinstance(codebook, Codebook):
            found["codebook_size"] = np.asarray(codebook.vectors.shape[-2])
        if samples:
            found["strata"] = np.asarray(len(strata))
        samples_of_z = found["posterior_sample"].reshape(len(split), *q.event_shape)
        known = _known_of(split)
        if family_of(q) != "normal":
            chosen = sentences_of_aggregate(family_of(q), len(split), seed)
            labels = {k.removeprefix("label_"): v for k, v in known.items() if "label_" in k}
            found |= terms_of_aggregate(
                _posteriors(model, split, chosen, batch, noise),
                samples_of_z,
                found["log_density"],
                found["tokens"],
                labels,
                device,
            )
        if samples and shuffled:
            found |= _shuffled(
                log_likelihood,
                log_likelihood_by_position,
                split,
                samples_of_z,
                found["tokens"],
                batch,
                seed,
                device,
            )
    return found | known


def _posteriors(
    model: Evaluable,
    split: Split | Rows,
    chosen: NDArray[np.int64],
    batch: int,
    noise: SentenceNoise,
) -> list[tuple[NDArray[np.int64], Distribution]]:
    """The posteriors of some sentences, batch by batch, each with their places in the split."""
    posteriors = []
    for start in range(0, len(chosen), batch):
        places = chosen[start : start + batch]
        sentences = rows_at(split, places).to(device_of(model))
        posteriors.append((places, model.posterior(sentences, noise.of_refinement(sentences))))
    return posteriors


def rows_at(split: Split | Rows, places: NDArray[np.int64]) -> Any:
    """The sentences at these places of a split, as one batch."""
    if isinstance(split, Rows):
        return split.rows(torch.from_numpy(places))
    return collate(split, places)


def _of_posterior(q: Distribution, p: Distribution, z: Tensor) -> dict[str, Tensor]:
    """What needs no decoder, of B sentences and a draw from each posterior."""
    arrays = {
        "kl": rate(q, p, z),
        "posterior_sample": z.flatten(1),
        "log_density": q.log_prob(z),
        "log_prior": p.log_prob(z),
    }
    family = family_of(q)
    if family == "normal":
        arrays |= {"posterior_mean": q.mean.flatten(1), "posterior_scale": q.stddev.flatten(1)}
    elif family in ("sphere", "codes"):
        arrays["posterior_mean"] = q.mean.flatten(1)
    if family == "codes":
        part: Any = base(q)
        # Those of the draw, where the posterior is not certain of them.
        arrays["codes"] = part.codes if hasattr(part, "codes") else part.codebook.codes_of(z)
    if isinstance(p, MixtureOfNeighbours):
        arrays["kl_given_neighbours"] = p.rate_given_neighbours(q)
    return arrays


def _shuffled(
    log_likelihood: Callable[[Any, Tensor], Tensor],
    by_position: Callable[[Any, Tensor], Tensor | None],
    split: Split | Rows,
    samples_of_z: NDArray[Any],
    tokens: NDArray[np.integer],
    batch: int,
    seed: int,
    device: torch.device,
) -> dict[str, NDArray[Any]]:
    """log p(x|z') with the z' of another sentence: see `evaluate`."""
    n = len(tokens)
    partner, anyone = partners(tokens, seed), partners(np.zeros_like(tokens), seed)
    paired = tokens[partner] == tokens
    paired |= not paired.any()  # where all lengths differ, a neighbour is the nearest there is
    some = np.random.default_rng(seed).permutation(n) < LOOKED_AT
    found = {
        name: np.full(n, np.nan, dtype=samples_of_z.dtype)
        for name in (
            "shuffled_log_likelihood",
            "shuffled_any_log_likelihood",
            "later_log_likelihood",
            "shuffled_later_log_likelihood",
        )
    }
    for sentences in batches_of(split, sentences_at_once(split, batch, device)):
        places, sentences = sentences.index.numpy(), sentences.to(device)

        def fill(
            name: str,
            of: Callable[[Any, Tensor], Tensor | None],
            whose: NDArray[np.int64],
            wanted: NDArray[np.bool_],
            places: NDArray[np.int64] = places,
            sentences: Any = sentences,
        ) -> None:
            rows = np.flatnonzero(wanted[places])
            if not len(rows):
                return
            z = torch.from_numpy(samples_of_z[whose[places[rows]]]).to(device)
            nats = of(sentences.rows(torch.from_numpy(rows).to(device)), z)
            if nats is not None:
                # NaN says that nothing was looked at: a decoder's own is told as infinite.
                found[name][places[rows]] = nats.nan_to_num(nan=math.inf).cpu().numpy()

        def later(batch: Any, z: Tensor) -> Tensor | None:
            nats = by_position(batch, z)
            return None if nats is None else nats[:, FIRST_WORDS:].sum(1)

        fill("shuffled_log_likelihood", log_likelihood, partner, paired)
        fill("shuffled_any_log_likelihood", log_likelihood, anyone, some)
        if isinstance(split, Split):
            # Of values, sequences that end before are not asked: a vector has nothing later.
            asked = some & paired & ((tokens > FIRST_WORDS) | (not split.real))
            fill("later_log_likelihood", later, np.arange(n), asked)
            fill("shuffled_later_log_likelihood", later, partner, asked)
    return found


def sentences_at_once(split: Split | Rows, batch: int, device: torch.device) -> int:
    """Sentences that are encoded at once: a batch; a GPU, which a batch leaves idle, gets as many
    of a corpus as `MOST_PADDED` allows."""
    return MOST_PADDED if device.type == "cuda" and isinstance(split, Split) else batch


def rows_at_once(batch: int, longest: int, device: torch.device) -> int:
    """Rows that are decoded at once: a batch, but no more padded places than `MOST_PADDED`.

    A GPU gets as many draws of its sentences as `MOST_ON_GPU` allows.
    """
    if device.type == "cuda":
        return max(1, MOST_ON_GPU // longest)
    return max(1, min(batch, MOST_PADDED // longest))


def device_of(model: Evaluable) -> torch.device:
    """Where the model's parameters are; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def batches_of(split: Split | Rows, size: int) -> Iterator[Any]:
    """Every sentence once, from short to long, as the model takes them."""
    return split.batches(size) if isinstance(split, Rows) else evaluation_batches(split, size)


def _in_order(parts: list[dict[str, Tensor]]) -> dict[str, NDArray[Any]]:
    """The arrays of all batches, in the split's order."""
    order = torch.cat([part["index"] for part in parts]).argsort()
    names = [name for name in parts[0] if name != "index"]
    return {name: torch.cat([part[name] for part in parts])[order].numpy() for name in names}


def _known_of(split: Split | Rows) -> dict[str, NDArray[Any]]:
    """Whether likelihoods are densities; first words and labels of a corpus's sentences."""
    known: dict[str, NDArray[Any]] = {"density": np.asarray(True)} if split.real else {}
    if isinstance(split, Rows):
        return known
    known |= {f"label_{name}": np.asarray(values) for name, values in split.labels.items()}
    if split.real:
        return known
    first = np.full((len(split), FIRST_WORDS), -1, dtype=np.int64)
    for i, row in enumerate(first):
        words = split.sentence(i)[:FIRST_WORDS]
        row[: len(words)] = words
    return {"first_words": first, **known}


def negative_elbo(arrays: dict[str, NDArray[Any]]) -> float:
    """Mean of distortion + rate, nats a sentence: what checkpoints are selected by."""
    return float(np.mean(arrays["distortion"] + arrays["kl"].sum(1), dtype=np.float64))

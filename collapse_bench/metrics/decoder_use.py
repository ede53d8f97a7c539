"""What the decoder gains from the latent, which no number of the encoder alone can tell."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def useful_rate(nll: Floats, distortion: Floats) -> Floats:
    """U = NLL - D of each sentence, in nats, [N]: how much better the decoder does with z.

    As R + D - NLL is the gap KL(q(z|x) || p(z|x)) to the true posterior, U = R - gap: of the rate,
    what the decoder pays back (D + R >= NLL as in Burda et al. 2016, D and R as in Alemi et al.
    2018). Zero for every decoder that ignores z, whatever rate, mutual information or active units
    the encoder shows: a constant posterior far from the prior, a delta-VAE at its floor, or a hash
    of the sentence. At exact inference it is R; it is never above R.

    It cannot see what z tells of, nor whether z tells anything at all: prior and posterior may be
    off by the same shift for all sentences, which the decoder needs but which is no information
    (see `useful_information`). An NLL that is too high, for want of draws, makes U too high by as
    much.

    Args:
        nll: of each sentence, [N].
        distortion: -log p(x|z) for z from the posterior, [N].
    """
    return np.asarray(nll, dtype=np.float64) - np.asarray(distortion, dtype=np.float64)


def useful_information(useful: float, information: float) -> float:
    """min(U, I), in nats: what the latent tells and the decoder uses.

    U alone is blind to a shift of z that every sentence shares, I alone to a decoder that does not
    listen; a hash of the sentence has all of I and none of U. It cannot see a model that has both,
    but of different things: a decoder that needs such a shift, with an encoder that adds a hash.
    Nor can it see that z tells the length and nothing else (see `useful_beyond`).

    Args:
        useful: mean useful rate U over sentences.
        information: mutual information I of sentence and latent.
    """
    return min(useful, information)


def useful_beyond(*parts: float) -> float:
    """min(U, shuffle gaps, information beyond), in nats: what z tells beyond length and first words
    and the decoder uses.

    A decoder that reads only the length from z loses nothing with the z of another sentence of the
    same length. By Jensen's inequality log p(x|length), the mean of p(x|z') over all such z', is at
    least the mean of log p(x|z'): the gap bounds from above what the decoder gains from z beyond
    the length. One that reads only the first words from z loses nothing on the tokens after them.
    U bounds its gain from z in all, and what z does not tell it cannot gain. As with
    `useful_information`, the parts may be of different things.

    Args:
        parts: useful rate U, the shuffle gap among sentences of the same length, that of the tokens
            after the first words where it is known, and the information beyond both.
    """
    return min(parts)


def shuffle_gap(distortion: Floats, shuffled_log_likelihood: Floats) -> Floats:
    """What log p(x|z) loses with the z of another sentence, in nats, [N].

    E log p(x|z) - E log p(x|z'): a detector of use, not an estimate of information. Zero where the
    decoder ignores z. At exact inference and with z' of any sentence it is
    I + KL(p(x)p(z) || p(x, z)), so not below I and often far above. It cannot see how much: one
    confident mistake may cost more than all there is to know. With z' of a sentence of the same
    length it cannot see what z tells of the length.

    Args:
        distortion: -log p(x|z) for z from the sentence's own posterior, [N].
        shuffled_log_likelihood: log p(x|z') with z' from the posterior of another sentence, [N].
    """
    shuffled = np.asarray(shuffled_log_likelihood, dtype=np.float64)
    return -np.asarray(distortion, dtype=np.float64) - shuffled

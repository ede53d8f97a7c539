"""Strings of an informative length: their closed forms against enumeration, and their scores."""

import math
from dataclasses import replace

import pytest
import torch
from torch.special import ndtr

from collapse_bench.latent_model import Rows, Scored
from collapse_bench.truth.controls import controls
from collapse_bench.truth.length_strings import PADDING, BitChannel, LengthStrings

LENGTH, KIND = BitChannel(0.8, 0.6, 0.15), BitChannel(0.9, 0.4, 0.3)
MODEL = LengthStrings(short=1, long=3, noise=2, length=LENGTH, kind=KIND)


def every_string():
    """All strings of both lengths, of kinds that agree or not."""
    short = torch.tensor([[w, PADDING, PADDING] for w in range(4)])
    return torch.cat([short, torch.cartesian_prod(*[torch.arange(4)] * 3)])


def quadrants():
    """A z for each pair of signs: all that the decoder looks at."""
    return torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)], dtype=torch.float64)


def test_it_is_a_distribution_over_strings_of_one_kind_and_of_any():
    class Mixed(LengthStrings):
        """The same decoder, asked word by word, so that kinds may differ."""

        def log_likelihood(self, sentences, z):
            nats = super().log_likelihood(sentences, z)
            of_first = self.kind.log_likelihood(sentences[:, 0] // self.noise, z[:, 1])
            kinds = torch.where(sentences == PADDING, 0, sentences // self.noise)
            for t in range(sentences.shape[1]):
                here = sentences[:, t] != PADDING
                own = self.kind.log_likelihood(kinds[:, t], z[:, 1])
                nats[:, t] += torch.where(here, own - of_first, 0.0)
            return nats

    x = every_string()
    for z in quadrants():
        model = Mixed(**MODEL.__dict__)
        nats = model.log_likelihood(x, z.expand(len(x), 2)).sum(1)
        assert nats.exp().sum() == pytest.approx(1, abs=1e-12)


def test_nll_and_distortion_are_sums_over_signs():
    x = MODEL.draw(200, torch.Generator().manual_seed(1))
    q = MODEL.posterior(x)
    nats = torch.stack([MODEL.log_likelihood(x, z.expand(len(x), 2)).sum(1) for z in quadrants()])
    torch.testing.assert_close(MODEL.exact_nll(x), -(nats.logsumexp(0) - math.log(4)))
    above = ndtr(q.mean / q.stddev)
    signs = torch.stack(
        [(above if a > 0 else 1 - above)[:, 0] * (above if b > 0 else 1 - above)[:, 1]
         for a, b in quadrants().tolist()]
    )  # fmt: skip
    torch.testing.assert_close(MODEL.exact_distortion(x), -(signs * nats).sum(0))


def test_population_values_are_means_over_strings():
    x = MODEL.draw(40_000, torch.Generator().manual_seed(2))
    assert set(MODEL.lengths(x).tolist()) == {1, 3}
    exact = MODEL.exact()
    for name, terms in (("nll", MODEL.exact_nll(x)), ("distortion", MODEL.exact_distortion(x))):
        assert float(terms.mean()) == pytest.approx(
            exact[name], abs=4 * float(terms.std()) / math.sqrt(len(x))
        )
    assert 0 < exact["useful_rate"] < exact["kl"]
    assert exact["negative_elbo"] > exact["nll"]
    assert exact["mutual_information"] < exact["kl"]


def test_what_is_in_z_alone_is_all_there_is_of_it():
    none = BitChannel(0.0, 1.0, 0.5)
    of_length, of_kind = replace(MODEL, kind=none).exact(), replace(MODEL, length=none).exact()
    both = MODEL.exact()
    assert of_length["information_beyond"] == pytest.approx(0, abs=1e-9)
    assert of_length["useful_beyond"] == pytest.approx(0, abs=1e-9)
    assert of_length["useful_rate"] > 0.1
    assert of_length["shuffle_gap"] == pytest.approx(0, abs=1e-12)
    assert of_length["shuffle_gap_any"] > 0.1
    assert of_kind["trivial_information"] == pytest.approx(0, abs=1e-9)
    assert of_kind["shuffle_gap_any"] == pytest.approx(of_kind["shuffle_gap"])
    for name in ("mutual_information", "kl", "useful_rate"):
        assert both[name] == pytest.approx(of_length[name] + of_kind[name])


def test_padding_is_nothing_to_it():
    x = MODEL.draw(50, torch.Generator().manual_seed(3))
    rows, z = Rows.of(x, MODEL.lengths(x)), torch.zeros(50, 2, dtype=torch.float64)
    assert Scored(MODEL).log_likelihood(rows, z).shape == (50,)


@pytest.mark.parametrize("changes", [{"short": 0}, {"long": 1}, {"noise": 0}])
def test_impossible_strings_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        replace(MODEL, **changes)
    with pytest.raises(ValueError, match="error: must be"):
        replace(LENGTH, error=1.0)


def test_the_control_whose_z_is_the_length_is_a_distribution_over_lengths():
    control = next(each for each in controls(50) if each.name == "z is the length")
    decoder = control.model.decoder
    assert torch.equal(control.lengths, (control.sentences >= 0).sum(1))
    z = torch.tensor([[0.3]], dtype=torch.float64)
    longest = decoder.chain.draw(1, torch.Generator().manual_seed(1), 24)
    total = 0.0
    for length in range(1, 25):
        cut = torch.where(torch.arange(24) < length, longest, -1)
        words = decoder.chain(longest[:, :length], z).sum()
        total += float((decoder(cut, z).sum() - words).exp())
    assert total == pytest.approx(1)

"""A model of one's own: what it may be, what is refused and how, and what is left behind."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, LogNormal, MultivariateNormal, Normal

from collapse_bench.diagnosis import diagnose
from collapse_bench.errors import UserError
from collapse_bench.metrics import VERDICTS
from collapse_bench.metrics.identities import SHAPES


def told(model, sentences, lengths=None, **changes):
    settings = {"samples": 32, "batch": 400, "refined": 16}
    return diagnose(model, sentences, lengths, **settings | changes)


X = torch.randn(60, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@dataclass(frozen=True)
class Toy:
    """x = z + noise of variance 1/4 in up to three dimensions; every method may be another."""

    latent: int = 3
    posterior_is: object = None
    log_likelihood_is: object = None
    prior_is: object = None

    def posterior(self, x):
        mean = 0.8 * x[:, : self.latent]
        q = Normal(mean, torch.full_like(mean, math.sqrt(0.2)))
        return q if self.posterior_is is None else self.posterior_is(q)

    def prior(self, x):
        zero = torch.zeros_like(x[:, : self.latent])
        p = Normal(zero, zero + 1)
        return p if self.prior_is is None else self.prior_is(p)

    def log_likelihood(self, x, z):
        if self.log_likelihood_is is not None:
            return self.log_likelihood_is(x, z)
        return Normal(z, 0.5).log_prob(x[:, : self.latent]).sum(1)


DATA = math.sqrt(1.25) * X


def test_a_model_of_ones_own_is_diagnosed():
    found = told(Toy(), DATA)
    assert found.verdict == "healthy"
    information = 0.5 * 3 * math.log(5)
    assert found.scores.metrics["useful_rate"] == pytest.approx(information, abs=0.6)
    assert found.position_use is None, "the model gives sums only"


def through_numpy(x, z):
    nats = -2 * ((x.numpy() - z.detach().numpy()) ** 2).sum(1)
    return torch.from_numpy(nats)


def strictly_numpy(x, z):
    return torch.from_numpy(-2 * ((x.numpy() - z.numpy()) ** 2).sum(1))


@pytest.mark.parametrize(
    "log_likelihood", [through_numpy, strictly_numpy, torch.no_grad()(Toy().log_likelihood)]
)
def test_without_a_gradient_all_but_the_refinement_is_told(log_likelihood, tmp_path):
    found = told(Toy(log_likelihood_is=log_likelihood), DATA)
    assert found.verdict == "healthy"
    assert "inference collapse was not looked for" in str(found)
    assert "gradient" in str(found)
    assert "amortisation gap" not in str(found)
    found.draw(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("said", "posterior"),
    [
        ("MultivariateNormal", lambda q: MultivariateNormal(q.mean, torch.eye(3).double())),
        ("LogNormal", lambda q: Independent(LogNormal(q.mean, q.stddev), 1)),
        # It has no density of z at all, and no z of that shape.
        ("Categorical|event shape", lambda q: Categorical(logits=q.mean)),
    ],
)
def test_a_posterior_that_is_no_diagonal_normal_is_refused(said, posterior):
    with pytest.raises(UserError, match=rf"^(the )?posterior\b.*({said})"):
        told(Toy(posterior_is=posterior), DATA)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("posterior", {"posterior_is": lambda q: (q.mean, q.stddev)}),
        ("posterior", {"posterior_is": lambda q: None}),
        ("posterior", {"posterior_is": lambda q: Normal(q.mean[:-1], q.stddev[:-1])}),
        ("posterior", {"posterior_is": lambda q: Normal(q.mean[:, 0], q.stddev[:, 0])}),
        ("prior", {"prior_is": lambda p: (p.mean, p.stddev)}),
        ("prior", {"prior_is": lambda p: Normal(p.mean[:, :2], p.stddev[:, :2])}),
        ("log_likelihood", {"log_likelihood_is": lambda x, z: z.sum()}),
        ("log_likelihood", {"log_likelihood_is": lambda x, z: z[1:].sum(1)}),
        ("log_likelihood", {"log_likelihood_is": lambda x, z: z.sum(1).tolist()}),
    ],
)
def test_what_breaks_the_protocol_is_told_with_the_method(method, wrong):
    with pytest.raises(UserError, match=rf"^{method}: must"):
        told(Toy(**wrong), DATA)


def unchecked(q):
    return Normal(q.mean, q.stddev, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"posterior_is": lambda q: Normal(q.mean / 0, q.stddev, False)},
        {"posterior_is": lambda q: Normal(q.mean * math.nan, q.stddev, False)},
        {"posterior_is": lambda q: Normal(q.mean, q.stddev * math.nan, False)},
        {"posterior_is": lambda q: Normal(q.mean, 0 * q.stddev, False)},
        {"posterior_is": lambda q: Normal(q.mean, -q.stddev, False)},
        {"log_likelihood_is": lambda x, z: z.sum(1) * math.nan},
        {"log_likelihood_is": lambda x, z: z.sum(1) * 0 - math.inf},
        {
            "posterior_is": unchecked,
            "prior_is": lambda p: Normal(p.mean, p.stddev * math.nan, False),
        },
    ],
    ids=[
        "infinite mean", "mean", "scale", "zero scale", "negative scale", "log-likelihood",
        "impossible sentences", "prior",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_model_that_gives_no_numbers_is_told_so(wrong):
    if "log_likelihood_is" not in wrong:
        wrong = wrong | {"log_likelihood_is": lambda x, z: -((x - z) ** 2).sum(1)}
    with pytest.raises(UserError, match=rf"\b({'|'.join(SHAPES)}): \S+ in sentence \d"):
        told(Toy(**wrong), DATA)


class Unnormalised(Normal):
    """A density that integrates to less than one."""

    def log_prob(self, value):
        return super().log_prob(value) - 2


def test_a_density_that_is_none_is_told_as_a_contradiction():
    told(Toy(prior_is=lambda p: Normal(p.mean, p.stddev)), DATA)
    with pytest.raises(UserError, match=r"contradicts itself: D \+ R >= NLL"):
        told(Toy(prior_is=lambda p: Unnormalised(p.mean, p.stddev)), DATA)


def test_a_model_that_is_never_twice_the_same_is_refused():
    def dropout(q):
        return Normal(nn.functional.dropout(q.mean, 0.5, training=True), q.stddev)

    def noise(x, z):
        return Toy().log_likelihood(x, z) + torch.randn(len(z))

    for wrong in ({"posterior_is": dropout}, {"log_likelihood_is": noise}):
        with pytest.raises(UserError, match="dropout"):
            told(Toy(**wrong), DATA)


def test_one_sentence_is_refused_with_the_way_out():
    with pytest.raises(UserError, match="at least two"):
        told(Toy(), DATA[:1])


@pytest.mark.parametrize("sentences", [2, 3])
def test_few_sentences_are_diagnosed(sentences, tmp_path):
    found = told(Toy(), DATA[:sentences])
    assert found.verdict in VERDICTS
    assert "nan" not in str(found)
    found.draw(tmp_path / "a.png")


def test_sentences_that_are_all_equal_have_nothing_to_tell(tmp_path):
    found = told(Toy(), DATA[:1].repeat(50, 1))
    assert found.scores.metrics["mutual_information"] == pytest.approx(0, abs=1e-9)
    # What is there to use, the encoder provides: it is the best there is.
    assert abs(found.evidence.gaps.amortisation) < 0.05
    assert found.verdict == "rate without use"
    found.draw(tmp_path / "a.png")


@pytest.mark.parametrize("latent", [1, 2])
def test_a_small_latent_is_diagnosed(latent, tmp_path):
    found = told(Toy(latent), DATA)
    assert found.verdict in ("healthy", "partly collapsed")
    assert f"of {latent}, effective" in str(found)
    found.draw(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_latent_of_no_dimension_is_refused():
    with pytest.raises(UserError, match="no latent"):
        told(Toy(0), DATA)


@pytest.mark.parametrize(
    ("name", "value"), [("samples", 0), ("batch", 0), ("refined", 1), ("seed", -1)]
)
def test_settings_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=name):
        told(Toy(), DATA, **{name: value})


def test_lengths_are_held_against_the_sentences():
    with pytest.raises(UserError, match=r"^lengths: "):
        told(Toy(), DATA, [1] * 59)
    with pytest.raises(UserError, match=r"^sentences: "):
        told(Toy(), DATA[:0])


class Parametrised(nn.Module):
    """A model with parameters, dropout and buffers that a careless pass would change."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 2), nn.Linear(2, 3)
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(3)

    def posterior(self, x):
        mean = self.encoder(self.dropout(self.norm(x.float())))
        return Normal(mean, torch.full_like(mean, 0.5))

    def prior(self, x):
        zero = torch.zeros(len(x), 2)
        return Normal(zero, zero + 1)

    def log_likelihood(self, x, z):
        return -((x.float() - self.dropout(self.decoder(z))) ** 2)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    torch.manual_seed(0)
    model = Parametrised().train(training)
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    model.decoder.weight.grad = torch.ones_like(model.decoder.weight)
    state = torch.random.get_rng_state()
    found = told(model, DATA)
    assert found.verdict in VERDICTS
    assert model.training == model.dropout.training == training
    assert not model.norm.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.encoder.weight.grad is None
    assert (model.decoder.weight.grad == 1).all()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's noise is the caller's"


# Models of words, with the mistakes that people make


WORDS, PAD, LATENT = 12, 0, 2
TABLES = [torch.randn(WORDS, LATENT, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
TEXT = torch.randint(1, WORDS, (60, 8), generator=torch.Generator().manual_seed(3))
LENGTHS = torch.arange(60) % 5 + 2
PADDED = TEXT.where(torch.arange(8) < LENGTHS[:, None], PAD)
RAGGED = [row[:n].tolist() for row, n in zip(TEXT, LENGTHS, strict=True)]


class Words:
    """A bag of words: q from the mean word vector, p(word) from z. A batch is padded with 0."""

    def padded(self, x):
        if isinstance(x, list):
            return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in x], batch_first=True)
        return x

    def posterior(self, x):
        x = self.padded(x)
        seen = (x != PAD)[:, :, None]
        return self.posterior_of((TABLES[0][x] * seen).sum(1) / seen.sum(1))

    def posterior_of(self, mean):
        return Normal(mean, torch.full_like(mean, 0.7))

    def prior(self, x):
        return Normal(torch.zeros(len(x), LATENT), torch.ones(len(x), LATENT))

    def words(self, x, z):
        """log p of each word, padding among them, [B, T]."""
        x = self.padded(x)
        return (z @ TABLES[1].T).log_softmax(1).gather(1, x)

    def log_likelihood(self, x, z):
        return (self.words(x, z) * (self.padded(x) != PAD)).sum(1)


class ByPosition(Words):
    def log_likelihood(self, x, z):
        return self.words(x, z) * (self.padded(x) != PAD)


class Loss(Words):
    def log_likelihood(self, x, z):
        return -super().log_likelihood(x, z)


class Logits(Words):
    def words(self, x, z):
        return (z @ TABLES[1].T).gather(1, self.padded(x))


class BatchNormed(Words):
    def posterior_of(self, mean):
        return super().posterior_of((mean - mean.mean(0)) / (mean.std(0) + 1e-3))


class SeesOthers(Words):
    def words(self, x, z):
        return super().words(x, z - z.mean(0))


class SeesTheFirst(Words):
    def words(self, x, z):
        return super().words(x, z + 0.2 * z[:1])


class PriorOfTheBatch(Words):
    def prior(self, x):
        mean = self.posterior(x).mean.mean(0).expand(len(x), LATENT)
        return Normal(mean, torch.ones_like(mean))


class Dropped(Words):
    def posterior_of(self, mean):
        return super().posterior_of(nn.functional.dropout(mean, 0.5))


class CountsPadding(Words):
    def log_likelihood(self, x, z):
        return self.words(x, z).sum(1)


class ReadsPadding(Words):
    def posterior(self, x):
        return self.posterior_of(TABLES[0][self.padded(x)].mean(1))


KINDS = {"padded": PADDED, "array": PADDED.numpy(), "ragged": RAGGED}
"""What an honest wrapper may be given; the array is turned into a tensor by the model."""


class OfArrays:
    """A model of tensors that is given arrays."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return lambda x, *z: getattr(self.model, name)(torch.as_tensor(x), *z)


@pytest.mark.parametrize("batch", [1, 2, 7, 60])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [Words, ByPosition])
def test_an_honest_model_of_words_is_accused_of_nothing(model, kind, batch):
    honest = OfArrays(model()) if kind == "array" else model()
    found = told(honest, KINDS[kind], LENGTHS, batch=batch, samples=4)
    assert found.verdict in VERDICTS
    assert not found.evidence.bound.reasons


@pytest.mark.parametrize("batch", [2, 7, 60])
@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (Loss, "padded", r"log_likelihood: gave \d.* never above 0.* opposite sign"),
        (Loss, "ragged", r"log_likelihood: gave \d.* never above 0"),
        (Logits, "padded", r"log_likelihood: gave \d.* log_softmax"),
        (BatchNormed, "padded", r"posterior: .*(batch|others).*batch normalisation"),
        (SeesOthers, "padded", r"log_likelihood: .*others of the batch"),
        (SeesTheFirst, "padded", r"log_likelihood: .*others of the batch"),
        (PriorOfTheBatch, "padded", r"prior: .*others of the batch"),
        (Dropped, "padded", r"posterior: .*each time.*dropout.*nn\.Module"),
        (CountsPadding, "padded", r"log_likelihood: .*padding"),
        (CountsPadding, "ragged", r"log_likelihood: .*padding"),
        (ReadsPadding, "ragged", r"posterior: .*padding"),
    ],
)
def test_a_mistake_is_an_error_before_any_verdict(wrong, kind, said, batch):
    with pytest.raises(UserError, match=said):
        told(wrong(), KINDS[kind], LENGTHS, batch=batch)


def test_a_density_of_real_values_may_be_above_one():
    def sharp(x, z):
        return Normal(z, 0.05).log_prob(x).sum(1)

    found = told(Toy(log_likelihood_is=sharp), DATA)
    assert found.verdict in VERDICTS
    assert sharp(DATA, DATA).min() > 0


def test_a_start_and_an_end_that_lengths_do_not_count_are_no_padding():
    start, end = WORDS - 2, WORDS - 1
    framed = torch.full((60, 10), PAD)
    for row, words in zip(framed, RAGGED, strict=True):
        row[: len(words) + 2] = torch.tensor([start, *words, end])
    assert told(Words(), framed, LENGTHS).verdict in VERDICTS
    # An end of sentence may be the sign for padding, too: the first of them counts.
    same = framed.where(framed != PAD, end)

    class FirstEnd(Words):
        def log_likelihood(self, x, z):
            counted = torch.arange(x.shape[1]) < (x != end).sum(1, keepdim=True) + 1
            return (self.words(x, z) * counted).sum(1)

    assert told(FirstEnd(), same, LENGTHS).verdict in VERDICTS

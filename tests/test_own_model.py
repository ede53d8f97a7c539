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
    arrays = "|".join(SHAPES["normal"])
    with pytest.raises(UserError, match=rf"\b({arrays}): \S+ in sentence \d"):
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


def test_a_density_of_real_values_may_be_above_one():
    def sharp(x, z):
        return Normal(z, 0.05).log_prob(x).sum(1)

    found = told(Toy(log_likelihood_is=sharp), DATA)
    assert found.verdict in VERDICTS
    assert sharp(DATA, DATA).min() > 0

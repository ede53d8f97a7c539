"""One question of any model: models whose answer is known, models that are wrong, what is said."""

import copy
import math
from dataclasses import dataclass

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import make
from torch import nn
from torch.distributions import Categorical, Independent, LogNormal, MultivariateNormal, Normal

import collapse_bench
from collapse_bench.diagnosis import diagnose, examine
from collapse_bench.diagnosis.report import ADVICE
from collapse_bench.errors import UserError
from collapse_bench.metrics import VERDICTS, fooled
from collapse_bench.metrics.identities import SHAPES
from collapse_bench.truth.controls import controls

N = 400


def told(model, sentences, lengths=None, **changes):
    settings = {"samples": 32, "batch": 400, "refined": 16}
    return diagnose(model, sentences, lengths, **settings | changes)


# Models whose answer is known


CONTROLS = {control.name: control for control in controls(N)}


@pytest.fixture(scope="module")
def diagnoses():
    """The diagnosis of every control, each made once."""
    made = {}

    def of(name):
        if name not in made:
            control = CONTROLS[name]
            made[name] = told(control.model, control.sentences, control.lengths)
        return made[name]

    return of


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_has_its_verdict_and_fools_what_it_should(name, diagnoses):
    control, found = CONTROLS[name], diagnoses(name)
    assert found.verdict == control.verdict
    assert fooled(found.scores.metrics) == list(control.fooled)


@pytest.mark.parametrize("name", CONTROLS)
def test_what_is_said_holds_verdict_numbers_and_advice(name, diagnoses):
    control, found = CONTROLS[name], diagnoses(name)
    text = str(found)
    metrics, errors = found.scores
    assert text.startswith(f"verdict: {control.verdict.upper()}\n  {VERDICTS[control.verdict]}\n")
    assert text.endswith(f"try next: {ADVICE[control.verdict]}")
    for number in ("useful_information", "useful_rate", "mutual_information", "kl", "nll",
                   "negative_elbo", "marginal_kl", "shuffle_gap"):  # fmt: skip
        assert f"{metrics[number]:8.2f} ± {errors[number]:.2f}" in text
    assert f"evidence ({N} sentences" in text
    assert f"ln N = {math.log(N):.2f}" in text
    assert f"{found.evidence.gaps.refined_use:.2f}" in text
    assert "(16 sentences)" in text
    alone = f"read alone, {', '.join(control.fooled)} would call this model alive"
    assert (alone in text) == bool(control.fooled)
    assert ("would call this model alive" in text) == bool(control.fooled)
    assert "nan" not in text


def test_where_z_helps_is_told_by_position(diagnoses):
    for name, control in CONTROLS.items():
        positions, saved, error = diagnoses(name).position_use
        count = control.model.log_likelihood(
            control.sentences[:1], control.model.posterior(control.sentences[:1]).mean
        ).shape[1]
        assert positions.tolist() == list(range(count))
        assert saved.shape == error.shape == (count,)
        if control.verdict in ("collapsed", "rate without use"):
            # The decoder never looks: nothing is saved anywhere.
            assert (saved == 0).all()
    _, saved, error = diagnoses("linear VAE at its optimum").position_use
    assert (saved > 4 * error).all()


def test_refined_posteriors_tell_inference_collapse_from_a_blind_decoder(diagnoses):
    lost = diagnoses("encoder at the prior, decoder uses z").evidence.gaps
    assert lost.refined_use > 0.5
    assert lost.amortisation > 0.5
    blind = diagnoses("collapsed VAE").evidence.gaps
    assert abs(blind.refined_use) < 0.1
    assert abs(blind.amortisation) < 0.1
    best = diagnoses("linear VAE at its optimum").evidence.gaps
    assert abs(best.amortisation) < 0.05


def test_neither_the_batch_nor_the_kind_of_the_sentences_changes_the_answer(diagnoses):
    control = CONTROLS["linear VAE at its optimum"]

    class Listed:
        def posterior(self, sentences):
            return control.model.posterior(torch.stack(sentences))

        def prior(self, sentences):
            return control.model.prior(torch.stack(sentences))

        def log_likelihood(self, sentences, z):
            return control.model.log_likelihood(torch.stack(sentences), z)

    whole = diagnoses(control.name)
    found = told(Listed(), list(control.sentences), control.lengths.tolist(), batch=37)
    assert found.verdict == whole.verdict
    assert found.scores.metrics == pytest.approx(whole.scores.metrics, rel=1e-9, abs=1e-9)
    assert found.evidence.gaps.refined_use == pytest.approx(whole.evidence.gaps.refined_use)


def test_the_same_seed_gives_the_same_answer_and_another_one_hardly_another(diagnoses):
    control = CONTROLS["linear VAE at its optimum"]
    whole = diagnoses(control.name)
    same = told(control.model, control.sentences, control.lengths)
    assert str(same) == str(whole)
    other = told(control.model, control.sentences, control.lengths, seed=1)
    assert other.verdict == whole.verdict
    assert other.scores.metrics["kl"] == pytest.approx(whole.scores.metrics["kl"])
    assert other.scores.metrics["nll"] != whole.scores.metrics["nll"]


def test_the_package_offers_it_by_name():
    assert collapse_bench.diagnose is diagnose
    with pytest.raises(AttributeError, match="nothing"):
        _ = collapse_bench.nothing


# Models of one's own, and wrong ones


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


# The picture, and what is left behind


def test_the_picture_is_a_png_and_the_same_every_time(diagnoses, tmp_path):
    for number, name in enumerate(("collapsed VAE", "linear VAE at its optimum")):
        path = tmp_path / f"{number}.png"
        diagnoses(name).draw(str(path) if number else path, title="$ _ mine")
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[0] > 300
        assert pixels.std() > 0.05
    diagnoses("collapsed VAE").draw(tmp_path / "again.png", title="$ _ mine")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "0.png").read_bytes()


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


# Models of the bench


@pytest.mark.parametrize("remedies", [(), ("delta_vae",), ("limited_receptive_field",)])
def test_a_model_of_the_bench_is_examined_with_its_arrays(architecture, remedies, corpus, tmp_path):
    built = make(architecture, remedies)
    arrays = built.evaluate(corpus.test, samples=8)
    found = examine(built.model, corpus.test, arrays, refined=4)
    assert found.verdict in VERDICTS
    assert f"evidence ({len(corpus.test)} sentences" in str(found)
    assert "length and first words tell z" in str(found)
    assert "share of the known attributes" in str(found)
    positions, saved, error = found.position_use
    assert len(positions) == len(saved) == len(error) > 0
    assert np.isfinite(saved).all()
    found.draw(tmp_path / "a.png")
    if "delta_vae" in remedies:
        assert found.evidence.gaps.refined_rate >= 1.5 - 1e-3, "a floor holds for any posterior"


def test_arrays_of_another_model_are_not_examined_silently(corpus):
    built = make("lstm")
    arrays = built.evaluate(corpus.test, samples=8)
    with pytest.raises(UserError, match="distortion"):
        examine(built.model, corpus.test, arrays | {"distortion": arrays["distortion"] * np.nan})

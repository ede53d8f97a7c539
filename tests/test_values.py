"""Corpora of values and what models make of them, against closed forms."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from collapse_bench.corpus import Split, linear_gaussian, load_corpus, sine_maps
from collapse_bench.corpus.batches import collate
from collapse_bench.errors import CorpusMissing, UserError
from collapse_bench.evaluation.honesty import findings, unseen, wider
from collapse_bench.laws.bench import make as bench_make
from collapse_bench.laws.bench import noise_of, tiny_batch, tiny_values
from collapse_bench.metrics import score
from collapse_bench.model.gaussian_readout import GaussianReadout
from collapse_bench.plugins import built_in
from collapse_bench.remedy import find_class
from collapse_bench.suite import CorpusSettings, cells_of, load_suite
from collapse_bench.trial import about_reference
from collapse_bench.truth.linear import fitted_linear_vae
from collapse_bench.truth.sequence import linear_sequence

VARIANCES = ("decoder_variance", "learned_decoder_variance", "optimal_decoder_variance")


def corpus_of(name, **settings):
    return load_corpus(CorpusSettings(name=name, **settings), None, say=lambda text: None)


def vectors():
    return corpus_of("linear_gaussian", sentences=200)


# The corpora.


@pytest.mark.parametrize("name", ["linear_gaussian", "sine_maps"])
def test_a_built_in_corpus_is_the_known_one(name):
    assert corpus_of(name).standard
    assert not corpus_of(name, sentences=100).standard


@pytest.mark.parametrize("steps", [1, 5])
def test_the_likelihood_of_linear_gaussian_is_that_of_the_exact_model(steps):
    x = linear_gaussian.draw(50, steps, np.random.default_rng(1))
    identity = torch.eye(linear_gaussian.CHANNELS, dtype=torch.float64)
    model = linear_sequence(
        linear_gaussian.MEMORY * identity[None],
        torch.from_numpy(linear_gaussian.loading()),
        linear_gaussian.NOISE * steps * identity,
        steps,
    )
    flat = torch.from_numpy(x.reshape(50, -1)).double()
    exact = -model.exact_nll(flat).numpy()
    np.testing.assert_allclose(linear_gaussian.log_marginal(x), exact, rtol=1e-9)
    told = model.exact()["mutual_information_model"]
    assert math.isclose(linear_gaussian.global_information(), told, rel_tol=1e-9)


def test_the_density_of_sine_maps_integrates_to_one():
    def density(value):
        return math.exp(sine_maps.log_marginal(np.array([[[0.3], [value]]]))[0])

    first = math.exp(sine_maps.log_marginal(np.array([[[0.3]]]))[0])
    assert math.isclose(quad(density, -6, 6)[0], first, rel_tol=1e-6)


def test_a_batch_of_values_is_shifted_by_one_step_and_zero_at_padding():
    corpus, batch = tiny_values(), tiny_batch(True)
    assert batch.targets.shape == batch.inputs.shape == (*batch.mask.shape, 2)
    for row in range(len(batch.index)):
        n, own = int(batch.lengths[row]), corpus.train.sentence(int(batch.index[row]))
        assert np.array_equal(batch.targets[row, :n], own)
        assert not batch.inputs[row, 0].any()
        assert np.array_equal(batch.inputs[row, 1:n], own[:-1])
        assert not batch.targets[row, n:].any()
        assert not batch.inputs[row, n:].any()


# Remedies on values.


@pytest.mark.parametrize("name", sorted(built_in()))
def test_a_remedy_trains_and_is_scored_on_values(name):
    architectures = find_class(name, built_in()[name]).architectures
    for architecture in architectures:
        corpus = vectors() if architecture == "linear" else tiny_values()
        built = bench_make(architecture, [name], corpus=corpus)
        built.steps(corpus, 2)
        metrics = score(built.evaluate(corpus.test)).metrics
        assert "perplexity" not in metrics
        assert "first_words_information" not in metrics


@pytest.mark.parametrize("other", ["skip_vae", "inverse_lipschitz", "limited_receptive_field"])
@pytest.mark.parametrize("name", VARIANCES)
def test_a_variance_stands_after_what_changes_the_decoder(name, other):
    built = bench_make("lstm", [other, name], corpus=tiny_values())
    built.steps(tiny_values(), 2)
    assert np.isfinite(score(built.evaluate(tiny_values().test)).metrics["nll"])


def test_of_two_variances_the_second_is_refused():
    with pytest.raises(UserError, match="decoder_variance has changed the readout"):
        bench_make("lstm", ["decoder_variance", "learned_decoder_variance"], corpus=tiny_values())


@pytest.mark.parametrize("name", ["", *VARIANCES])
@pytest.mark.parametrize("architecture", ["lstm", "transformer", "linear"])
def test_an_honest_model_of_values_is_not_accused(name, architecture):
    corpus = vectors() if architecture == "linear" else tiny_values()
    built = bench_make(architecture, [name] if name else [], corpus=corpus)
    built.steps(corpus, 3)
    assert findings(wider(built.model), corpus.train, batch=16, seed=1) == ()


class OfTheTarget(GaussianReadout):
    """A variance computed from what it is the variance of."""

    def by_position(self, states, batch):
        squares = (batch.targets - self.mean(states)) ** 2
        counted = (squares.sum(-1) * batch.mask).sum(1) / (squares.shape[2] * batch.mask.sum(1))
        log_variance = counted.log()[:, None, None]
        nats = squares * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi)
        return (-0.5 * nats.sum(-1)).masked_fill(~batch.mask, 0)


class Generous(GaussianReadout):
    """A density of a mass of more than one."""

    def by_position(self, states, batch):
        return super().by_position(states, batch) + 0.2 * batch.mask


@pytest.mark.parametrize(
    ("readout", "architecture", "law"),
    [
        (OfTheTarget, "lstm", "causal"),
        (OfTheTarget, "linear", "normalised"),
        (Generous, "transformer", "normalised"),
        (Generous, "linear", "normalised"),
    ],
)
def test_a_readout_that_is_no_likelihood_is_caught(readout, architecture, law):
    corpus = vectors() if architecture == "linear" else tiny_values()
    built = bench_make(architecture, corpus=corpus)
    built.model.readout = readout(15, corpus.channels)
    found = findings(built.model, corpus.train, batch=16, seed=1)
    assert [each.law for each in found][:1] == [law]


class Peeking(nn.Module):
    """Reads the values that it predicts in place of those before them."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, batch, z):
        return self.decoder(replace(batch, inputs=batch.targets), z)


def test_a_decoder_of_values_that_peeks_is_caught():
    built = bench_make("lstm", corpus=tiny_values())
    built.model.decoder = Peeking(built.model.decoder)
    found = findings(wider(built.model), tiny_values().train, batch=16, seed=1)
    assert [each.law for each in found][:1] == ["causal"]


# The variance.


@pytest.mark.parametrize("name", VARIANCES)
def test_a_variance_does_not_know_its_targets_in_evaluation(name):
    built = bench_make("lstm", {name: {"of": "sequence"} if "learned" in name else {}})
    built.steps(tiny_values(), 2)
    model, batch = built.model.eval(), tiny_batch(True)
    states = torch.randn(*batch.mask.shape, 15, generator=torch.Generator().manual_seed(1))
    one, other = (
        model.readout.variance(states, squares, batch.mask)
        for squares in (torch.ones_like(batch.targets), torch.full_like(batch.targets, 7.0))
    )
    assert torch.equal(one, other)


def test_the_density_of_one_step_integrates_to_one():
    corpus = corpus_of("sine_maps", sentences=20, steps=1)
    built = bench_make("lstm", {"decoder_variance": {"variance": 0.3}}, corpus=corpus)
    model = built.model.eval()
    batch = collate(corpus.train, np.arange(1))
    z = torch.ones(1, 8)

    def density(value):
        told = model.log_likelihood(replace(batch, targets=torch.full((1, 1, 1), value)), z)
        return float(told.exp().detach())

    assert math.isclose(quad(density, -6, 6)[0], 1.0, abs_tol=1e-4)


def gradient(settings, beta):
    """Of the loss by every weight of the model, of a linear VAE of values."""
    corpus = vectors()
    chosen = {"decoder_variance": settings} | ({"beta_vae": {"beta": beta}} if beta != 1 else {})
    built = bench_make("linear", chosen, corpus=corpus, dropout=0.0)
    batch = collate(corpus.train, np.arange(32))
    model = built.model.double()
    batch = model_batch(batch)
    forward = built.remedy.objective(model(batch, noise_of(1)))
    forward.loss().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def model_batch(batch):
    return replace(batch, targets=batch.targets.double(), inputs=batch.inputs.double())


def test_weighing_the_rate_and_widening_the_likelihood_are_one_training():
    """The gradient of a beta-VAE of variance 1 is beta times that of a VAE of variance beta."""
    beta = 0.05
    weighed, widened = gradient({"variance": 1.0}, beta), gradient({"variance": beta}, 1)
    assert weighed.keys() == widened.keys()
    for name, of_beta in weighed.items():
        torch.testing.assert_close(of_beta, beta * widened[name], rtol=1e-6, atol=1e-9)


def trained(built, corpus, budget=700_000):
    """The model after the last update; a training ends with the weights of the best ELBO, which is
    not what every objective is about."""
    torch.manual_seed(1)
    run = built.run(corpus, budget, batch=250, learning_rate=0.02, decay="exponential")
    step = built.remedy.step(run.update, run)
    while run.meter.tokens + 250 <= budget:
        step(run.draw())
        run.steps += 1
    return built.model


@pytest.mark.parametrize(("beta", "variance"), [(1.0, 0.03), (1.0, 0.2), (0.2, 1.0)])
def test_a_trained_linear_vae_is_at_its_closed_form(beta, variance):
    """w_i^2 = lambda_i - beta s^2 where that is positive and 0 elsewhere (Lucas et al. 2019)."""
    corpus = corpus_of("linear_gaussian", sentences=5000)
    chosen = {"decoder_variance": {"variance": variance}, "beta_vae": {"beta": beta}}
    built = bench_make("linear", chosen, corpus=corpus, dropout=0.0, hidden=8, latent=4)
    model = trained(built, corpus)
    w = (model.readout.readout.mean.weight @ model.decoder.map.weight).detach().double()
    lengths = torch.linalg.svdvals(w).square().numpy()
    x = torch.from_numpy(corpus.train.tokens).double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)[:4].numpy()
    expected = np.maximum(eigenvalues - beta * variance, 0)
    np.testing.assert_allclose(lengths, expected, rtol=0.06, atol=0.008)


def test_the_tuned_variance_is_that_of_the_optimum():
    """With the least ELBO over variances a linear VAE is probabilistic principal components."""
    corpus = corpus_of("linear_gaussian", sentences=5000)
    chosen = {"decoder_variance": {"variance": 0.03, "retuned": True}}
    built = bench_make("linear", chosen, corpus=corpus, dropout=0.0, hidden=8, latent=4)
    trained(built, corpus)
    x = torch.from_numpy(corpus.train.tokens).double()
    best = fitted_linear_vae(torch.cov(x.T), 4)
    tuned = float(built.model.readout.variance.best.log_variance().exp())
    assert math.isclose(tuned, float(best.noise[0, 0]), rel_tol=0.05)
    nll = score(built.evaluate(corpus.test, samples=64)).metrics["negative_elbo"]
    test = torch.from_numpy(corpus.test.tokens).double()
    assert math.isclose(nll, float(best.exact_nll(test - x.mean(0)).mean()), abs_tol=0.1)


# Values of one's own.


def write(folder, **arrays):
    for split in ("train", "valid", "test"):
        np.save(folder / f"{split}.npy", arrays.get(split, arrays["train"]))


def own(folder):
    return corpus_of("values", path=str(folder))


def test_values_of_ones_own_are_standardised(tmp_path):
    x = np.random.default_rng(1).normal(3, [1, 10], size=(50, 4, 2))
    write(tmp_path, train=x)
    corpus = own(tmp_path)
    assert corpus.channels == 2
    assert corpus.longest == 4
    np.testing.assert_allclose(corpus.train.tokens.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(corpus.train.tokens.std(0), 1, rtol=1e-5)
    scale = np.log(x.reshape(-1, 2).std(0)).sum()
    assert math.isclose(corpus.facts["log_scale"], scale, rel_tol=1e-9)


def test_a_table_has_sequences_of_any_length_and_labels(tmp_path):
    rows = [("a", 1, 0.1, "u"), ("a", 2, 0.5, "u"), ("b", 3, 0.2, ""), ("c", 5, 9, "v")]
    for split in ("train", "valid", "test"):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("sequence", "x", "y", "label_kind"), *rows])
    corpus = own(tmp_path)
    assert corpus.train.lengths.tolist() == [2, 1, 1]
    assert corpus.train.labels["kind"].tolist() == ["u", "", "v"]


def good():
    return np.random.default_rng(1).normal(size=(20, 3, 2))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda x: x.__setitem__((3, 1, 0), np.nan), "nan in sequence 3, step 1, channel 0"),
        (lambda x: x.__setitem__((3, 1, 0), np.inf), "inf in sequence 3, step 1, channel 0"),
        (lambda x: x.__setitem__((..., 1), 4.0), "channel 1 is 4 at every step"),
    ],
)
def test_an_array_that_no_density_can_be_of_is_refused(tmp_path, spoil, told):
    x = good()
    spoil(x)
    write(tmp_path, train=x)
    with pytest.raises(UserError, match=told):
        own(tmp_path)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros(3), r"must be \[sequences, steps, channels\]"),
        (np.zeros((0, 3, 1)), r"none of them 0, not \[0, 3, 1\]"),
        (np.array([["a", "b"]]), "must hold one array of numbers"),
        (np.array([[object()]], dtype=object), "cannot be read as an array of numbers"),
    ],
)
def test_an_array_of_something_else_is_refused(tmp_path, array, told):
    write(tmp_path, train=array)
    with pytest.raises(UserError, match=told):
        own(tmp_path)


def test_a_value_that_is_too_far_off_is_told(tmp_path):
    far = good()
    far[2, 0, 1] = 1e300
    write(tmp_path, train=good(), valid=far)
    with pytest.raises(UserError, match=r"valid.npy: 1e\+300 is too far from the training"):
        own(tmp_path)


def test_small_units_are_no_constant(tmp_path):
    write(tmp_path, train=1e-12 * good())
    assert own(tmp_path).train.tokens.std() == pytest.approx(1, rel=1e-5)


def test_what_was_read_is_told(tmp_path):
    write(tmp_path, train=good())
    said = []
    load_corpus(CorpusSettings(name="values", path=str(tmp_path)), None, said.append)
    assert "20 / 20 / 20 sequences of 3 to 3 steps, channels 0, 1" in said[0]


def test_splits_of_other_channels_are_refused(tmp_path):
    write(tmp_path, train=good(), test=good()[:, :, :1])
    with pytest.raises(UserError, match=r"test.npy: has the channels 0, and train.npy has 0, 1"):
        own(tmp_path)


def test_a_missing_file_is_told(tmp_path):
    write(tmp_path, train=good())
    (tmp_path / "test.npy").unlink()
    with pytest.raises(CorpusMissing, match=r"no test.npy in"):
        own(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1,2\n3,4\n", ":1: the first line must name the columns"),
        ("", ":1: the first line must name the columns"),
        ("x,x\n3,4\n", ":1: the first line must name the columns"),
        ("x,y\n3\n", ":2: 1 columns where the first line names 2"),
        ("x\n3\nhello\n", ":3: x must be a finite number, not 'hello'"),
        ("x\n3\n\ninf\n", ":4: x must be a finite number, not 'inf'"),
        ("sequence,x\na,1\nb,2\na,3\n", ":4: sequence a goes on after another one"),
        ("sequence,x,label_k\na,1,u\na,2,v\n", ":3: label_k is 'v' and was 'u' before"),
    ],
)
def test_a_bad_table_is_told_with_its_line(tmp_path, text, told):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.csv").write_text(text)
    with pytest.raises(UserError, match=told):
        own(tmp_path)


def test_more_channels_than_can_be_integrated_are_told():
    values = np.random.default_rng(1).normal(size=(20, 33)).astype(np.float32)
    model = bench_make("linear", corpus=vectors()).model
    told = unseen(model, Split(values, np.arange(21)))
    assert "33 channels" in told[0]


def test_what_comes_after_the_first_steps_is_looked_at_where_there_is_any():
    built = bench_make("lstm", corpus=tiny_values())
    arrays = built.evaluate(tiny_values().train)
    known = ~np.isnan(arrays["later_log_likelihood"])
    assert known.any()
    assert (arrays["tokens"][known] > 3).all()
    alone = bench_make("linear", corpus=vectors()).evaluate(vectors().test)
    assert np.isnan(alone["later_log_likelihood"]).all()


# Suites of values.


def suite(tmp_path, text):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return load_suite(path, built_in())


SUITE = "training: {budget: 1000}\nseeds: [1]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "corpus: {name: newswire}\narchitectures: [lstm]\nentries: {a: [decoder_variance]}\n",
            "decoder_variance is for a corpus of values",
        ),
        (
            "corpus: {name: sine_maps, vocabulary: 100}\narchitectures: [lstm]\nentries: {a: []}\n",
            "vocabulary is for words, not for sine_maps",
        ),
        (
            "corpus: {name: values}\narchitectures: [lstm]\nentries: {a: []}\n",
            "values needs the path of a folder",
        ),
        (
            "corpus: {name: sine_maps}\narchitectures: [linear]\nentries: {a: []}\n",
            "linear is for vectors, not for sequences of 24 steps",
        ),
        (
            "corpus: {name: newswire}\narchitectures: [lstm, linear]\nentries: {a: []}\n",
            "linear is for vectors, not for words",
        ),
        (
            "corpus: {name: ptb, steps: 3}\narchitectures: [lstm]\nentries: {a: []}\n",
            "steps is for linear_gaussian and sine_maps, not for ptb",
        ),
        (
            "corpus: {name: sine_maps}\narchitectures: [lstm]\n"
            "entries: {a: {latent: 0, remedies: [kl_annealing]}}\n",
            "or remedies .* not both",
        ),
    ],
)
def test_a_suite_of_values_is_held_against_its_rules(tmp_path, text, told):
    with pytest.raises(UserError, match=told):
        suite(tmp_path, SUITE + text)


def test_an_oracle_of_values_may_have_a_variance_and_nothing_else(tmp_path):
    corpus = SUITE + "corpus: {name: sine_maps}\narchitectures: [lstm]\n"
    entry = "entries: {a: {told: labels, remedies: [%s]}}\n"
    (cell,) = cells_of(suite(tmp_path, corpus + entry % "learned_decoder_variance"))
    assert cell.entry.told == "labels"
    with pytest.raises(UserError, match="which no remedy acts on; remove remedies"):
        suite(tmp_path, corpus + entry % "free_bits")


def test_a_language_model_of_values_may_have_a_variance(tmp_path):
    found = suite(
        tmp_path,
        SUITE + "corpus: {name: sine_maps}\narchitectures: [lstm]\n"
        "entries: {a: {latent: 0, remedies: [learned_decoder_variance]}}\n",
    )
    (cell,) = cells_of(found)
    assert cell.sizes.latent == 0
    assert cell.entry.remedies[0].name == "learned_decoder_variance"


@pytest.mark.parametrize(
    ("reference", "warned"), [("", True), (", remedies: [learned_decoder_variance]", False)]
)
def test_a_reference_without_the_variance_of_others_is_warned_of(tmp_path, reference, warned):
    text = SUITE + "corpus: {name: sine_maps}\narchitectures: [lstm]\n"
    text += f"entries: {{a: {{latent: 0{reference}}}, b: [learned_decoder_variance]}}\n"
    told = about_reference(cells_of(suite(tmp_path, text)), built_in())
    assert ("variance 1" in (told or "")) == warned


@pytest.mark.parametrize("steps", [2, None])
def test_a_linear_vae_is_for_vectors(steps):
    corpus = corpus_of("linear_gaussian", sentences=20, steps=steps) if steps else None
    with pytest.raises(UserError, match="architecture linear: for vectors"):
        bench_make("linear", corpus=corpus)

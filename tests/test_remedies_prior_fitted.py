"""What the remedy promises that fits a prior after training, beyond the laws of all."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Built, make, noise_of, same, same_arrays
from torch import nn

from collapse_bench.errors import UserError
from collapse_bench.model import INFERENCE, SLOTS, diagonal_normal
from collapse_bench.model.distributions import family_of
from collapse_bench.plugins import remedy_files
from collapse_bench.record import read_model, write_model
from collapse_bench.remedy import Remedy
from collapse_bench.training import Selection

QUICK = {"hidden": 24}


def fitted(share=0.5, before: Mapping | None = None, architecture="lstm", files=None) -> Built:
    """A model whose prior is fitted after a share of the budget."""
    chosen = {**(before or {}), "fitted_prior": {"share": share, **QUICK}}
    return make(architecture, chosen, files=files)


def tensors(model, without=""):
    """All weights and buffers by name, but those that begin so; where the prior was put is not
    told, so that two builds compare."""
    return {
        name.replace("prior.own.", "prior."): value.clone()
        for name, value in model.state_dict().items()
        if not (without and name.startswith(without)) and "_extra_state" not in name
    }


def changed(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])]


def started(built, corpus, budget, **settings):
    """A run and its step, on the streams of randomness of a whole one."""
    torch.manual_seed(1)
    run = built.run(corpus, budget=budget, **settings)
    return run, built.remedy.step(run.update, run)


class Counting(nn.Module):
    """A head whose posteriors hang on how often it was trained."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features, energy):
        if self.training:
            self.seen = self.seen + 1
        q = self.head(features, energy)
        return diagonal_normal(q.mean + 0.01 * self.seen, q.stddev)


@dataclass(frozen=True)
class Counts(Remedy):
    """Its head has a buffer, its objective weighs the rate with nothing and adds a term."""

    def build(self, model):
        return {"head": Counting(model.head)}

    def objective(self, forward):
        return replace(forward, kl=0 * forward.kl, extra={"mean": forward.z.square().sum(1)})


def test_until_the_switch_it_is_the_chain_without_it_and_then_only_the_flow_moves(
    architecture, corpus
):
    others = {"word_dropout": {}, "delta_vae": {"length": 4, "delta": 1.5}}
    plain, built = make(architecture, others), fitted(0.5, others, architecture)
    for each in (plain, built):
        run, step = started(each, corpus, 600)
        while run.meter.tokens < 300:
            step(run.draw())
    assert not built.model.prior.fitted
    of_plain, at_switch = tensors(plain.model), tensors(built.model, "prior.flow")
    assert at_switch.keys() == of_plain.keys()
    assert changed(at_switch, of_plain) == []
    flow = [p.detach().clone() for p in built.model.prior.flow.parameters()]
    updates = dict(run.updates)
    for _ in range(3):
        forward = step(run.draw())
        assert family_of(forward.p) == "flow"
    assert built.model.prior.fitted
    assert changed(at_switch, tensors(built.model, "prior.flow")) == []
    assert not any(map(torch.equal, flow, built.model.prior.flow.parameters()))
    assert run.updates == updates
    assert all(part.training for part in built.model.modules())


def test_buffers_and_objectives_of_others_have_no_part_in_the_fit(corpus):
    built = fitted(0.0)
    counts = Counts()
    built.model = built.model.with_parts(counts.build(built.model), "counts")
    built.remedies = [counts, *built.remedies]
    run, step = started(built, corpus, 10_000)
    before = tensors(built.model, "prior.flow")
    flow = [p.detach().clone() for p in built.model.prior.flow.parameters()]
    forward = step(run.draw())
    assert forward.extra == {}
    assert forward.kl.abs().sum() > 0
    assert changed(before, tensors(built.model, "prior.flow")) == []
    assert not any(map(torch.equal, flow, built.model.prior.flow.parameters()))


def constant_head(model, mean=1.0, log_variance=-1.0):
    """Give all sentences the same posterior, which is then the aggregate posterior."""
    head = model.head.mean_and_log_variance
    half = len(head.bias) // 2
    with torch.no_grad():
        nn.init.zeros_(head.weight)
        head.bias.copy_(torch.tensor([mean, log_variance]).repeat_interleave(half))


@pytest.mark.parametrize("before", [{}, {"delta_vae": {"length": 4, "delta": 1.5}}])
def test_a_fit_takes_the_marginal_kl_off_the_rate_and_leaves_the_distortion(before, corpus):
    """Where all posteriors are one the whole of the rate is marginal."""
    built = fitted(0.0, before)
    constant_head(built.model)
    run, step = started(built, corpus, 10**9, learning_rate=0.02)
    arrays = built.evaluate(corpus.valid, samples=1)
    step(run.draw())
    if not before:
        closed = 8 * 0.5 * (np.exp(-1) + 1 + 1 - 1)
        assert arrays["kl"].sum(1) == pytest.approx(np.full(6, closed), rel=1e-5)
        assert run.state["fitted_prior"]["marginal_kl"] == pytest.approx(closed, rel=1e-5)
    batch = run.draw()
    for _ in range(60):
        step(batch)
    after = built.evaluate(corpus.valid, samples=1)
    assert np.array_equal(arrays["distortion"], after["distortion"])
    assert np.array_equal(arrays["posterior_sample"], after["posterior_sample"])
    after = built.evaluate(corpus.valid, samples=32)
    assert abs(after["kl"].mean()) < 0.4 * arrays["kl"].sum(1).mean()
    if before:  # the floor of a factorised posterior is one under its own prior
        assert after["kl"].mean() < 1.5


@pytest.mark.parametrize("network", ["lstm", "self_attention"])
def test_after_delta_vae_the_floor_is_kept_until_the_switch_and_then_saved(network, corpus):
    """Where the posterior is the same for all sentences, z costs less than the first prior's floor
    under the auxiliary one."""
    before = {"delta_vae": {"length": 4, "delta": 1.5}}
    fitted = {"share": 0.0, "network": network, "length": 4}
    built = make("lstm", {**before, "fitted_prior": fitted})
    constant_head(built.model)
    run, step = started(built, corpus, 10**9, learning_rate=0.003)
    first = built.evaluate(corpus.valid, samples=1)
    assert (first["kl"].sum(1) >= 1.5).all()
    step(run.draw())
    batch = run.draw()
    for _ in range(80):
        step(batch)
    after = built.evaluate(corpus.valid, samples=32)
    assert np.array_equal(first["posterior_sample"], after["posterior_sample"])
    assert abs(after["kl"].mean()) < 1.2


def test_the_state_tells_the_marginal_kl_at_the_switch(corpus):
    built = fitted(0.5)
    run, step = started(built, corpus, 400)
    while run.meter.tokens < 200:
        step(run.draw())
        assert run.state["fitted_prior"] == {"marginal_kl": None}
    expected = run.measure("kl") - run.measure("mutual_information")
    step(run.draw())
    step(run.draw())
    assert run.state["fitted_prior"] == {"marginal_kl": expected}


@pytest.mark.parametrize(("shift", "gains"), [(1.0, True), (-1.0, False)])
def test_a_fit_that_gains_nothing_is_not_kept(shift, gains, corpus):
    built = fitted(0.0)
    constant_head(built.model)
    run, step = started(built, corpus, 10_000)
    selection = Selection(run)
    selection.validate()
    step(run.draw())
    flow = built.model.prior.flow
    with torch.no_grad():
        for parameter in flow.parameters():
            nn.init.zeros_(parameter)
        flow.networks[0].layers[-1].bias[:8] = shift  # the posteriors' mean is 1
    selection.validate()
    before, after = (row["negative_elbo"] for row in selection.history)
    assert (after < before) == gains
    selection.restore()
    assert built.model.prior.fitted == gains
    assert selection.best == min(before, after)


def test_schedules_of_others_end_at_the_switch(corpus):
    built = fitted(0.25)
    run, step = started(built, corpus, 1000)
    assert run.progress == 0
    for tokens, progress in ((125, 0.5), (250, 1.0), (900, 1.0)):
        run.meter.tokens = tokens
        assert run.progress == progress
        assert step(run.draw()).progress == progress
    run.meter.tokens = 50
    run.begin()
    run.meter.tokens = 150
    assert run.progress == 0.5  # of the 200 from there to the switch
    run.meter.tokens = 600
    run.begin()
    assert run.progress == 1.0


def test_the_fit_spends_the_budget(corpus):
    built = fitted(0.0)
    run, step = started(built, corpus, 10_000)
    batch = run.draw()
    step(batch)
    assert run.meter.tokens == batch.tokens


def test_a_call_for_some_slots_is_left_alone_after_the_switch_too(corpus):
    built = fitted(0.0)
    run, step = started(built, corpus, 10_000)
    step(run.draw())
    before = tensors(built.model)
    step(run.draw(), only=INFERENCE)
    moved = changed(before, tensors(built.model))
    assert moved
    assert {name.split(".")[0] for name in moved} <= set(INFERENCE)


def test_which_prior_it_is_is_saved_with_the_weights(corpus, tmp_path, batch):
    built, other = fitted(0.0), fitted(0.0)
    run, step = started(built, corpus, 10_000)
    step(run.draw())
    write_model(tmp_path, built.model.state_dict())
    read_model(tmp_path, other.model)
    assert other.model.prior.fitted
    assert same_arrays(built.evaluate(corpus.valid), other.evaluate(corpus.valid))
    flow = other.model.prior.flow
    assert all(parameter.requires_grad for parameter in flow.parameters())
    read = other.model(batch, noise_of(1)).p
    other.model.load_state_dict(fitted(0.0).model.state_dict())
    assert not other.model.prior.fitted
    assert family_of(read) == "flow"
    assert family_of(other.model(batch, noise_of(1)).p) == "normal"


def test_a_prior_that_is_no_density_of_numbers_is_told_to_the_user(batch):
    files = remedy_files([Path(__file__).parent / "remedies" / "one_code.py"])
    built = fitted(0.5, {"one_code": {}}, files=files)
    with pytest.raises(UserError, match="fitted_prior: needs a prior over vectors"):
        built.model(batch, noise_of(1))


def test_with_the_whole_budget_for_training_nothing_is_built(corpus):
    built, plain = fitted(1.0), make("lstm")
    assert same(list(built.model.parameters_of(SLOTS)), list(plain.model.parameters_of(SLOTS)))
    assert built.remedies[0].step(len, None) is len

"""What the remedies promise that change which part is updated when, beyond the laws of all."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make

from collapse_bench.model import GENERATIVE, INFERENCE, SLOTS
from collapse_bench.remedies.training.aggressive_inference import AggressiveInference

# Aggressive inference


class FakeRun:
    """Numbers its batches and reads losses and mutual information from lists."""

    def __init__(self, batch, losses=(), information=()):
        self.batch = batch
        self.losses = iter(losses)
        self.information = iter(information)
        self.drawn = self.measured = 0
        self.sentences = 20
        self.state = {}
        self.updates = []

    def draw(self):
        self.drawn += 1
        return replace(self.batch, index=torch.tensor([self.drawn]))

    def measure(self, metric):
        assert metric == "mutual_information"
        self.measured += 1
        return next(self.information)

    def update(self, batch, *, only=SLOTS, then=None):
        self.updates.append((int(batch.index[0]), only))
        loss = next(self.losses, 0.0) * batch.tokens if only == INFERENCE else 0.0
        return SimpleNamespace(per_sentence=lambda: torch.tensor([loss]), progress=0.0)

    def step(self, remedy):
        """One step; returns which slots were updated, in order."""
        self.updates = []
        remedy.step(self.update, self)(replace(self.batch, index=torch.tensor([0])))
        return [only for _, only in self.updates]


@pytest.mark.parametrize(
    ("losses", "inner"),
    [
        ([4, 4, 3, 3, 3, 3, 0, 0], 6),  # no better than the window before
        ([4, 2, 2, 2, 1, 2, 9, 0], 8),  # 3, 2, 1.5, 4.5: the mean over a window counts
        ([5, 5, 6, 6], 4),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 10),  # the bound
    ],
)
def test_the_inner_loop_ends_when_a_window_gains_nothing(batch, losses, inner):
    run = FakeRun(batch, losses)
    run.step(AggressiveInference(window=2, longest=10))
    # First the batch itself, then new ones; at last the batch again, for the decoder alone.
    assert run.updates == [(i, INFERENCE) for i in range(inner)] + [(0, GENERATIVE)]
    assert run.measured == 0


def updates_until_a_window_gains_nothing(table, window, longest):
    """The inner loop over (loss, tokens) of each update, one number after the other."""
    previous, loss, tokens = math.inf, 0.0, 0
    for update in range(1, longest + 1):
        loss += table[update - 1][0]
        tokens += table[update - 1][1]
        if update % window == 0:
            if loss / tokens >= previous:
                return update
            previous, loss, tokens = loss / tokens, 0.0, 0
    return longest


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_the_inner_loop_compares_windows_by_nats_a_token(window, batch):
    rng, seen = np.random.default_rng(window), set()
    for _ in range(60):
        # Two sentences whose losses are multiples of 1/4, so that sums are exact and ties occur,
        # and batches with different numbers of tokens.
        level = np.linspace(6, 2, 20)
        losses = np.round(4 * level[:, None] * rng.uniform(0.3, 1, (20, 2))) / 4
        tokens = rng.integers(1, 4, 20)
        batches = [
            replace(batch, counted=int(n), index=torch.tensor([i])) for i, n in enumerate(tokens)
        ]
        run = SimpleNamespace(draw=iter(batches[1:]).__next__)
        taken = []

        def step(batch, only, then, taken=taken, losses=losses):
            taken.append((int(batch.index[0]), only))
            each = torch.tensor(losses[batch.index[0]], dtype=torch.float32, requires_grad=True)
            return SimpleNamespace(per_sentence=lambda: each)

        AggressiveInference(window=window, longest=20).train_encoder(batches[0], step, run)
        table = list(zip(losses.sum(1).tolist(), tokens.tolist(), strict=True))
        expected = updates_until_a_window_gains_nothing(table, window, 20)
        assert taken == [(i, INFERENCE) for i in range(expected)]
        seen.add(expected)
    assert len(seen) > 2


def test_the_inner_loop_draws_no_batch_that_it_does_not_use(batch):
    run = FakeRun(batch, [9, 8, 7, 6, 5])
    run.step(AggressiveInference(window=2, longest=5))
    assert run.drawn == 4


def test_aggression_ends_for_good_when_the_information_first_falls(batch):
    """A look comes once an epoch of decoder updates: here every 20 sentences, 4 batches of 5."""
    run = FakeRun(batch, information=[1.0, 1.0, 2.0, 1.9])
    remedy = AggressiveInference(window=1, longest=1)
    looks = []
    for _ in range(16):
        assert run.step(remedy) == [INFERENCE, GENERATIVE]
        looks.append(run.measured)
    assert looks == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4]
    for _ in range(8):
        assert run.step(remedy) == [SLOTS]
    assert run.measured == 4


@pytest.mark.parametrize(("interval", "steps"), [(0.5, 2), (0.6, 3), (2.0, 8)])
def test_a_look_counts_epochs_of_decoder_updates_whatever_the_inner_loop_spends(
    interval, steps, batch
):
    for longest in (1, 7):
        run = FakeRun(batch, losses=itertools.repeat(0.0), information=[1.0])
        remedy = AggressiveInference(window=50, longest=longest, interval=interval)
        for step in range(1, steps + 1):
            run.step(remedy)
            assert run.measured == (step == steps)


def test_information_that_starts_below_zero_ends_aggression(batch):
    run = FakeRun(batch, information=[-0.1])
    remedy = AggressiveInference(window=1, longest=1, interval=0.25)
    assert run.step(remedy) == [INFERENCE, GENERATIVE]
    assert run.step(remedy) == [SLOTS]


def test_an_inner_update_of_another_remedy_passes_straight_through(batch):
    run = FakeRun(batch)
    step = AggressiveInference().step(run.update, run)
    step(replace(batch, index=torch.tensor([3])), only=("head",))
    assert run.updates == [(3, ("head",))]


def test_aggressive_training_counts_its_updates(architecture, corpus):
    built = make(
        architecture, {"aggressive_inference": {"window": 50, "longest": 3, "interval": 1.0}}
    )
    run = built.steps(corpus, 4)
    assert run.updates == {"encoder": 12, "decoder": 4}
    plain = make(architecture).steps(corpus, 4)
    assert plain.updates == {"encoder": 4, "decoder": 4}

"""A training that is interrupted goes on from its last checkpoint and ends the same to the bit.

That every remedy's run does is a law, `what_lasts_is_in_buffers_or_in_its_state`; whole cells and
real processes are in `test_resume_cells.py`.
"""

import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from conftest import make
from test_training import Refinement

from collapse_bench.laws import subject
from collapse_bench.laws.stepping import equal
from collapse_bench.model import GENERATIVE, SLOTS, plain
from collapse_bench.remedy import Remedy, chain
from collapse_bench.training import Checkpoints, Selection, checkpoint, train

BUDGET = 1500
"""Some fifteen updates."""

CHAIN = ["kl_annealing", "word_dropout", "free_bits", "aggressive_inference"]
OF = {"cell": "vae-lstm-1-abc", "code": "123"}


class Cut(Exception):
    """In place of a signal."""


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every other step, and at the end."""

    def offer(self, run, selection, *, validated):
        if run.steps % 2 or run.spent == 1:
            self.write(run, selection)

    monkeypatch.setattr(Checkpoints, "offer", offer)


def attempt(built, corpus, folder=None, updates=None, of=OF, captured=False):
    """An attempt at a training, which may be interrupted after some updates, inner ones counted.

    Returns all that may not differ, and what was said.
    """
    run = built.run(corpus, BUDGET, validations=3, captured=captured)
    selection, said, made = Selection(run), [], []
    update = run.update

    def interrupted(batch, **keywords):
        if len(made) == updates:
            raise Cut
        made.append(batch.tokens)
        return update(batch, **keywords)

    run.update = interrupted
    checkpoints = Checkpoints(folder, of, said.append) if folder else None
    train(run, selection, lambda run, forward: None, checkpoints)
    found = selection.state_dict()
    history = [{**row, "seconds": 0.0} for row in found["history"]]
    return (
        run.state_dict(),
        {**found, "history": history, "seconds": 0.0, "validating": 0.0},
    ), said


def interrupted(built, *arguments, **keywords):
    with pytest.raises(Cut):
        attempt(built, *arguments, **keywords)


def normalised_means():
    """A model with buffers that training changes."""
    path = Path(__file__).parent / "remedies" / "normalised_means.py"
    return subject("normalised_means", "lstm", path).make()


def with_remedy(remedy):
    """A model in which a remedy of these tests is built."""
    built = make("lstm")
    built.remedies = [remedy]
    built.model = chain(built.remedies).build(built.model)
    return built


def tokens_of(path):
    """The tokens in a checkpoint's name."""
    return int(path.stem.removeprefix("checkpoint-"))


# To the bit


@pytest.mark.parametrize(
    "names",
    [[], ["word_dropout"], ["delta_vae"], ["aggressive_inference"], CHAIN],
    ids=["vae", "word_dropout", "delta_vae", "aggressive_inference", "chain"],
)
def test_a_training_that_is_cut_anywhere_ends_as_one_that_is_not(
    names, architecture, corpus, tmp_path, often
):
    expected, _ = attempt(make(architecture, names), corpus)
    rng = random.Random(f"{names} {architecture}")
    for first, last in ((6, 9), (1, 4)):
        updates = rng.randint(first, last)
        interrupted(make(architecture, names), corpus, tmp_path, updates=updates)
        assert len(list(tmp_path.iterdir())) <= checkpoint.KEPT
    found, (said,) = attempt(make(architecture, names), corpus, tmp_path)
    assert said.startswith("goes on from ")
    assert equal(found, expected)


def test_an_inner_loop_that_is_cut_begins_anew(corpus, tmp_path, often):
    def build():
        return make("lstm", {"aggressive_inference": {"window": 8, "longest": 8}})

    expected, _ = attempt(build(), corpus)
    # A step is eight updates of the encoder and one of the decoder.
    interrupted(build(), corpus, tmp_path, updates=9 + 4)
    (path,) = tmp_path.iterdir()
    found, said = attempt(build(), corpus, tmp_path)
    assert said == [f"goes on from {tokens_of(path):,} of {BUDGET:,} tokens"]
    assert equal(found, expected)


def test_a_head_that_refines_and_captured_passes_go_on_too(corpus, tmp_path, often):
    def refining():
        return with_remedy(Refinement())

    for build, captured in ((refining, False), (normalised_means, True), (normalised_means, False)):
        folder = tmp_path / f"{build.__name__}-{captured}"
        expected, _ = attempt(build(), corpus, captured=captured)
        interrupted(build(), corpus, folder, updates=5, captured=captured)
        found, _ = attempt(build(), corpus, folder, captured=captured)
        assert equal(found, expected)


@pytest.mark.parametrize(
    "part", ["parameters", "buffers", "optimizer", "streams", "latent", "tokens", "counts"]
)
def test_each_part_of_a_checkpoint_is_needed(part, corpus):
    ended = []
    for left_out in (None, part):
        built, fresh = normalised_means(), normalised_means()
        run, resumed = built.run(corpus), fresh.run(corpus)
        step = run.start()
        for _ in range(3):
            step(run.draw())
        state = run.state_dict()
        if left_out:
            resumed.start()
            state = {**state, left_out: resumed.state_dict()[left_out]}
        step = resumed.start(state)
        for _ in range(3):
            step(resumed.draw())
        ended.append(resumed.state_dict())
    assert not equal(*ended)


def test_a_rate_that_is_scaled_once_stays_so(corpus, tmp_path, often):
    @dataclass(frozen=True)
    class Slowing(Remedy):
        def step(self, step, run):
            state = run.state.setdefault("slowing", {"slowed": False})

            def slowing(batch, *, only=SLOTS, then=plain):
                if not state["slowed"] and run.progress >= 0.3:
                    state["slowed"] = True
                    run.scale_learning_rate(GENERATIVE, 0.1)
                return step(batch, only=only, then=then)

            return slowing

    expected, _ = attempt(with_remedy(Slowing()), corpus)
    interrupted(with_remedy(Slowing()), corpus, tmp_path, updates=9)
    found, said = attempt(with_remedy(Slowing()), corpus, tmp_path)
    assert said[0].startswith("goes on from")
    assert equal(found, expected)


def test_what_a_step_draws_as_it_is_made_is_drawn_again(corpus, tmp_path, often):
    @dataclass(frozen=True)
    class Drawing(Remedy):
        def step(self, step, run):
            factor = 1 + torch.rand(())
            return lambda batch, *, only=SLOTS, then=plain: step(
                batch, only=only, then=lambda f: then(replace(f, kl=factor * f.kl))
            )

    expected, _ = attempt(with_remedy(Drawing()), corpus)
    interrupted(with_remedy(Drawing()), corpus, tmp_path, updates=4)
    found, _ = attempt(with_remedy(Drawing()), corpus, tmp_path)
    assert equal(found, expected)


# What is on disk


DAMAGES = {
    "cut short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "a bit": lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, corpus, tmp_path, often):
    expected, _ = attempt(make("lstm"), corpus)
    interrupted(make("lstm"), corpus, tmp_path, updates=5)
    before, newest = sorted(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    found, (first, second) = attempt(make("lstm"), corpus, tmp_path)
    assert first == f"{newest}: damaged, its SHA-256 is not the one at its end; not gone on from"
    assert second.startswith(f"goes on from {tokens_of(before):,} of")
    assert equal(found, expected)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    found, said = attempt(make("lstm"), corpus, tmp_path)
    assert said[-1] == "begins anew"
    assert len(said) == 3
    assert equal(found, expected)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"code": "456"}, "of another code (123, now 456); not gone on from"),
        (
            {"cell": "vae-lstm-1-def", "code": "456"},
            "of another cell (vae-lstm-1-abc, now vae-lstm-1-def), another code (123, now 456)",
        ),
        ({"corpus": "789"}, "of another corpus (None, now 789)"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_in_words(other, told, corpus, tmp_path, often):
    interrupted(make("lstm"), corpus, tmp_path, updates=5)
    old = set(tmp_path.iterdir())
    expected, _ = attempt(make("lstm"), corpus)
    found, said = attempt(make("lstm"), corpus, tmp_path, of=OF | other)
    assert len(said) == 3
    assert all(told in line for line in said[:2])
    assert said[2] == "begins anew"
    assert equal(found, expected)
    assert not old & set(tmp_path.iterdir()), "the cell's own take their place"


def test_a_run_that_is_stopped_soon_leaves_the_checkpoints_that_it_refused(
    corpus, tmp_path, often, monkeypatch
):
    """Whoever reads that they are of other code may stop it to go back to that."""
    interrupted(make("lstm"), corpus, tmp_path, updates=5)
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    stop, run, said = Event(), make("lstm").run(corpus), []
    checkpoints = Checkpoints(tmp_path, OF | {"code": "456"}, said.append, stop, every=300.0)
    selection = Selection(run)
    step = checkpoints.start(run, selection)
    assert said[-1] == "begins anew"
    step(run.draw())
    stop.set()
    with pytest.raises(checkpoint.StoppedError):
        checkpoints.offer(run, selection, validated=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    checkpoints.write(run, selection)  # as one is due
    step(run.draw())
    with pytest.raises(checkpoint.StoppedError):
        checkpoints.offer(run, selection, validated=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert not before.keys() & set(tmp_path.iterdir())


@pytest.mark.parametrize("why", ["damaged", "a minute ago"])
def test_a_run_that_is_stopped_leaves_its_checkpoint_where_nobody_wants_those_that_it_refused(
    why, corpus, tmp_path, often, monkeypatch
):
    interrupted(make("lstm"), corpus, tmp_path, updates=5)
    monkeypatch.undo()
    before = set(tmp_path.iterdir())
    if why == "damaged":
        for path in before:
            path.write_bytes(b"")
    else:
        monkeypatch.setattr(checkpoint, "SOONEST", 0.0)
    stop, run = Event(), make("lstm").run(corpus)
    of = OF if why == "damaged" else OF | {"code": "456"}
    checkpoints, selection = Checkpoints(tmp_path, of, stop=stop, every=300.0), Selection(run)
    step = checkpoints.start(run, selection)
    step(run.draw())
    stop.set()
    with pytest.raises(checkpoint.StoppedError):
        checkpoints.offer(run, selection, validated=False)
    assert len(set(tmp_path.iterdir()) - before) == 1


def test_no_code_of_a_checkpoint_is_run(corpus, tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    path = tmp_path / "checkpoint-000000000100.pt"
    checkpoint.write_checkpoint(path, {"of": OF, "run": Evil()})
    with pytest.raises(checkpoint.RefusedError, match="holds more than tensors"):
        checkpoint.read_checkpoint(path, OF)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "it would have been"


def test_what_cannot_be_written_costs_no_result(corpus, tmp_path, often, monkeypatch):
    expected, _ = attempt(make("lstm"), corpus)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        found, said = attempt(make("lstm"), corpus, tmp_path)
    assert equal(found, expected)
    assert "No space left on device" in said[0]
    assert not list(tmp_path.iterdir())


def test_a_state_that_json_does_not_know_is_told_and_costs_no_result(corpus, tmp_path, often):
    @dataclass(frozen=True)
    class Keeping(Remedy):
        def step(self, step, run):
            run.state["keeping"] = {"seen": torch.tensor(1)}
            return step

    run, said = with_remedy(Keeping()).run(corpus, BUDGET), []
    train(run, Selection(run), lambda run, forward: None, Checkpoints(tmp_path, OF, said.append))
    assert run.spent == 1
    assert said[0].startswith("no checkpoint at ")
    assert said[0].endswith("Object of type Tensor is not JSON serializable")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_due_at_a_validation_or_after_some_minutes_and_costs_little(
    corpus, tmp_path, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    write = checkpoint.write_checkpoint

    def slow(path, saved):
        now[0] += 2.0
        write(path, saved)

    monkeypatch.setattr(checkpoint, "write_checkpoint", slow)
    run = make("lstm").run(corpus)
    checkpoints, selection = Checkpoints(tmp_path, OF), Selection(run)
    written = []
    for second in range(1, 1500):
        now[0] += 1.0
        run.meter.tokens += 1
        before = now[0]
        checkpoints.offer(run, selection, validated=second % 50 == 0)
        if now[0] > before:
            written.append(second)
    # Validations are at multiples of 50 seconds, and 2 s are half a percent of 400.
    assert written == [100, 500, 900, 1300]
    cost = checkpoints.cost()
    assert (cost["seconds"], cost["checkpoint_seconds"]) == (1499, 8)
    for _ in range(1, 1500):
        now[0] += 1.0
        run.meter.tokens += 1
        checkpoints.offer(run, selection, validated=False)
    assert checkpoints.cost()["checkpoint_seconds"] == 8 + 2 * 4

"""Laws of what an update changes, and of what a whole training depends on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from collapse_bench.corpus import Batch, Corpus
from collapse_bench.device import float32
from collapse_bench.errors import UserError
from collapse_bench.laws.bench import (
    TRAINING,
    head_of,
    noise_of,
    parameters,
    same,
    same_arrays,
)
from collapse_bench.laws.law import DoesNotApply, LawBroken, Subject
from collapse_bench.model import ARCHITECTURES, SLOTS, Forward, Objective, SequenceVAE, plain
from collapse_bench.settings import schema_of
from collapse_bench.training import BudgetSpentError, TrainingRun

STEPS = 6


class Spy:
    """The plain update of a run, which writes down how it is called.

    Attributes:
        calls: slots and further objective of each call.
        moved: names of the parameters that had a gradient other than zero in any of them.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.calls: list[tuple[tuple[str, ...], Objective]] = []
        self.moved: set[str] = set()

    def __call__(
        self, batch: Batch, *, only: tuple[str, ...] = SLOTS, then: Objective = plain
    ) -> Forward:
        self.calls.append((only, then))
        forward = self.run.update(batch, only=only, then=then)
        self.moved |= with_gradient(self.run.model)
        return forward


def one_step_changes_every_parameter_it_trains(subject: Subject) -> None:
    """A step updates the slots that it says, all of their weights and no others, and those of its
    further part; all stay finite, and it decodes something."""
    built = subject.make()
    torch.manual_seed(1)
    run = built.run(subject.corpus)
    spy = Spy(run)
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    built.remedy.step(spy, run)(run.draw())
    trained = {slot for only, _ in spy.calls for slot in only} | {"further"}
    meant = set(built.model.parameters_of(tuple(trained)))
    for name, parameter in built.model.named_parameters():
        if not parameter.isfinite().all():
            raise LawBroken(f"after one step {name} is not finite")
        changed = not torch.equal(before[name], parameter)
        if parameter.requires_grad and changed != (parameter in meant):
            how = "has changed" if changed else "is as it was"
            raise LawBroken(
                f"after one step {name} {how}, and the slots that were updated are"
                f" {', '.join(sorted(trained))}"
            )
    if not run.meter.tokens:
        raise LawBroken("a step decodes nothing: it has to call the step that it was given")


def every_parameter_gets_a_gradient(subject: Subject) -> None:
    """Each weight, of further parts too, has a gradient at some progress: what nothing trains is
    noise in the model. What shall stay as it is has `requires_grad` off, or is a buffer."""
    built, batch = subject.make(), subject.batch
    moved: set[str] = set()
    for progress in (0.2, 0.7):
        built.model.zero_grad(set_to_none=True)
        forward = built.model(
            batch, noise_of(1), progress=progress, objective=built.remedy.objective
        )
        forward.loss().backward()
        moved |= with_gradient(built.model)
    if "step" in subject.levers:  # whose own objectives train parts, too
        run = built.run(subject.corpus)
        spy = Spy(run)
        built.remedy.step(spy, run)(run.draw())
        moved |= spy.moved
    without = [
        name
        for name, parameter in built.model.named_parameters()
        if parameter.requires_grad and name not in moved
    ]
    if without:
        raise LawBroken(f"no gradient reaches {', '.join(without)}")


def its_neutral_settings_are_the_plain_vae(subject: Subject) -> None:
    """With the settings that `neutral` names, weights, counts and evaluation are those of the plain
    VAE to the bit."""
    neutral = subject.remedy.neutral
    if neutral is None:
        raise DoesNotApply("no setting of this remedy is the plain VAE")
    corpus, built, plain_vae = subject.corpus, subject.make(neutral), subject.plain()
    runs = [each.steps(corpus, STEPS) for each in (built, plain_vae)]
    weights = [[p.detach() for p in each.model.parameters_of(SLOTS)] for each in (built, plain_vae)]
    if not same(*weights):
        raise LawBroken(f"with {dict(neutral)} the weights after {STEPS} steps are others")
    spent, plainly = ({"tokens": run.meter.tokens, **run.updates} for run in runs)
    if spent != plainly:
        raise LawBroken(f"with {dict(neutral)} it spends {spent}, not {plainly}")
    if not same_arrays(built.evaluate(corpus.valid), plain_vae.evaluate(corpus.valid)):
        raise LawBroken(f"with {dict(neutral)} the evaluation is another")


def other_settings_are_not_the_plain_vae(subject: Subject) -> None:
    """With its own settings a remedy does something: weights or evaluation are others after a few
    steps."""
    corpus, built, plain_vae = subject.corpus, subject.make(), subject.plain()
    for each in (built, plain_vae):
        each.steps(corpus, STEPS)
    if same(parameters(built.model), parameters(plain_vae.model)) and same_arrays(
        built.evaluate(corpus.valid), plain_vae.evaluate(corpus.valid)
    ):
        raise LawBroken(
            f"after {STEPS} steps it is the plain VAE to the bit; if that is for want of size or of"
            f" updates, `small` gives settings with which it is not"
        )


def its_dial_changes_no_training(subject: Subject) -> None:
    """The setting that `dial` names changes what is evaluated, and of a training neither weights,
    buffers nor state: one serves all of its values."""
    dial = subject.remedy.dial
    if dial is None:
        raise DoesNotApply("no setting of this remedy is a dial")
    corpus, default = subject.corpus, schema_of(subject.remedy)[dial].default
    if not isinstance(default, int | float):
        raise LawBroken(f"{dial} must be a number or true or false, its default is {default!r}")
    others: Sequence[bool | float] = (type(default)(2 * default) or 1, default / 2)
    if isinstance(default, bool):
        others = [not default]
    built = subject.make()
    state = built.steps(corpus, STEPS).state
    for other in others:
        try:
            turned = subject.make({**subject.remedy.small, dial: other})
        except UserError:  # outside what training covers
            continue
        learned = turned.steps(corpus, STEPS).state
        kept, found = ([*parameters(m), *m.buffers()] for m in (built.model, turned.model))
        if not same(kept, found) or str(learned) != str(state):
            raise LawBroken(
                f"with {dial} at {other} weights, buffers or state after {STEPS} steps are others"
            )
        turned.model.load_state_dict(built.model.state_dict())
        if same_arrays(built.evaluate(corpus.valid), turned.evaluate(corpus.valid)):
            raise LawBroken(
                f"with the same weights and {dial} at {other} the evaluation is that of"
                f" {default}: the value must not be among the weights, and do something"
            )
        return
    raise LawBroken(f"{dial} takes neither twice nor half of its default, {default}")


def one_seed_one_result(subject: Subject) -> None:
    """Weights, validations and evaluation depend on the cell's seed alone, whatever was computed in
    the process before; and another seed gives others."""
    corpus, results = subject.corpus, []
    for seed in (1, 1, 2):
        built = subject.make(seed=seed)
        torch.rand(seed)
        run, selection = built.train(corpus, 300)
        history = [{**row, "seconds": 0.0} for row in selection.history]
        results.append(
            (parameters(built.model), history, run.updates, built.evaluate(corpus.valid))
        )
    (weights, history, updates, arrays), again, other = results
    if not same(weights, again[0]):
        raise LawBroken("a second training of the same seed ends with other weights")
    if (history, updates) != again[1:3] or not same_arrays(arrays, again[3]):
        raise LawBroken("a second training of the same seed ends with other numbers")
    if same(weights, other[0]) or np.array_equal(arrays["distortion"], other[3]["distortion"]):
        raise LawBroken("another seed ends with the same weights or the same numbers")


def nothing_is_decoded_beyond_the_budget(subject: Subject) -> None:
    """Every token that is decoded while a model is being trained is paid for, and when the budget
    is spent the training ends: the decoder is called through the model, in training mode, a further
    part decodes by its `decoder`, and `BudgetSpentError` is let through. Measuring goes through
    `run.measure`."""
    corpus, built, budget = subject.corpus, subject.make(), 300
    run = built.run(corpus, budget)
    decoded = {"outer": 0, "inner": 0}
    measuring = [False]

    def counting(which: str) -> Any:
        def count(decoder: nn.Module, arguments: tuple[Any, ...]) -> None:
            if not measuring[0]:
                decoded[which] += arguments[0].tokens

        return count

    paid_for = built.model.decoders
    decodes = [
        part
        for part in built.model.modules()
        if type(part) is ARCHITECTURES[subject.architecture][1] and part not in paid_for
    ]
    inside = [[part for part in decoder.modules() if part in decodes] for decoder in paid_for]
    elsewhere = set(decodes).difference(*inside)
    outer, inner = [*paid_for, *elsewhere], [part for parts in inside for part in parts[:1]]
    hooks = [part.register_forward_pre_hook(counting("outer")) for part in outer]
    hooks += [part.register_forward_pre_hook(counting("inner")) for part in inner]
    validate = run.validate

    def measured(samples: int) -> dict[str, Any]:
        measuring[0] = True
        try:
            return validate(samples)
        finally:
            measuring[0] = False

    run.validate = measured  # type: ignore[method-assign]
    torch.manual_seed(1)
    step = built.remedy.step(run.update, run)
    ended = False
    for _ in range(budget):  # every step decodes a token at least
        if run.meter.tokens >= budget:
            ended = True
        try:
            step(run.draw())
        except BudgetSpentError:
            break
        if ended:
            raise LawBroken("it goes on when the budget is spent: BudgetSpentError is let through")
        run.steps += 1
    else:
        raise LawBroken(f"{budget} steps decode {run.meter.tokens} of {budget} tokens")
    for hook in hooks:
        hook.remove()
    run.meter.stop()
    # The call that is refused for want of budget is seen here, too, but decodes nothing.
    refused = 2 * int(corpus.train.lengths.max()) * TRAINING.batch
    for tokens in decoded.values():
        if tokens > run.meter.tokens + refused:
            raise LawBroken(f"{tokens} tokens were decoded and {run.meter.tokens} paid for")


def a_rest_of_one_sentence_trains(subject: Subject) -> None:
    """No training batch has a single sentence, where a corpus has more: a rest of one joins another
    batch. So statistics over a batch are defined."""
    corpus = subject.corpus
    split = head_of(corpus.train, 2 * TRAINING.batch + 1)
    built = subject.make()
    run = built.steps(replace(corpus, train=split), 4)
    wrong = [name for name, p in built.model.named_parameters() if not p.isfinite().all()]
    if wrong or run.epoch < 1:
        raise LawBroken(f"after an epoch {', '.join(wrong)} is not finite")


def it_leaves_torch_and_the_corpus_alone(subject: Subject) -> None:
    """A remedy draws from torch's global generator or from the noise it is given, and never seeds
    it; it changes no global setting of torch or numpy, and no sentence."""
    corpus = subject.corpus
    before, sentences = settings_of_torch(), content(corpus, subject.batch)
    built = subject.make()
    seed = torch.initial_seed()
    subject.plain()
    if torch.initial_seed() != seed:
        raise LawBroken("torch is seeded when the remedy is made or built")
    torch.manual_seed(7)
    run = built.run(corpus)
    step = built.remedy.step(run.update, run)
    for _ in range(2):
        step(run.draw())
    built.evaluate(corpus.valid)
    if torch.initial_seed() != 7:
        raise LawBroken("torch is seeded in a training step or in evaluation")
    after = settings_of_torch()
    changed = [f"{name} is {after[name]}, was {was}" for name, was in before.items()
               if after[name] != was]  # fmt: skip
    if changed:
        raise LawBroken(f"it changes what is global: {'; '.join(changed)}")
    if content(corpus, subject.batch) != sentences:
        raise LawBroken(
            "it changes the corpus in place; replace what is in a batch, and copy first"
        )


def settings_of_torch() -> dict[str, Any]:
    """What is global and no generator, by name."""
    return {
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.are_deterministic_algorithms_enabled()":
            torch.are_deterministic_algorithms_enabled(),
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled(),
        "torch.backends: fp32_precision": float32(),
        "numpy.geterr()": tuple(np.geterr().items()),
        "the state of numpy.random": hash(np.random.get_state()[1].tobytes()),  # type: ignore[index]  # noqa: NPY002
    }  # fmt: skip


def content(corpus: Corpus, batch: Batch) -> list[bytes]:
    """The words of all splits, and those of the batch that laws are tried on."""
    splits = [corpus.train, corpus.valid, corpus.test]
    return [s.tokens.tobytes() for s in splits] + [
        t.numpy().tobytes() for t in (batch.targets, batch.inputs, batch.mask, batch.lengths)
    ]


def with_gradient(model: SequenceVAE) -> set[str]:
    """Names of the parameters that have a gradient other than zero."""
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }

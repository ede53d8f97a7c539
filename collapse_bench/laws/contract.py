"""Laws of what a remedy's file says and of what its levers hand back."""

import re
from typing import Any, get_args, get_origin

import torch

from collapse_bench.corpus import Batch
from collapse_bench.description import describe
from collapse_bench.errors import UserError
from collapse_bench.importing import place
from collapse_bench.laws.bench import Built, noise_of
from collapse_bench.laws.law import DoesNotApply, LawBroken, Subject
from collapse_bench.metrics import METRICS
from collapse_bench.model import Forward
from collapse_bench.model.contract import ContractError, check_tensor
from collapse_bench.plugins import summary_of
from collapse_bench.settings import (
    Above,
    AtLeast,
    Between,
    Setting,
    schema_of,
    unknown,
)

SOURCE = re.compile(r"[A-Z]\w+.*\b(19|20)\d\d\b|\(new\)")
"""An author and a year, or that it is from nobody yet."""

PROGRESS = (0.0, 0.3, 1.0)

COMPUTED = ("states", "features", "q", "z", "p", "decoded")
"""What a pass computes that is no term."""


def its_file_names_a_source(subject: Subject) -> None:
    """The first line of a remedy's file names the method and where it is from, authors and year,
    such as `Word dropout (Bowman et al. 2016).`, or `(new)` where it is from nobody yet."""
    first = summary_of(subject.path)
    if not SOURCE.search(first):
        raise LawBroken(f"{subject.path}:1: the first line is {first!r}")


def its_docstring_explains_it_and_its_settings(subject: Subject) -> None:
    """The docstring of a remedy's class is its page in `list remedies NAME`: first what it does, in
    a sentence, then what it guarantees, and under `Attributes:` a line for each setting."""
    told = describe(subject.name, subject.path)
    where = f"{subject.path}:{told.line}"
    if not told.text:
        raise LawBroken(f"{where}: it has no docstring")
    if missing := [name for name in told.settings if name not in told.explained]:
        raise LawBroken(f"{where}: the docstring does not say what {', '.join(missing)} is")


def its_settings_can_be_read_without_running_it(subject: Subject) -> None:
    """A setting is an annotated field whose default is a literal, and none is without a default.
    `by_construction`, `neutral` and `architectures` are literals, too."""
    schema = describe(subject.name, subject.path).settings
    missing = [setting.name for setting in schema.values() if setting.required]
    if missing:
        raise LawBroken(f"{', '.join(missing)} has no default; give the paper's")
    at_run_time = list(schema_of(subject.remedy))
    if at_run_time != list(schema):
        raise LawBroken(f"the file says {list(schema)}, but the class has {at_run_time}")


def what_it_sets_by_construction_exists(subject: Subject) -> None:
    """`by_construction` names metrics that exist: those that say nothing of what was learned."""
    named = subject.remedy.by_construction
    if not isinstance(named, tuple):
        raise LawBroken(f"by_construction must be a tuple of names, not {named!r}")
    told = [unknown("metric", str(name), METRICS) for name in named if name not in METRICS]
    if told:
        raise LawBroken(f"by_construction: {'; '.join(told)}")


def a_setting_outside_its_rule_is_refused(subject: Subject) -> None:
    """Settings are held against their annotations when a remedy is made: `super().__post_init__()`
    comes first where a remedy has its own, and the message names the setting."""
    schema = schema_of(subject.remedy)
    wrong = {name: value for name, setting in schema.items() for value in outside(setting)}
    if not wrong:
        raise DoesNotApply("it has no setting with a limit")
    for name, value in wrong.items():
        try:
            subject.remedy(**{name: value})
        except UserError as error:
            if name not in str(error):
                raise LawBroken(
                    f"{name} = {value!r} is refused without its name: {error}"
                ) from None
        else:
            raise LawBroken(f"{name} = {value!r} is taken")


def its_settings_work_up_to_their_ends(subject: Subject) -> None:
    """At the ends of its rule, both included, a number is refused by name or gives a remedy that
    builds, updates and has a finite objective at every progress: nothing is divided by 0."""
    tried = [(name, end) for name, setting in schema_of(subject.remedy).items()
             for end in ends(setting)]  # fmt: skip
    if not tried:
        raise DoesNotApply("it has no setting whose rule has an end")
    for name, end in tried:
        try:
            built = subject.make({**subject.remedy.small, name: end})
            check_terms(built, subject.batch, f" with {name} = {end!r}")
            built.steps(subject.corpus, 1)
        except LawBroken:
            raise
        except UserError as error:
            if isinstance(error, ContractError) or name not in str(error):
                raise LawBroken(f"with {name} = {end!r}: {error}") from error
            continue
        except Exception as error:
            where = place(error, {str(subject.path)})
            raise LawBroken(
                f"with {name} = {end!r} it ends in {type(error).__name__}: {error}"
                f"{f' ({where})' if where else ''}"
            ) from error
        state = built.model.state_dict().items()
        wrong = [key for key, value in state if not value.isfinite().all()]
        if wrong:
            raise LawBroken(f"with {name} = {end!r} {wrong[0]} is not finite after an update")


def it_uses_a_lever(subject: Subject) -> None:
    """A remedy overrides `build`, `objective` or `step`: what the model is, how much each term
    counts, or which part is updated when."""
    if not subject.levers:
        raise LawBroken("it overrides none of them")


def it_builds(subject: Subject) -> None:
    """With its defaults, or with `small` where these are too large for tiny sizes, `build` gives
    parts by slot, or under the remedy's own name, and every one is a module."""
    subject.make()
    if subject.remedy.small:
        try:
            subject.make({})
        except ContractError:
            raise
        except UserError:
            return  # which is what `small` is for


def what_it_hands_back_is_as_the_contract_says(subject: Subject) -> None:
    """Every part and every term has the type and shape that the contract names, in training and in
    evaluation: a posterior and a prior over one z a sentence, nats [B] and [B, T], terms [B]."""
    built, batch = subject.make(), subject.batch
    for training in (True, False):
        model = built.model.train(training)
        torch.manual_seed(0)
        forward = model(batch, noise_of(1), objective=built.remedy.objective)
        sentences, tokens = batch.mask.shape
        with torch.no_grad():
            nats = model.log_likelihood_by_position(batch, forward.z)
        check_tensor(owner(subject, "readout", model), "by_position", nats, (sentences, tokens))
        check_tensor(
            subject.name, "the density of a draw", forward.q.log_prob(forward.z), (sentences,)
        )
        check_tensor(subject.name, "its prior density", forward.p.log_prob(forward.z), (sentences,))


def its_objective_is_one_finite_number_a_sentence(subject: Subject) -> None:
    """The objective is nats a sentence, [B], finite at every progress from 0 to 1, and its mean is
    the loss; a mean over tokens or over the batch would weigh the rate by other things."""
    check_terms(subject.make(), subject.batch)


def check_terms(built: Built, batch: Batch, where: str = "") -> None:
    """The terms of a model's objective are finite at every progress, one number a sentence.

    Raises:
        LawBroken: they are not; `where` is told too.
    """
    for progress in PROGRESS:
        forward = built.model(
            batch, noise_of(1), progress=progress, objective=built.remedy.objective
        )
        each = forward.per_sentence()
        for term, nats in terms(forward).items():
            odd = nats[~nats.isfinite()]
            if len(odd):
                raise LawBroken(
                    f"{term} is {odd[0].item()} in {len(odd)} of {nats.numel()} entries at progress"
                    f" {progress}{where}"
                )
        if each.shape != (len(batch.lengths),):
            raise LawBroken(f"it has the shape {list(each.shape)} at progress {progress}{where}")


def its_objective_leaves_the_pass_as_it_is(subject: Subject) -> None:
    """`objective` changes terms only: distortion, kl and extra. Batch, posterior, prior and draw
    are what was computed, and the terms that it was given are not changed in place."""
    if "objective" not in subject.levers:
        raise DoesNotApply("it leaves the objective alone")
    built, batch = subject.make(), subject.batch
    before = built.model(batch, noise_of(1), progress=0.3)
    kept = {name: nats.detach().clone() for name, nats in terms(before).items()}
    after = built.remedy.objective(before)
    for name in ("model", "batch", "step", "progress", *COMPUTED):
        if getattr(after, name) is not getattr(before, name):
            raise LawBroken(f"it replaces {name}")
    for name, nats in terms(before).items():
        if not torch.equal(nats.detach(), kept[name]):
            raise LawBroken(f"it changes {name} in place; use dataclasses.replace")


def terms(forward: Forward) -> dict[str, Any]:
    """The terms of an objective by name."""
    return {"distortion": forward.distortion, "kl": forward.kl, **forward.extra}


def owner(subject: Subject, slot: str, model: Any) -> str:
    """Whose part is in a slot, as messages call it."""
    return str(model.owners.get(slot, "the architecture"))


def ends(setting: Setting) -> list[Any]:
    """The ends of a number's rule that it may take, as the type that it asks for."""
    if not hasattr(setting.annotation, "__metadata__"):
        return []
    kind, limit, *_ = get_args(setting.annotation)
    kind = kind if kind in (int, float) else float
    if isinstance(limit, Between):
        return [kind(limit.low), kind(limit.high)]
    return [kind(limit.low)] if isinstance(limit, AtLeast) else []


def outside(setting: Setting) -> list[Any]:
    """A value that breaks the setting's rule, where there is a rule that a value can break."""
    form, parts = get_origin(setting.annotation), get_args(setting.annotation)
    if hasattr(setting.annotation, "__metadata__"):
        limit = setting.annotation.__metadata__[0]
        if isinstance(limit, Between):
            return [limit.high + 1]
        if isinstance(limit, AtLeast | Above):
            return [limit.low - 1]
    if setting.annotation in (int, float, bool) or form is tuple:
        return ["neither of these"]
    if parts and all(isinstance(part, str) for part in parts):
        return ["neither of these"]
    return []

"""Every law on a remedy's file, in every architecture that it is for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collapse_bench.device import one_thread
from collapse_bench.errors import UserError
from collapse_bench.laws import contract, evaluation, signature, stepping, training
from collapse_bench.laws.bench import ARCHITECTURES
from collapse_bench.laws.law import Outcome, Subject, Try, contract_of, sentence_of, tried
from collapse_bench.plugins import remedy_files, why_not
from collapse_bench.remedy import find_class

FIRST: tuple[Try, ...] = (
    contract.its_settings_can_be_read_without_running_it,
    contract.it_builds,
    contract.what_it_hands_back_is_as_the_contract_says,
)
"""Where one of these is broken the others would only say the same again."""

LAWS: tuple[Try, ...] = (
    *FIRST,
    contract.its_file_names_a_source,
    contract.its_docstring_explains_it_and_its_settings,
    contract.it_uses_a_lever,
    contract.what_it_sets_by_construction_exists,
    contract.a_setting_outside_its_rule_is_refused,
    contract.its_settings_work_up_to_their_ends,
    contract.its_objective_is_one_finite_number_a_sentence,
    contract.its_objective_leaves_the_pass_as_it_is,
    training.one_step_changes_every_parameter_it_trains,
    training.every_parameter_gets_a_gradient,
    training.its_neutral_settings_are_the_plain_vae,
    training.other_settings_are_not_the_plain_vae,
    training.its_dial_changes_no_training,
    training.one_seed_one_result,
    training.nothing_is_decoded_beyond_the_budget,
    training.a_rest_of_one_sentence_trains,
    training.it_leaves_torch_and_the_corpus_alone,
    stepping.a_call_for_some_slots_makes_exactly_one_update,
    stepping.an_objective_given_to_a_step_acts_on_every_update,
    stepping.what_lasts_is_in_buffers_or_in_its_state,
    evaluation.evaluation_changes_nothing_and_repeats,
    evaluation.evaluation_is_the_same_for_every_batch_size,
    evaluation.evaluation_leaves_one_row_a_sentence,
    evaluation.evaluation_does_not_know_how_the_model_was_trained,
    evaluation.a_saved_model_evaluates_the_same,
    evaluation.padding_changes_nothing,
    evaluation.no_sentence_depends_on_its_neighbours,
    evaluation.its_bound_is_one,
    signature.its_signature_is_as_it_says,
)


@dataclass(frozen=True)
class Finding:
    """What came of one law.

    Attributes:
        law: its name in words.
        contract: what the contract says.
        status: `BROKEN` if it is in any architecture, else `ok` if it is in any, else
            `not applicable`.
        seen: what was seen, or why it does not apply, with the architectures that it was seen in
            unless it is all of them.
    """

    law: str
    contract: str
    status: str
    seen: tuple[str, ...] = ()


def check_file(path: Path, plugins: Sequence[Path] = ()) -> Iterator[Finding]:
    """Every law on a remedy's file, one after the other.

    Args:
        path: the remedy's.
        plugins: further files that are known.

    Raises:
        UserError: the file is missing, misnamed or not a remedy's.
    """
    files, name = remedy_files([path, *plugins]), path.resolve().stem
    if name not in files:
        raise UserError(why_not(name, files))
    find_class(name, files[name])
    with one_thread():
        yield from _findings(name, files)


def _findings(name: str, files: Mapping[str, Path]) -> Iterator[Finding]:
    """What is found of each law; where a first one is broken the others are not looked at."""
    hopeless = ""
    its = find_class(name, files[name]).architectures
    architectures = [each for each in ARCHITECTURES if each in its]
    for law in LAWS:
        if hopeless:
            yield Finding(sentence_of(law), contract_of(law), "not applicable", (hopeless,))
            continue
        found = finding(
            law, {each: tried(law, Subject(name, each, files)) for each in architectures}
        )
        if found.status == "BROKEN" and law in FIRST:
            hopeless = f"not looked at, since it is broken that {found.law}"
        yield found


def finding(law: Try, outcomes: dict[str, Outcome]) -> Finding:
    """What came of one law in each architecture, told once where it is the same."""
    status = max(
        (o.status for o in outcomes.values()), key=["not applicable", "ok", "BROKEN"].index
    )
    told: dict[str, list[str]] = {}
    for architecture, outcome in outcomes.items():
        if outcome.status == status and outcome.seen:
            told.setdefault(outcome.seen, []).append(architecture)
    seen = tuple(
        text if len(where) == len(outcomes) else f"{', '.join(where)}: {text}"
        for text, where in told.items()
    )
    return Finding(sentence_of(law), contract_of(law), status, seen)

"""The training loop."""

from collections.abc import Callable
from contextlib import suppress

from collapse_bench.model import Forward
from collapse_bench.model.contract import ContractError
from collapse_bench.training.checkpoint import Checkpoints
from collapse_bench.training.meter import BudgetSpentError
from collapse_bench.training.run import TrainingRun
from collapse_bench.training.selection import Selection


def train(
    run: TrainingRun,
    selection: Selection,
    report: Callable[[TrainingRun, Forward], None],
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train until the budget is spent; the model ends with the selected weights.

    Args:
        run: a model and all that it is trained by.
        selection: of the same run.
        report: called after every step.
        checkpoints: what to go on from, and where to keep what to go on from; None is neither.

    Raises:
        DivergedError: a gradient or the bound is not finite.
    """
    step = checkpoints.start(run, selection) if checkpoints else run.start()
    run.model.train()
    with suppress(BudgetSpentError):
        while run.spent < 1:
            spent = run.meter.tokens
            forward = step(run.draw())
            if run.meter.tokens == spent:
                raise ContractError(
                    "step: nothing was decoded, so it would go on for ever; a remedy's step has to"
                    " call the step that it wraps"
                )
            run.steps += 1
            report(run, forward)
            if validated := selection.due:
                selection.validate()
            if checkpoints:
                checkpoints.offer(run, selection, validated=validated)
    if not selection.history or selection.history[-1]["tokens"] < run.meter.tokens:
        selection.validate()
    if checkpoints:  # whoever ends the evaluation does not end the training with it
        checkpoints.write(run, selection)
    selection.restore()
    run.meter.stop()

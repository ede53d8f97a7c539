"""One cell, from its settings to its record: build, train, evaluate, score, write."""

import json
import random
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from collapse_bench import record
from collapse_bench.corpus import Corpus, with_kinds
from collapse_bench.device import (
    give_back_memory,
    is_out_of_memory,
    limit_memory,
    name_of_device,
    peak_gpu_memory_mib,
    peak_memory_mib,
    prepare,
)
from collapse_bench.errors import DiskError, UserError
from collapse_bench.evaluation import bound_of, evaluate
from collapse_bench.job import Job, checkpoint_of, describe
from collapse_bench.model import Dimensions, Forward, SequenceVAE, build_model, known_labels
from collapse_bench.model.control import rate_of
from collapse_bench.plugins import fingerprint
from collapse_bench.precision import resolve_precision
from collapse_bench.provenance import CODE
from collapse_bench.remedy import (
    Remedy,
    by_construction,
    chain,
    check_architecture,
    levers_of,
    load_remedy,
)
from collapse_bench.result import in_record
from collapse_bench.suite import Cell
from collapse_bench.training import (
    Checkpoints,
    DivergedError,
    Selection,
    StoppedError,
    TrainingRun,
    stream_seed,
    train,
)
from collapse_bench.writing import replacing

OF_TRAINING = ("validation", "state", "environment")
"""What a record says of a training, whichever cell's it was."""


Report = Callable[[dict[str, Any]], None]


def run_cell(job: Job, report: Report, stop: Event | None = None) -> dict[str, Any]:
    """Run a cell and write its folder; whatever goes wrong is an outcome with its traceback.

    A cell that was interrupted or failed goes on from its last checkpoint.

    Args:
        job: the cell; its code digest is that of the run, and has to be this process's too.
        report: called about once a second while training, with `tokens`, `loss` and `kl`; with
            `said`, a line for the user, where the cell goes on from a checkpoint; with `measuring`
            when the model has been evaluated, and what is left is the processor's; with
            `recording` before the record is written. `evaluating` comes after the training.
        stop: set by whoever wants a checkpoint, after the step that is being made, and an end.

    Returns:
        The record that was written.

    Raises:
        StoppedError: it was to stop and has, without a record.
        DiskError: something could not be written; there is no record either.
    """
    prepare(job.cell.training.threads or 1, job.cell.training.deterministic)
    job = _as_it_is_here(job)
    checkpoints = Checkpoints(
        job.folder, checkpoint_of(job), lambda said: report({"said": said}), stop, job.checkpoint
    )
    result = describe(job)
    try:
        if job.code != CODE:
            raise RuntimeError(
                "the code here is not that of the run: it was edited while the suite was running,"
                " or this machine has another version; run it again with one code everywhere"
            )
        for remedy in job.cell.entry.remedies:
            if fingerprint(job.remedy_files[remedy.name]) != remedy.sha256:
                raise RuntimeError(
                    f"{job.remedy_files[remedy.name]} was edited while the suite was running; run"
                    " it again, which makes this another cell"
                )
        # Nothing here draws from these; a remedy that does has other numbers with every seed.
        random.seed(stream_seed(job.cell.seed, "python"))
        np.random.seed(stream_seed(job.cell.seed, "numpy") % 2**32)  # noqa: NPY002
        if job.fresh:
            checkpoints.remove()
        _train_and_score(job, report, checkpoints, result)
        result["status"] = "done"
    except (StoppedError, DiskError):
        raise  # no outcome of the cell's
    except DivergedError:
        result |= {"status": "diverged", "error": traceback.format_exc()}
    except (Exception, SystemExit) as error:
        status = "out of memory" if is_out_of_memory(error) else "failed"
        if status == "out of memory" and job.memory is not None:
            error.add_note(f"the cell wanted more than {job.memory / 2**20:,.0f} MiB (--memory)")
        result |= {"status": status, "error": traceback.format_exc()}
    limit_memory(None)
    cost = checkpoints.cost() | {
        "peak_memory_mib": peak_memory_mib(),
        "peak_gpu_memory_mib": peak_gpu_memory_mib(job.device),
    }
    result["cost"] |= {name: None if n is None else round(n, 1) for name, n in cost.items()}
    report({"recording": True})
    record.write_record(job.folder, result)
    if result["status"] in record.FINISHED:
        with suppress(DiskError):  # they cost no result, and the next run removes them
            checkpoints.remove()
    return result


def _as_it_is_here(job: Job) -> Job:
    """The job with the device and the precision of this machine, which on a cluster may be another
    than the one that planned it. What cannot be asked here fails as the cell is trained."""
    parts = {part: getattr(job.cell, part).precision for part in job.precision}
    with suppress(UserError):
        return replace(
            job,
            device_name=name_of_device(job.device),
            precision={part: resolve_precision(it, job.device) for part, it in parts.items()},
        )
    return job


def gone_on_from(job: Job, *, elsewhere: bool = False) -> tuple[int, frozenset[str]]:
    """Tokens that a cell has behind it when it is run now, and what is another one in the
    checkpoints that it refuses, where it begins anew though there are some: such as `code`.

    Args:
        job: the cell.
        elsewhere: whether it is run on another machine, whose versions, device and precision are
            not known here.
    """
    if job.fresh:
        return 0, frozenset()
    of = checkpoint_of(job)
    if elsewhere:
        of = {name: of[name] for name in ("cell", "corpus", "code")}
    stamps = []
    for path in sorted(job.folder.glob(record.CHECKPOINTS)):
        with suppress(FileNotFoundError):  # another run of the suite has written a newer one
            told = path.stat()
            stamps.append((path.name, told.st_mtime_ns, told.st_size))
    if not stamps:
        return 0, frozenset()
    return _newest_of(job.folder, tuple(stamps), tuple(of.items()))


@cache
def _newest_of(
    folder: Path, stamps: Any, of: tuple[tuple[str, str], ...]
) -> tuple[int, frozenset[str]]:
    """What `gone_on_from` tells; read once, as long as the files have these names and stamps."""
    checkpoints = Checkpoints(folder, dict(of))
    path, saved = checkpoints.newest()
    return (
        (0, frozenset(checkpoints.others))
        if path is None
        else (int(saved["run"]["tokens"]), frozenset())
    )


def build(
    cell: Cell, corpus: Corpus, files: Mapping[str, Path], sentences: int | None = None
) -> tuple[SequenceVAE, list[Remedy]]:
    """The model of a cell with its remedies built in, its weights drawn from the cell's seed.

    Args:
        cell: which model.
        corpus: what it will be trained on, as `seen_by` the cell.
        files: where each remedy is.
        sentences: of the training split that remedies are told of, where it is not the corpus's.

    Raises:
        UserError: a remedy refuses its settings, is not for the architecture, or discards another
            one's part.
    """
    torch.manual_seed(stream_seed(cell.seed, "initialisation"))
    dimensions = Dimensions(
        vocabulary=corpus.vocabulary.size if corpus.vocabulary else 0,
        dropout=cell.training.dropout,
        sentences=len(corpus.train) if sentences is None else sentences,
        longest=corpus.longest,
        channels=corpus.channels,
        **asdict(cell.sizes),
    )
    told = known_labels(corpus) if cell.entry.told == "labels" else cell.entry.told
    model = build_model(cell.architecture, dimensions, told=told)
    remedies = [load_remedy(each.name, each.settings, files) for each in cell.entry.remedies]
    check_architecture(remedies, cell.architecture)
    return chain(remedies).build(model), remedies


def seen_by(cell: Cell, corpus: Corpus) -> Corpus:
    """The corpus as the cell's model may see it: none but an oracle is told labels.

    Raises:
        UserError: the cell is to be told labels that the corpus has not.
    """
    return with_kinds(corpus) if cell.entry.told == "labels" else corpus


def _train_and_score(
    job: Job, report: Report, checkpoints: Checkpoints, result: dict[str, Any]
) -> None:
    """Fill in the record as far as the cell gets, and write everything that stands beside it."""
    cell = job.cell
    corpus = seen_by(cell, job.corpus)
    model, remedies = build(cell, corpus, job.remedy_files)
    model.to(job.device)
    result["latent"] = model.dimensions.latent
    result["levers"] = levers_of(remedies)
    result["by_construction"] = by_construction(remedies)
    result["cost"]["parameters"] = sum(p.numel() for p in model.parameters())
    before = _trained_before(job.folder)
    lent = None if job.trained_in is None else record.digest_of_model(job.trained_in)
    if before is not None and lent in (None, before.get("trained_model")):
        report({"said": "is evaluated again, its model is there"})
        record.read_model(job.folder, model, before.get("model_sha256"))
        result |= {name: before[name] for name in (*OF_TRAINING, "cost")}
        result |= {name: before.get(name) for name in ("trained_as", "trained_model")}
        checkpoints.add(before["cost"])
    elif job.trained_in is not None:
        _take(job.trained_in, result, model)
    else:
        _train(job, report, checkpoints, result, model, remedies)
    report({"evaluating": True})
    if checkpoints.stop.is_set():
        raise StoppedError
    # Before anything can be found wrong with the numbers: they can be computed again from these.
    result["model_sha256"] = record.write_model(job.folder, model.state_dict())
    if job.corpus.vocabulary:
        with replacing(job.folder / record.VOCABULARY) as temporary:
            job.corpus.vocabulary.save(temporary)
    result |= bound_in_record(cell, model, corpus)
    arrays = evaluate_cell(cell, model, corpus)
    del model
    give_back_memory(job.device)
    report({"measuring": True})
    result["sentences_sha256"] = record.write_arrays(job.folder, arrays)
    result |= in_record(result["latent"], arrays, told=cell.entry.told is not None)


def _train(
    job: Job,
    report: Report,
    checkpoints: Checkpoints,
    result: dict[str, Any],
    model: SequenceVAE,
    remedies: list[Remedy],
) -> None:
    """Train the cell's model; the record has what came of it, also where it breaks off."""
    cell, corpus = job.cell, seen_by(job.cell, job.corpus)
    run = TrainingRun(
        model, chain(remedies), corpus, cell.training, budget=job.budget, seed=cell.seed
    )
    selection = Selection(run)
    try:
        train(run, selection, _once_a_second(report), checkpoints)
    finally:
        # A remedy of one's own may keep what JSON does not know: as text, it costs no result.
        result["state"] = json.loads(json.dumps(run.state, default=str), parse_constant=str)
        result["validation"] = selection.summary()
        result["environment"]["eager"] = run.passes.eager
        result["cost"] |= {
            "training_seconds": round(checkpoints.cost()["seconds"] - selection.seconds, 1),
            "validation_seconds": round(selection.seconds, 1),
            "tokens_decoded": run.meter.tokens,
            "encoder_updates": run.updates["encoder"],
            "decoder_updates": run.updates["decoder"],
        }
        record.write_history(job.folder, selection.history)


def _take(trained: Path, result: dict[str, Any], model: SequenceVAE) -> None:
    """Give the model the weights of a finished cell, and the record what that says of their
    training.

    Raises:
        DivergedError: that cell has diverged.
        UserError: it has no result.
    """
    path = trained / record.RECORD
    told = record.read_record(path) if path.exists() else {"status": "missing"}
    if told["status"] == "diverged":
        raise DivergedError(f"the training of {told['cell']}, which this cell shares, diverged")
    if told["status"] != "done":
        raise UserError(
            f"{trained}: the cell whose training this one shares is {told['status']}; run the two"
            f" together, or mend what that one's record tells"
        )
    record.read_model(trained, model, told.get("model_sha256"))
    result["trained_as"] = told["cell"]
    result["trained_model"] = record.digest_of_model(trained)
    result |= {name: told[name] for name in OF_TRAINING}


def _trained_before(folder: Path) -> dict[str, Any] | None:
    """The record of a cell whose arrays have been lost, and whose model has not; else None."""
    path = folder / record.RECORD
    told = record.read_record(path) if path.exists() else {"status": "missing"}
    lost = not (folder / record.SENTENCES).exists() and (folder / record.MODEL).exists()
    return told if told["status"] == "done" and lost else None


def evaluate_cell(cell: Cell, model: SequenceVAE, corpus: Corpus) -> dict[str, NDArray[Any]]:
    """The per-sentence arrays of a cell's model on the test split."""
    return evaluate(
        model,
        corpus.test,
        samples=cell.evaluation.samples if cell.sizes.latent else 1,
        standard_error=cell.evaluation.standard_error,
        batch=cell.evaluation.batch,
        seed=stream_seed(cell.seed, "test"),
        precision=cell.evaluation.precision,
        refinement=cell.evaluation.refinement if cell.sizes.latent else 0,
    )


def bound_in_record(cell: Cell, model: SequenceVAE, corpus: Corpus) -> dict[str, Any]:
    """What a record says of its model's numbers: bounds or not, by what it does with sentences.

    Args:
        cell: of the model.
        model: trained.
        corpus: whose test sentences it is put to.
    """
    if cell.entry.told:
        return {"bound": "oracle", "bound_reasons": [f"{cell.entry.told} of each sentence"]}
    seed = stream_seed(cell.seed, "test")
    bound = bound_of(model, corpus.test, batch=cell.evaluation.batch, seed=seed)
    return {"bound": bound.kind, "bound_reasons": list(bound.reasons)}


def _once_a_second(report: Report) -> Callable[[TrainingRun, Forward], None]:
    last = time.monotonic()

    def after_step(run: TrainingRun, forward: Forward) -> None:
        nonlocal last
        if time.monotonic() < last + 1:
            return
        last = time.monotonic()
        report(
            {
                "tokens": run.meter.tokens,
                "loss": float(forward.loss().detach()),
                "kl": float(rate_of(forward).detach().mean()),
            }
        )

    return after_step

"""A cell with all that a process needs to run it, and its record before anything is known."""

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from collapse_bench import lease, record
from collapse_bench.corpus import Corpus
from collapse_bench.provenance import provenance
from collapse_bench.suite import Cell, identity


@dataclass(frozen=True)
class Job:
    """A cell with all that a worker process needs to run it.

    Attributes:
        device: `cpu` or `cuda`.
        device_name: of the GPU, or `cpu`; of the machine that planned the run, until the cell is
            on its own.
        precision: in which `training` and `evaluation` really compute on this device.
        code: digest of the package's source.
        suite_budget: what a cell of the suite may spend whose entry has no budget of its own; None
            where it is this cell's.
        fresh: whether to begin anew though there are checkpoints.
        trained_in: folder of the cell whose model this one is, at another value of a dial; None
            where it is trained itself.
        retry: which outcomes are run again; None is those that are without being asked for.
        tried: attempts that had ended when the run was planned, by the cell's record.
        memory: bytes that the process may have; None is no limit.
        checkpoint: seconds after which a checkpoint is due; None is the bench's own choice. It
            changes no result.
        parameters: of the model; 0 where they have not been counted.
    """

    cell: Cell
    id: str
    folder: Path
    corpus: Corpus
    budget: int
    device: str
    device_name: str
    precision: Mapping[str, str]
    remedy_files: Mapping[str, Path]
    code: str
    suite_budget: int | None = None
    fresh: bool = False
    trained_in: Path | None = None
    retry: str | None = None
    tried: int = 0
    memory: int | None = None
    checkpoint: float | None = None
    parameters: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The identity of the cell, which its id is of."""
        corpus = self.corpus
        return identity(self.cell, corpus.name, corpus.sha256, corpus.labels_sha256, self.budget)

    def hold(self) -> AbstractContextManager[lease.Holding]:
        """Be the one that works on the cell: see `lease.hold`."""
        return lease.hold(self.folder, self.settings)

    @property
    def leaves(self) -> int:
        """Bytes that the cell leaves on the disk, about: weights, and arrays of some 300 bytes a
        test sentence, five of its latent and one of its draws."""
        latent, samples = self.cell.sizes.latent, self.cell.evaluation.samples
        return 4 * self.parameters + len(self.corpus.test) * (300 + 4 * (5 * latent + samples))

    @property
    def writes(self) -> int:
        """Bytes that it writes meanwhile, about: two checkpoints and a third before the first is
        deleted, each with the weights, the best of them and two averages of each gradient."""
        return 3 * 4 * 4 * self.parameters


def checkpoint_of(job: Job) -> dict[str, str]:
    """What a checkpoint has to be of; a cell's id tells settings, remedies, labels and threads."""
    return {
        "cell": job.id,
        "corpus": job.corpus.sha256[:12],
        "code": job.code[:12],
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": job.device_name,
        "precision": job.precision["training"],
    }


def describe(job: Job) -> dict[str, Any]:
    """The record of a cell before anything is known of its outcome."""
    cell = job.cell
    return {
        "schema": record.SCHEMA,
        "suite": cell.suite,
        "cell": job.id,
        "entry": cell.entry.name,
        "architecture": cell.architecture,
        "seed": cell.seed,
        "status": "killed",
        "error": None,
        "budget": job.budget,
        "suite_budget": job.budget if job.suite_budget is None else job.suite_budget,
        "latent": cell.sizes.latent,
        "bound": "oracle" if cell.entry.told else None,
        "bound_reasons": [],
        "family": None,
        "levers": [],
        "by_construction": [],
        "remedies": [asdict(remedy) for remedy in cell.entry.remedies],
        "trained_as": None,
        "trained_model": None,
        "settings": job.settings,
        "corpus": job.corpus.record() | {"hub": cell.corpus.hub, "revision": cell.corpus.revision},
        "metrics": {},
        "standard_errors": {},
        "label_entropy": {},
        "verdict": None,
        "sentences_sha256": None,
        "model_sha256": None,
        "attempts": record.earlier_attempts(job.folder),
        "validation": {"negative_elbo": None, "tokens": 0, "converged": False},
        "state": {},
        "cost": {
            "attempts": 1,
            "seconds": 0.0,
            "training_seconds": 0.0,
            "validation_seconds": 0.0,
            "checkpoint_seconds": 0.0,
            "tokens_decoded": 0,
            "encoder_updates": 0,
            "decoder_updates": 0,
            "peak_memory_mib": 0.0,
            "peak_gpu_memory_mib": None,
            "parameters": 0,
        },
        "environment": _environment(job),
        "scored": provenance(job.code) | {"device": job.device_name},
    }


def _environment(job: Job) -> dict[str, Any]:
    return {
        **provenance(job.code),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": job.device_name,
        "threads": job.cell.training.threads,
        "deterministic": job.device == "cpu" or job.cell.training.deterministic,
        "eager": None,  # why passes of training were not replayed, once that is known
        "precision": dict(job.precision),
        "platform": platform.platform(),
    }

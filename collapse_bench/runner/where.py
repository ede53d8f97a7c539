"""Where cells are computed, by what `--on` says."""

import importlib
from collections.abc import Mapping

from collapse_bench.errors import UserError
from collapse_bench.runner.engine import Engine
from collapse_bench.runner.local import Local

PLACES = ("local", "ray", "slurm")


def engine_on(place: str, *, workers: int | None, at_once: int, slurm: Mapping[str, str]) -> Engine:
    """The engine of a place.

    Args:
        place: one of `PLACES`; of Ray, `ray:HOST:PORT` names a cluster.
        workers: cells at a time, None where the user has not said.
        at_once: cells at a time on this machine where the user has not said.
        slurm: options for SLURM, see `on_slurm.Slurm`.

    Raises:
        UserError: the package of the place is not installed, or the place cannot be reached.
    """
    kind, _, address = place.partition(":")
    if slurm and kind != "slurm":
        raise UserError(f"--slurm: is for --on slurm, not --on {place}; leave it out")
    if kind == "ray":
        _check_installed("ray", kind)
        from collapse_bench.runner.on_ray import Ray

        return Ray(address or None, workers)
    if kind == "slurm":
        _check_installed("submitit", kind)
        from collapse_bench.runner.on_slurm import Slurm

        return Slurm(slurm, workers)
    return Local(workers or at_once)


def _check_installed(package: str, extra: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"--on {extra}: needs a package that is not installed ({error}): pip install"
            f" 'collapse_bench[{extra}]'"
        ) from error

"""A benchmark of remedies for posterior collapse in text VAEs with autoregressive decoders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapse_bench.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Diagnosis", "__version__", "diagnose"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # What is offered here needs torch, which takes seconds to import and most verbs never need.
    if name in __all__:
        from collapse_bench import diagnosis

        return getattr(diagnosis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Text or values in, batches out: which corpus a suite means, and how it reaches a model."""

from collections.abc import Callable
from pathlib import Path

from collapse_bench.corpus import (
    bible,
    he2019,
    linear_gaussian,
    newswire,
    ptb,
    sine_maps,
    text,
    values,
)
from collapse_bench.corpus.batches import Batch, evaluation_batches, training_batches
from collapse_bench.corpus.corpus import (
    Corpus,
    Settings,
    Split,
    Texts,
    Values,
    encoded,
    labels_found,
    measured,
    with_kinds,
)
from collapse_bench.errors import CorpusMissing

__all__ = [
    "Batch",
    "Corpus",
    "Split",
    "evaluation_batches",
    "labels_found",
    "load_corpus",
    "training_batches",
    "with_kinds",
]

READERS: dict[str, Callable[[Settings, Path | None, Callable[[str], None]], Texts | Values]] = {
    "ptb": ptb.read,
    "text": text.read,
    "bible": bible.read,
    "newswire": newswire.read,
    "he2019": he2019.read,
    "values": values.read,
    "linear_gaussian": linear_gaussian.read,
    "sine_maps": sine_maps.read,
}


def load_corpus(settings: Settings, data: Path | None, say: Callable[[str], None]) -> Corpus:
    """Find, read and encode the corpus that `settings` name.

    Args:
        settings: The `corpus` part of a suite.
        data: Folder of corpora: `--data` or `$COLLAPSE_BENCH_DATA`.
        say: Told, in words, whatever the user should know about the text.

    Raises:
        CorpusMissing: If it cannot be had and the settings name no other.
        UserError: If it is here but cannot be read.
    """
    try:
        found = READERS[settings.name](settings, data, say)
    except CorpusMissing as missing:
        if settings.otherwise is None:
            raise
        say(f"{missing}\n  going on with {settings.otherwise}, and every record will say so")
        found = READERS[settings.otherwise](settings, data, say)
    return encoded(found, settings) if isinstance(found, Texts) else measured(found, settings)

"""The Penn Treebank as prepared by Mikolov, sentence by sentence.

T. Mikolov et al., Recurrent neural network based language model, Interspeech 2010.
42,068 / 3,370 / 3,761 sentences, 887,521 / 70,390 / 78,669 words of 9,999 types, `<unk>` being
one of them. The text is licensed by the LDC, so it is not part of this project.
"""

from pathlib import Path

from collapse_bench.corpus.corpus import SPLITS, Settings, Texts, digest
from collapse_bench.corpus.text import Rows, Say, find_files, read_files, read_hub
from collapse_bench.errors import CorpusMissing

DIGESTS = {
    "train": "5145926136ee9aef6f359b267ac09cc8a920879cd71725de17c490dd111d2998",
    "valid": "fadf6277290823f881b7bf39b84e88536c87a859cd629dcfd1d2dfdef06097cf",
    "test": "c2f8c16a611595d31da5acdb7a61d50e7d5e95f6b9c05fceda5f5ddc4383e791",
}
"""SHA-256 of each split, its sentences normalised."""

HUB = "ptb-text-only/ptb_text_only"
# The main branch holds a script, which `datasets` no longer runs; the hub's conversion is parquet.
REVISION = "refs/convert/parquet"

HOW = """\
The Penn Treebank is licensed by the LDC and cannot be shipped. If you have Mikolov's version
(ptb.train.txt, ptb.valid.txt, ptb.test.txt), put the three files into a folder and name it as
corpus.path in the suite, or put them into FOLDER/ptb and set COLLAPSE_BENCH_DATA=FOLDER."""


def read(settings: Settings, data: Path | None, say: Say) -> Texts:
    """The text from the first place that has it: `path`, the data folder, the hub's cache, the hub.

    Raises:
        CorpusMissing: If no place has it; the message says where it was sought and how to get it.
    """
    sentences, labels = _find(settings, data, say)
    deviating = [split for split in SPLITS if digest(sentences[split]) != DIGESTS[split]]
    if deviating:
        splits = " and ".join(deviating)
        say(f"corpus ptb: {splits} not the known text; used all the same, marked in every record")
    return Texts("ptb", sentences, labels, standard=not deviating)


def _find(settings: Settings, data: Path | None, say: Say) -> Rows:
    looked = []
    places = {
        "corpus.path": settings.path and Path(settings.path).expanduser(),
        "data folder ($COLLAPSE_BENCH_DATA)": data and data.expanduser() / "ptb",
    }
    for place, folder in places.items():
        files = find_files(folder, "ptb.") if folder else None
        if files:
            return read_files(files, say)
        looked.append(f"{place}: {f'no such files in {folder}' if folder else 'not set'}")
    try:
        return read_hub(
            settings.hub or HUB, settings.revision or (None if settings.hub else REVISION), say
        )
    except CorpusMissing as missing:
        looked.append(str(missing))
    listed = "".join(f"\n  {place}" for place in looked)
    raise CorpusMissing(f"corpus ptb is not on this machine. Looked in{listed}\n{HOW}")

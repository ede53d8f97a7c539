"""What a suite says. The annotations are the rules that its file is held against."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from collapse_bench.settings import Above, AtLeast, Between

CorpusName = Literal[
    "ptb", "text", "bible", "newswire", "he2019", "values", "linear_gaussian", "sine_maps"
]
BUILT_IN = ("newswire", "he2019", "bible", "linear_gaussian", "sine_maps")
VALUES = ("values", "linear_gaussian", "sine_maps")
DRAWN = ("newswire", "linear_gaussian", "sine_maps")
"""Corpora that need no file of the user's, those of real-valued sequences, and those of which any
number of sentences can be had."""

Architecture = Literal["lstm", "transformer", "linear"]
Precision = Literal["auto", "float32", "bfloat16"]
Budget = Annotated[int, AtLeast(1)] | dict[CorpusName, Annotated[int, AtLeast(1)]]
"""Tokens that a cell may decode, or a mapping from the corpus's name to them."""


def budget_for(budget: Budget, corpus_name: str) -> int:
    """Return the budget in decoded tokens on the corpus that is really used."""
    return budget if isinstance(budget, int) else budget[cast(CorpusName, corpus_name)]


@dataclass(frozen=True)
class CorpusSettings:
    """Which text, or which real-valued sequences, are learned from.

    Attributes:
        name: `ptb` is Penn Treebank, `text` any folder or hub data set, `bible` the World English
            Bible from a package; `newswire` and `he2019`, synthetic text of He et al. (2019), are
            built in. Of real-valued sequences, `values` are any, and `linear_gaussian` and
            `sine_maps`, whose likelihood is known, are built in.
        level: Of `newswire`: how hard it is to find out what a sentence is about.
        otherwise: What to go on with where the corpus cannot be had.
        path: Folder of train.txt, valid.txt and test.txt, of values of .npy or .csv; in the file
            relative to the suite.
        hub: Id of a data set on the Hugging Face hub, and its `revision`.
        vocabulary: Largest number of types, special ones included.
        sentences: Training sentences of `newswire` and of built-in values; validation and test have
            a tenth each.
        steps: Of each sequence of built-in values.
    """

    name: CorpusName = "newswire"
    level: Literal["easy", "medium", "hard"] = "hard"
    otherwise: Literal["bible", "newswire"] | None = None
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    vocabulary: Annotated[int, AtLeast(5)] | None = None
    tokenizer: Literal["word", "bpe"] = "word"
    sentences: Annotated[int, AtLeast(20)] | None = None
    steps: Annotated[int, AtLeast(1)] | None = None


@dataclass(frozen=True)
class Sizes:
    """Widths of the model; layers and heads are the Transformer's, the LSTM has one layer.

    A latent of 0 is the control without a latent, which only an entry can ask for.
    """

    embedding: Annotated[int, AtLeast(1)] = 256
    hidden: Annotated[int, AtLeast(1)] = 256
    latent: Annotated[int, AtLeast(1)] = 32
    layers: Annotated[int, AtLeast(1)] = 2
    heads: Annotated[int, AtLeast(1)] = 4


@dataclass(frozen=True)
class Training:
    """How every cell is trained.

    Attributes:
        budget: Tokens that a cell may decode, unless its entry has a budget of its own.
        batch: Sentences in an update.
        optimizer: `adam` or plain `sgd`.
        learning_rate: At the beginning.
        decay: How it falls from half the budget on: `linear` to a twentieth, or `exponential` to a
            thousandth, so that a short run settles before its end.
        clip: Largest norm of the gradient.
        dropout: Share of the decoder's embeddings and outputs that is dropped.
        validations: Validation passes in a run.
        weights: Which are scored: those of the `best` validated ELBO, or the `last`. Where an
            objective is far from the ELBO, the best are of early in its training.
        precision: Of the products in training and validation; weights are in float32.
            `auto` is bfloat16 where the device has instructions for it.
        threads: Of a cell, in evaluation too. Sums over other parts round otherwise, so the number
            is part of what determines a result. None is `--threads`, `OMP_NUM_THREADS` or one.
        deterministic: Whether a GPU may use only operations that repeat bit for bit, in evaluation
            too; a processor always does.
        captured: Whether a GPU replays passes that it has met before as CUDA graphs. A processor
            runs the same passes without graphs.
    """

    budget: Budget
    batch: Annotated[int, AtLeast(1)] = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Above(0)] = 1e-3
    decay: Literal["linear", "exponential"] = "linear"
    clip: Annotated[float, Above(0)] = 5.0
    dropout: Annotated[float, Between(0, 1)] = 0.5
    validations: Annotated[int, AtLeast(1)] = 10
    weights: Literal["best", "last"] = "best"
    precision: Precision = "auto"
    threads: Annotated[int, AtLeast(1)] | None = None
    deterministic: bool = False
    captured: bool = False

    def budget_for(self, corpus_name: str) -> int:
        """Return the budget in decoded tokens on the corpus that is really used."""
        return budget_for(self.budget, corpus_name)


@dataclass(frozen=True)
class Evaluation:
    """How every cell is evaluated.

    Attributes:
        samples: Most draws for a sentence's importance-weighted NLL.
        standard_error: A sentence whose NLL has a smaller Monte-Carlo error, in nats, gets no
            further draws; at 0 every sentence gets all of them.
        batch: Sentences encoded and decoded at a time; a GPU, which these leave idle, takes more.
        precision: Of the decoder's products, as in training.
        refinement: Steps of a descent on each test sentence's own posterior, whose bound is told
            beside the encoder's; 0 leaves it out.
    """

    samples: Annotated[int, AtLeast(1)] = 64
    standard_error: Annotated[float, AtLeast(0)] = 0.05
    batch: Annotated[int, AtLeast(1)] = 64
    precision: Precision = "auto"
    refinement: Annotated[int, AtLeast(0)] = 0


@dataclass(frozen=True)
class RemedySettings:
    """A remedy by name, with all of its settings resolved.

    `sha256` is the digest of its file where that is not part of this package: a remedy of one's
    own that has been edited is another remedy, and its cells are run again.
    """

    name: str
    settings: dict[str, Any]
    sha256: str | None = None


Told = Literal["length", "labels"]


@dataclass(frozen=True)
class Sweep:
    """The point of a sweep that an entry is.

    Attributes:
        entry: The entry in the file, which stands for one entry a value.
        setting: What is swept, such as `word_dropout.rate`.
        value: This entry's, as the file says it.
    """

    entry: str
    setting: str
    value: object


@dataclass(frozen=True)
class Entry:
    """What competes: remedies, the first acting first; none is the plain VAE.

    A `latent` that is not None stands for the latent of the suite's sizes, and a `budget` for its
    budget. What an entry is `told` of a sentence in advance makes it an oracle: the language model
    that knows its length, or a model whose latent is its labels. An entry that is `trained_as`
    another one has that one's model, at another value of a dial. Neither that nor a `sweep`, which
    tells where an entry comes from, is part of a cell's identity: remedies and their settings are.
    """

    name: str
    remedies: tuple[RemedySettings, ...] = ()
    latent: int | None = None
    sweep: Sweep | None = None
    told: Told | None = None
    budget: Budget | None = None
    trained_as: "Entry | None" = None


@dataclass(frozen=True)
class Suite:
    """A suite that has been checked."""

    name: str
    path: Path
    corpus: CorpusSettings
    architectures: tuple[Architecture, ...]
    sizes: Sizes
    training: Training
    evaluation: Evaluation
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]

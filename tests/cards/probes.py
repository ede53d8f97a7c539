"""What can be known of a corpus's labels, and by whom: the tables of the data cards.

    PYTHONPATH=. .venv/bin/python tests/cards/probes.py newswire-easy newswire-medium bible

Each probe is trained with the labels and stopped by its validation loss; told is what it knows of
the test sentences: their labels' entropy less its cross-entropy, in nats, a lower bound on what
there is to know. `encoder` is the bench's LSTM encoder with its usual pool, at the sizes of
suites/quick.yaml, and a linear layer: can what a VAE has for an encoder read the labels at all?
"""

import copy
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch, Corpus, evaluation_batches, load_corpus, training_batches
from collapse_bench.metrics.labels import entropy
from collapse_bench.model import Dimensions
from collapse_bench.model.latent import LastState
from collapse_bench.model.lstm import LSTMEncoder
from collapse_bench.suite import CorpusSettings

EMBEDDING, HIDDEN = 32, 64
FIRST = 3
"""Words at the start that the second probe sees, besides the length."""

EPOCHS, PATIENCE, BATCH, RATE = 30, 3, 64, 0.003


class BagOfWords(nn.Module):
    """Which words a sentence has, to logits."""

    def __init__(self, corpus: Corpus, values: int) -> None:
        super().__init__()
        self.words = nn.Embedding(corpus.vocabulary.size, values)
        nn.init.zeros_(self.words.weight)  # a word that is not met says nothing

    def forward(self, batch: Batch) -> Tensor:
        """[B, V]."""
        return (self.words(batch.targets) * batch.mask[..., None]).sum(1)


class FirstWords(nn.Module):
    """The first words and the length of a sentence, to logits."""

    def __init__(self, corpus: Corpus, values: int) -> None:
        super().__init__()
        words = corpus.vocabulary.size
        self.words = nn.ModuleList(nn.Embedding(words, values) for _ in range(FIRST))
        self.length = nn.Embedding(corpus.longest + 1, values)
        for each in (*self.words, self.length):
            nn.init.zeros_(each.weight)

    def forward(self, batch: Batch) -> Tensor:
        """[B, V]."""
        words = F.pad(batch.targets, (0, FIRST))[:, :FIRST]
        seen = [each(words[:, i]) for i, each in enumerate(self.words)]
        return torch.stack([*seen, self.length(batch.lengths)]).sum(0)


class Encoder(nn.Module):
    """The bench's encoder and pool, and a linear layer."""

    def __init__(self, corpus: Corpus, values: int) -> None:
        super().__init__()
        sizes = Dimensions(
            corpus.vocabulary.size,
            EMBEDDING,
            HIDDEN,
            latent=1,
            layers=1,
            heads=1,
            dropout=0.0,
            sentences=len(corpus.train),
            longest=corpus.longest,
        )
        self.encoder, self.pool = LSTMEncoder(sizes), LastState()
        self.linear = nn.Linear(HIDDEN, values)

    def forward(self, batch: Batch) -> Tensor:
        """[B, V]."""
        return self.linear(self.pool(self.encoder(batch), batch.mask))


PROBES: dict[str, Callable[[Corpus, int], nn.Module]] = {
    "bag of words": BagOfWords,
    f"first {FIRST} words, length": FirstWords,
    "encoder": Encoder,
}


def told(corpus: Corpus, label: str, kind: Callable[[Corpus, int], nn.Module]) -> float:
    """Nats that a probe of this kind knows of a label of the test sentences."""
    torch.manual_seed(1)
    splits = (corpus.train, corpus.valid, corpus.test)
    names = sorted({value for split in splits for value in split.labels[label].tolist()})
    codes = {
        split: torch.tensor([names.index(v) for v in getattr(corpus, split).labels[label].tolist()])
        for split in ("train", "valid", "test")
    }
    probe = kind(corpus, len(names))
    adam = torch.optim.Adam(probe.parameters(), lr=RATE)

    def loss(split: str) -> float:
        batches: Iterator[Batch] = evaluation_batches(getattr(corpus, split), 256)
        nats = 0.0
        with torch.no_grad():
            for batch in batches:
                asked = codes[split][batch.index]
                nats += float(F.cross_entropy(probe(batch), asked, reduction="sum"))
        return nats / len(codes[split])

    best, kept, since = np.inf, copy.deepcopy(probe.state_dict()), 0
    for epoch in range(EPOCHS):
        for batch in training_batches(corpus.train, BATCH, seed=1, epoch=epoch):
            adam.zero_grad()
            F.cross_entropy(probe(batch), codes["train"][batch.index]).backward()
            adam.step()
        now = loss("valid")
        since = 0 if now < best else since + 1
        if now < best:
            best, kept = now, copy.deepcopy(probe.state_dict())
        if since == PATIENCE:
            break
    probe.load_state_dict(kept)
    return entropy(corpus.test.labels[label]) - loss("test")


def main(names: list[str]) -> None:
    """Print a table a corpus."""
    torch.set_num_threads(1)
    for name in names:
        corpus_name, _, level = name.partition("-")
        settings = CorpusSettings(name=corpus_name, **({"level": level} if level else {}))
        corpus = load_corpus(settings, None, print)
        print(f"\n{name}\n\n| label | entropy | {' | '.join(PROBES)} |")
        print(f"| --- |{' ---: |' * (len(PROBES) + 1)}")
        for label in sorted(corpus.test.labels):
            found = [f"{told(corpus, label, kind):.2f}" for kind in PROBES.values()]
            most = entropy(corpus.test.labels[label])
            print(f"| {label} | {most:.2f} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

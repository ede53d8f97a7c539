"""The plain way to train and evaluate a text VAE: what the benchmarks hold the bench against.

It stands for the field's public code (He et al. 2019; Li et al. 2019): float32, `nn.LSTM`, the
logits of every token at once, `cross_entropy`, an Adam that goes through the parameters one by one,
importance weights of one sentence at a time. It shares batches and sizes with the bench, and the
names of the parameters, so that weights of one load into the other; nothing else.
"""

import json
import math
from collections.abc import Iterable
from copy import deepcopy
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapse_bench.corpus import Batch, Split, evaluation_batches, training_batches
from collapse_bench.suite import Cell, Sizes

LEARNING_RATE, CLIP = 1e-3, 5.0
CHUNK = 100
"""Copies of a sentence that are decoded at once."""
ACTIVE = 0.01
PAD, UNK, BOS, EOS = range(4)


class LSTMEncoder(nn.Module):
    """Words and EOS to states [B, T, H]."""

    def __init__(self, sizes: Sizes, vocabulary: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, sizes.embedding)
        self.lstm = nn.LSTM(sizes.embedding, sizes.hidden, batch_first=True)

    def forward(self, batch: Batch) -> Tensor:
        return self.lstm(self.embedding(batch.targets))[0]


class LSTMDecoder(nn.Module):
    """BOS and words [B, T], with z [B, D] beside each of them, to states [B, T, H]."""

    def __init__(self, sizes: Sizes, vocabulary: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, sizes.embedding)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(sizes.embedding + sizes.latent, sizes.hidden, batch_first=True)
        self.first_cell = nn.Linear(sizes.latent, sizes.hidden, bias=False)

    def forward(self, inputs: Tensor, z: Tensor) -> Tensor:
        words = self.dropout(self.embedding(inputs))
        beside = z[:, None].expand(-1, inputs.shape[1], -1)
        cell = self.first_cell(z)[None]
        states = self.lstm(torch.cat([words, beside], dim=2), (cell.tanh(), cell))[0]
        return self.dropout(states)


class Block(nn.Module):
    """Pre-norm attention, every weight of it in memory, and a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x [B, T, H]; allowed [B or 1, T, T]."""
        b, t, h = x.shape
        split = self.query_key_value(self.attention_norm(x)).chunk(3, dim=2)
        query, key, value = (p.view(b, t, self.heads, -1).transpose(1, 2) for p in split)
        scores = query @ key.transpose(2, 3) / math.sqrt(h / self.heads)
        scores = scores.masked_fill(~allowed[:, None], -math.inf)
        seen = (scores.softmax(dim=3) @ value).transpose(1, 2).reshape(b, t, h)
        x = x + self.attention_output(seen)
        return x + self.feed_forward(x)


class Stack(nn.Module):
    """Blocks over embeddings [B, T, E] with sinusoidal positions."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.enter = nn.Linear(sizes.embedding, sizes.hidden)
        self.blocks = nn.ModuleList(Block(sizes.hidden, sizes.heads) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.hidden)

    def forward(self, words: Tensor, latent: Tensor | None, allowed: Tensor) -> Tensor:
        x = self.enter(words * math.sqrt(words.shape[2]))
        width = x.shape[2]
        angle = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
        x = x + torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]
        if latent is not None:
            x = x + latent[:, None]
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x)


class TransformerEncoder(nn.Module):
    """Words and EOS to states [B, T, H]."""

    def __init__(self, sizes: Sizes, vocabulary: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, sizes.embedding)
        self.stack = Stack(sizes)

    def forward(self, batch: Batch) -> Tensor:
        return self.stack(self.embedding(batch.targets), None, batch.mask[:, None])


class TransformerDecoder(nn.Module):
    """BOS and words [B, T], with z [B, D] added to each of them, to states [B, T, H]."""

    def __init__(self, sizes: Sizes, vocabulary: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, sizes.embedding)
        self.dropout = nn.Dropout(dropout)
        self.latent = nn.Linear(sizes.latent, sizes.hidden, bias=False)
        self.stack = Stack(sizes)

    def forward(self, inputs: Tensor, z: Tensor) -> Tensor:
        words = self.dropout(self.embedding(inputs))
        causal = torch.ones(1, inputs.shape[1], inputs.shape[1], dtype=torch.bool).tril()
        return self.dropout(self.stack(words, self.latent(z), causal))


PARTS = {
    "lstm": (LSTMEncoder, LSTMDecoder),
    "transformer": (TransformerEncoder, TransformerDecoder),
}


class VAE(nn.Module):
    """Encoder, normal posterior, decoder and a product with the vocabulary."""

    def __init__(self, architecture: str, sizes: Sizes, vocabulary: int, dropout: float) -> None:
        super().__init__()
        encoder, decoder = PARTS[architecture]
        self.encoder = encoder(sizes, vocabulary, dropout)
        self.head = nn.ModuleDict(
            {"mean_and_log_variance": nn.Linear(sizes.hidden, 2 * sizes.latent)}
        )
        self.decoder = decoder(sizes, vocabulary, dropout)
        self.readout = nn.Linear(sizes.hidden, vocabulary, bias=False)
        for part in (self.encoder, self.decoder):
            nn.init.uniform_(part.embedding.weight, -0.1, 0.1)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), [B, D] each."""
        states = self.encoder(batch)
        last = states[torch.arange(len(states)), batch.lengths - 1]
        mean, log_variance = self.head["mean_and_log_variance"](last).chunk(2, dim=1)
        return mean, log_variance

    def distortion(self, inputs: Tensor, targets: Tensor, z: Tensor) -> Tensor:
        """-log p(x|z) in nats, [B], for inputs and targets [B, T] and z [B, D]."""
        logits = self.readout(self.decoder(inputs, z))  # [B, T, V]
        nats = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=PAD
        )
        return nats.view(targets.shape).sum(1)

    def bound(self, batch: Batch) -> Tensor:
        """Distortion for one draw + rate in nats, [B]."""
        mean, log_variance = self.encode(batch)
        z = draw(mean, log_variance)
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
        return self.distortion(batch.inputs, batch.targets, z) + kl

    def inference_parameters(self) -> list[nn.Parameter]:
        """Those that the aggressive inner loop updates."""
        return [*self.encoder.parameters(), *self.head.parameters()]


def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A draw of each normal, [B, D]."""
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log density in nats, summed over the last axis."""
    square = (z - mean).square() / log_variance.exp()
    return -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(-1)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Adam over single parameters, without fused or grouped kernels."""
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=False, foreach=False)


def training_step(model: VAE, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """One update of what `optimizer` holds.

    The gradient of everything is computed and clipped even where only the encoder's parameters are
    stepped: so do the published inner loops (He et al. 2019).
    """
    model.zero_grad()
    model.bound(batch).mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP, foreach=False)
    optimizer.step()


@torch.no_grad()
def negative_elbo(model: VAE, split: Split, batch: int) -> float:
    """Mean bound of a split from one draw, nats a sentence."""
    model.eval()
    total = sum(float(model.bound(each).sum()) for each in evaluation_batches(split, batch))
    return total / len(split)


@torch.no_grad()
def importance_weighted_nll(model: VAE, split: Split, samples: int) -> list[float]:
    """-log p(x) of each sentence in nats from `samples` draws of its posterior, sentence by
    sentence, encoded anew for every `CHUNK` of copies.
    """
    model.eval()
    nats = []
    for sentence in evaluation_batches(split, 1):
        weights = []
        for start in range(0, samples, CHUNK):
            copies = min(CHUNK, samples - start)
            mean, log_variance = (x.expand(copies, -1) for x in model.encode(sentence))
            z = draw(mean, log_variance)
            inputs, targets = (x.expand(copies, -1) for x in (sentence.inputs, sentence.targets))
            log_likelihood = -model.distortion(inputs, targets, z)
            log_prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
            weights.append(log_likelihood + log_prior - log_normal(z, mean, log_variance))
        nats.append(math.log(samples) - float(torch.cat(weights).logsumexp(0)))
    return nats


@torch.no_grad()
def mutual_information(model: VAE, split: Split, batch: int) -> float:
    """I_q(x; z) in nats: the aggregate posterior is over all N, the entropy is analytic."""
    model.eval()
    encoded = [model.encode(each) for each in evaluation_batches(split, batch)]
    mean, log_variance = (torch.cat(part) for part in zip(*encoded, strict=True))  # [N, D]
    log_aggregate = [
        log_normal(z[:, None], mean[None], log_variance[None]).logsumexp(1) - math.log(len(mean))
        for z in draw(mean, log_variance).split(batch)
    ]
    entropy = 0.5 * (1 + math.log(2 * math.pi) + log_variance).sum(1)
    return float(-entropy.mean() - torch.cat(log_aggregate).mean())


@torch.no_grad()
def active_units(model: VAE, split: Split, batch: int) -> int:
    """Dimensions whose posterior mean varies, in two passes: the mean, then the variance."""
    model.eval()
    total = sum(model.encode(each)[0].sum(0) for each in evaluation_batches(split, batch))
    mean = total / len(split)
    squares = sum(
        (model.encode(each)[0] - mean).square().sum(0) for each in evaluation_batches(split, batch)
    )
    return int((squares / (len(split) - 1) > ACTIVE).sum())


def load(folder: Path, keep: int = 1) -> tuple[int, Split, Split, Split]:
    """Size of the vocabulary and the three splits of a folder of text, as ids.

    Args:
        folder: `train.txt`, `valid.txt` and `test.txt`, one sentence a line.
        keep: one in so many sentences of valid and test is kept.
    """
    words = {"<pad>": PAD, "<unk>": UNK, "<bos>": BOS, "<eos>": EOS}
    splits = []
    for name in ("train", "valid", "test"):
        sentences = []
        with (folder / f"{name}.txt").open(encoding="utf-8") as lines:
            for line in lines:
                if name == "train":
                    sentences.append([words.setdefault(word, len(words)) for word in line.split()])
                else:
                    sentences.append([words.get(word, UNK) for word in line.split()])
        kept = sentences if name == "train" else sentences[::keep]
        ids = np.array([i for sentence in kept for i in sentence], dtype=np.int32)
        splits.append(Split(ids, np.cumsum([0, *map(len, kept)])))
    return len(words), *splits


def run_cell(cell: Cell, texts: Path, folder: Path, *, budget: int, keep: int) -> dict[str, float]:
    """A whole cell: load, train, evaluate, write.

    Args:
        cell: a plain VAE.
        texts: as `load` reads them.
        folder: where `results.json` and `model.pt` go.
        budget: tokens to decode in training.
        keep: one in so many held-out sentences is evaluated.

    Returns:
        What was written to `results.json`, nats a sentence and active units.
    """
    vocabulary, train, valid, test = load(texts, keep)
    torch.manual_seed(cell.seed)
    model = VAE(cell.architecture, cell.sizes, vocabulary, cell.training.dropout)
    optimizer = adam(model.parameters())
    every, tokens, best, weights = budget / cell.training.validations, 0, math.inf, {}
    batches = (
        each
        for epoch in count()
        for each in training_batches(train, cell.training.batch, cell.seed, epoch)
    )
    while tokens < budget:
        model.train()
        batch = next(batches)
        training_step(model, optimizer, batch)
        validated, tokens = tokens // every, tokens + batch.tokens
        if tokens // every > validated:
            bound = negative_elbo(model, valid, cell.evaluation.batch)
            if bound < best:
                best, weights = bound, deepcopy(model.state_dict())
    model.load_state_dict(weights)
    nll = importance_weighted_nll(model, test, cell.evaluation.samples)
    results = {
        "negative_elbo": best,
        "nll": sum(nll) / len(nll),
        "mutual_information": mutual_information(model, test, cell.evaluation.batch),
        "active_units": active_units(model, test, cell.evaluation.batch),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    torch.save(model.state_dict(), folder / "model.pt")
    return results

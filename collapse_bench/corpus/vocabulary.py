"""Words to ids and back, over `tokenizers`.

Word vocabularies are counted here and not by the library's trainer: on a text that holds the
literal word `<unk>`, as the Penn Treebank does, it leaves a hole in the ids, and the largest id
falls outside the embedding.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from collapse_bench.errors import UserError

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNK, BOS, EOS = range(len(SPECIALS))

BPE_DEFAULT = 8000
BPE_LEAST = len(SPECIALS) + 256
ENCODED_AT_ONCE = 4096


class Vocabulary:
    """A tokenizer whose ids are 0 .. size - 1, the first four being pad, unk, bos and eos.

    No text can spell pad, bos or eos: as words they are unknown, and under BPE they are bytes.
    Sentences are words joined by one space; their ids never include bos or eos.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.get_vocab()
        if sorted(ids.values()) != list(range(len(ids))):
            raise UserError(
                f"vocabulary: {len(ids)} words, but their ids are not 0 .. {len(ids) - 1}"
            )
        if [ids.get(word) for word in SPECIALS] != [PAD, UNK, BOS, EOS]:
            raise UserError(f"vocabulary: the first words must be {' '.join(SPECIALS)}")
        self.tokenizer = tokenizer
        self.size = len(ids)

    @property
    def tokenizer_name(self) -> Literal["word", "bpe"]:
        """What a suite calls this kind of tokenizer."""
        return "word" if isinstance(self.tokenizer.model, models.WordLevel) else "bpe"

    @classmethod
    def of_words(cls, sentences: Iterable[str], largest: int | None = None) -> Self:
        """The most frequent words of `sentences`, ties in alphabetical order.

        Args:
            sentences: The training split, and no other.
            largest: Number of ids at most, the four special ones included; None for every word.
        """
        counts = Counter(chain.from_iterable(sentence.split() for sentence in sentences))
        ranked = sorted(counts.keys() - set(SPECIALS), key=lambda word: (-counts[word], word))
        words = [*SPECIALS, *ranked][:largest]
        model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
        tokenizer = Tokenizer(model)
        typed = Regex(r"(?<!\S)<(pad|bos|eos)>(?!\S)")
        tokenizer.normalizer = normalizers.Replace(typed, "<unk>")
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return cls(tokenizer)

    @classmethod
    def of_pieces(cls, sentences: Iterable[str], largest: int | None = None) -> Self:
        """Byte-level BPE, trained on `sentences`: no word is unknown, every text round-trips.

        Args:
            sentences: The training split, and no other.
            largest: Number of ids at most; None for 8,000.

        Raises:
            UserError: If there is no room for the 256 bytes and the special ids.
        """
        largest = BPE_DEFAULT if largest is None else largest
        if largest < BPE_LEAST:
            raise UserError(
                f"corpus.vocabulary: a bpe tokenizer needs at least {BPE_LEAST}, got {largest}"
            )
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=largest,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        trained.train_from_iterator(sentences, trainer)
        # After training, a text can spell the special tokens; over a fresh tokenizer it cannot.
        tokenizer = Tokenizer(trained.model)
        tokenizer.pre_tokenizer = trained.pre_tokenizer
        tokenizer.decoder = decoders.ByteLevel()
        return cls(tokenizer)

    def encode(self, sentences: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all sentences end to end `[total]`, and where each begins and ends `[N + 1]`."""
        rows: list[NDArray[np.int32]] = []
        for start in range(0, len(sentences), ENCODED_AT_ONCE):
            part = self.tokenizer.encode_batch_fast(sentences[start : start + ENCODED_AT_ONCE])
            rows.extend(np.array(row.ids, dtype=np.int32) for row in part)
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return np.concatenate([np.empty(0, np.int32), *rows]), offsets

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence of `ids`; special ids are shown."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON."""
        path.write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: The file cannot be read, or holds something else.
        """
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # where the library's Rust panics, it is no Exception
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{path}: is not a vocabulary that this bench wrote: {first}"
            ) from error

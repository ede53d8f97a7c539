"""What the remedies promise that change the decoder, beyond the laws of all."""

import pytest
import torch
from conftest import change_input, make, noise_of, same_arrays

from collapse_bench.corpus.vocabulary import BOS, UNK
from collapse_bench.remedies.decoder.limited_receptive_field import WindowDecoder
from collapse_bench.remedies.decoder.word_dropout import WordDropoutDecoder

# Word dropout


class Reader(torch.nn.Module):
    """A decoder that hands out the words that it reads."""

    def forward(self, batch, z):
        return batch.inputs


def test_word_dropout_replaces_words_by_unk_at_its_rate_and_never_bos(batch):
    torch.manual_seed(0)
    decoder = WordDropoutDecoder(Reader(), 0.3)
    z = torch.zeros(5, 8)
    draws = torch.stack([decoder(batch, z) for _ in range(300)])
    words = (batch.inputs != BOS) & (batch.inputs != UNK) & batch.mask
    assert (draws[:, :, 0] == BOS).all()
    dropped = draws != batch.inputs
    assert not dropped[:, ~words & batch.mask].any()
    assert (draws[dropped] == UNK).all()
    share = dropped[:, words].float().mean(0)
    assert share.mean() == pytest.approx(0.3, abs=0.01)
    assert (share - 0.3).abs().max() < 0.15  # every word alike
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 300


def test_word_dropout_at_rate_one_leaves_no_history(batch):
    read = WordDropoutDecoder(Reader(), 1.0)(batch, torch.zeros(5, 8))
    assert (read[:, 1:][batch.mask[:, 1:]] == UNK).all()
    assert (read[:, 0] == BOS).all()


def test_word_dropout_is_off_in_evaluation(architecture, corpus, batch):
    decoder = WordDropoutDecoder(Reader(), 1.0).eval()
    assert torch.equal(decoder(batch, torch.zeros(5, 8)), batch.inputs)
    heavy, none = (make(architecture, {"word_dropout": {"rate": rate}}) for rate in (0.9, 0.0))
    assert same_arrays(heavy.evaluate(corpus.valid), none.evaluate(corpus.valid))


def test_word_dropout_hides_words_from_the_decoder_only(batch):
    built = make("lstm", {"word_dropout": {"rate": 1.0}})
    model = built.model.train()
    plain = make("lstm").model.train()
    torch.testing.assert_close(
        model(batch, noise_of(1)).q.mean, plain(batch, noise_of(1)).q.mean, rtol=0, atol=0
    )


# Limited receptive field


@pytest.mark.parametrize("window", [1, 2, 4])
def test_the_decoder_sees_z_and_exactly_the_last_words(window, batch):
    model = make("lstm", {"limited_receptive_field": {"window": window}}).model.eval()
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    before = model.decoder(batch, z)
    row = int(batch.lengths.argmax())
    for token in range(int(batch.lengths[row])):
        after = model.decoder(change_input(batch, row, token), z)
        changed = (after[row] != before[row]).any(1).nonzero()[:, 0].tolist()
        assert changed == list(range(token, min(token + window, len(after[row]))))
    moved = model.decoder(batch, z + torch.eye(8)[3])
    assert (moved != before).any(2).all()


def test_the_window_decoder_is_the_same_in_every_architecture(batch):
    decoders = [
        make(architecture, ["limited_receptive_field"]).model.decoder
        for architecture in ("lstm", "transformer")
    ]
    assert all(isinstance(decoder, WindowDecoder) for decoder in decoders)
    shapes = [[tuple(p.shape) for p in decoder.parameters()] for decoder in decoders]
    assert shapes[0] == shapes[1]

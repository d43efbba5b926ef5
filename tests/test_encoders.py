"""Frozen encoders: the promised number of tokens, and features that do not depend on the rest of the batch."""

import copy

import numpy as np
import pytest
import timm
import torch
from helpers import word_piece_tokenizer
from PIL import Image
from torch import nn

from zoo.core.encoders.audio import HOP, RATE, STRIDE, AudioEncoder, SoundNet
from zoo.core.encoders.base import with_times
from zoo.core.encoders.image import ImageEncoder, fold_norms
from zoo.core.encoders.lexical import LexicalEncoder, hashed
from zoo.core.encoders.text import CHUNK, TextEncoder, random_bert

VOCABULARY = len(word_piece_tokenizer())


def text_encoder(pool, window=4, seed=0):
    torch.manual_seed(seed)
    return TextEncoder(random_bert(VOCABULARY, width=8), 2, 3, pool=pool, window=window).freeze()


def words(n, seed=0):
    return torch.randint(4, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pool, window", [("phrase", 4), ("passage", 4), ("passage", 3)])
def test_text_token_counts(pool, window):
    encoder = text_encoder(pool, window)
    lengths = sorted({*range(0, 30), *range(240, 270), *range(500, 520), *range(0, 601, 37), 600})
    raws = [words(n, n) for n in lengths]
    for raw, features in zip(raws, encoder.encode(raws)):
        assert features.shape == (encoder.num_tokens(raw), encoder.dim + 1), len(raw)
        assert (features[:, -1] == 0).all() and torch.isfinite(features).all()
    promised = [encoder.num_tokens(torch.zeros(n)) for n in range(601)]
    chunks = [-(-n // CHUNK) if n else 1 for n in range(601)]
    if pool == "phrase":
        assert set(promised) == {1}
    else:
        full, rest = -(-CHUNK // window), [n - CHUNK * (c - 1) for n, c in enumerate(chunks)]
        assert promised == [c + (c - 1) * full + -(-r // window) for c, r in zip(chunks, rest)]


def test_text_features_are_those_of_bert():
    """Against the model run by hand on one text: the mean of all states, then of each window of words."""
    phrase, passage = text_encoder("phrase"), text_encoder("passage")
    raw = words(10)
    with torch.no_grad():
        states = passage.bert(torch.tensor([[2, *raw.tolist(), 3]])).last_hidden_state[0]  # [12, d]
    (got,) = passage.encode([raw])
    expected = torch.stack([states.mean(0), states[1:5].mean(0), states[5:9].mean(0), states[9:11].mean(0)])
    torch.testing.assert_close(got[:, :-1], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(phrase.encode([raw])[0][0, :-1], states.mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["phrase", "passage"])
def test_text_batch_composition(pool):
    encoder = text_encoder(pool)
    raws = [words(n, n) for n in (3, 300, 0, 17, 254, 255, 1)] + [words(5, i) for i in range(70)]
    together = encoder.encode(raws)
    for i in range(10):
        torch.testing.assert_close(together[i], encoder.encode([raws[i]])[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(encoder.encode(raws[::-1])[::-1], together):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_words_beyond_the_first_chunk_are_read():
    encoder = text_encoder("passage")
    raw, other = words(600), words(600)
    other[-1] = 4 + (other[-1] - 3) % (VOCABULARY - 4)
    a, b = encoder.encode([raw])[0], encoder.encode([other])[0]
    assert not torch.allclose(a[-1], b[-1]) and torch.equal(a[:60], b[:60])


@pytest.fixture(scope="module")
def sound():
    torch.manual_seed(0)
    return AudioEncoder(SoundNet(12, 4), 12).freeze()


def wave(samples, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32))


def test_audio_token_counts(sound):
    lengths = [
        1,
        100,
        399,
        5119,
        5120,
        5121,
        5280,
        10_239,
        10_240,
        10_241,
        16_000,
        44_100,
        48_001,
        *range(3000, 60_000, 4777),
    ]
    for n in lengths:
        raw = sound.load(wave(n))
        (features,) = sound.encode([raw])
        assert features.shape == (sound.num_tokens(raw), 13), n
        assert sound.num_tokens(raw) == pytest.approx(max(n, 5120) / (STRIDE * HOP), abs=1.1)
    for frames in (*range(1, 140), 255, 256, 257, 1000):
        assert len(sound.encode([torch.zeros(frames, 64)])[0]) == sound.num_tokens(torch.zeros(frames, 64)), frames


def test_audio_token_times(sound):
    times = sound.token_times(4)
    torch.testing.assert_close(times, torch.tensor([0.16, 0.48, 0.80, 1.12]))
    assert STRIDE * HOP / RATE == 0.32
    (features,) = sound.encode([sound.load(wave(16_000))])
    torch.testing.assert_close(features[:, -1], sound.token_times(len(features)))


def test_a_token_hears_its_own_time(sound):
    """What changes at 2 s of a sound changes the tokens there, and none that stands well before or after."""
    quiet, loud = wave(64_000), wave(64_000)
    loud[32_000:33_600] *= 20
    a, b = (sound.encode([sound.load(w)])[0] for w in (quiet, loud))
    change = (a - b).abs().amax(1)  # [n]
    assert change.max() > 0
    times = a[change > 1e-3 * change.max(), -1]
    assert times.min() > 1.0 and times.max() < 3.0
    assert times.min() <= 2.16 <= times.max() + 0.32


def test_audio_batch_composition(sound):
    raws = [sound.load(wave(n, i)) for i, n in enumerate([16_000, 20_000, 16_000, 8_000, 20_000, 16_000])]
    for together, raw in zip(sound.encode(raws), raws):
        torch.testing.assert_close(together, sound.encode([raw])[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(sound.encode(raws)[0], sound.encode(raws)[2])


def test_short_sound_is_filled_with_silence(sound):
    assert torch.equal(sound.load(wave(100)), sound.load(torch.cat([wave(100), torch.zeros(5020)])))


def image_encoder(grid=2):
    torch.manual_seed(0)
    return ImageEncoder(nn.Sequential(nn.Conv2d(3, 5, 7, stride=16), nn.ReLU()), dim=5, grid=grid).freeze()


def picture(seed, size=(50, 40)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_image_tokens(grid):
    encoder = image_encoder(grid)
    raws = [encoder.load(picture(i, (30 + i, 40))) for i in range(18)]
    assert raws[0].shape == (3, 224, 224) and raws[0].dtype == torch.uint8
    features = encoder.encode(raws)
    for raw, f in zip(raws, features):
        assert f.shape == (grid**2, 6) == (encoder.num_tokens(raw), encoder.dim + 1)
        torch.testing.assert_close(f, encoder.encode([raw])[0], rtol=1e-5, atol=1e-5)


def test_image_tokens_go_row_by_row():
    """A change in the upper right quarter is seen by the second of four tokens only."""
    encoder = image_encoder()
    black = Image.new("RGB", (224, 224))
    marked = black.copy()
    marked.paste((255, 255, 255), (140, 20, 200, 80))
    a, b = encoder.encode([encoder.load(black), encoder.load(marked)])
    assert ((a - b).abs().amax(1) > 1e-6).tolist() == [False, True, False, False]


def test_fingerprint_tells_weights_and_settings_apart():
    a, b = text_encoder("passage"), text_encoder("passage")
    assert a.fingerprint() == b.fingerprint()
    assert (
        len(
            {
                a.fingerprint(),
                text_encoder("passage", seed=1).fingerprint(),
                text_encoder("phrase").fingerprint(),
                text_encoder("passage", 3).fingerprint(),
            }
        )
        == 4
    )
    with torch.no_grad():
        next(b.parameters()).view(-1)[0] += 1e-3
    fresh = text_encoder("passage")
    fresh.load_state_dict(b.state_dict())
    assert fresh.fingerprint() != a.fingerprint()


def test_a_frozen_encoder_stays_in_evaluation_mode(sound):
    before = {k: v.clone() for k, v in sound.state_dict().items()}
    sound.train()
    assert not sound.training and not any(m.training for m in sound.modules())
    sound.encode([sound.load(wave(16_000))])
    assert all(torch.equal(v, before[k]) for k, v in sound.state_dict().items())
    parent = nn.Sequential(sound).train()
    assert not parent[0].net.training


def test_with_times():
    out = with_times(torch.ones(2, 3, dtype=torch.float16), torch.tensor([1.0, 2.5], dtype=torch.float64))
    assert out.dtype == torch.float32 and out[:, -1].tolist() == [1.0, 2.5] and out.shape == (2, 4)


def test_an_unknown_pool_is_refused():
    with pytest.raises(ValueError, match="phrase or passage"):
        text_encoder("words")


def test_folded_norms_give_the_same_features():
    torch.manual_seed(0)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    for norm in (m for m in whole.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    folded = fold_norms(copy.deepcopy(whole))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_features(x)
        torch.testing.assert_close(folded.forward_features(x), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())


def test_a_bag_holds_pieces_and_pairs_once():
    """Against sets: the same words in another order share their pieces, not their pairs; a repetition adds nothing."""
    size = 1 << 30  # no two of these few meet
    one, two, again = (hashed(torch.tensor(ids), size) for ids in ([5, 6, 7], [7, 6, 5], [5, 6, 7, 5, 6, 7]))
    assert len(one) == len(two) == 5 and len(set(one.tolist()) & set(two.tolist())) == 3
    assert set(one.tolist()) < set(again.tolist()) and len(again) == 6  # and the pair (7, 5)
    assert int(hashed(torch.arange(30_000), 1000).max()) < 1000 and int(hashed(torch.arange(30_000), 1000).min()) >= 0


def test_lexical_features_are_sums_of_their_buckets():
    torch.manual_seed(0)
    encoder = LexicalEncoder(97, 5)
    raws = [torch.tensor([3, 4, 5]), torch.zeros(0, dtype=torch.long), torch.tensor([9])]
    for raw, got in zip(raws, encoder.encode(raws)):
        rows = encoder.bag.weight[hashed(raw, 97)]
        expected = rows.sum(0) / max(1, len(rows)) ** 0.5
        torch.testing.assert_close(got, torch.cat([expected, torch.zeros(1)])[None])
    assert encoder.freeze().trains
    encoder.encode(raws)[0].sum().backward()
    assert set(encoder.bag.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == set(hashed(raws[0], 97).tolist())


@pytest.mark.parametrize("buckets, dim", [(0, 4), (4, 0)])
def test_a_bag_of_nothing_is_refused(buckets, dim):
    with pytest.raises(ValueError, match="whole numbers from 1 on"):
        LexicalEncoder(buckets, dim)

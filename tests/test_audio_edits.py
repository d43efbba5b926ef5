"""Shift, Mute and Swap on waveforms, against NumPy to the sample; and the choice of donors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchaudio
from torch import nn

from datamodules.schema import DataError
from datamodules.transforms import audio_edits as edits
from datamodules.transforms.audio_edits import Mute, RandomShift, Shift, Swap, silenced, silent_ends
from datamodules.transforms.donors import Features, choose, features, similarity

RATE = 1000


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.2, shape).astype(np.float32))


def by_hand(row: np.ndarray, by: int) -> np.ndarray:
    out = np.zeros_like(row)
    for t in range(len(row)):
        if 0 <= t - by < len(row):
            out[t] = row[t - by]
    return out


@pytest.mark.parametrize("seconds", [0.0, 0.25, -0.25, 0.0004, 0.0006, 0.299, 0.3, -0.3, 5.0, -5.0])
def test_a_shift_moves_every_sample_and_never_wraps(seconds):
    wave = noise(2, 300)
    out = Shift(RATE, seconds)(wave)
    wanted = np.stack([by_hand(row, round(seconds * RATE)) for row in wave.numpy()])
    assert out.dtype == wave.dtype and np.array_equal(out.numpy(), wanted)


@pytest.mark.parametrize("way", ["rows", "gather"])
def test_each_row_has_a_shift_of_its_own(way, monkeypatch):
    if way == "gather":  # what an accelerator does
        monkeypatch.setattr(edits, "_moved", None)
    wave, seconds = noise(4, 2, 300), torch.tensor([[0.1], [-0.2], [0.0], [-9.0]])
    if way == "gather":
        out = edits._gathered(wave, (seconds.double() * RATE).round().long().expand(4, 2))
    else:
        out = Shift(RATE)(wave, seconds)
    for row, by, source in zip(out, (100, -200, 0, -9000), wave):
        assert np.array_equal(row.numpy(), np.stack([by_hand(c, by) for c in source.numpy()]))
    if way == "rows":
        assert torch.equal(Shift(RATE, seconds)(wave), out)


def test_seconds_are_not_rounded_to_float32_first():
    rate, seconds = 48_000, 0.8 + 1 / 96_000 - 1e-7  # a little under half a sample above 38,400
    wave = torch.zeros(50_000)
    wave[0] = 1.0
    assert int(Shift(rate, seconds)(wave).argmax()) == round(seconds * rate) == 38_400


def test_mute_writes_zeros_where_it_is_told():
    wave = noise(4, 1, 50)
    wave[1, 0, 3] = math.nan  # not times zero
    assert torch.equal(Mute()(wave), torch.zeros(4, 1, 50))
    out = Mute()(wave, torch.tensor([[True], [True], [False], [False]]))
    assert not out[:2].any() and torch.equal(out[2:], wave[2:])


@pytest.mark.parametrize("length", [20, 50, 80])
def test_swap_takes_the_donor_cut_or_padded(length):
    wave, donor = noise(3, 50), noise(3, length, seed=1)
    wanted = np.zeros((3, 50), np.float32)
    wanted[:, : min(length, 50)] = donor[:, :50].numpy()
    assert np.array_equal(Swap()(wave, donor).numpy(), wanted)
    assert np.array_equal(Swap(donor)(wave).numpy(), wanted)
    rows = torch.tensor([True, False, True])
    assert torch.equal(Swap(donor)(wave, rows=rows), torch.where(rows[:, None], torch.from_numpy(wanted), wave))
    assert torch.equal(Swap(donor[0])(wave)[2], Swap(donor[0])(wave)[0])  # one donor for all rows
    with pytest.raises(ValueError, match="no donor"):
        Swap()(wave)


def test_a_result_is_not_a_view_of_what_went_in():
    wave, donor = noise(2, 20), noise(20, seed=1)
    before, given = wave.clone(), donor.clone()
    for out in (Shift(RATE, 0.0)(wave), Shift(RATE, 0.005)(wave), Swap(donor)(wave), Mute()(wave)):
        out.add_(1.0)
    assert torch.equal(wave, before) and torch.equal(donor, given)


def test_gradients_follow_the_samples():
    wave = noise(1, 10).double().requires_grad_()
    weights = torch.arange(1.0, 11.0).double()
    (Shift(RATE, 0.003)(wave) * weights).sum().backward()
    assert wave.grad[0].tolist() == [*range(4, 11), 0, 0, 0]
    wave.grad = None
    two = noise(2, 10).double().requires_grad_()
    (Shift(RATE, torch.tensor([0.003, -0.002]))(two) * weights).sum().backward()
    assert two.grad.tolist() == [[*range(4, 11), 0, 0, 0], [0, 0, *range(1, 9)]]
    Mute()(wave).sum().backward()
    assert not wave.grad.any()
    donor = noise(1, 4).double().requires_grad_()
    (Swap()(wave.detach(), donor) * weights).sum().backward()
    assert donor.grad[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_and_the_device_stay(dtype):
    wave = noise(2, 30).to(dtype)
    meta = wave.to("meta")
    for module in (Shift(RATE, 0.01), Mute(), Swap(noise(40))):
        assert module(wave).dtype == dtype
        if not isinstance(module, Swap):
            assert module(meta).device.type == "meta" and module(meta).shape == wave.shape


def test_edits_stand_in_a_chain_of_torchaudio_transforms():
    chain = nn.Sequential(Shift(RATE, 0.1), torchaudio.transforms.Vol(0.5), Mute(), Swap(noise(300, seed=2)))
    wave = noise(2, 300)
    assert torch.equal(chain(wave), noise(300, seed=2).expand(2, -1)) and not chain.state_dict()
    out = nn.Sequential(Shift(RATE, 0.1), torchaudio.transforms.Vol(0.5))(wave)
    assert torch.equal(out[:, 100:], wave[:, :200] * 0.5)


def test_silence_at_the_ends():
    wave = noise(2, 40).abs() + 0.1
    out = silenced(wave, 3, 5)
    assert silent_ends(out) == (3, 5) and torch.equal(out[:, 3:35], wave[:, 3:35])
    assert silent_ends(torch.full((2, 40), 0.0009)) == (40, 40) and silent_ends(wave) == (0, 0)


def test_a_random_shift_stays_in_its_bounds_and_is_seeded():
    wave = torch.zeros(400, 101)
    wave[:, 50] = 1.0
    draws = [RandomShift(0.25, torch.Generator().manual_seed(s))(wave).argmax(-1) - 50 for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert draws[0].min() == -25 and draws[0].max() == 25 and len(draws[0].unique()) == 51


# ------------------------------------------------------------------------------------------------------------ donors


def tone(frequency: float, seconds: float = 1.0, rate: int = 16_000, level: float = 0.5) -> torch.Tensor:
    t = torch.arange(int(seconds * rate)) / rate
    return level * torch.sin(2 * math.pi * frequency * t)[None]


def test_similarity_is_about_the_sound_not_its_level_rate_or_channels():
    a = features(tone(440), 16_000)
    assert similarity(a, a) == 1.0
    assert similarity(a, features(tone(440, level=0.05), 16_000)) > 0.99
    assert similarity(a, features(tone(440, rate=44_100).expand(2, -1), 44_100)) > 0.8
    near, far = features(tone(500), 16_000), features(noise(1, 16_000), 16_000)
    assert similarity(a, near) == similarity(near, a) > similarity(a, far)


def flat(level: float, seconds: float = 1.0, silent: bool = False) -> Features:
    return Features(torch.full((2, 40), float(level)), seconds, silent)


def test_the_similarity_is_the_documented_one():
    assert similarity(flat(0.0), flat(5.0)) == pytest.approx(math.exp(-0.5))


def test_a_donor_lies_in_the_band_and_depends_on_the_seed_alone():
    pool = {f"c{n:02}": flat(float(n)) for n in range(30)}  # similarity of c00 and c<n>: exp(-n / 10)
    inside = {f"c{n:02}" for n in range(30) if 0.3 <= math.exp(-n / 10) <= 0.6}
    chosen = {choose("c00", pool, seed, (0.3, 0.6)).name for seed in range(200)}
    assert chosen == inside and "c00" not in chosen
    donor = choose("c00", pool, 7, (0.3, 0.6))
    assert donor == choose("c00", dict(reversed(pool.items())), 7, (0.3, 0.6))
    assert donor.similarity == pytest.approx(math.exp(-int(donor.name[1:]) / 10))


def test_why_there_is_no_donor():
    pool = {"a": flat(0), "near": flat(1), "far": flat(90), "silent": flat(8, silent=True), "short": flat(8, 0.4)}
    with pytest.raises(DataError, match="1 are nearer, 1 farther, 2 silent or too short"):
        choose("a", pool, 0)
    assert choose("a", pool | {"fits": flat(8, 0.5)}, 0).name == "fits"

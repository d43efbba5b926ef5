"""The feature cache on disk, and that a backbone reads from it what it would compute."""

from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from helpers import random_backbone, write_audio, write_image
from PIL import Image

from datamodules import media
from datamodules.schema import Part, Policy, PolicyEntry, Sample
from zoo.core.backbones.tokens import IDS
from zoo.core.cache import FeatureCache, feature_key
from zoo.core.prompts import Text, render
from zoo.core.query import policy_queries

POLICY = Policy("p", (PolicyEntry("a", "open fire", "pictures of fire"), PolicyEntry("b", "alarm")))


def matrix(rows, width=3, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------- on disk


def test_round_trip_over_a_reopened_folder(tmp_path):
    cache = FeatureCache(tmp_path)
    values = {f"k{i}": matrix(i, 2 + i % 2, i) for i in range(6)}  # two widths, one of them with no rows
    for key, value in values.items():
        cache.put(key, value)
        assert torch.equal(cache.get(key), value)  # before it is written
    cache.flush()
    cache.put("late", matrix(2))
    assert len(cache) == 7 and "late" in cache and cache.get("nothing") is None and "nothing" not in cache
    assert not list(tmp_path.glob("*.tmp"))
    again = FeatureCache(tmp_path)
    for c in (cache, again):
        for key, value in values.items():
            assert torch.equal(c.get(key), value) and c.get(key).dtype == torch.float32
    assert len(again) == 6 and "late" not in again  # never flushed
    assert all(isinstance(s, np.memmap) or not len(s) for s in again._shards)


def test_workers_read_it(tmp_path):
    cache = FeatureCache(tmp_path)
    for i in range(20):
        cache.put(str(i), matrix(i, 3, i))
    cache.flush()
    with get_context("fork").Pool(2) as pool:
        for i, rows in enumerate(pool.map(partial(read_as_list, cache), map(str, range(20)))):
            assert rows == matrix(i, 3, i).tolist()


def read_as_list(cache, key):
    return cache.get(key).tolist()


def test_an_empty_cache_is_a_cache(tmp_path):
    """`if cache:` asks whether there is one: by its length, the first clips of a fresh cache were not entered."""
    assert FeatureCache(tmp_path)


def test_what_is_read_can_be_changed_without_harm(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put("k", torch.ones(2, 3))
    cache.get("k").zero_()
    cache.flush()
    cache.get("k").zero_()
    assert torch.equal(cache.get("k"), torch.ones(2, 3)) and torch.equal(
        FeatureCache(tmp_path).get("k"), torch.ones(2, 3)
    )


def test_a_full_shard_is_written_by_itself(tmp_path):
    cache = FeatureCache(tmp_path, shard_bytes=100)
    for i in range(5):
        cache.put(str(i), matrix(4, 3, i))  # 48 bytes: two fit
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 and len(FeatureCache(tmp_path)) == 4
    cache.put("large", matrix(40, 3, 9))  # more than a shard: one of its own
    cache.put("empty", matrix(0, 3, 9))
    cache.flush()
    again = FeatureCache(tmp_path)
    assert {i: len(again.get(i)) for i in ("4", "large", "empty")} == {"4": 4, "large": 40, "empty": 0}
    for i in range(5):
        assert torch.equal(again.get(str(i)), matrix(4, 3, i))
    assert torch.equal(again.get("large"), matrix(40, 3, 9))


def test_the_first_value_of_a_key_stays(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put("k", torch.ones(1, 2))
    cache.flush()
    cache.put("k", torch.zeros(1, 2))
    cache.flush()
    assert torch.equal(cache.get("k"), torch.ones(1, 2)) and len(list(tmp_path.iterdir())) == 1


def test_nothing_to_write_writes_nothing(tmp_path):
    FeatureCache(tmp_path / "deep" / "er").flush()
    assert list((tmp_path / "deep" / "er").iterdir()) == []


@pytest.mark.parametrize(
    "value", [torch.ones(3), torch.ones(1, 2).half(), torch.ones(1, 2, 3), torch.ones(1, 2).long()]
)
def test_only_float_matrices_are_kept(tmp_path, value):
    with pytest.raises(ValueError, match="float32 matrix"):
        FeatureCache(tmp_path).put("k", value)


def one_shard(folder):
    cache = FeatureCache(folder)
    cache.put("k", matrix(4))
    cache.flush()
    return next(folder.glob("*.safetensors"))


def test_a_run_killed_while_writing_leaves_nothing_that_is_trusted(tmp_path):
    path = one_shard(tmp_path)
    (tmp_path / "dead.tmp").write_bytes(path.read_bytes()[:-5])
    assert len(FeatureCache(tmp_path)) == 1


@pytest.mark.parametrize("keep", [0, 4, 8, 20, 60, -1, -20])
def test_a_truncated_shard_is_named(tmp_path, keep):
    path = one_shard(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=path.name):
        FeatureCache(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff" * 100, b"PK\x03\x04" * 30, b"\x02" + b"\0" * 7 + b"{}", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_a_foreign_file_is_named(tmp_path, content):
    (tmp_path / "odd.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.safetensors.*delete it"):
        FeatureCache(tmp_path)


def test_keys_do_not_run_into_each_other():
    assert feature_key("ab", "c") != feature_key("a", "bc") != feature_key("abc")
    assert feature_key("a", "b") == feature_key("a", "b") != feature_key("b", "a")


# ---------------------------------------------------------------------------------------------- within a backbone


def fake_video(monkeypatch, sound=True):
    calls = []

    def read(path, fps=2.0, max_frames=8, limits=None, frames=True, sound_=True, **kw):
        calls.append(str(path))
        rng = np.random.default_rng(0)
        pictures = [Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]
        wave = torch.from_numpy(rng.normal(0, 0.1, 16_000).astype(np.float32)) if sound else None
        return media.Clip(pictures, [0.25, 0.75, 1.25], wave, 0.125, 1.5)

    monkeypatch.setattr(media, "read_video", read)
    return calls


def count(backbone, monkeypatch):
    """Counts what each encoder is given."""
    seen = dict.fromkeys(backbone.encoders, 0)
    for kind, encoder in backbone.encoders.items():

        def encode(raws, kind=kind, real=encoder.encode):
            seen[kind] += len(raws)
            return real(raws)

        monkeypatch.setattr(encoder, "encode", encode)
    return seen


def samples(folder):
    clip = folder / "clip.mp4"
    clip.write_bytes(b"a clip")
    image, sound = write_image(folder / "a.png"), write_audio(folder / "a.wav")
    return [
        Sample.of("the picture shows fire", image=image, audio=sound, id="0"),
        Sample.of("no fire here. " * 40, video=clip, id="1"),
        Sample.of("a fire", image=[image, write_image(folder / "b.png", 1)], response="no", id="2"),
    ]


def phrases(rows, policy=POLICY):
    out = [p for q in policy_queries(policy) for p in q.suffix]
    return out + [p.text for s in rows for p in render(s, policy) if isinstance(p, Text) and p.role != "content"]


def run(backbone, rows, policy=POLICY):
    batch = backbone.collate([backbone.prepare(s, policy, policy_queries(policy)) for s in rows])
    with torch.no_grad():
        scores = backbone.score(backbone.encode(batch))
    return batch, scores.logp


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
def test_once_warm_no_encoder_and_no_file_is_used(kind, tmp_path, monkeypatch):
    reads = fake_video(monkeypatch)
    rows = samples(tmp_path)
    plain = run(random_backbone(kind), rows)[1]
    backbone = random_backbone(kind, cache=FeatureCache(tmp_path / "cache"))
    seen = count(backbone, monkeypatch)
    assert backbone.warm(rows, phrases(rows)) == []
    assert len(FeatureCache(tmp_path / "cache")) == len(backbone.cache)
    assert seen["image"] == 2 + 3 and seen["sound"] == 2  # each content once
    first = dict(seen)
    assert backbone.warm(rows, phrases(rows)) == [] and seen == first
    reads.clear()
    for name in ("read_image", "read_audio"):
        monkeypatch.setattr(media, name, lambda *a, **k: pytest.fail("a file was opened"))
    _, warm = run(backbone, rows)
    assert reads == []
    other = {k: v for k, v in first.items() if k != "phrase"}
    assert {k: v for k, v in seen.items() if k != "phrase"} == other
    torch.testing.assert_close(warm, plain, rtol=1e-5, atol=1e-5)
    again = random_backbone(kind, cache=FeatureCache(tmp_path / "cache"))  # another process
    seen_again = count(again, monkeypatch)
    assert torch.equal(run(again, rows)[1], warm)
    assert not any(v for k, v in seen_again.items() if k != "phrase")


def test_once_warm_no_phrase_is_encoded(tmp_path, monkeypatch):
    """Turns included: a worker would hand them to the encoder again with every batch."""
    fake_video(monkeypatch)
    rows = samples(tmp_path)
    backbone = random_backbone("encoded", cache=FeatureCache(tmp_path / "cache"))
    seen = count(backbone, monkeypatch)
    backbone.warm(rows, phrases(rows))
    before = dict(seen)
    run(backbone, rows)
    assert seen == before


def test_a_bag_of_words_that_is_frozen_with_its_model_is_kept_too(tmp_path, monkeypatch):
    """An expert over such a guard trains adapters alone: what the base reads of a text is then always the same."""
    rows = [Sample.of(text, id=text) for text in ("the picture shows fire", "no fire")]
    plain = random_backbone("adapted").requires_grad_(False)
    backbone = random_backbone("adapted", cache=FeatureCache(tmp_path / "cache")).requires_grad_(False)
    seen = count(backbone, monkeypatch)
    assert backbone.warm(rows, phrases(rows)) == [] and seen["lexical"] == 2
    torch.testing.assert_close(run(backbone, rows)[1], run(plain, rows)[1], rtol=1e-5, atol=1e-5)
    assert seen["lexical"] == 2


@pytest.mark.parametrize("frames, sound", [(False, True), (True, False)])
def test_a_clip_with_a_sense_turned_off_is_warmed_too(tmp_path, monkeypatch, frames, sound):
    reads = fake_video(monkeypatch)
    (tmp_path / "c.mp4").write_bytes(b"a clip")
    whole = Sample.of("a", video=tmp_path / "c.mp4", id="whole")
    message = whole.messages[0]
    part = Part("video", path=str(tmp_path / "c.mp4"), frames=frames, sound=sound)
    half = whole.replace(id="half", messages=(type(message)("user", (message.content[0], part)),))
    for n, rows in enumerate(([half, whole], [half])):
        backbone = random_backbone("tokens", cache=FeatureCache(tmp_path / f"cache{n}"))
        seen = count(backbone, monkeypatch)
        assert backbone.warm(rows) == []
        before = dict(seen)
        reads.clear()
        run(backbone, rows)
        assert seen == before and reads == []


def test_bad_files_come_back_with_reasons(tmp_path, monkeypatch):
    good, bad = write_image(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    rows = [
        Sample.of("a", image=good, id="good"),
        Sample.of("b", image=[good, bad], id="bad"),
        Sample.of("c", image=bad, id="again"),
        Sample.of("d", audio=tmp_path / "none.wav", id="missing"),
    ]
    backbone = random_backbone("encoded", cache=FeatureCache(tmp_path / "cache"))
    reported = backbone.warm(rows)
    assert [(s.id, name in reason) for (s, reason), name in zip(reported, ("bad.png", "bad.png", "none.wav"))] == [
        ("bad", True),
        ("again", True),
        ("missing", True),
    ]
    assert all("\n" not in reason for _, reason in reported)
    run(backbone, rows[:1])


def test_without_a_cache_nothing_is_warmed(tmp_path):
    assert random_backbone("encoded").warm([Sample.of("a", image=tmp_path / "none.png")]) == []


def test_cached_features_are_the_fresh_ones_bit_for_bit(tmp_path):
    """Read back from disk, the features are those that the encoder gave."""
    row = samples(tmp_path)[:1]
    backbone = random_backbone("encoded", cache=FeatureCache(tmp_path / "cache"))
    backbone.warm(row, phrases(row))
    prepared = backbone.prepare(row[0], POLICY).prompt
    fresh = random_backbone("encoded").prepare(row[0], POLICY).prompt
    checked = set()
    for a, b in zip(prepared.sources, fresh.sources):
        assert (a.kind, a.tokens, a.time, a.key) == (b.kind, b.tokens, b.time, b.key)
        if a.kind in ("image", "sound", "passage"):
            assert a.ready and not b.ready
            assert torch.equal(a.value, backbone.encoders[a.kind].encode([b.value])[0])
            checked.add(a.kind)
    assert checked == {"image", "sound", "passage"}
    assert prepared.layout == fresh.layout


def keys(backbone, sample):
    return [s.key for s in backbone.prepare(sample, POLICY).prompt.sources if s.kind in ("image", "sound")]


def test_keys_follow_content_setting_and_weights(tmp_path, monkeypatch):
    fake_video(monkeypatch)
    (tmp_path / "c.mp4").write_bytes(b"a clip")
    a, same, b = write_image(tmp_path / "a.png"), write_image(tmp_path / "same.png"), write_image(tmp_path / "b.png", 1)
    backbone = random_backbone("tokens")
    assert keys(backbone, Sample.of(image=a)) == keys(backbone, Sample.of(image=same))
    assert keys(backbone, Sample.of(image=a)) != keys(backbone, Sample.of(image=b))
    assert keys(backbone, Sample.of(image=a)) != keys(random_backbone("tokens", seed=1), Sample.of(image=a))
    one = random_backbone("tokens")
    one.encoders["image"].grid = 1
    one.encoders["image"].setting += "/one"
    assert keys(one, Sample.of(image=a)) != keys(backbone, Sample.of(image=a))
    clip = keys(backbone, Sample.of(video=tmp_path / "c.mp4"))
    assert len(set(clip)) == 4  # three frames and the track
    object.__setattr__(backbone.sources.limits, "fps", 1.0)
    assert not set(clip) & set(keys(backbone, Sample.of(video=tmp_path / "c.mp4")))


def test_text_keys_tell_phrases_from_passages(tmp_path):
    backbone = random_backbone("encoded")
    ids = torch.tensor([4, 5, 6])
    assert backbone.sources.text("phrase", ids).key != backbone.sources.text("passage", ids).key
    assert backbone.sources.text("passage", ids).key != backbone.sources.text("passage", ids.flip(0)).key


def test_a_changed_input_goes_past_the_cache_both_ways(tmp_path, monkeypatch):
    fake_video(monkeypatch)
    rows = samples(tmp_path)
    cache = FeatureCache(tmp_path / "cache")
    backbone = random_backbone("encoded", cache=cache)
    backbone.warm(rows, phrases(rows))
    size = len(cache)
    kinds = []

    class Blank:
        kinds = frozenset(("image", "sound"))

        def __call__(self, kind, raw):
            kinds.append((kind, raw.ndim))
            return torch.zeros_like(raw)

    batch = backbone.collate([backbone.prepare(s, POLICY, augment=Blank()) for s in rows])
    sources = [s for kind in ("image", "sound") for s in batch.prompt.sources[kind]]
    assert sorted(kinds) == [("image", 3)] * 6 + [("sound", 1)] * 2 and len(sources) == 8  # waveforms, not mel frames
    silence = float(backbone.encoders["sound"].load(torch.zeros(16_000))[0, 0])
    assert all(s.key is None and not s.ready for s in sources)
    assert all(bool((s.value == (silence if s.kind == "sound" else 0.0)).all()) for s in sources)
    with torch.no_grad():
        changed = backbone.encode(batch)
    cache.flush()
    assert len(cache) == size
    with torch.no_grad():
        plain = backbone.encode(run(backbone, rows)[0])
    assert not torch.allclose(changed.cache.layers[0].keys, plain.cache.layers[0].keys)


def test_equal_contents_of_a_batch_are_encoded_once(tmp_path, monkeypatch):
    backbone = random_backbone("encoded")
    seen = count(backbone, monkeypatch)
    image = write_image(tmp_path / "a.png")
    batch, _ = run(backbone, [Sample.of("a fire", image=image), Sample.of("a fire", image=[image, image])])
    assert seen["image"] == 1 and seen["passage"] == 1
    kinds = {k: len(v) for k, v in batch.prompt.sources.items() if k != IDS}
    assert kinds["image"] == 3
    with torch.no_grad():
        backbone.encode(batch)
    assert seen["image"] == 1  # a batch remembers its features

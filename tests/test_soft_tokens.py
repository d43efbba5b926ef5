"""Soft tokens: what is cut, where each medium stands and when, and what a token's embedding is made of."""

import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from helpers import random_backbone, write_audio, write_image
from PIL import Image

from datamodules import media
from datamodules.schema import MediaError, Message, Part, Policy, PolicyEntry, Sample
from zoo.core.backbones.cutting import cap_lengths, cut_middle
from zoo.core.backbones.projection import TimeEmbedding
from zoo.core.backbones.soft_token import TYPE, TYPES
from zoo.core.backbones.tokens import IDS, collate_tokens
from zoo.core.cache import FeatureCache
from zoo.core.encoders.text import adapted, random_bert
from zoo.core.guard import Guard
from zoo.core.prompts import Media, Text, Turn, render
from zoo.core.query import policy_queries

POLICY = Policy("p", (PolicyEntry("S1", "open fire", "pictures of fire"), PolicyEntry("S10", "alarm")))


# -------------------------------------------------------------------------------------------------------- cutting


def test_caps_are_water_filling():
    """min(length, c) with the largest c that fits; the tokens left over go one each to texts that are cut."""
    rng = random.Random(0)
    cases = [[rng.randint(0, 12) for _ in range(rng.randint(1, 5))] for _ in range(300)]
    for lengths, limit in itertools.product(cases, (0, 1, 5, 9, 17, 40)):
        caps = cap_lengths(lengths, limit)
        level = max(c for c in range(61) if sum(min(n, c) for n in lengths) <= limit or c == 0)
        assert sum(caps) == min(sum(lengths), limit)
        if sum(lengths) <= limit:
            assert caps == lengths
        else:
            assert all(min(n, level) <= c <= min(n, level + 1) for n, c in zip(lengths, caps)), (lengths, limit, caps)


def test_cut_middle_keeps_both_ends():
    for n, cap in itertools.product(range(12), range(14)):
        ids = list(range(n))
        cut = cut_middle(ids, cap)
        assert len(cut) == min(n, cap)
        head, tail = cap - cap // 2, cap // 2
        assert cut == (ids if n <= cap else ids[:head] + ids[n - tail :])


def test_a_rule_that_is_longer_than_what_is_read_is_an_error():
    """MiniLM reads 254 word pieces of a phrase: what stands after them would be no rule, and nobody would know."""
    sample = Sample.of("hello")
    for kind in ("encoded", "words", "tokens"):
        backbone = random_backbone(kind)
        backbone.prepare(sample, Policy("p", (PolicyEntry("a", "fire", "fire " * 254),)))
        for entry in (PolicyEntry("a", "alarm", "fire " * 255), PolicyEntry("a", "fire " * 255)):
            if kind == "encoded":
                with pytest.raises(
                    MediaError, match=r"takes 255 word pieces, and of a name or a description 254 are read"
                ):
                    backbone.prepare(sample, Policy("p", (entry,)))
            else:  # these read words one by one
                backbone.prepare(sample, Policy("p", (entry,)))


def contents(backbone, sample):
    row = backbone.prepare(sample, POLICY).prompt
    first = {at: type for at, _, type in reversed(row.layout)}
    return [s.value.tolist() for i, s in enumerate(row.sources) if first[i] == TYPE["content"]]


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
def test_a_long_message_does_not_push_out_a_short_one(kind):
    backbone = random_backbone(kind, text_tokens=40)
    for turns in (("user", "no!" * 500), ("assistant", "a b c")), (("user", "a b c"), ("assistant", "no!" * 500)):
        sample = Sample("x", tuple(Message(r, (Part("text", text=t),)) for r, t in turns))
        kept = contents(backbone, sample)
        whole = [backbone.tokenizer(t, add_special_tokens=False)["input_ids"] for _, t in turns]
        short, long = (1, 0) if len(whole[0]) > len(whole[1]) else (0, 1)
        assert kept[short] == whole[short] and len(kept[long]) == 40 - len(whole[short])
        n = len(kept[long]) // 2
        assert kept[long][:n] == whole[long][:n] and kept[long][-n:] == whole[long][-n:]
        assert Guard(backbone, POLICY).moderate(sample).truncated
        assert not Guard(backbone, POLICY).moderate(Sample.of("a b c")).truncated


# ---------------------------------------------------------------------------------------------------------- prompts


def test_rendered_pieces():
    sample = Sample(
        "x",
        (
            Message("user", (Part("text", text="look"), Part("image", path="a"), Part("audio", path="b"))),
            Message("assistant", (Part("text", text="nice"),)),
            Message(
                "user",
                (Part("image", path="c"), Part("text", text="and"), Part("video", path="d"), Part("image", path="e")),
            ),
        ),
        target="response",
    )
    pieces = render(sample, POLICY)
    assert [(p.part.path, p.number) for p in pieces if isinstance(p, Media)] == [
        ("a", 1),
        ("b", 1),
        ("c", 2),
        ("d", 1),
        ("e", 3),
    ]
    for i, p in enumerate(pieces):
        if isinstance(p, Media):
            assert pieces[i - 1] == Text(f"{p.part.type.capitalize()} {p.number}: ", "template")
    assert [p.text for p in pieces if isinstance(p, Text) and p.role == "content"] == ["look", "nice", "and"]
    policy = [p.text for p in pieces if isinstance(p, Text) and p.role == "policy"]
    assert policy == ["- open fire", ": pictures of fire", "- alarm"]  # names, never ids
    template = "".join(p.text for p in pieces if isinstance(p, Text) and p.role == "template")
    assert "Judge the assistant's last response by the policy." in template
    assert not any("S1" in p.text for p in pieces if isinstance(p, Text))
    assert isinstance(pieces[0], Turn) and pieces[0] == Turn("system", True) and pieces[-1] == Turn("assistant", True)
    order = [i for i, p in enumerate(pieces) if isinstance(p, Text) and p.role == "policy"]
    assert max(order) < min(i for i, p in enumerate(pieces) if isinstance(p, Media))


def test_rows_under_one_policy_share_a_prefix():
    a, b = (render(Sample.of(t), POLICY) for t in ("one", "two"))
    assert a[: a.index(Turn("user", True)) + 1] == b[: b.index(Turn("user", True)) + 1]


# ------------------------------------------------------------------------------------------------------------ media


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """A clip of three pictures, and 1.2 s of sound that starts at 0.3 s: tokens at 0.46, 0.78, 1.10, 1.42 s."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a clip")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]
    wave = torch.from_numpy(rng.normal(0, 0.1, 19_200).astype(np.float32))
    made = media.Clip(pictures, [0.0, 0.7, 1.4], wave, 0.3, 1.5)
    monkeypatch.setattr(media, "read_video", lambda *a, **k: made)
    return path


def timeline(row):
    """(type, number of the frame or of the sound's token) in reading order, of a row's media."""
    frames = [i for i, s in enumerate(row.sources) if s.kind == "image"]
    out = []
    for at, within, type in row.layout:
        if TYPES[type] == "frame":
            out.append(("frame", frames.index(at), within))
        elif TYPES[type] == "track":
            out.append(("track", within))
    return out


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
def test_sound_and_frames_are_interleaved_by_time(kind, clip):
    row = random_backbone(kind).prepare(Sample.of(video=clip), POLICY).prompt
    frame = [[("frame", n, i) for i in range(4)] for n in range(3)]
    assert timeline(row) == [*frame[0], ("track", 0), *frame[1], ("track", 1), ("track", 2), *frame[2], ("track", 3)]
    places = [i for i, (_, _, t) in enumerate(row.layout) if TYPES[t] in ("frame", "track")]
    assert places == list(range(places[0], places[0] + len(places)))  # one block
    assert [s.time for s in row.sources if s.kind == "image"] == [0.0, 0.7, 1.4]
    assert [s.time for s in row.sources if s.kind == "sound"] == [0.3]


@pytest.mark.parametrize("frames, sound", [(True, True), (True, False), (False, True), (False, False)])
def test_a_sense_can_be_turned_off(clip, frames, sound):
    part = Part("video", path=str(clip), frames=frames, sound=sound)
    row = random_backbone("tokens").prepare(Sample("x", (Message("user", (part,)),)), POLICY).prompt
    kinds = [e[0] for e in timeline(row)]
    assert kinds.count("frame") == 12 * frames and kinds.count("track") == 4 * sound


def test_pictures_and_sounds_keep_their_place(tmp_path):
    image, other, sound = (
        write_image(tmp_path / "a.png"),
        write_image(tmp_path / "b.png", 1),
        write_audio(tmp_path / "a.wav"),
    )
    backbone = random_backbone("tokens")
    sample = Sample.of("fire", image=[image, other, image], audio=sound, response="no")
    row = backbone.prepare(sample, POLICY).prompt
    runs = [TYPES[t] for (_, t), _ in itertools.groupby((at, t) for at, _, t in row.layout)]
    seen = [r for r in runs if r in ("content", "image", "sound")]
    assert seen == ["content", "image", "image", "image", "sound", "content"]
    assert [i for _, i, t in row.layout if t == TYPE["image"]] == [0, 1, 2, 3] * 3
    pixels = [s.value for s in row.sources if s.kind == "image"]
    assert torch.equal(pixels[0], pixels[2]) and not torch.equal(pixels[0], pixels[1])
    # Each is announced by its number.
    text = backbone.tokenizer.decode([i for s in row.sources if s.kind == IDS for i in s.value.tolist()])
    assert all(text.count(f"Image {n}: ") == 1 for n in (1, 2, 3)) and text.count("Audio 1: ") == 1


def naive(backbone, row):
    """[L, d]: one token after the other, straight from the definition."""
    out = []
    table = backbone.lm.get_input_embeddings().weight
    features = {i: backbone.encoders[s.kind].encode([s.value])[0] for i, s in enumerate(row.sources) if s.kind != IDS}
    for at, within, type in row.layout:
        source = row.sources[at]
        if source.kind == IDS:
            out.append(table[source.value[within]])
            continue
        *_, time = feature = features[at][within]
        x = backbone.projectors[source.kind](feature[:-1]) + backbone.types.weight[type]
        if source.kind in ("image", "sound"):
            x = x + backbone.time(time + source.time)
        if source.kind == "image":
            x = x + backbone.grid.weight[within]
        out.append(x)
    return torch.stack(out)


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
@torch.no_grad()
def test_embeddings_are_made_of_what_they_should(kind, clip, tmp_path):
    backbone = random_backbone(kind)
    samples = [
        Sample.of("a fire", video=clip, image=write_image(tmp_path / "a.png"), id="0"),
        Sample.of("no", audio=write_audio(tmp_path / "a.wav"), id="1"),
        Sample.of("the picture shows fire. " * 20, id="2"),
    ]
    rows = [backbone.prepare(s, POLICY, policy_queries(POLICY)) for s in samples]
    expected = [[naive(backbone, r) for r in (p.prompt, p.suffix)] for p in rows]
    batch = backbone.collate(rows)
    for part, tokens in enumerate((batch.prompt, batch.suffix)):
        x = backbone.embed(tokens)
        for i, wanted in enumerate(expected):
            n = len(wanted[part])
            assert tokens.lengths[i] == n
            torch.testing.assert_close(x[i, :n], wanted[part], rtol=1e-4, atol=1e-4)
            assert (x[i, n:] == 0).all()
    torch.testing.assert_close(backbone.input_embeddings(batch), backbone.embed(batch.prompt))


@torch.no_grad()
def test_the_tracks_start_shifts_its_time(clip, monkeypatch):
    """The same sound, heard later, is the same features under later times."""
    backbone = random_backbone("tokens")
    early = media.read_video(clip)
    late = media.Clip(early.frames, early.times, early.sound, 60.3, early.duration)

    def track():
        (source,) = [s for s in backbone.prepare(Sample.of(video=clip), POLICY).prompt.sources if s.kind == "sound"]
        (feature,) = backbone.encoders["sound"].encode([source.value])
        row = backbone.prepare(Sample.of(video=clip), POLICY).prompt
        x = backbone.embed(collate_tokens([row], backbone.kinds))[0]
        return feature, x[[t == TYPE["track"] for _, _, t in row.layout]]

    a, x = track()
    monkeypatch.setattr(media, "read_video", lambda *args, **kw: late)
    b, y = track()
    assert torch.equal(a, b)
    times = backbone.encoders["sound"].token_times(4)
    torch.testing.assert_close(y - x, backbone.time(times + 60.3) - backbone.time(times + 0.3), rtol=1e-4, atol=1e-4)
    assert (y - x).abs().max() > 1e-2


def test_times_are_told_apart():
    torch.manual_seed(0)
    seconds = torch.tensor([0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 60.0, 120.0])
    x = TimeEmbedding(16)(seconds)
    assert x.shape == (8, 16)
    assert (torch.cdist(x, x) + 10 * torch.eye(8)).min() > 0.05


def test_gradients_reach_the_prompts_embeddings_and_the_trainable_parts_only(clip):
    backbone = random_backbone("encoded")
    batch = backbone.collate([backbone.prepare(Sample.of("a fire", video=clip), POLICY, policy_queries(POLICY))])
    backbone.score(backbone.encode(batch)).log_odds(0).sum().backward()
    for name, p in backbone.named_parameters():
        if name.startswith("encoders."):
            assert p.grad is None and not p.requires_grad
    for part in (
        "projectors.image.out.weight",
        "projectors.sound.out.weight",
        "time.out.weight",
        "types.weight",
        "grid.weight",
    ):
        assert backbone.get_parameter(part).grad.abs().sum() > 0, part


def test_a_batch_moves_as_a_whole():
    backbone = random_backbone("encoded")
    batch = backbone.collate([backbone.prepare(Sample.of(t), POLICY, policy_queries(POLICY)) for t in ("a", "fire")])
    moved = batch.to("meta")
    assert moved.size == 2 and moved.truncated == [False, False] and moved.ids == batch.ids
    tensors = [moved.prompt.kind, moved.suffix.lengths, moved.branches.counts, moved.branches.row]
    tensors += [s.value for v in moved.prompt.sources.values() for s in v]
    assert all(t.device.type == "meta" for t in tensors)


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
def test_a_batch_comes_from_a_worker_as_it_was_in_few_tensors(kind, clip, tmp_path):
    """Each tensor on that way is a shared file: there must not be one for each phrase. Cached and raw are mixed."""
    samples = [
        Sample.of("a fire", image=write_image(tmp_path / "a.png"), audio=write_audio(tmp_path / "a.wav"), id="0"),
        Sample.of("no", video=clip, audio=write_audio(tmp_path / "b.wav", seconds=0.7), id="1"),
        Sample.of("a rather long text about nothing", id="2"),
    ]
    backbone = random_backbone(kind, cache=FeatureCache(tmp_path / "cache"))
    backbone.encode(backbone.collate([backbone.prepare(samples[0], POLICY, policy_queries(POLICY))]))
    batch = backbone.collate([backbone.prepare(s, POLICY, policy_queries(POLICY)) for s in samples])
    tensors = sum(len(joined.values) for joined in batch.prompt.__getstate__()["sources"].values())
    assert tensors <= 8 < sum(map(len, batch.prompt.sources.values())), "joined by kind, dtype and shape"
    there = pickle.loads(pickle.dumps(batch))  # noqa: S301 - its own bytes
    for kind, sources in batch.prompt.sources.items():
        for a, b in zip(sources, there.prompt.sources[kind], strict=True):
            assert (a.kind, a.tokens, a.ready, a.time, a.key) == (b.kind, b.tokens, b.ready, b.time, b.key)
            assert a.value.dtype == b.value.dtype and torch.equal(a.value, b.value)
    with torch.no_grad():
        torch.testing.assert_close(backbone.score_batch(there).logp, backbone.score_batch(batch).logp)


def test_an_adapted_reader_learns_from_texts_and_takes_part_without(tmp_path):
    """LoRA and the bag of words: a gradient from a text, a zero one (not none) from a batch that has no text."""
    backbone = random_backbone("adapted")
    trained = {n: p for n, p in backbone.named_parameters() if n.startswith("encoders.") and p.requires_grad}
    assert {n.split(".")[1] for n in trained} == {"passage", "lexical"}
    assert all(".lora_" in n for n in trained if n.startswith("encoders.passage"))
    assert set(trained) <= set(backbone.saved_state())
    for sample, learns in ((Sample.of("a fire"), True), (Sample.of(image=write_image(tmp_path / "a.png")), False)):
        backbone.zero_grad()
        batch = backbone.collate([backbone.prepare(sample, POLICY, policy_queries(POLICY))])
        backbone.score_batch(batch).log_odds(0).sum().backward()
        for name, parameter in trained.items():
            assert (parameter.grad.abs().sum() > 0) == learns, name


def test_an_adapted_reader_is_not_cached(tmp_path):
    """Its features change; those of policy phrases, which the frozen encoder reads, are kept."""
    backbone = random_backbone("adapted", cache=FeatureCache(tmp_path))
    backbone.warm([Sample.of("a fire")], ["open fire"])
    kinds = {s.kind: s.key for s in backbone.prepare(Sample.of("a fire"), POLICY).prompt.sources}
    assert kinds["passage"] is None and kinds["phrase"] in backbone.cache
    frozen, lower = backbone.encoders["phrase"].bert, backbone.encoders["passage"].bert
    assert lower.embeddings is frozen.embeddings and lower.encoder.layer[-1] is not frozen.encoder.layer[-1]
    ids = torch.arange(4, 9)
    before = backbone.encoders["phrase"].encode([ids])[0]
    torch.nn.init.normal_(next(p for n, p in lower.named_parameters() if ".lora_B" in n), std=1.0)
    assert torch.equal(backbone.encoders["phrase"].encode([ids])[0], before)


@pytest.mark.parametrize("layers", [0, 2, -1])
def test_more_adapted_layers_than_there_are(layers):
    with pytest.raises(ValueError, match="has 1 layers"):
        adapted(random_bert(), layers, 2, 4)

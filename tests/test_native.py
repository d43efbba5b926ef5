"""Qwen2.5-Omni, tiny and random, of the very classes of transformers: against their own processor and full passes."""

import numpy as np
import pytest
import soundfile
import torch
from helpers import write_audio, write_image
from native_helpers import omni_processor, random_native, write_clip
from torchvision.transforms.functional import pil_to_tensor

from datamodules import media
from datamodules.schema import MediaError, Message, Part, Policy, PolicyEntry, Sample
from zoo.core.backbones.omni_layout import Codes, Prompt, audio_tokens
from zoo.core.guard import Guard
from zoo.core.prompts import Media, Text, Turn, render
from zoo.core.query import Query, critique_query, policy_queries, verdict_query

POLICY = Policy("p", (PolicyEntry("S1", "open fire", "Pictures of fire."), PolicyEntry("S10", "alarm")))
QUERIES = [*policy_queries(POLICY), Query(("- Which:",), ("a", "b", "the picture")), Query(("so:",), ("s1", "s10"))]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    return {
        "a": write_image(folder / "a.png"),
        "b": write_image(folder / "b.png", seed=1, size=(90, 50)),
        "wav": write_audio(folder / "a.wav", seconds=1.3),
        "clip": write_clip(folder / "clip.mp4"),
        "long": write_clip(folder / "long.mp4", seconds=5.0, seed=1),
        "mute": write_clip(folder / "mute.mp4", sound=False, seed=2),
        "odd": write_clip(folder / "odd.mp4", seconds=1.5, sound=False, seed=3),
    }


@pytest.fixture(scope="module")
def samples(files):
    """A batch whose rows lack modalities, have several files of one kind, and several messages."""
    chat = (
        Message("user", (Part("text", text="Look: "), Part("image", path=str(files["b"])), Part("text", text="Hm."))),
        Message("assistant", (Part("audio", path=str(files["wav"])), Part("text", text="I hear."))),
        Message("user", (Part("image", path=str(files["a"])), Part("text", text="And?"))),
    )
    return {
        "text": Sample.of("fire", id="text"),
        "images": Sample.of("two of them, see", image=[files["a"], files["b"]], id="images"),
        "audio": Sample.of(audio=files["wav"], id="audio"),
        "clip": Sample.of("a clip", video=files["clip"], id="clip"),
        "mute": Sample.of(video=[files["mute"], files["odd"]], id="mute"),
        "all": Sample.of("all", image=files["a"], audio=files["wav"], video=files["long"], response="no", id="all"),
        "chat": Sample("chat", chat),
    }


@pytest.fixture(scope="module")
def backbone():
    backbone = random_native()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in (backbone.lm.get_decoder(), backbone.lm.get_output_embeddings()):
            for p in module.parameters():
                if p.dim() >= 2:
                    p.normal_(0, 0.3, generator=generator)
    return backbone


# ------------------------------------------------------------------- what transformers makes of the same prompts

MARKED = {
    "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
}


def theirs(sample, policy=POLICY):
    """The prompt through the model's own processor, which reads marks in text, and decodes nothing itself."""
    text, images, videos, sounds, of_video = "", [], [], [], []
    for piece in render(sample, policy):
        if isinstance(piece, Turn):
            text += f"<|im_start|>{piece.role}\n" if piece.start else "<|im_end|>\n"
        elif isinstance(piece, Text):
            text += ("<|im_start|>" if piece.role == "speaker" else "") + piece.text
        elif isinstance(piece, Media):
            text += MARKED[piece.part.type]
            if piece.part.type == "image":
                images.append(media.read_image(piece.part.path))
            elif piece.part.type == "audio":
                sounds.append(media.read_audio(piece.part.path).numpy())
                of_video.append(None)
            else:
                clip = media.read_video(piece.part.path, fps=2.0, max_frames=16)
                videos.append(torch.stack([pil_to_tensor(f) for f in clip.frames]))
                if clip.sound is not None:
                    sounds.append(clip.sound.numpy())
                    of_video.append(len(videos) - 1)
    heard = any(v is not None for v in of_video)
    out = omni_processor()(
        text=text,
        images=images or None,
        videos=videos or None,
        audio=sounds or None,
        **({"load_audio_from_video": True, "audio_from_video_indices": of_video} if heard else {}),
        images_kwargs={"size": {"shortest_edge": 4 * 784, "longest_edge": 16 * 784}},
        videos_kwargs={
            "size": {"shortest_edge": 2 * 784, "longest_edge": 4 * 784},
            "do_sample_frames": False,
            "fps": 2.0,
        },
        return_tensors="pt",
    )
    if heard:
        out["use_audio_in_video"] = True
    if videos:
        out["video_second_per_grid"] = torch.as_tensor(out["video_second_per_grid"])
    out.pop("num_audio_tokens", None)
    return out


@pytest.mark.parametrize("name", ["text", "images", "audio", "clip", "mute", "all", "chat"])
def test_ids_inputs_and_positions_are_those_of_transformers(backbone, samples, name):
    prepared, wanted = backbone.prepare(samples[name], POLICY), theirs(samples[name])
    assert prepared.ids.tolist() == wanted["input_ids"][0].tolist()
    batch = backbone.collate([prepared])
    pixels = [wanted[k] for k in ("pixel_values", "pixel_values_videos") if k in wanted]
    if pixels:
        torch.testing.assert_close(batch.patches, torch.cat(pixels))  # pictures come before clips in these samples
    if "input_features" in wanted:
        features, mask = wanted["input_features"], wanted["feature_attention_mask"].bool()
        mels = torch.cat([f[:, m] for f, m in zip(features, mask)], dim=1)
        torch.testing.assert_close(batch.mels, mels, rtol=1e-5, atol=1e-5)
        assert batch.mel_lengths.tolist() == mask.sum(-1).tolist()
    positions, _ = backbone.lm.get_rope_index(
        wanted["input_ids"],
        wanted.get("image_grid_thw"),
        wanted.get("video_grid_thw"),
        wanted["attention_mask"],
        wanted.get("use_audio_in_video", False),
        wanted["feature_attention_mask"].sum(-1) if "feature_attention_mask" in wanted else None,
        wanted.get("video_second_per_grid"),
    )
    assert torch.equal(prepared.positions, positions[:, 0])
    assert prepared.after == int(positions[0, 0, -1]) + 1
    assert (positions[:, 0, -1] == positions[0, 0, -1]).all()


def whole(backbone, wanted, ids):
    """[n, v]: the model's plain forward pass over ids [1, n], for which it works out the positions itself."""
    inputs = {k: v for k, v in wanted.items() if k not in ("input_ids", "attention_mask")}
    backbone.lm.model.rope_deltas = None
    return backbone.lm(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs).logits[0]


def brute(backbone, wanted, query):
    """[o]: one plain pass for each option over prompt, suffix and option."""
    out = []
    for option in query.options:
        answer = backbone.reader.answer(option)
        head = torch.cat([wanted["input_ids"], torch.tensor([backbone.reader.ids[query.text]])], dim=1)
        logp = whole(backbone, wanted, torch.cat([head, torch.tensor([answer[:-1]])], dim=1)).log_softmax(-1)
        at = torch.arange(len(answer)) + head.shape[1] - 1
        out.append(logp[at, torch.tensor(answer)].sum())
    return torch.stack(out)


def collated(backbone, samples, queries=QUERIES, policy=POLICY):
    return backbone.collate([backbone.prepare(s, policy, queries) for s in samples])


@torch.no_grad()
def test_all_modalities_in_one_batch_score_as_plain_passes_do(backbone, samples):
    batch = collated(backbone, samples.values())
    assert len(batch.grids) == 2 + 1 + 2 + 2 + 2 and len(batch.mel_lengths) == 1 + 1 + 2 + 1
    scores, once = backbone.score(backbone.encode(batch)), backbone.score_batch(batch)
    torch.testing.assert_close(once.logp, scores.logp, rtol=1e-5, atol=1e-5)
    for i, sample in enumerate(samples.values()):
        alone = backbone.score_batch(collated(backbone, [sample]))
        torch.testing.assert_close(alone.logp[0], scores.logp[i], rtol=1e-4, atol=1e-4)
        wanted = theirs(sample)
        for q, query in enumerate(QUERIES):
            n = len(query.options)
            torch.testing.assert_close(scores.logp[i, q, :n], brute(backbone, wanted, query), rtol=1e-4, atol=1e-4)
    odds = scores.log_odds(0)
    assert odds.unique().numel() == len(samples) and odds.std() > 0.1  # the scores say something


@torch.no_grad()
def test_what_a_file_shows_matters(backbone, files):
    """Each modality reaches the verdict: another file of the same shape gives another score."""
    tone = files["a"].with_name("tone.wav")
    soundfile.write(tone, np.sin(np.arange(20800) * 0.2).astype(np.float32), 16_000)
    pairs = [
        (Sample.of("x", image=files["a"]), write_image(files["a"].with_name("other.png"), seed=9)),
        (Sample.of("x", audio=files["wav"]), tone),
        (Sample.of("x", video=files["mute"]), write_clip(files["a"].with_name("other.mp4"), sound=False, seed=9)),
    ]
    for one, other in pairs:
        kind = one.media[0].type
        both = [one, Sample.of("x", **{kind: other})]
        batch = collated(backbone, both)
        assert torch.equal(batch.prompt[0], batch.prompt[1])
        odds = backbone.score_batch(batch).log_odds(0)
        assert (odds[0] - odds[1]).abs() > 1e-2, kind


@torch.no_grad()
def test_the_order_of_pictures_and_clips_is_the_samples(backbone, files):
    """A picture after a clip: their patches go through one encoder, and each comes back to its own placeholder."""
    parts = [Part("image", path=str(files["a"])), Part("video", path=str(files["mute"]))]
    scores = {}
    for name, order in (("pv", parts), ("vp", parts[::-1])):
        sample = Sample("x", (Message("user", tuple(order)),))
        scores[name] = backbone.score_batch(collated(backbone, [sample])).logp[0]
        wanted = theirs(sample)
        for q, query in enumerate(QUERIES):
            n = len(query.options)
            torch.testing.assert_close(scores[name][q, :n], brute(backbone, wanted, query), rtol=1e-4, atol=1e-4)
    assert (scores["pv"] - scores["vp"])[:, :2].abs().max() > 1e-2


def test_generated_text_is_what_plain_passes_say(backbone, samples, monkeypatch):
    rows = [samples["all"], samples["text"], samples["images"]]
    suffixes = [critique_query(True, ["open fire"]), critique_query(False, []), critique_query(True, ["alarm"])]
    wanted = []
    with torch.no_grad():
        for sample, query in zip(rows, suffixes):
            inputs, out = theirs(sample), []
            ids = torch.cat([inputs["input_ids"], torch.tensor([backbone.reader.ids[query.text]])], dim=1)
            for _ in range(5):
                out.append(int(whole(backbone, inputs, ids)[-1].argmax()))
                ids = torch.cat([ids, torch.tensor([out[-1:]])], dim=1)
            wanted.append(out)
        state = backbone.encode(collated(backbone, rows))
    assert len({tuple(w) for w in wanted}) == 3
    monkeypatch.setattr(backbone.reader, "decode", lambda ids: ids)
    monkeypatch.setattr(backbone.reader, "terminator", -1)
    assert backbone.generate(state, suffixes, max_new_tokens=5) == wanted


def test_explaining_does_not_change_the_verdict(backbone, samples):
    guard = Guard(backbone, POLICY)
    rows = list(samples.values())
    plain, explained = guard.moderate(rows), guard.moderate(rows, explain=True, max_new_tokens=3)
    for a, b in zip(plain, explained):
        assert (a.score, a.categories, a.flagged, a.critique) == (b.score, b.categories, b.flagged, None)
        assert isinstance(b.critique, str)


def test_gradients_reach_the_input_embeddings(backbone, samples):
    """Against a finite difference, through the state and in the direction of the gradient."""
    batch = collated(backbone, [samples["all"], samples["text"]], [verdict_query()])
    x = backbone.input_embeddings(batch).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(backbone.score(backbone.encode(batch, x)).log_odds(0).sum(), x)
    for code in (backbone.codes.image, backbone.codes.audio, backbone.codes.video):
        assert gradient[batch.prompt == code].abs().max() > 0
    assert (gradient[1, batch.lengths[1] :] == 0).all()
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        up, down = (backbone.score(backbone.encode(batch, x + s)).log_odds(0).sum() for s in (step, -step))
    torch.testing.assert_close((up - down) / 2e-3, gradient.norm(), rtol=2e-2, atol=1e-3)


# ------------------------------------------------------------------------------------------------- layout and files

CODES = Codes(image=1, video=2, audio=3, vision_marks=(4, 5), audio_marks=(6, 7))


def rows_of(prompt):
    return prompt.ids, prompt.positions.T.tolist()


def test_positions_of_a_picture_by_hand():
    prompt = Prompt(CODES)
    prompt.add_text([9, 9])
    prompt.add_image((1, 4, 6))  # 2 rows of 3 tokens
    prompt.add_text([8])
    ids, places = rows_of(prompt)
    assert ids == [9, 9, 4, 1, 1, 1, 1, 1, 1, 5, 8]
    assert places[:3] == [[0] * 3, [1] * 3, [2] * 3]
    assert places[3:9] == [[3, 3 + r, 3 + c] for r in range(2) for c in range(3)]
    assert places[9:] == [[6] * 3, [7] * 3] and prompt.after == 8


def test_positions_of_a_clip_with_sound_by_hand():
    prompt = Prompt(CODES)
    prompt.add_clip((3, 2, 2), [0.0, 1.0, 2.0], sound=60)
    ids, places = rows_of(prompt)
    assert ids == [4, 6, 2, 2, *[3] * 50, 2, *[3] * 10, 7, 5]  # chunks of two seconds
    assert places[0] == places[1] == [0] * 3
    assert [p for p, i in zip(places, ids) if i == 2] == [[1, 1, 1], [26, 1, 1], [51, 1, 1]]
    assert [p for p, i in zip(places, ids) if i == 3] == [[1 + n] * 3 for n in range(60)]
    assert places[-1] == places[-2] == [61] * 3 and prompt.after == 62


@pytest.mark.parametrize("tracks", [False, True])
def test_positions_of_random_prompts_are_those_of_transformers(backbone, tracks):
    random = np.random.default_rng(3)
    for _ in range(25):
        prompt, pictures, clips, frames, steps = Prompt(backbone.codes), [], [], [], []
        for kind in random.integers(0, 4, 6):
            grid = tuple(int(2 * n) for n in random.integers(1, 5, 2))
            if kind == 0:
                prompt.add_text([5] * int(random.integers(1, 9)))
            elif kind == 1:
                prompt.add_image((1, *grid))
                pictures.append((1, *grid))
            elif kind == 2:
                frames.append(int(random.integers(10, 900)))
                prompt.add_audio(audio_tokens(frames[-1]))
            else:
                steps.append(float(random.choice([0.5, 1.0, 2 / 3, 1.6])))
                clips.append((int(random.integers(1, 6)), *grid))
                if tracks:
                    frames.append(int(random.integers(10, 900)))
                sound = audio_tokens(frames[-1]) if tracks else None
                prompt.add_clip(clips[-1], [n * steps[-1] for n in range(clips[-1][0])], sound)
        prompt.add_text([5, 5])
        ids = torch.tensor([prompt.ids])
        positions, _ = backbone.lm.get_rope_index(
            ids,
            torch.tensor(pictures) if pictures else None,
            torch.tensor(clips) if clips else None,
            torch.ones_like(ids),
            tracks,
            torch.tensor(frames),
            torch.tensor(steps),
        )
        assert torch.equal(prompt.positions, positions[:, 0])
        assert prompt.after == int(positions[0, 0, -1]) + 1


def test_sparse_frames_stay_whole_between_their_sounds():
    """Frames further apart than a chunk: each stands before the sound of its own two seconds."""
    prompt = Prompt(CODES)
    prompt.add_clip((2, 4, 2), [0.0, 5.0], sound=150)
    ids, places = rows_of(prompt)
    assert ids == [4, 6, 2, 2, *[3] * 100, 2, 2, *[3] * 50, 7, 5]
    assert places[104:106] == [[126, 1, 1], [126, 2, 1]] and places[106] == [101] * 3


def test_a_late_track_and_clips_of_both_kinds_in_a_row(backbone, files):
    prompt = Prompt(CODES)
    prompt.add_clip((1, 2, 2), [0.0], sound=3, sound_start=0.4)
    assert [p[0] for p, i in zip(*reversed(rows_of(prompt))) if i == 3] == [11, 12, 13]
    mixed = backbone.prepare(Sample.of(video=[files["clip"], files["mute"]]), POLICY)
    parts = [backbone.prepare(Sample.of(video=files[n]), POLICY) for n in ("clip", "mute")]
    c = backbone.codes
    assert mixed.ids.tolist().count(c.audio_marks[0]) == 1 and mixed.ids.tolist().count(c.vision_marks[0]) == 2
    for code in (c.video, c.audio):
        assert (mixed.ids == code).sum() == sum((p.ids == code).sum() for p in parts)


def test_a_part_without_track_or_without_frames(backbone, files):
    c = backbone.codes

    def counts(**kw):
        sample = Sample("x", (Message("user", (Part("video", path=str(files["clip"]), **kw),)),))
        prepared = backbone.prepare(sample, POLICY)
        ids = prepared.ids.tolist()
        return [ids.count(i) for i in (c.video, c.audio, c.vision_marks[0], c.audio_marks[0])], prepared.inputs

    (video, audio, *marks), inputs = counts()
    assert video and audio and marks == [1, 1] and len(inputs.mels) == len(inputs.grids) == 1
    assert counts(sound=False)[0] == [video, 0, 1, 0] and not counts(sound=False)[1].mels
    assert counts(frames=False)[0] == [0, audio, 0, 1] and not counts(frames=False)[1].grids
    assert counts(sound=False, frames=False)[0] == [0, 0, 0, 0]


def test_a_picture_is_scaled_to_the_limit_and_a_blink_of_sound_is_heard(backbone, tmp_path):
    for n, size in enumerate(((900, 300), (40, 30), (3, 2), (250, 20))):
        picture = write_image(tmp_path / f"{n}.png", size=size)
        assert 4 <= backbone.prepare(Sample.of(image=picture), POLICY).ids.tolist().count(backbone.codes.image) <= 16
    clip = write_clip(tmp_path / "small.mp4", size=(32, 16), sound=False)
    prepared = backbone.prepare(Sample.of(video=clip), POLICY)
    assert prepared.ids.tolist().count(backbone.codes.video) <= 4 * prepared.inputs.grids[0][0]
    blink = write_audio(tmp_path / "b.wav", seconds=0.001)
    assert backbone.prepare(Sample.of(audio=blink), POLICY).ids.tolist().count(backbone.codes.audio) == 2
    minute = write_audio(tmp_path / "m.wav", seconds=31.0)  # the extractor alone would cut at 30 s
    assert backbone.prepare(Sample.of(audio=minute), POLICY).ids.tolist().count(backbone.codes.audio) == 775
    assert [audio_tokens(n) for n in (10, 100, 200, 3000)] == [2, 25, 50, 750]


def test_a_strip_is_a_bad_file_not_a_crash(backbone, tmp_path):
    strip = write_image(tmp_path / "strip.png", size=(900, 2))
    with pytest.raises(MediaError, match=r"strip\.png.*aspect ratio"):
        backbone.prepare(Sample.of(image=strip), POLICY)


def test_text_over_the_limit_is_cut_and_said():
    backbone = random_native(text_tokens=40)
    batch = collated(backbone, [Sample.of("fire " * 30, response="short", id="l"), Sample.of("fire", id="s")])
    assert batch.truncated == [True, False]
    text = backbone.tokenizer.decode(backbone.prepare(Sample.of("~" * 30 + "^" * 30), POLICY).ids)
    assert "User: " + "~" * 20 + "^" * 20 + "\n" in text

"""A user's JSONL manifest: bad rows cost only themselves, splits part no group."""

import json
import random

import pytest
from helpers import write_audio, write_image

from datamodules import GuardDataModule
from datamodules.manifest import load_manifest, read_rows
from datamodules.schema import DataError, Policy, PolicyEntry

POLICY = Policy("site", (PolicyEntry("fire", "open fire"), PolicyEntry("alarm", "sound of an alarm")))
WORDS = [f"{a}{b}" for a in ("kal", "mor", "tes", "vin", "dop", "wug") for b in ("ar", "ex", "il", "on", "um")]


def text_row(n, **changes):
    words = " ".join(random.Random(str(n)).choices(WORDS, k=8))  # far from every other row's
    row = {"id": f"r{n}", "messages": [{"role": "user", "content": words}]}
    row["categories"] = {"fire": "no", "alarm": "no"}
    return {**row, **changes}


def write_manifest(folder, rows, name="m.jsonl"):
    path = folder / name
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(path, policy=POLICY, **kw):
    return load_manifest(path, kw.pop("data_dir", None), policy, kw.pop("seed", 0), **kw)


def test_bad_rows_cost_only_themselves(tmp_path):
    write_image(tmp_path / "a.png")
    write_audio(tmp_path / "a.wav", seconds=0.1)
    media = [{"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "audio", "path": "a.wav"}]}]
    rows = [
        text_row(1),
        "{broken",
        "",
        text_row(3, categories={"fier": "yes"}),
        text_row(4, categories={"smoke": "yes"}),
        text_row(1),
        text_row(6, messages=[{"role": "user", "content": [{"type": "image", "path": "gone.png"}]}]),
        text_row(7, unsafe=True),
        '["no", "object"]',
        '{"id": "half", "messages": [{"role": "user", "content": "\\ud83d"}]}',
        "[" * 100_000,
        text_row(11, messages=media),
        text_row(12, splt="train"),
        text_row(13, policy={"name": "own", "entries": [{"id": "smoke"}]}, categories={"smoke": "yes"}),
    ]
    corpus = load(write_manifest(tmp_path, rows))
    assert [s.id for s in corpus.samples] == ["r1", "r11", "r13"]
    errors = {e["id"]: e["error"] for e in corpus.report["errors"]}
    said = {
        "line 2": ["m.jsonl line 2", "not valid JSON"],
        "r3": ["m.jsonl line 4 (id 'r3')", "category 'fier' is not in the policy 'site'", "did you mean 'fire'"],
        "r4": ["line 5", "'smoke'", "known: alarm, fire", "give data.policy=FILE.yaml or a `policy` in the row"],
        "r1": ["line 6", "duplicate id: make ids unique"],
        "r6": ["line 7", "gone.png: no such file"],
        "r7": ["line 8", "`unsafe` is true but every category of the policy is no", "correct one"],
        "line 9": ["expected a JSON object, got list"],
        "line 10": ["half a surrogate pair"],
        "line 11": ["not valid JSON"],
        "r12": ["line 13", "unknown field 'splt'", "'split'"],
    }
    assert set(errors) == set(said)
    for id, words in said.items():
        assert all(w in errors[id] for w in words), errors[id]
    assert corpus.samples[0].policy is POLICY and corpus.samples[2].policy.ids == ("smoke",)
    assert corpus.bank.ids == ["fire", "alarm", "smoke"]


def test_every_kind_of_line_separator_inside_a_text(tmp_path):
    text = "one\u2028two\u2029three\x85four\x0bfive"
    path = write_manifest(tmp_path, [text_row(1, messages=[{"role": "user", "content": text}]), text_row(2)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))  # as Windows editors save it
    corpus = load(path)
    assert not corpus.report["errors"] and [s.id for s in corpus.samples] == ["r1", "r2"]
    assert corpus.samples[0].parts[0].text == text
    assert [n for n, _ in read_rows(path)] == [1, 2]


def test_files_that_are_no_manifest(tmp_path):
    with pytest.raises(DataError, match=r"needs data.path=FILE.jsonl"):
        load(None)
    with pytest.raises(DataError, match=r"gone.jsonl: cannot read the manifest: No such file"):
        load(tmp_path / "gone.jsonl")
    (tmp_path / "l1.jsonl").write_bytes(b'{"id": "\xe9"}')
    with pytest.raises(DataError, match=r"not UTF-8 text .*save it as UTF-8"):
        load(tmp_path / "l1.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"no usable sample"):
        GuardDataModule("manifest", path=tmp_path / "empty.jsonl").prepare_data()
    bad = write_manifest(tmp_path, [text_row(1, categories={"fier": "no"})])
    with pytest.raises(DataError, match=r"no usable sample.*'fier' is not in the policy"):
        GuardDataModule("manifest", path=bad, policy=POLICY).prepare_data()


def test_data_dir_and_limits(tmp_path):
    (tmp_path / "media").mkdir()
    write_image(tmp_path / "media" / "a.png")
    row = text_row(1, messages=[{"role": "user", "content": [{"type": "image", "path": "a.png"}]}])
    path = write_manifest(tmp_path, [row, text_row(2), text_row(3)])
    assert [e["id"] for e in load(path).report["errors"]] == ["r1"]
    assert not load(path, data_dir=tmp_path / "media").report["errors"]
    assert len(load(path, data_dir=tmp_path / "media", max_rows=2).samples) == 2


def splits(corpus):
    return {s.id: s.split for s in corpus.samples}


def test_rows_without_split_are_parted_by_group(tmp_path):
    rows = [text_row(n, group=f"g{n // 4}") for n in range(200)]
    path = write_manifest(tmp_path, rows)
    found = splits(load(path))
    for n in range(200):
        assert found[f"r{n}"] == found[f"r{n // 4 * 4}"]
    shares = [list(found.values()).count(s) / 200 for s in ("train", "val", "test")]
    assert shares[0] > 0.5 and min(shares[1:]) > 0.03
    assert splits(load(path)) == found != splits(load(path, seed=1))
    assert splits(load(write_manifest(tmp_path, rows[::-1], "back.jsonl"))) == found  # the order does not matter


def test_near_duplicates_stay_together(tmp_path):
    long = " ".join(WORDS)
    rows = [text_row(n, messages=[{"role": "user", "content": f"{long} {n}"}]) for n in range(12)]
    assert len(set(splits(load(write_manifest(tmp_path, rows))).values())) == 1


def test_named_splits_are_kept_and_spread_to_the_group(tmp_path):
    rows = [text_row(n, split=("train", "val", "test")[n % 3], group=f"g{n}") for n in range(9)]
    rows += [text_row(n + 100, group=f"g{n}") for n in range(9)]
    found = splits(load(write_manifest(tmp_path, rows)))
    for n in range(9):
        assert found[f"r{n}"] == found[f"r{n + 100}"] == ("train", "val", "test")[n % 3]


def test_training_rows_alone_give_up_some_groups(tmp_path, capsys):
    rows = [text_row(n, split="train", group=f"g{n // 2}") for n in range(120)]
    found = splits(load(write_manifest(tmp_path, rows)))
    assert set(found.values()) == {"train", "val", "test"}
    assert all(found[f"r{n}"] == found[f"r{n // 2 * 2}"] for n in range(120))
    assert list(found.values()).count("train") > 60
    assert "no rows for val and test" in capsys.readouterr().err


def test_a_named_test_split_stays_as_it_is(tmp_path):
    rows = [text_row(n, split="train") for n in range(60)] + [text_row(n + 100, split="test") for n in range(5)]
    found = splits(load(write_manifest(tmp_path, rows)))
    assert {i for i, s in found.items() if s == "test"} == {f"r{n + 100}" for n in range(5)}
    assert "val" in found.values()

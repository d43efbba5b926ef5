"""datamodules/sources/similar.py, keys.py and jsonl.py: exact whatever their limits are."""

import errno
import random
import string
import tempfile
import unicodedata

import numpy as np
import pytest

from datamodules import jsonl
from datamodules.keys import Keys
from datamodules.schema import DataError
from datamodules.sources import similar
from datamodules.sources.similar import MAX_CHARS, merge_similar, normalise

WORDS = [
    f"{a}{b}" for a in ("kal", "mor", "tes", "vin", "dop", "wug", "fra") for b in ("ar", "ex", "il", "on", "um", "ip")
]


def texts(rng, n):
    """Short ones and some of over 300 shingles, variants on both sides of any threshold, repeats and an empty one."""
    out = [""]
    for _ in range(n):
        words = [rng.choice(WORDS) + rng.choice(string.ascii_lowercase) for _ in range(rng.choice((1, 6, 15, 90)))]
        for _ in range(3):
            for _ in range(rng.randint(0, 1 + len(words) // 20)):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
            out.append(" ".join(words))
    rng.shuffle(out)
    return out


def brute_force(texts, labels, threshold):
    grams = [{t[i : i + 5] for i in range(max(len(t) - 4, 1))} for t in (t.ljust(5) if t else t for t in texts)]
    group = list(labels)
    for i in range(len(texts)):
        for j in range(i):
            shared = len(grams[i] & grams[j])
            alike = texts[i] and texts[j] and shared >= threshold * (len(grams[i]) + len(grams[j]) - shared)
            if alike and group[i] != group[j]:
                group = [group[j] if g == group[i] else g for g in group]
    return group


def same_partition(a, b):
    return len(set(zip(a, b))) == len(set(a)) == len(set(b))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("small", [False, True])
def test_equals_brute_force(monkeypatch, threshold, small):
    if small:  # everything overflows, spills to the disk and is thrown away as early as can be
        for name, value in {"COUNTERS": 8, "SPOOL": 64, "BLOCK": 2, "CACHE": 40, "CHARS": 100, "PAIRS": 3}.items():
            monkeypatch.setattr(similar, name, value)
    rng = random.Random(threshold)
    rows = texts(rng, 60)
    labels = np.array([n if rng.random() < 0.9 else rng.randrange(n + 1) for n in range(len(rows))], np.int32)
    merged = merge_similar(iter(rows), labels, threshold).tolist()
    expected = brute_force(rows, labels.tolist(), threshold)
    assert same_partition(merged, expected)
    assert set(merged) < set(labels.tolist()) and 20 < len(set(merged)) < len(set(labels.tolist())) - 20
    alone = merge_similar(rows, np.arange(len(rows), dtype=np.int32), threshold).tolist()
    assert same_partition(alone, brute_force(rows, range(len(rows)), threshold))


def test_a_text_of_one_word_is_no_texts_part():
    rows = ["a", "a", "ab", "", "", "aaaaaaaa", "aaaaaaaaa"]
    merged = merge_similar(rows, np.arange(7, dtype=np.int32), 0.8).tolist()
    assert same_partition(merged, [0, 0, 1, 2, 3, 4, 4])


def test_many_copies_are_one_group():
    rows = [f"one long sentence that comes again and again with another number only {n % 400}" for n in range(3000)]
    assert len(set(merge_similar(rows, np.arange(3000, dtype=np.int32), 0.8).tolist())) == 1


def test_wrong_thresholds_and_a_full_disk(monkeypatch):
    for threshold in (0, -1, 1.1):
        with pytest.raises(DataError, match="give a similarity in"):
            merge_similar(["a"], np.zeros(1, np.int32), threshold)

    class Full(tempfile.SpooledTemporaryFile):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
    with pytest.raises(DataError, match="No space left on device: make room, or name another folder in TMPDIR"):
        merge_similar(["a"], np.zeros(1, np.int32), 0.8)


def test_normalise_is_the_same_for_ascii_and_for_the_rest():
    def slow(text):
        text = unicodedata.normalize("NFKD", text[: 2 * MAX_CHARS].casefold())
        kept = "".join(c if c.isalnum() else " " for c in text if not unicodedata.combining(c))
        return " ".join(kept.split())[:MAX_CHARS]

    rng = random.Random(0)
    for alphabet in (string.printable + "\x00\x7f", string.printable + "éßİﬁ²٣火\u2028\u0301"):
        for _ in range(200):
            text = "".join(rng.choices(alphabet, k=rng.randint(0, 60)))
            assert normalise(text) == slow(text)
        long = "".join(rng.choices(alphabet, k=3 * MAX_CHARS))
        assert normalise(long) == slow(long) and len(slow(long)) > 1000


# ---------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("spread", [3, 1 << 62])
def test_keys_number_as_a_dict_does(spread):
    rng, keys, expected = random.Random(0), Keys(), {}
    for _ in range(3000):
        key = rng.randrange(spread), rng.randrange(40)
        if rng.random() < 0.5 and expected:
            key = rng.choice(list(expected)[-50:])
        new = key not in expected
        assert keys.number(key) == (expected.setdefault(key, len(expected)), new)
    assert len(keys) == len(expected) and list(zip(keys.low, keys.high)) == list(expected)
    assert keys.nbytes < 16 * len(keys) + 4 * max(64, 4 * len(keys))


def test_keys_that_are_said_to_be_of_another():
    keys, names = Keys(), []
    for name in ("a", "b", "a", "c", "b"):
        number, new = keys.number((1, 2), lambda n, name=name: names[n] == name)
        if new:
            names.append(name)
        assert names[number] == name
    assert names == ["a", "b", "c"] and keys.number((1, 2)) == (0, False)


# --------------------------------------------------------------------------------------------------------------- lines


def test_lines_are_those_of_a_text_file(tmp_path):
    rng, path = random.Random(0), tmp_path / "a.jsonl"
    pieces = ["\r", "\n", "\r\n", " ", "\u2028", "\x0b", "\x85", "\ufeff", "é", "{}", "火"]
    for n in range(300):
        text = ("\ufeff" if n % 3 == 0 else "") + "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        path.write_bytes(text.encode())
        whole = path.read_text(encoding="utf-8-sig").split("\n")
        found = list(jsonl.read_lines(path))
        assert [(n, line.decode()) for n, _, line in found] == [(n, x) for n, x in enumerate(whole, 1) if x.strip()]
        for _, at, line in found:
            assert path.read_bytes()[at : at + len(line)] == line
        jsonl.check_text(path)


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_what_is_no_text_is_named_by_its_byte(tmp_path, monkeypatch, block):
    monkeypatch.setattr(jsonl, "BLOCK", block)
    path = tmp_path / "a.jsonl"
    for start, bad in (("", b"\xff"), ("火é" * 5, b"\xe9a"), ("ab\n" * 9, b"\xe7\x81"), ("\ufeff火", b"\x80")):
        path.write_bytes(start.encode() + bad)
        with pytest.raises(DataError, match=rf"not UTF-8 text \(byte {len(start.encode())}\): save it as UTF-8"):
            jsonl.check_text(path)

"""datamodules/muirbench.py and muirbench_files.py: what a record must be, pairs, samples, and both file layouts."""

import sys
from pathlib import Path

import pytest
from muir_helpers import NONE, rows, write_records

from datamodules.muirbench import (
    Record,
    by_lines,
    checked_pairs,
    groups_of,
    interleaved,
    official_prompt,
    sample_of,
    samples_of,
)
from datamodules.muirbench_files import load_muirbench
from datamodules.schema import DataError, Part


@pytest.fixture
def raw(tmp_path):
    return rows(tmp_path)


def test_a_record_is_read_and_written_again(raw, tmp_path):
    for row in raw:
        record = Record.from_dict(row, tmp_path)
        assert record.to_dict(tmp_path) == row
    first, twin = (Record.from_dict(r, tmp_path) for r in raw[:2])
    assert first.answerable and not twin.answerable and first.none_letter == "C" and first.pair == twin.pair == "1+2"


BROKEN = [
    ({"question": None}, "'question' is missing"),
    ({"extra": 1}, "unknown field 'extra'"),
    ({"idx": True}, "'idx' must be a name"),
    ({"task": "Countin"}, "did you mean 'Counting'"),
    ({"image_relation": "Sideways"}, "image_relation: 'Sideways' is none"),
    ({"image_type": " "}, "'image_type' must be a text"),
    ({"options": "One"}, "'options' must be a list"),
    ({"options": ["One", NONE]}, "2 options: give 3 to 5"),
    ({"options": ["1", "2", "3", "4", "5", NONE]}, "6 options"),
    ({"options": ["One", "", NONE]}, "an option must be a text"),
    ({"options": ["One", "Two", "Three"]}, f"0 of its options are {NONE!r}"),
    ({"options": ["One", NONE, "none of the choices provided."]}, "2 of its options"),
    ({"options": ["One", "one.", NONE]}, "'one' stands twice"),
    ({"answer": "D"}, "answer 'D' is not one of A, B, C"),
    ({"answer": "AB"}, "answer 'AB' is not one of"),
    ({"question": "How many in <image>?"}, "1 <image> in the question and 0 in the options, but 2 in image_list"),
    ({"options": ["<image>", "Two", NONE]}, "2 <image> in the question and 1 in the options, but 2"),
    ({"question": "What is <image>?", "image_list": ["0.png"]}, "1 pictures: a question is about 2"),
    ({"image_list": ["0.png", "9.png"]}, "9.png: no such picture"),
    ({"image_list": ["0.png", "../x.png"]}, "lies outside"),
    ({"image_list": ["0.png", {"bytes": ""}]}, "must be a path"),
]


@pytest.mark.parametrize("change, said", BROKEN, ids=[s for _, s in BROKEN])
def test_a_broken_record_is_named(raw, tmp_path, change, said):
    with pytest.raises(DataError, match="idx ") as e:
        Record.from_dict({**raw[0], **change}, tmp_path, "line 1")
    assert said in str(e.value) and "line 1" in str(e.value)


def test_the_releases_spelling_of_a_relation(raw, tmp_path):
    assert Record.from_dict({**raw[0], "image_relation": "Ordered_Pages"}, tmp_path).image_relation == "Ordered Pages"


TORN = [
    (1, {"counterpart_idx": "7"}, {"1": "names '7' as its own twin", "2": "'7' is not there"}),
    (1, {"idx": "1"}, {"1": "stands 2 times"}),
    (0, {"counterpart_idx": "1"}, {"1": "names the record itself", "2": "names '1' as its own twin"}),
    (1, {"task": "Ordering"}, {"1": "is of the task Ordering", "2": "is of the task Counting"}),
    (1, {"answer": "A"}, {"1": "both have an answer", "2": "both have an answer"}),
    (0, {"answer": "C"}, {"1": f"both have {NONE!r}", "2": f"both have {NONE!r}"}),
]


@pytest.mark.parametrize("place, change, said", TORN)
def test_half_of_a_pair_is_an_error_for_both(raw, tmp_path, place, change, said):
    raw[place] |= change
    good, errors = checked_pairs(Record.from_dict(r, tmp_path) for r in raw)
    assert [r.idx for r in good] == ["3", "4"]  # the other pair stays
    assert len(errors) == 2 and all(said[e["id"]] in e["error"] for e in errors)


def test_an_unreadable_record_takes_its_twin_with_it_and_both_are_counted(raw, tmp_path):
    raw[0]["options"] = ["One", NONE]
    loaded = load_muirbench(write_records(tmp_path, raw))
    assert [r.idx for r in loaded.records] == ["3", "4"] and [e["id"] for e in loaded.errors] == ["1", "2"]
    assert "2 options" in loaded.errors[0]["error"] and "twin '1'" in loaded.errors[1]["error"]


def test_pictures_stand_where_their_placeholders_stood(raw, tmp_path):
    record = Record.from_dict(raw[2], tmp_path)
    parts = sample_of(record).messages[0].content
    kinds = [p.type[0] for p in parts]  # a part for each line, too
    assert "".join(kinds) == "titttittit" and parts[6].text == "\n(B) None of the choices provided\n"
    assert [p.path for p in parts if p.type == "image"] == list(record.image_list)
    said = "".join(p.text if p.type == "text" else "<image>" for p in parts)
    assert (
        said + "\nAnswer:"
        == official_prompt(record)
        == (
            "Question: Which shows the building of <image>?\nChoices:\n(A) <image>\n(B) None of the choices provided\n"
            "(C) <image>\nHint: Please provide the correct option letter, such as A, B, C, D, directly.\nAnswer:"
        )
    )
    assert "Hint" not in official_prompt(record, hint=False)
    with pytest.raises(ValueError, match="1 placeholders but 2 pictures"):
        interleaved("<image>", ["a", "b"])


@pytest.mark.parametrize(
    "text, lines",
    [
        ("a\nb", ["a\n", "b"]),
        ("\n(B) ", ["\n(B) "]),
        ("a\n\n b \n \n", ["a\n\n", " b \n \n"]),
        ("a\rb\x0bc\u2028d", ["a\rb\x0bc\u2028d"]),
        ("", []),
    ],
)
def test_a_part_for_each_line(text, lines):
    parts = list(by_lines([Part("text", text=text), Part("image", path="a.png")]))
    assert [p.text for p in parts[:-1]] == lines and "".join(lines) == text and parts[-1].path == "a.png"


def test_no_split_parts_twins_or_records_that_share_a_picture(raw, tmp_path):
    first, twin, other, others_twin = (Record.from_dict(r, tmp_path) for r in raw)
    assert len(set(groups_of([first, twin, other]))) == 2
    assert len(set(groups_of([first, twin, other, others_twin]))) == 1  # the last one shows a picture of the first
    assert {s.split for s in samples_of([first, twin])} == {"test"}
    many = []
    for n in range(40):
        for row in (raw[0], raw[1]):
            ids = {key: f"{n}-{row[key]}" for key in ("idx", "counterpart_idx")}
            many.append(Record.from_dict({**row, **ids}, tmp_path))
    apart = [Record(**{**vars(r), "image_list": (f"{r.pair}a", f"{r.pair}b")}) for r in many]
    samples = samples_of(apart, seed=3)
    assert {s.split for s in samples} == {"train", "val", "test"}
    for a, b in zip(samples[::2], samples[1::2]):
        assert a.split == b.split and a.group == b.group


def test_what_is_no_folder_of_records(tmp_path, raw):
    with pytest.raises(DataError, match="no such folder"):
        load_muirbench(tmp_path / "gone")
    with pytest.raises(DataError, match=r"neither records\.jsonl nor"):
        load_muirbench(tmp_path)
    write_records(tmp_path, [{"idx": "1"}])
    with pytest.raises(DataError, match=r"no usable record.*'task' is missing"):
        load_muirbench(tmp_path)


def parquet(folder, raw, **change):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = [
        {**r, "image_list": [{"bytes": (folder / p).read_bytes(), "path": p} for p in r["image_list"]], **change}
        for r in raw
    ]
    (folder / "hub" / "data").mkdir(parents=True)
    for n, part in enumerate((table[:3], table[3:])):
        pq.write_table(pa.Table.from_pylist(part), folder / "hub" / "data" / f"test-0000{n}-of-00002.parquet")
    return folder / "hub"


def test_the_hubs_parquet_is_the_same_as_the_records_beside_their_pictures(raw, tmp_path):
    hub = load_muirbench(parquet(tmp_path, raw))
    plain = load_muirbench(write_records(tmp_path, raw))
    assert hub.sha256 == plain.sha256 and not hub.errors and len(hub.records) == 4
    for a, b in zip(hub.records, plain.records):
        for left, right in zip(a.image_list, b.image_list):
            assert left.endswith(".png") and Path(left).read_bytes() == Path(right).read_bytes()
    raw[0]["question"] += " "
    assert load_muirbench(write_records(tmp_path, raw)).sha256 != plain.sha256


def test_parquet_without_bytes_columns_or_an_end(raw, tmp_path):
    hub = parquet(tmp_path, raw, image_list=[{"bytes": None, "path": "0.png"}] * 2)
    with pytest.raises(DataError, match=r"no usable record.*has no bytes"):
        load_muirbench(hub)
    file = hub / "data" / "test-00000-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match="not readable as parquet"):
        load_muirbench(hub)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"idx": "1"}]), file)
    with pytest.raises(DataError, match="no column 'task'"):
        load_muirbench(hub)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"guardrail-zoo\[muirbench\]"):
        load_muirbench(tmp_path)

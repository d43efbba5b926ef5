"""datamodules/schema.py: what a bad row or policy is told, and what labels imply."""

import json

import pytest

from datamodules.schema import DataError, Message, Part, Policy, PolicyEntry, Sample, inside

FIRE = Policy("site", (PolicyEntry("fire", "open fire", "Flames."), PolicyEntry("alarm", "alarm")))


def row(**changes):
    return {"id": "r1", "messages": [{"role": "user", "content": "hello"}], **changes}


def part(**fields):
    return row(messages=[{"role": "user", "content": [fields]}])


@pytest.mark.parametrize(
    "bad, words",
    [
        (row(categorys={}), ["unknown field 'categorys'", "did you mean", "'categories'"]),
        (row(id=""), ["`id` is required"]),
        (row(id=None), ["`id` is required"]),
        (row(id=False), ["`id` is required"]),
        ({"messages": row()["messages"]}, ["`id` is required"]),
        (row(messages=[]), ["`messages` is required and must not be empty"]),
        ({"id": "r1"}, ["`messages` is required"]),
        (row(messages="hello"), ["`messages` must be a list"]),
        (row(messages=["hello"]), ["a message must be an object with role and content"]),
        (row(messages=[{"role": "usr", "content": "x"}]), ["role", "'usr' is not one of", "did you mean 'user'"]),
        (row(messages=[{"content": "x"}]), ["role", "not one of system, user, assistant, tool"]),
        (row(messages=[{"role": "user", "content": ""}]), []),
        (row(messages=[{"role": "user", "content": []}]), ["`content` must be a string or a list of parts"]),
        (row(messages=[{"role": "user", "content": "x", "nam": 1}]), ["unknown field 'nam'"]),
        (row(messages=[{"role": "user", "content": ["x"]}]), ["a content part must be an object with a type"]),
        (part(type="imag", path="a.png"), ["part type", "'imag'", "did you mean 'image'"]),
        (part(type="text"), ["a text part needs `text`"]),
        (part(type="text", text="x", path="a.png"), ["text part", "unknown field 'path'"]),
        (part(type="image"), ["a part of type image needs `path`"]),
        (part(type="image", path="a.png", sound=False), ["image part", "unknown field 'sound'"]),
        (part(type="video", path="a.png", sound="no"), ["`sound` must be true or false, got 'no'"]),
        (part(type="image", path="gone.png"), ["gone.png: no such file under"]),
        (part(type="image", path="x" * 5000), ["no such file under"]),
        (part(type="image", path="a\0b"), ["not a usable path"]),
        (part(type="image", path="loop"), ["loop"]),
        (part(type="image", path="."), ["no such file under"]),
        (part(type="image", path="../secret.png"), ["lies outside", "move the file or set data_dir"]),
        (part(type="image", path="link.png"), ["lies outside"]),
        (part(type="image", path="folder/../../secret.png"), ["lies outside"]),
        (part(type="image", path="/etc/passwd"), ["lies outside"]),
        (row(unsafe="yes"), ["`unsafe` must be true, false or null, got 'yes'"]),
        (row(unsafe=1), ["`unsafe` must be true, false or null"]),
        (row(categories=["fire"]), ["`categories` must map ids to yes, no or unknown"]),
        (row(categories={"fire": "ye"}), ["category 'fire'", "did you mean 'yes'"]),
        (row(categories={"fire": True}), ["category 'fire'", "not one of yes, no, unknown"]),
        (row(unsafe=False, categories={"fire": "yes"}), ["`unsafe` is false but a category is yes", "correct one"]),
        (row(critique=1), ["`critique` must be a string"]),
        (row(group=1), ["`group` must be a string"]),
        (row(meta=[1]), ["`meta` must be a mapping"]),
        (row(target="promt"), ["target", "did you mean 'prompt'"]),
        (row(split="training"), ["split", "'training' is not one of train, val, test"]),
        (row(policy={"entries": []}), ["has no entries: give at least one"]),
        (row(policy=["fire"]), ["policy", "expected a mapping with `name` and `entries`"]),
    ],
)
def test_a_bad_row_is_named_with_its_fix(tmp_path, bad, words):
    root = tmp_path / "data"
    (root / "folder").mkdir(parents=True)
    (root / "a.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "loop").symlink_to("loop")
    if not words:  # an empty message is a message
        assert Sample.from_dict(bad, root).parts == [Part("text", text="")]
        return
    with pytest.raises(DataError) as e:
        Sample.from_dict(bad, root, "m.jsonl line 7")
    for word in ["m.jsonl line 7", *words, *(["'r1'"] if bad.get("id") == "r1" else [])]:
        assert word in str(e.value)
    assert "\n" not in str(e.value)


def test_a_row_that_is_no_object():
    with pytest.raises(DataError, match=r"line 3: expected a JSON object, got list"):
        Sample.from_dict([1], where="line 3")


def test_paths_may_be_absolute_or_linked_inside_the_root(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    real = str((tmp_path / "a.png").resolve())
    for name in ("a.png", "b.png", "./a.png", real):
        assert Sample.from_dict(part(type="image", path=name), tmp_path).media[0].path == real
    with pytest.raises(DataError, match=r"lies outside"):  # a sibling whose name begins the same
        inside(tmp_path, f"../{tmp_path.name}-2/a.png", "row")


def test_ids_may_be_numbers():
    assert [Sample.from_dict(row(id=i)).id for i in (0, 7)] == ["0", "7"]


@pytest.mark.parametrize(
    "entries, words",
    [
        ([], "policy 'p' has no entries: give at least one"),
        ([("a", "x"), ("a", "y")], "duplicate id 'a': make each id unique"),
        ([("a", "x"), ("b", "x")], "duplicate name 'x': make each name unique"),
        ([("", "x")], "an entry has an empty id"),
        ([("a", " ")], "an entry has an empty name"),
    ],
)
def test_bad_policies(entries, words):
    with pytest.raises(DataError) as e:
        Policy("p", tuple(PolicyEntry(*x) for x in entries))
    assert words in str(e.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("entries: [{id: a", ["not a YAML policy (line"]),
        ("a: b: c", ["not a YAML policy (line 1)"]),
        ("name: 2024-13-99\nentries: [{id: a}]", ["not a YAML policy"]),
        ("!!python/object/apply:os.system [ls]", ["not a YAML policy"]),
        ("", ["expected a mapping with `name` and `entries`"]),
        ("name: p", ["expected a mapping"]),
        ("entries: fire", ["`entries` must be a list"]),
        ("entries: [fire]", ["entry 1 must be a mapping with id, name and description"]),
        ("entries: [{id: a}, {name: b}]", ["entry 2 has no id"]),
        ("entries: [{id: , name: b}]", ["entry 1 has no id"]),
        ("entries: [{id: a, descripton: b}]", ["entry 1: unknown field 'descripton'", "'description'"]),
        ("entry: []\nentries: [{id: a}]", ["unknown field 'entry'", "'entries'"]),
    ],
)
def test_bad_policy_files_are_named(tmp_path, text, words):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as e:
        Policy.from_file(path)
    for word in (str(path), *words):
        assert word in str(e.value)
    assert "\n" not in str(e.value)


def test_policy_files(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: site\nentries: [{id: fire, name: open fire, description: Flames.}, {id: alarm}]")
    assert Policy.from_file(path) == FIRE
    path.write_text(json.dumps(FIRE.to_dict()))
    assert Policy.from_file(path) == FIRE
    path.write_bytes(b"name: \xff")
    with pytest.raises(DataError, match=r"not a YAML policy"):
        Policy.from_file(path)
    with pytest.raises(DataError, match=r"cannot read the policy: No such file"):
        Policy.from_file(tmp_path / "gone.yaml")
    with pytest.raises(DataError, match=r"has no entry 'fier'; did you mean 'fire'"):
        FIRE.entry("fier")
    assert FIRE.subset(["alarm", "fire"]).ids == ("alarm", "fire")


def test_round_trip(tmp_path):
    for name in ("a.png", "v.mp4"):
        (tmp_path / name).write_bytes(b"x")
    video = Part("video", path=str((tmp_path / "v.mp4").resolve()), sound=False)
    image = Part("image", path=str((tmp_path / "a.png").resolve()))
    sample = Sample(
        "r1",
        (Message("user", (Part("text", text="look"), image, video)), Message("assistant", (Part("text", text="no"),))),
        FIRE,
        "response",
        False,
        {"fire": "no", "alarm": "unknown"},
        "nothing burns",
        "mine",
        "scene-1",
        "val",
        {"twin": 1, "contrast": ["alarm"]},
    )
    again = Sample.from_dict(json.loads(json.dumps(sample.to_dict())), tmp_path)
    assert again == sample
    plain = Sample.from_dict(row())
    assert plain == Sample("r1", (Message("user", (Part("text", text="hello"),)),))
    assert Sample.from_dict(plain.to_dict()) == plain and plain.unsafe is None


@pytest.mark.parametrize(
    "unsafe, labels, own, asked, gold",
    [
        (None, {"fire": "yes", "alarm": "no"}, FIRE, ("fire", "alarm"), True),
        (None, {"fire": "no", "alarm": "no"}, FIRE, ("fire", "alarm"), False),
        (None, {"fire": "yes", "alarm": "no"}, FIRE, ("alarm",), False),  # the policy decides, not the sample
        (True, {"fire": "yes", "alarm": "no"}, FIRE, ("alarm",), False),
        (None, {"fire": "yes"}, FIRE, ("fire", "alarm"), True),  # one yes is enough
        (None, {"fire": "no"}, FIRE, ("fire", "alarm"), None),  # unknown is not safe
        (None, {"fire": "no", "alarm": "unknown"}, FIRE, ("fire", "alarm"), None),
        (None, {"fire": "no"}, FIRE, ("fire",), False),
        (None, {}, FIRE, ("fire",), None),
        (True, {}, FIRE, ("fire", "alarm"), True),  # binary labels hold under the whole own policy
        (True, {}, FIRE, ("alarm", "fire"), True),
        (True, {}, FIRE, ("fire",), None),  # it may be the alarm
        (True, {"fire": "no"}, FIRE, ("fire",), False),
        (False, {}, FIRE, ("fire",), False),  # safe under a policy is safe under its parts
        (False, {}, FIRE, ("fire", "other"), None),
        (True, {}, FIRE, ("other",), None),
        (False, {}, FIRE, ("other",), None),
        (False, {"other": "yes"}, FIRE, ("fire", "other"), True),  # another policy may forbid it
        (True, {}, FIRE, ("fire", "alarm", "other"), None),
    ],
)
def test_gold(unsafe, labels, own, asked, gold):
    policy = Policy("asked", tuple(PolicyEntry(i, f"name of {i}") for i in asked))
    assert Sample.of("x", unsafe=unsafe, categories=labels, policy=own).gold(policy) is gold


@pytest.mark.parametrize(
    ("unsafe", "labels", "own", "expected"),
    [
        (None, {"fire": "yes"}, FIRE, (True, None, None)),
        (True, {"fire": "yes"}, FIRE, (True, None, None)),  # the alarm may be broken, too
        (False, {}, FIRE, (False, False, None)),  # safe under a policy: none of its entries is broken
        (False, {}, None, (False, False, False)),
        (False, {"fire": "unknown", "other": "yes"}, FIRE, (False, False, True)),  # another policy's may be
        (True, {}, FIRE, (None, None, None)),
        (True, {}, FIRE.subset(["alarm"]), (None, True, None)),  # there is no other entry to break
        (True, {}, None, (None, None, None)),
    ],
)
def test_labels_that_follow_from_the_verdict(unsafe, labels, own, expected):
    sample = Sample.of("x", unsafe=unsafe, categories=labels, policy=own)
    assert tuple(sample.label(id) for id in ("fire", "alarm", "other")) == expected


def test_of_and_modality():
    s = Sample.of("hi", image="a.png", audio=["b.wav", "c.wav"], response="no")
    assert [p.type for p in s.parts] == ["text", "image", "audio", "audio", "text"]
    assert s.target == "response" and [m.role for m in s.messages] == ["user", "assistant"]
    assert s.modality == "joint" and Sample.of("hi").modality == "text" and Sample.of("hi").target == "prompt"
    assert Sample.of("hi", video="v.mp4").modality == "video"
    assert Sample.of("hi", image="a.png", meta={"modality": "joint"}).modality == "joint"
    with pytest.raises(DataError, match=r"nothing to judge: give text"):
        Sample.of()

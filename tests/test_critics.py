"""Teachers of critiques: what annotations say agrees with the label under every policy, and who gets a critique."""

import itertools
import json
import random
from collections import Counter

import pytest
from transformers import AutoTokenizer

from datamodules import GuardDataModule
from datamodules.assets import resolve
from datamodules.bank import rng_for
from datamodules.base import SampleDataset, pairs
from datamodules.schema import DataError, Message, Part, Policy, PolicyEntry, Sample
from datamodules.sources.wordings import text_bank
from datamodules.taxonomy import DEFAULT_POLICY
from datamodules.transforms.annotations import MOST_TOKENS, Annotations, marked_words, tokens, topic
from datamodules.transforms.critics import CRITICS, critic_named, prepared
from zoo.core.backbones.readers import frequent_pieces

ASK = Annotations()
NAMES = {"S1": "physical harm", "S2": "no toxic talk", "S3": "fraud and theft", "S14": "hacking, malware and worms"}
POLICY = Policy("p", tuple(PolicyEntry(id, name, f"{name} of any kind: all of it.") for id, name in NAMES.items()))
LABELS = {"S1": "no", "S2": "yes", "S3": "unknown", "S14": "no"}


def row(id="r", text="you are a silly goose", **fields):
    fields = {"categories": LABELS, "policy": POLICY, **fields}
    return Sample.of(text, id=id, **fields)


def mentioned(text, policy=POLICY):
    return {e.id for e in policy.entries if topic(e) in text}


def test_an_unsafe_row_names_what_is_broken_and_nothing_else():
    said = [ASK(row(f"r{n}"), POLICY) for n in range(40)]
    for text in said:
        assert mentioned(text) == {"S2"} and "toxic talk" in text and "no toxic talk" not in text
        assert "message" in text and '"' not in text  # nothing is quoted that nobody marked
    assert 6 <= len(set(said)) <= 12  # 4 claims × 3 ways to say the rule
    assert said == [ASK(row(f"r{n}"), POLICY) for n in range(40)]


def test_the_critique_agrees_with_the_verdict_under_every_policy():
    """Every subset of the policy, against the labels: what is known to be broken, or what is ruled out."""
    for size in range(1, 5):
        for ids in itertools.combinations(NAMES, size):
            policy = POLICY.subset(ids)
            sample = row(id="-".join(ids))
            text, gold = ASK(sample, policy), sample.gold(policy)
            if gold is None:
                assert text is None
            elif gold:
                assert mentioned(text) == {"S2"} and not any(w in text for w in ("clear", "free", "Nothing", "no sign"))
            else:
                assert any(w in text for w in ("clear", "free", "Nothing", "no sign"))
                assert mentioned(text, policy) and mentioned(text) <= {*ids, "S2"}
                assert ("S2" in mentioned(text)) == ("not name" in text or "no entry for" in text)


def test_several_entries_are_listed():
    sample = row(categories={"S1": "yes", "S2": "yes", "S14": "yes"}, unsafe=True)
    for policy in (POLICY, POLICY.subset(["S14", "S2", "S1"])):
        text = ASK(sample, policy)
        assert mentioned(text) == {"S1", "S2", "S14"}
        first = topic(policy.entries[0])
        assert f"{first}, " in text


def test_of_look_alikes_the_contrast_is_named_first():
    sample = row(categories=dict.fromkeys(NAMES, "no"), meta={"contrast": ["S14"]})
    assert all("S14" in mentioned(ASK(sample.replace(id=str(n)), POLICY)) for n in range(20))


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"categories": {"S2": "unknown"}}, "no verdict under its policy"),
        ({"categories": {}, "unsafe": True}, "no category is annotated"),
    ],
)
def test_rows_that_nobody_explained_are_counted(fields, reason):
    sample = row(**fields)
    assert ASK(sample, POLICY) is None
    counts = ASK.prepare([sample, row(), row("b")], lambda s: POLICY)
    assert counts == Counter({"accepted": 2, reason: 1})


def test_marked_words_are_quoted_and_only_they():
    text = "well, you silly old goose, go away"
    at = text.index("silly")
    sample = row(text=text, meta={"spans": [[at, at + len("silly old goose")], [0, 4]]})
    assert '"silly old goose"' in ASK(sample, POLICY)
    assert marked_words(row(text="x" * 50, meta={"spans": [[0, 50]]})) == ""  # too long to quote
    assert marked_words(row(text="a ... b", meta={"spans": [[2, 5]]})) == ""  # no word in it
    assert marked_words(row(text="abc", meta={"spans": [[7, 9], [1, 3]]})) == "bc"
    reply = Sample(
        "r", (Message("user", (Part("text", "first words"),)), Message("assistant", (Part("text", "other"),)))
    )
    spans = {"spans": [[0, 5]]}
    assert marked_words(reply.replace(target="response", meta=spans)) == "other"
    assert marked_words(reply.replace(target="prompt", meta=spans)) == "first"
    quoted = row(text='he said "no" there', meta={"spans": [[8, 12]]})
    assert ASK(quoted, POLICY).count('"') == 2  # quotes within become others


def test_a_finer_kind_is_said_of_unsafe_rows_alone():
    sample = row(source="edos", meta={"kind": "2.1 mild_insult"})
    assert "mild insult" in ASK(sample, POLICY) and "2.1" not in ASK(sample, POLICY)
    assert "mild insult" not in ASK(sample, POLICY.subset(["S1", "S14"]))
    assert "email" not in ASK(row(source="bipia", meta={"kind": "email"}), POLICY)  # where the text stands


def test_long_names_are_cut():
    policy = Policy("long", (PolicyEntry("S2", " ".join(f"extraordinarily{n}" for n in range(30)), "A. B."),))
    for target in ("prompt", "response", "conversation", "trajectory"):
        assert 0 < tokens(ASK(row(target=target, unsafe=True), policy)) <= MOST_TOKENS + 1
    assert tokens("a b, c.") == 5 and tokens("") == 0


@pytest.mark.assets
def test_critiques_are_at_most_40_pieces_of_the_tiny_vocabulary():
    """Policies as training draws them, in all wordings, for made-up labels."""
    tokenizer = frequent_pieces(AutoTokenizer.from_pretrained(resolve("minilm")), 8192)
    bank, longest = text_bank(), 0
    for n in range(1500):
        rng = random.Random(n)
        labels = {id: rng.choice(("yes", "no", "no", "no", "unknown")) for id in DEFAULT_POLICY.ids}
        target = rng.choice(("prompt", "response", "conversation", "trajectory"))
        sample = row(f"r{n}", categories=labels, policy=DEFAULT_POLICY, target=target)
        policy = bank.draw(sample, rng_for(n), max_entries=6)
        text = ASK(sample, policy)
        if text is not None:
            longest = max(longest, len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    assert 30 <= longest <= 40, longest


# ------------------------------------------------------------------------------------------------ in the DataModule


def test_who_can_be_asked():
    assert critic_named("own") is None and critic_named("annotations").name == "annotations"
    assert {critic_named(n).name for n in CRITICS if n not in ("own", "endpoint")} == {"annotations", "none"}
    with pytest.raises(DataError, match=r"data\.critic=annotation: no such .*did you mean 'annotations'"):
        critic_named("annotation")
    assert prepared(None, [row()], lambda s: POLICY) is None


def manifest(tmp_path, **kw):
    rows = []
    for n in range(12):
        labels = {"S1": "yes" if n % 2 else "no", "S2": "no", "S3": "no", "S14": "no"}
        content = [{"type": "text", "text": f"some text {n} " + "abcdefgh"[n % 8] * 20}]
        split = ("train", "val", "test")[n % 3]
        rows.append({"id": f"r{n}", "messages": [{"role": "user", "content": content}], "target": "prompt"}
                    | {"categories": labels, "critique": "own words", "split": split})  # fmt: skip
    rows.append({**rows[0], "id": "binary", "categories": {}, "unsafe": True})
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return GuardDataModule("manifest", path=path, policy=POLICY, batch_size=3, **kw)


def said(data, split="train"):
    loader = data.train_dataloader() if split == "train" else data.test_dataloader()
    return {s.id: (s.critique, s.gold(p)) for batch in loader for s, p in batch}


def test_only_training_rows_are_explained(tmp_path, capsys):
    data = manifest(tmp_path, critic="annotations")
    rows = said(data)
    assert rows["binary"][0] is None and len(rows) == 5
    for text, gold in (v for k, v in rows.items() if k != "binary"):
        clear = any(w in text for w in ("clear", "free", "no sign", "Nothing"))
        assert text != "own words" and clear == (not gold)
    assert {c for c, _ in said(data, "test").values()} == {"own words"}
    assert data.critiques == {
        "critic": "annotations", "rows": 5, "accepted": 4, "rejected": {"no category is annotated": 1}
    }  # fmt: skip
    assert "critiques by annotations: 4 of 5 training rows; no category is annotated: 1" in capsys.readouterr().err


def test_no_critique_and_own_critiques(tmp_path, capsys):
    assert {c for c, _ in said(manifest(tmp_path, critic="none")).values()} == {None}
    assert {c for c, _ in said(manifest(tmp_path)).values()} == {"own words"}
    assert "critiques" not in capsys.readouterr().err


def test_the_critic_changes_neither_rows_nor_policies(tmp_path):
    plain, explained = (
        [[(s.id, p, s.categories) for s, p in batch] for batch in manifest(tmp_path, critic=c).train_dataloader()]
        for c in ("none", "annotations")
    )
    assert plain == explained and len(plain) == 2


def test_the_critic_sees_the_drawn_policy():
    seen = []
    drawn = [POLICY.subset(["S1"]), POLICY.subset(["S2"])]
    dataset = SampleDataset(
        [row()], lambda s, epoch: drawn[epoch], lambda s, p: pairs(s, p, True), lambda s, p: seen.append(p) or p.name
    )
    assert [dataset[(0, e)][1] for e in (0, 1)] == drawn == seen

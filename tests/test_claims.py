"""zoo/claims: what a claim's YAML may say, what is measured of judged rows, and where the verdict falls."""

import copy
import json

import numpy as np
import pytest
import yaml
from claim_helpers import page
from sklearn import metrics as sk

from benchmarks import readme
from datamodules.schema import DataError
from zoo.claims import claim as claims
from zoo.claims import measure, report
from zoo.claims.claim import Comparison, Metric, claim_names, load_claim
from zoo.claims.runs import plan_units
from zoo.claims.survey import Row, check
from zoo.config import compose
from zoo.core.metrics import Record, summarise
from zoo.core.scores import decide, read_scores, write_scores
from zoo.list import main as list_main


def records(seed, n=90, entries=("fire", "dog", "smoke")):
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99)  # labels, groups and slices of all runs are the same
    out = []
    for i in range(n):
        golds = base.random(3) < [0.4, 0.3, 0.0]
        labels = {e: ("yes" if g else "no") if base.random() < 0.9 else "unknown" for e, g in zip("abc", golds)}
        gold = bool(golds.any()) if base.random() < 0.9 else None
        scores = np.clip(0.3 + 0.3 * golds + 0.25 * rng.normal(size=3), 0, 1)
        out.append(
            Record(
                id=f"r{i}",
                score=float(np.clip(0.4 + 0.2 * golds.any() + 0.2 * rng.normal(), 0, 1)),
                gold=gold,
                category_scores=dict(zip(entries, scores.tolist())),
                category_gold=dict(zip(entries, labels.values())),
                modality=("text", "image")[i % 2],
                source=("a", "b", "c")[i % 3],
                slices=("short",) if i % 4 == 0 else (),
                group=f"g{i // 3}" if i < 60 else None,
            )
        )
    return [*out, *(r.__class__(**{**vars(r), "id": f"{r.id}~text", "slices": ("without:text",)}) for r in out[:6])]


@pytest.fixture
def run(tmp_path):
    def make(seed, name="run", rows=None, cut=0.5, categories_cut=0.5, metrics=None):
        folder = tmp_path / f"{name}-{seed}"
        folder.mkdir()
        rows = records(seed) if rows is None else rows
        write_scores(folder / "scores.jsonl", (decide(r, cut, categories_cut) for r in rows))
        return measure.Run(folder, metrics or {}, measure.Table(folder / "scores.jsonl"))

    return make


# ------------------------------------------------------------------------------------------------------- scores.jsonl


def test_judged_rows_come_back_as_they_were(tmp_path):
    rows = records(0)
    write_scores(tmp_path / "s.jsonl", (decide(r, 0.45, {"fire": 0.3}) for r in rows))
    back = list(read_scores(tmp_path / "s.jsonl"))
    assert [j.record for j in back] == rows
    assert [j.flagged for j in back] == [r.score >= 0.45 for r in rows]
    for j in back:
        assert j.categories == {k: v >= (0.3 if k == "fire" else 0.5) for k, v in j.record.category_scores.items()}
    assert "messages" not in (tmp_path / "s.jsonl").read_text()


def test_a_line_that_is_no_judged_row_is_named(tmp_path):
    path = tmp_path / "s.jsonl"
    write_scores(path, [decide(records(0)[0], 0.5, 0.5)])
    for bad in ("{", "[]", "{}", '{"categories": {}, "flagged": true, "id": "x"}'):
        path.write_text(path.read_text().splitlines()[0] + "\n" + bad + "\n")
        with pytest.raises(DataError, match=r"s\.jsonl: line 2 is no judged row"):
            list(read_scores(path))
    with pytest.raises(DataError, match="cannot read"):
        list(read_scores(tmp_path / "none.jsonl"))


# ------------------------------------------------------------------------------------------------------------- figures


def test_figures_are_those_of_the_metrics_of_a_run(run):
    """The same rows through torchmetrics, as metrics.json has them."""
    rows = records(1)
    summary = summarise(rows, 0.45, intervals=True)
    for where, entry in [({}, summary["overall"]), ({"source": ("b",)}, summary["by_source"]["b"]),
                         ({"slice": ("short",)}, summary["by_slice"]["short"]),
                         ({"slice": ("without:text",)}, summary["by_slice"]["without:text"]),
                         ({"modality": ("text",)}, summary["by_modality"]["text"])]:  # fmt: skip
        one = run(1, f"{where}".replace("'", ""), rows, cut=0.45)
        for kind in claims.BINARY:
            got = measure.figure(Metric("m", kind, where), [one])
            assert got["mean"] == pytest.approx(entry[kind], abs=2e-6) and got["n"] == entry["n"], (where, kind)
            if kind in ("f1", "auprc") and not where:  # from another random stream
                assert got["ci95"] == pytest.approx(entry[f"{kind}_ci95"], abs=0.03)


def by_hand(rows, categories=("fire", "dog"), only=None):
    """Gold and decision of every known label, [rows, categories], by loops."""
    out = []
    for r in rows:
        if "without:text" in r.slices or (only == "unsafe" and r.gold is not True):
            continue
        known = [c for c in categories if r.category_gold[c] != "unknown"]
        out.append({c: (r.category_gold[c] == "yes", r.category_scores[c] >= 0.5) for c in known})
    return out


@pytest.mark.parametrize("only", ["all", "unsafe"])
def test_categories_of_all_rows_and_of_unsafe_rows(run, only):
    rows = records(2)
    one = run(2)
    labels = by_hand(rows, ("fire", "dog", "smoke"), only)
    each = {c: [x[c] for x in labels if c in x] for c in ("fire", "dog", "smoke")}
    macro = np.mean([sk.f1_score(*zip(*each[c])) for c in ("fire", "dog")])  # no row has smoke
    pooled = [pair for x in labels for pair in x.values()]
    exact = np.mean([all(g == f for g, f in x.values()) for x in labels if x])
    got = {k: measure.figure(Metric("m", k, rows=only), [one]) for k in claims.CATEGORY}
    assert got["macro_f1"]["mean"] == pytest.approx(macro, abs=1e-6)
    assert got["micro_f1"]["mean"] == pytest.approx(sk.f1_score(*zip(*pooled)), abs=1e-6)
    assert got["exact_match"]["mean"] == pytest.approx(exact, abs=1e-6)
    assert "mean over categories without smoke: no row has one" in got["macro_f1"]["reasons"]
    fire = measure.figure(Metric("m", "macro_f1", categories=("fire",), rows=only), [one])
    assert fire["mean"] == pytest.approx(sk.f1_score(*zip(*each["fire"])), abs=1e-6)


def test_the_mean_over_sources_leaves_out_those_without_a_class(run):
    rows = [Record(**{**vars(r), "gold": False}) if r.source == "c" else r for r in records(3)]
    got = measure.figure(Metric("m", "auprc", average="source"), [run(3, rows=rows)])
    parts = [[r for r in rows if r.source == s and r.gold is not None and not r.id.endswith("text")] for s in "ab"]
    means = [sk.average_precision_score([r.gold for r in p], [r.score for r in p]) for p in parts]
    assert got["mean"] == pytest.approx(np.mean(means)) and got["n"] == sum(map(len, parts))
    assert "mean over sources without c: a class is missing there" in got["reasons"]


def test_differences_are_paired_over_rows_and_seeds(run):
    better = [run(s, "a") for s in (1, 2, 3)]
    worse = [run(s, "b", cut=0.9) for s in (1, 2, 3)]
    got = measure.contrast(Metric("m", "f1"), better, worse)
    each = [measure.figure(Metric("m", "f1"), runs) for runs in (better, worse)]
    assert got["values"] == pytest.approx([a - b for a, b in zip(*(e["values"] for e in each))], abs=2e-6)
    assert got["ci95"][0] > 0 and got["groups"] == 50
    same = measure.contrast(Metric("m", "auprc"), better, better)
    assert same["values"] == [0.0, 0.0, 0.0] and same["ci95"] == [0.0, 0.0]


def test_rows_that_one_run_lacks_and_labels_that_contradict(run):
    rows = records(4)
    fewer = run(5, "fewer", rows=[r for r in rows if r.id not in ("r3", "r8")])
    got = measure.contrast(Metric("m", "accuracy"), [run(4)], [fewer])
    assert "2 rows left out: not judged by every run" in got["reasons"]
    turned = [Record(**{**vars(r), "gold": not r.gold}) if r.id == "r7" else r for r in rows]
    with pytest.raises(DataError, match=r"labels of 1 rows, e\.g\. 'r7', differ"):
        measure.contrast(Metric("m", "f1"), [run(6, rows=rows)], [run(7, rows=turned)])
    twice = run(8, "x").folder / "scores.jsonl"
    twice.write_text(twice.read_text() * 2)
    with pytest.raises(DataError, match="judged twice"):
        measure.Table(twice)


def test_an_expert_is_compared_on_its_own_categories(run):
    """It has no other entries in its policy, so its verdicts mean something else: only shared categories are paired."""
    rows = records(4)
    own = [
        Record(**{**vars(r), "gold": r.category_gold["fire"] == "yes",
                  "category_scores": {"fire": r.category_scores["fire"]},
                  "category_gold": {"fire": r.category_gold["fire"]}})
        for r in records(5)
    ]  # fmt: skip
    whole, expert = run(4, "whole", rows), run(5, "expert", own)
    got = measure.contrast(Metric("m", "macro_f1"), [expert], [whole])
    want = [sk.f1_score(*zip(*(x["fire"] for x in by_hand(r, ("fire",)) if x))) for r in (own, rows)]
    assert got["mean"] == pytest.approx(want[0] - want[1], abs=2e-6)
    with pytest.raises(DataError, match="differ between"):
        measure.contrast(Metric("m", "f1"), [expert], [whole])
    with pytest.raises(DataError, match="'m': category dog is not scored by every run"):
        measure.contrast(Metric("m", "macro_f1", categories=("dog",)), [expert], [whole])


def test_reported_figures(run):
    runs = [run(s, metrics={"generation": {"f1": f, "note": "x"}}) for s, f in ((1, 0.5), (2, 0.75))]
    got = measure.figure(Metric("m", "reported", path="generation.f1"), runs)
    assert got["values"] == [0.5, 0.75] and got["n"] is None and got["ci95"][0] < 0.5
    taken = measure.figure(
        Metric("m", "reported", path="generation.f1", minus="ece"),
        [run(3, metrics={"generation": {"f1": 0.5}, "ece": 0.125})],
    )
    assert taken["values"] == [0.375] and taken["ci95"] is None
    with pytest.raises(DataError, match=r"no generation\.cost \('cost' is missing\)"):
        measure.figure(Metric("m", "reported", path="generation.cost"), runs)
    with pytest.raises(DataError, match="'x', not a number"):
        measure.figure(Metric("m", "reported", path="generation.note"), runs)


# ------------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    "direction, margin, ci95, expected",
    [
        ("higher", 0.02, (0.03, 0.1), "reproduced"),
        ("higher", 0.02, (0.01, 0.1), "inconclusive"),
        ("higher", 0.02, (-0.1, 0.02), "not reproduced"),
        ("higher", 0.0, (0.0, 0.0), "not reproduced"),
        ("lower", 0.02, (-0.1, -0.03), "reproduced"),
        ("lower", 0.02, (-0.1, 0.0), "inconclusive"),
        ("lower", 0.02, (-0.01, 0.1), "not reproduced"),
        ("not_lower", 0.02, (-0.01, 0.1), "reproduced"),
        ("not_lower", 0.02, (-0.03, 0.1), "inconclusive"),
        ("not_lower", 0.02, (-0.1, -0.03), "not reproduced"),
        ("equal", 0.02, (-0.01, 0.01), "reproduced"),
        ("equal", 0.02, (-0.01, 0.03), "inconclusive"),
        ("equal", 0.02, (-0.1, 0.1), "inconclusive"),
        ("equal", 0.02, (0.03, 0.1), "not reproduced"),
        ("equal", 0.02, (-0.1, -0.02), "not reproduced"),
        ("higher", 0.02, None, "inconclusive"),
    ],
)
def test_the_interval_against_the_margin(direction, margin, ci95, expected):
    assert measure.verdict(Comparison("m", "a", "b", direction, margin), ci95) == expected


def test_a_value_by_itself_is_over_or_under_the_margin():
    def of(direction, ci95):
        return measure.verdict(Comparison("m", "a", None, direction, 0.5), ci95)

    assert of("higher", (0.6, 0.7)) == of("lower", (0.3, 0.4)) == "reproduced"
    assert of("higher", (0.3, 0.4)) == of("lower", (0.6, 0.7)) == "not reproduced"
    assert of("higher", (0.4, 0.6)) == of("lower", (0.4, 0.6)) == "inconclusive"


@pytest.mark.parametrize(
    "words, at_least, expected",
    [("rrr", 3, "r"), ("rrn", 3, "n"), ("rri", 3, "i"), ("rni", 2, "i"), ("rnn", 2, "n"), ("rri", 2, "r"),
     ("nnn", 1, "n"), ("nni", 1, "i"), ("nnr", 1, "r")],
)  # fmt: skip
def test_how_many_have_to_be_reproduced(words, at_least, expected):
    names = {"r": "reproduced", "n": "not reproduced", "i": "inconclusive"}
    assert measure.overall([names[w] for w in words], at_least) == names[expected]


# ---------------------------------------------------------------------------------------------------------------- YAML


def edited(tmp_path, path, value):
    """The toy claim with one place changed (None: taken out)."""
    whole = copy.deepcopy(page(tmp_path))
    *way, last = path.split("/")
    node = whole
    for key in way:
        node = node[int(key) if isinstance(node, list) else key]
    if value is None:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    (tmp_path / "toy.yaml").write_text(json.dumps(whole))
    return str(tmp_path / "toy.yaml")


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("arm", {}, "unknown field 'arm'; did you mean 'arms'"),
        ("paper", None, "`paper` is missing"),
        ("claim", "tyo", "`claim` is 'tyo', but the file is called 'toy'"),
        ("seeds", 0, "seeds: 0: expected"),
        ("arms/critique", {"recipe": "omniguard", "override": {}}, "arm 'critique': unknown field 'override'"),
        ("arms/critique/verb", "train", "arm 'critique': verb: 'train' is not known"),
        ("arms/critique/model", "arm:labels", "`model` is what verb: test and"),
        ("arms/again/model", None, "`model` is what verb: test and"),
        ("arms/again/model", "arm:critiqe", "uses the unknown arm 'critiqe'; did you mean 'critique'"),
        ("arms/again/model", "arm:again", "in a cycle: again → again"),
        ("arms/labels/overrides", {"seed": 1}, "arm 'labels': seed is set by the runner"),
        ("arms/labels/overrides", {"loss": {"critique": 0}}, "write the keys with dots"),
        ("defaults/runs", "x", "defaults: runs is set by the runner"),
        ("metrics/auprc/name", "auroc", "metric 'auprc': name: 'auroc' is not known; did you mean 'auprc'"),
        ("metrics/auprc/slices", "short", "metric 'auprc': unknown field 'slices'"),
        ("metrics/auprc/category", "fire", "`category` is for macro_f1"),
        ("metrics/auprc/source", [1], "source: expected a name or a list of names"),
        ("metrics/macro/average", "slice", "average: 'slice' is not known"),
        ("metrics/ece/path", None, "is what name: reported needs"),
        ("metrics/auprc/minus", "ece", "is what name: reported needs"),
        ("metrics/ece/slice", "short", "`slice` cannot be chosen of a reported figure"),
        ("comparisons", [], "`comparisons` is missing"),
        ("comparisons/0/metric", "auprcc", "comparison 1: metric: 'auprcc' is not known; did you mean 'auprc'"),
        ("comparisons/0/against", "labls", "comparison 1: against: 'labls' is not known; did you mean 'labels'"),
        ("comparisons/0/direction", "up", "direction: 'up' is not known"),
        ("comparisons/0/margin", None, "margin: None: give a number"),
        ("comparisons/0/margin", -0.1, "makes no sense"),
        ("comparisons/1/margin", 0, "makes no sense with direction: equal"),
        ("comparisons/3/direction", "equal", "direction: equal needs `against`"),
        ("comparisons/0/decides", "no", "decides: 'no': expected true or false"),
        ("rule", 4, "how many of the 3 deciding comparisons"),
        ("rule", "most", "rule: 'most'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_claim(tmp_path, path, value, words):
    with pytest.raises(DataError) as e:
        load_claim(edited(tmp_path, path, value))
    assert words in str(e.value) and str(e.value).startswith(str(tmp_path / "toy.yaml")) and "\n" not in str(e.value)


def test_longer_cycles_and_files_that_are_no_claim(tmp_path):
    test = {"verb": "test", "recipe": "omniguard"}
    arms = {"a": {**test, "model": "arm:b"}, "b": {**test, "model": "arm:a"}}
    path = edited(tmp_path, "arms", {**page(tmp_path)["arms"], **arms})
    with pytest.raises(DataError, match="cycle: a → b → a"):
        load_claim(path)
    path = edited(tmp_path, "arms", {**page(tmp_path)["arms"], "a": {**test, "model": "arm:again"}})
    with pytest.raises(DataError, match="'a' uses arm 'again', which makes no model"):
        load_claim(path)
    (tmp_path / "toy.yaml").write_text("a: [")
    with pytest.raises(DataError, match="not YAML"):
        load_claim(str(tmp_path / "toy.yaml"))
    with pytest.raises(DataError, match="cannot read the claim"):
        load_claim(str(tmp_path / "none.yaml"))
    with pytest.raises(DataError, match="unknown claim 'omniguard_critic'; did you mean 'omniguard_critique'"):
        load_claim("omniguard_critic")
    with pytest.raises(DataError, match="unknown claim"):
        load_claim("../claims/omniguard_critique")


def test_the_order_of_arms(tmp_path):
    arms = page(tmp_path)["arms"]
    path = edited(tmp_path, "arms", {"again": arms.pop("again"), **arms})
    assert [a.name for a in load_claim(path).order()] == ["critique", "again", "labels"]


@pytest.mark.parametrize("name", claim_names())
def test_claims_are_whole_and_their_recipes_take_what_they_set(name, tmp_path):
    claim = load_claim(name)
    page = (claims.claims_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    assert page.startswith(f"# python -m zoo.reproduce claim={name} ") and claim.seeds >= 3
    on_gpu = claim.gpu or any(a.gpu for a in claim.arms.values())
    assert on_gpu or name == "redcoder_analyser" or name.startswith("backdoor_")  # they train no model
    if name.startswith("backdoor_"):  # they read a farm; tests/test_backdoor_scan.py has one
        with pytest.raises(DataError, match="recipe=backdoor_farm"):
            plan_units(claim, 2, {"farm": str(tmp_path)}, False, tmp_path)
        return
    for asked in (claim, *(claim.over(b) for b in claim.backbones)):
        units = plan_units(asked, 2, {}, False, tmp_path)
        assert set(units) == {(a, s) for a in claim.arms for s in (0, 1)}
        scripted = any((u.arm.model or "").startswith("scripted:") for u in units.values())
        assert scripted == ("scripted" in asked.title) == ("SCRIPTED" in asked.size)  # it measures no model
    for arm in claim.arms.values():
        settings = {**claim.defaults, **(claim.gpu or {}), **arm.gpu, **arm.overrides}
        compose([f"recipe={arm.recipe}", *(f"{k}={v}" for k, v in settings.items() if k != "calibrate")])


def test_arms_take_equal_steps_and_differ_in_the_critique_alone(tmp_path):
    units = plan_units(load_claim("omniguard_critique"), 1, {}, False, tmp_path)
    a, b = (copy.deepcopy(units[name, 0].config) for name in ("critique", "labels_alone"))
    assert (a["loss"].pop("critique"), b["loss"].pop("critique")) == (1.0, 0.0) and a == b


# ------------------------------------------------------------------------------------------------- before anything runs


def row(gold=True, slices=(), source="a", **names):
    return Row({"source": source, "modality": "text", "target": "prompt"}, slices, gold, frozenset({"fire", "dog"}))


@pytest.mark.parametrize(
    "metric, rows, words",
    [
        (
            Metric("m", "f1", {"source": ("toxicat",)}),
            [row(source="toxicchat")],
            "no test row has source 'toxicat'; did",
        ),
        (Metric("m", "f1", {"slice": ("shrt",)}), [row(slices=("short",))], "slice 'shrt'; did you mean 'short'"),
        (Metric("m", "f1", {"slice": ("x",), "source": ("b",)}), [row(slices=("x",)), row(source="b")], "together"),
        (Metric("m", "f1", {"slice": ("x",)}), [row(slices=("without:x",)), row(slices=())], "no test row has slice"),
        (Metric("m", "f1"), [row(False)], "none of its 1 test rows is unsafe"),
        (Metric("m", "auprc"), [row(True)], "none of its 1 test rows is safe"),
        (Metric("m", "accuracy"), [row(None)], "none of its 1 test rows has a label"),
        (Metric("m", "macro_f1", categories=("fir",)), [row()], "no policy has category 'fir'; did you mean 'fire'"),
    ],
)
def test_what_no_test_row_can_answer(metric, rows, words):
    with pytest.raises(DataError) as e:
        check(metric, rows)
    assert words in str(e.value) and "metric 'm'" in str(e.value)


def test_what_test_rows_can_answer():
    rows = [row(), row(False, ("x",)), row(None)]
    for metric in (Metric("m", "auprc"), Metric("m", "fpr", {"slice": ("x",)}), Metric("m", "reported", path="x")):
        check(metric, rows)


# -------------------------------------------------------------------------------------------------------------- tables


def result(claim, **changes):
    difference = {
        "metric": "auprc", "arm": "critique", "against": "labels_alone", "mean": 0.01, "ci95": [-0.02, 0.04], "n": 720,
        "direction": "higher", "margin": 0.01, "paper": "+7.5 F1", "decides": True, "verdict": "inconclusive",
        "values": [0.0, 0.02], "groups": 3, "reasons": [],
    }  # fmt: skip
    arms = [{"name": "critique", "metrics": {"auprc": {"mean": 0.9, "ci95": [0.8, 0.95], "n": 720}}}]
    own = {"claim": claim.name, "verdict": "inconclusive", "seeds": 2, "size": "tiny", "claim_sha256": claim.sha256}
    return {**own, "arms": arms, "differences": [difference], **changes}


def test_tables_say_what_was_run_and_what_was_not(tmp_path, monkeypatch, capsys):
    claim = load_claim("omniguard_critique")
    monkeypatch.setattr(report, "claims_folder", lambda: tmp_path)
    assert list_main(["claims"]) == 0
    said = capsys.readouterr().out
    assert "| omniguard_critique | An omni" in said and said.count("not run yet") == len(claim_names())
    report.write(tmp_path / "results", claim.name, result(claim))
    assert (tmp_path / "results" / "omniguard_critique.png").read_bytes().startswith(b"\x89PNG")
    table = report.readme_table()
    (line,) = [x for x in table.splitlines() if x.startswith("| omniguard_critique")]
    assert "+7.5 F1 | 720 | 0.010 [-0.020, 0.040] | > 0.01 | **inconclusive**, 2 seeds, tiny |" in line
    missing = next(x for x in table.splitlines() if x.startswith("Not run yet"))
    assert (
        all((f"`{name}`" in missing) == (name != claim.name) for name in claim_names())
        and readme.TABLES["claims"]() == table + "\n"
    )
    contradicting = result(claim, verdict="not reproduced", claim_sha256="0")
    report.write(tmp_path / "results", f"{claim.name}-gpu", contradicting)
    assert "**not reproduced (of another version of the claim)**" in report.readme_table()
    assert "inconclusive, not reproduced (of another" in report.list_table()
    (tmp_path / "results" / "omniguard_critique.json").write_text("{")
    with pytest.raises(DataError, match=r"omniguard_critique\.json: not a result"):
        report.list_table()


def test_claims_are_found_by_their_yaml():
    for name in claim_names():
        page = yaml.safe_load((claims.claims_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
        assert load_claim(name).title == page["title"] and page["claim"] == name

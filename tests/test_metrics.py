"""zoo/core/metrics.py and zoo/core/tables.py against scikit-learn, brute force and known truths."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from zoo.core.metrics import METRICS, GuardMetrics, Record, binary, bootstrap, summarise, twin_accuracy
from zoo.core.tables import fmt, markdown_table, text_table


def draw(seed, n=300, decimals=1):
    """Scores that tell something, with many ties."""
    rng = np.random.default_rng(seed)
    golds = rng.random(n) < 0.3
    return rng.beta(2 + 2 * golds, 4 - 2 * golds).round(decimals), golds


def records(seed=0, n=200):
    scores, golds = draw(seed, n, 3)
    rng = np.random.default_rng(seed)
    return [
        Record(
            f"r{i}",
            float(scores[i]),
            bool(golds[i]) if i % 10 else None,
            {"fire": float(scores[i]), "alarm": float(rng.random())},
            {"fire": "yes" if golds[i] else "no"},
            ("text", "image")[i % 2],
            "mine",
            "prompt",
            ("twin",) if i % 4 == 0 else (),
            valid=i != 3,
            truncated=i in (5, 6),
            group=f"scene{i // 4}",
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [1, 6])
def test_binary_agrees_with_sklearn(seed, decimals):
    scores, golds = draw(seed, decimals=decimals)
    got = binary(scores, golds, 0.4)
    flags = scores >= 0.4
    fpr, tpr, _ = sk.roc_curve(golds, scores, drop_intermediate=False)
    expected = {
        "f1": sk.f1_score(golds, flags),
        "auprc": sk.average_precision_score(golds, scores),
        "precision": sk.precision_score(golds, flags),
        "recall": sk.recall_score(golds, flags),
        "fpr": flags[~golds].mean(),
        "accuracy": (flags == golds).mean(),
        "recall_at_fpr5": tpr[fpr <= 0.05].max(),
        "prevalence": golds.mean(),
    }
    assert {k: got[k] for k in expected} == pytest.approx(expected, abs=2e-6)
    assert (got["n"], got["masked"], got["positives"], got["reasons"]) == (300, 0, golds.sum(), {})


def test_a_score_on_the_threshold_is_flagged_and_one_in_twenty_is_within_five_percent():
    assert binary([0.5, 0.1], [True, False], 0.5)["recall"] == 1.0
    scores = [0.9] + [0.1] * 19 + [0.8]
    assert binary(scores, [False] * 20 + [True])["recall_at_fpr5"] == 1.0


@pytest.mark.parametrize(
    "scores, golds, missing",
    [
        ([], [], (*METRICS, "prevalence")),
        ([0.2, 0.9], [None, None], (*METRICS, "prevalence")),
        ([0.2, 0.9], [False, False], ("f1", "auprc", "recall", "recall_at_fpr5")),
        ([0.2, 0.9], [True, True], ("auprc", "fpr", "recall_at_fpr5")),
        ([0.2, 0.3], [True, False], ("precision",)),
    ],
)
def test_undefined_values_are_null_with_a_reason(scores, golds, missing):
    got = binary(scores, golds, intervals=True)
    assert {k for k in (*METRICS, "prevalence") if got[k] is None} == set(missing)
    assert set(missing) <= set(got["reasons"]) and all(got["reasons"].values())
    assert not [k for k, v in got.items() if v is None and k not in got["reasons"]]
    json.dumps(got, allow_nan=False)


def test_masked_rows_change_nothing_but_their_count():
    scores, golds = draw(1)
    plain = binary(scores, golds, intervals=True)
    mixed = binary([*scores, 0.9, 0.1], [*golds, None, None], intervals=True)
    assert mixed == {**plain, "masked": 2}


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.5, -0.1])
def test_a_score_that_is_no_probability_names_its_record(bad):
    with pytest.raises(ValueError, match=r"'x7'.*not a probability"):
        summarise([Record("a", 0.1, True), Record("x7", bad, None)])
    with pytest.raises(ValueError, match=r"x7.*fire"):
        summarise([Record("x7", 0.1, True, {"fire": bad})])
    with pytest.raises(ValueError, match="row 1"):
        binary([0.1, bad], [True, False])
    with pytest.raises(ValueError, match="'x7'"):
        summarise([Record("x7", bad, True, slices=("without:image",))])


def test_lengths_and_golds_are_checked():
    with pytest.raises(ValueError, match="2 scores but 1 golds"):
        binary([0.1, 0.2], [True])
    with pytest.raises(ValueError, match="'yes'"):
        binary([0.1], ["yes"])
    with pytest.raises(ValueError, match=r"'a'.*'maybe'"):
        summarise([Record("a", 0.1, True, {"fire": 0.5}, {"fire": "maybe"})])


# ----------------------------------------------------------------------------------------------------------- intervals


def interval_of(scores, golds, groups=None, seed=0):
    return binary(scores, golds, 0.5, intervals=True, groups=groups, seed=seed)


@pytest.mark.parametrize("grouped", [False, True])
def test_fast_intervals_agree_with_the_plain_bootstrap(grouped):
    scores, golds = draw(2, 200)
    groups = [i // 5 for i in range(200)] if grouped else None
    got = interval_of(scores, golds, groups)
    f1 = bootstrap(lambda i: sk.f1_score(golds[i], scores[i] >= 0.5), 200, 1, 200, groups)
    area = bootstrap(lambda i: sk.average_precision_score(golds[i], scores[i]), 200, 1, 200, groups)
    assert got["f1_ci95"] == pytest.approx(f1, abs=0.035)
    assert got["auprc_ci95"] == pytest.approx(area, abs=0.035)
    assert got["f1_ci95"][0] < got["f1"] < got["f1_ci95"][1]


def test_the_f1_interval_covers_the_known_value():
    # Flags are right with probability 0.8 in either class, half are unsafe: F1 of the population is 0.8.
    rng, covered = np.random.default_rng(0), 0
    for seed in range(100):
        golds = rng.random(300) < 0.5
        scores = (golds ^ (rng.random(300) < 0.2)).astype(float)
        low, high = interval_of(scores, golds, seed=seed)["f1_ci95"]
        covered += low <= 0.8 <= high
    assert 90 <= covered <= 99


def test_groups_widen_the_interval_of_clustered_data():
    scores, golds = draw(3, 60, 4)
    scores, golds, groups = scores.repeat(10), golds.repeat(10), np.arange(60).repeat(10).tolist()
    rows, scenes = interval_of(scores, golds), interval_of(scores, golds, groups)
    for key in ("f1_ci95", "auprc_ci95"):
        assert np.ptp(scenes[key]) > 2 * np.ptp(rows[key])
    # Copies of a scene tell nothing more than the scene does once.
    assert scenes["f1_ci95"] == pytest.approx(interval_of(scores[::10], golds[::10])["f1_ci95"], abs=0.03)


def test_bootstrap_is_seeded_and_refuses_what_it_cannot_resample():
    values = np.arange(50.0)
    mean = lambda i: values[i].mean()  # noqa: E731
    assert bootstrap(mean, 50, 7) == bootstrap(mean, 50, 7) != bootstrap(mean, 50, 8)
    assert bootstrap(mean, 50, 0) == pytest.approx((20.5, 28.5), abs=0.8)
    assert bootstrap(mean, 0, 0) is bootstrap(mean, 1, 0) is bootstrap(mean, 50, 0, groups=["a"] * 50) is None
    assert bootstrap(lambda i: None, 50, 0, 20) is None
    with pytest.raises(ValueError, match="50 rows but 2 groups"):
        bootstrap(mean, 50, 0, groups=[1, 2])
    alone = interval_of([0.9, 0.2], [True, False], ["a", "a"])
    assert alone["f1_ci95"] is None and "independent" in alone["reasons"]["f1_ci95"]


# --------------------------------------------------------------------------------------------------------- the summary


def test_summarise_has_the_shape_of_metrics_json():
    rows = records()
    got = summarise(rows, 0.4, {"fire": 0.6}, intervals=True)
    json.dumps(got, allow_nan=False)
    assert (got["n"], got["masked"], got["invalid"], got["truncated"], got["threshold"]) == (200, 20, 1, 2, 0.4)
    assert got["overall"]["n"] == 180 and 0 < got["ece"] < 1
    assert set(got["by_modality"]) == {"text", "image"} and set(got["by_source"]) == {"mine"}
    assert set(got["by_target"]) == {"prompt"} and set(got["by_slice"]) == {"twin"}
    assert sum(m["n"] for m in got["by_modality"].values()) == 180
    image = [r for r in rows if r.modality == "image" and r.gold is not None]
    assert got["by_modality"]["image"]["f1"] == pytest.approx(
        sk.f1_score([r.gold for r in image], [r.score >= 0.4 for r in image]), abs=1e-6
    )
    fire, alarm = got["by_category"]["fire"], got["by_category"]["alarm"]
    assert (fire["n"], fire["threshold"], alarm["n"], alarm["masked"]) == (200, 0.6, 0, 200)
    assert alarm["f1"] is None and alarm["reasons"]["f1"] == "no labelled row"
    entries = [got["overall"], *(e for k, v in got.items() if k.startswith("by_") for e in v.values())]
    assert all({*METRICS, "n", "f1_ci95", "auprc_ci95", "reasons"} <= set(e) for e in entries)


def test_categories_of_a_kind_are_judged_together():
    rows = [
        Record("a", 0.5, None, {"r1": 0.9, "r2": 0.2, "r3": 0.7}, {"r1": "yes", "r2": "yes", "r3": "no"}),
        Record("b", 0.5, None, {"r2": 0.8}, {"r2": "yes"}),
    ]
    found = summarise(rows, kinds={"r1": "limit", "r2": "limit"})["by_category"]
    assert set(found) == {"limit", "r3"} and found["limit"]["n"] == 3 and found["r3"]["n"] == 1
    assert found["limit"]["recall"] == pytest.approx(2 / 3) and found["limit"]["precision"] == 1
    with pytest.raises(ValueError, match="category 'r1' is 'maybe'"):
        summarise([Record("a", 0.1, True, {"r1": 0.5}, {"r1": "maybe"})], kinds={"r1": "limit"})


def test_ablated_copies_count_in_their_slice_alone():
    rows = records()
    copies = [Record(r.id, 0.5, r.gold, slices=(*r.slices, "without:image")) for r in rows]
    plain, both = summarise(rows), summarise(rows + copies)
    assert both["by_slice"].pop("without:image")["n"] == 180
    assert both == {**plain, "ablated": 200}


def test_summarise_nothing():
    got = summarise([])
    assert (got["n"], got["ece"], got["overall"]["f1"], got["by_source"]) == (0, None, None, {})
    assert got["reasons"]["ece"]


def test_twin_accuracy():
    # The gold is an exclusive or of two parts: a guard that reads the first part alone is right in half of the rows.
    quads, rows = [], {}
    for q in range(20):
        quads.append([f"{q}{a}{b}" for a in (0, 1) for b in (0, 1)])
        for a in (0, 1):
            for b in (0, 1):
                rows[f"{q}{a}{b}"] = Record(f"{q}{a}{b}", float(a if q < 10 else a ^ b), bool(a ^ b))
    got = twin_accuracy(rows, quads, intervals=True)
    assert (got["n"], got["accuracy"], got["quad_accuracy"]) == (20, 0.75, 0.5)
    assert got["quad_accuracy_ci95"][0] < 0.5 < got["quad_accuracy_ci95"][1]
    rows["000"] = Record("000", 0.1, None)
    assert twin_accuracy(rows, quads)["masked"] == 1
    assert twin_accuracy(rows, [])["accuracy"] is None
    with pytest.raises(ValueError, match="'nope'"):
        twin_accuracy(rows, [["000", "nope"]])


# ---------------------------------------------------------------------------------------------- inside a training loop


def test_guard_metrics_agree_with_binary_over_batches_and_reset():
    scores, golds = draw(4)
    golds = [None if i % 7 == 0 else bool(g) for i, g in enumerate(golds)]
    kinds = [("text", "image", "smell")[i % 3] for i in range(300)]
    metric = GuardMetrics(threshold=0.4)
    for i in range(0, 300, 64):
        metric.update(torch.tensor(scores[i : i + 64]), golds[i : i + 64], kinds[i : i + 64])
    got = metric.compute()
    whole = binary(scores.astype(np.float32), golds, 0.4)
    assert got["val/f1"].item() == pytest.approx(whole["f1"])
    assert got["val/auprc"].item() == pytest.approx(whole["auprc"])
    image = binary(scores[1::3].astype(np.float32), golds[1::3], 0.4)
    assert got["val/f1_image"].item() == pytest.approx(image["f1"])
    assert {"val/f1_other", "val/auprc_text"} <= set(got) and "val/f1_audio" not in got
    metric.reset()
    metric.update([0.5], [None], ["text"])
    assert set(metric.compute()) == {"val/f1", "val/auprc", "val/accuracy"} and metric.compute()["val/f1"].isnan()
    with pytest.raises(ValueError, match="row 0"):
        metric.update(torch.tensor([math.nan]), [True], ["text"])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of the rank without a row
def test_guard_metrics_agree_on_every_rank_even_on_an_empty_one():
    # Two ranks without two processes: the first pass notes what each would send, the second answers with both.
    scores, golds = draw(5, 50)
    sent = {0: [], 1: []}

    def rank(number, gather):
        metric = GuardMetrics(dist_sync_fn=gather, distributed_available_fn=lambda: True)
        if number == 0:
            metric.update(scores, golds, ["image"] * 50)
        return {k: v.item() for k, v in metric.compute().items()}

    for number in (0, 1):
        rank(number, lambda x, group, n=number: sent[n].append(x) or [x])
    assert [(x.dtype, x.ndim) for x in sent[0]] == [(x.dtype, x.ndim) for x in sent[1]]  # else a real gather fails
    results = []
    for number in (0, 1):
        both = zip(sent[0], sent[1])
        results.append(rank(number, lambda x, group, both=both: list(next(both))))
    assert results[0] == results[1] and results[0]["val/f1_image"] == results[0]["val/f1"]
    assert results[0]["val/f1"] == pytest.approx(binary(scores, golds)["f1"], abs=1e-6)


# -------------------------------------------------------------------------------------------------------------- tables


def test_fmt():
    assert [fmt(v) for v in (None, math.nan, 3, 0.91249, "a", True)] == ["", "", "3", "0.912", "a", "True"]
    assert fmt(0.5, [0.4, 0.6]) == "0.500 [0.400, 0.600]" and fmt(None, [0, 1]) == ""


def test_markdown_table():
    got = markdown_table(["model", "F1"], [["a|b", 0.5], ["c\nd", None]])
    assert got.splitlines() == ["| model | F1 |", "| --- | ---: |", "| a\\|b | 0.500 |", "| c d |  |"]
    with pytest.raises(ValueError, match="row 1 has 1 cells"):
        markdown_table(["a", "b"], [["x"]])


def test_text_table_aligns_and_leaves_null_blank():
    lines = text_table(summarise(records(), intervals=True)).splitlines()
    assert lines[0].split() == ["slice", "n", "F1", "AUPRC", "precision", "recall", "FPR", "accuracy"]
    assert lines[2].startswith("overall ") and "[" in lines[2]
    assert [line.split()[1] for line in lines[3:]] == ["image", "text", "alarm", "fire", "twin"]
    alarm = next(line for line in lines if "alarm" in line)
    assert alarm.split() == ["category", "alarm", "0"]
    assert text_table({}).startswith("slice")

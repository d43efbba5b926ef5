"""Fits a trained RouteGuard on validation, then measures it beside every other way to route, on the same answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import GuardDataModule
from datamodules.schema import DataError
from zoo.core.metrics import Record
from zoo.core.scores import decide, write_scores
from zoo.evaluate import slices_of
from zoo.routeguard.baselines import NearestRouter, NetworkRouter
from zoo.routeguard.decide import (
    Cuts,
    Union,
    calibrated,
    fit_cuts,
    joint_thresholds,
    routing_thresholds,
    set_routing,
    union,
)
from zoo.routeguard.experts import MONOLITH
from zoo.routeguard.measure import category_f1, measures, routing
from zoo.routeguard.model import RouteGuard
from zoo.routeguard.module import RouteGuardModule
from zoo.routeguard.survey import Survey, fit_readers, survey

DEPLOYED = ("router", "joint", "scores", MONOLITH)  # ways that a model can be published with
SLICES = ("in-domain", "out-of-domain", "benign-contrast")
FEATURES = 4000  # training rows that the baselines' routers learn from, at most
NEVER = 1e9  # a threshold, in log-odds, that no row reaches
CUTS = np.linspace(0.02, 0.98, 49)


@dataclass
class Way:
    """One way to route: who is called on validation and on test, and what answers where nobody is."""

    val: np.ndarray  # bool [n, k]
    test: np.ndarray
    fallback: str
    second_look: bool = False


def evaluate_routing(
    module: RouteGuardModule,
    data: GuardDataModule,
    folder: Path | None = None,
    *,
    way: str = "joint",
    fallback: str = MONOLITH,
    test_rows: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Calibrates the readers, fits every way's thresholds on validation, sets the guard to `way`, measures all on test.

    Every reader reads every row, which costs several times what routing does: `test_rows` is the most test rows that
    ways are compared on, the same ones for every seed (None: all). Writes `scores_<way>.jsonl` into `folder` if given.
    Raises `DataError` for validation rows without a label.
    """
    if way not in DEPLOYED:
        raise DataError(f"routing={way}: one of {', '.join(DEPLOYED)}")
    guard: RouteGuard = module.guard
    val = survey(guard, data.samples("val"), failed=module.failed_ids)
    if not len(val):
        raise DataError("no validation row: experts are calibrated on validation; give some rows the split val")
    reasons = fit_readers(guard, val)
    test = survey(guard, _some(data.samples("test"), test_rows, 0), failed=module.failed_ids)
    train = survey(guard, _some(module.train_rows, FEATURES, seed), (), failed=module.failed_ids)
    start = routing_thresholds(val)
    c_val, c_test = calibrated(guard, val), calibrated(guard, test)
    chosen = {"router": start}
    chosen[MONOLITH] = np.full(len(start), NEVER)
    for name, look in (("joint", False), ("scores", True)):
        chosen[name] = joint_thresholds(val, c_val, start, fallback, look)
    ways = {}
    for name, cut in chosen.items():
        null = MONOLITH if name == MONOLITH else fallback
        ways[name] = Way(val.route >= cut, test.route >= cut, null, name == "scores")
    ways["router_fail_open"] = Way(ways["router"].val, ways["router"].test, "safe")
    ways |= _fixed(val, test, fallback) | _learned(train, val, test, fallback, seed)
    metrics: dict[str, Any] = {"calibration_reasons": reasons, "deployed": way, "ways": {}}
    for name, w in ways.items():
        at_val = union(c_val, w.val, w.fallback, w.second_look)
        at_test = union(c_test, w.test, w.fallback, w.second_look)
        cuts = fit_cuts(at_val, val.golds, val.labels)
        metrics["ways"][name] = _measured(at_test, cuts, test, w.fallback, guard)
        if name == way:
            set_routing(guard, chosen[name], w.fallback, w.second_look, cuts)
        if folder is not None:
            write_judged(folder / f"scores_{name}.jsonl", at_test, cuts.verdict, cuts.category, test, guard)
    metrics["thresholds"] = {n: dict(zip(guard.backbone.router.names, map(float, t))) for n, t in chosen.items()}
    metrics["own_domain"] = own_domains(guard, (val, c_val.category), (test, c_test.category), folder)
    metrics["regret"], metrics["gain"] = _regret(metrics["ways"], way), _gain(metrics["ways"], way)
    return metrics


def _some(samples: Sequence[Any], most: int | None, seed: int) -> list[Any]:
    """At most so many, drawn, in their order."""
    rng = np.random.default_rng(seed)
    return [samples[i] for i in sorted(rng.permutation(len(samples))[:most])]


def _fixed(val: Survey, test: Survey, fallback: str) -> dict[str, Way]:
    """Ways without thresholds. The oracle knows the gold domains; where there are none, nothing is unsafe.

    `top2` calls the router's two likeliest for every row: over experts that all answer for every category it is the
    paper's dense baseline, with the maximum of their answers.
    """
    return {
        "top2": Way(_top(val.route, 2), _top(test.route, 2), fallback),
        "all": Way(np.full(val.route.shape, True), np.full(test.route.shape, True), fallback),
        "oracle": Way(val.targets == 1, test.targets == 1, "safe"),
        "oracle_fallback": Way(val.targets == 1, test.targets == 1, fallback),
    }


def _top(route: np.ndarray, most: int) -> np.ndarray:
    return np.argsort(np.argsort(-route, axis=1, kind="stable"), axis=1) < most


def _learned(train: Survey, val: Survey, test: Survey, fallback: str, seed: int) -> dict[str, Way]:
    out = {}
    for name, router in (("knn", NearestRouter()), ("mlp", NetworkRouter(seed=seed))):
        router.fit(train.features, train.targets)
        at = [router(s.features) for s in (val, test)]
        cut = routing_thresholds(_with_routes(val, at[0]))
        out[name] = Way(at[0] >= cut, at[1] >= cut, fallback)
    return out


def _with_routes(s: Survey, route: np.ndarray) -> Survey:
    out = s.take(range(len(s)))
    out.route = route
    return out


def _measured(u: Union, cuts: Cuts, s: Survey, fallback: str, guard: RouteGuard) -> dict[str, Any]:
    def of(rows: Sequence[int]) -> dict[str, Any]:
        at = np.asarray(rows, dtype=int)
        golds = [s.golds[i] for i in at]
        return measures(u.scores[at], u.category_scores[at], golds, s.labels[at], cuts.verdict, cuts.category)

    everywhere = {"monolith": u.null & (fallback == MONOLITH), "all": u.null & (fallback == "all")}
    called = u.calls.sum(1) + everywhere["monolith"] + everywhere["all"] * u.calls.shape[1]
    sliced = {name: [i for i, x in enumerate(s.samples) if x.meta.get(name)] for name in SLICES}
    sources = sorted({x.source for x in s.samples})
    return {
        "overall": of(range(len(s))),
        "by_slice": {name: of(rows) for name, rows in sliced.items() if rows},
        "by_source": {x: of([i for i, sample in enumerate(s.samples) if sample.source == x]) for x in sources},
        "routing": routing(u.calls, s.targets, guard.backbone.router.names),
        "experts_per_row": float(u.calls.sum(1).mean()),
        "readers_per_row": float(called.mean()),
        "null_share": float(u.null.mean()),
        "fallback": fallback,
        "threshold": cuts.verdict,
        "category_threshold": cuts.category,
    }


def _regret(ways: Mapping[str, Any], way: str) -> dict[str, Any]:
    """What the deployed way lacks to the oracle, and what of the plain router's gap it closes."""
    out = {}
    for key in ("macro_f1_all", "micro_f1_all", "macro_f1_unsafe", "micro_f1_unsafe"):
        at = {n: ways[n]["overall"][key] for n in ("monolith", "oracle", "oracle_fallback", "router", way)}
        if None not in at.values():
            out[key] = {"oracle_gap": at["oracle"] - at[way], "router_gap": at["oracle"] - at["router"], **at}
    return out


def _gain(ways: Mapping[str, Any], way: str) -> dict[str, Any]:
    """The deployed way minus the monolith in domain and out of domain, and how much more it is out of domain."""
    out = {}
    for key in ("macro_f1_all", "micro_f1_all", "macro_f1_unsafe", "micro_f1_unsafe"):
        of = {n: [ways[x]["by_slice"].get(n, {}).get(key) for x in (way, "monolith")] for n in SLICES[:2]}
        if all(v is not None for pair in of.values() for v in pair):
            gains = {n: a - b for n, (a, b) in of.items()}
            out[key] = {**gains, "difference": gains["out-of-domain"] - gains["in-domain"]}
    return out


def own_domains(
    guard: RouteGuard, val: tuple[Survey, np.ndarray], test: tuple[Survey, np.ndarray], folder: Path | None = None
) -> dict[str, Any]:
    """Macro F1 over an expert's own categories: the specialist's and the monolith's, both asked about every row.

    Each gets the category threshold that is best for it in this domain on validation. Writes
    `scores_specialists.jsonl` and `scores_generalist.jsonl`, where the same can be counted.
    """
    (s_val, z_val), (s_test, z_test) = val, test
    ids, out = guard.policy.ids, {}
    cuts: dict[str, dict[str, float]] = {"specialists": {}, "generalist": {}}
    said = {name: np.full(z_test[:, 0].shape, -15.0) for name in cuts}
    for r, name in enumerate(s_test.readers):
        if name == MONOLITH:
            continue
        mine = [c for c, id in enumerate(ids) if id in guard.backbone.experts[name].categories]
        out[name] = {}
        for who, at in (("specialists", r), ("generalist", 0)):
            val_scores, test_scores = (1 / (1 + np.exp(-z[:, at][:, mine])) for z in (z_val, z_test))
            labels = s_val.labels[:, mine]
            cut = float(max(CUTS, key=lambda t, p=val_scores, y=labels: category_f1(p >= t, y)["macro"] or 0.0))
            cuts[who] |= {ids[c]: cut for c in mine}
            said[who][:, mine] = np.maximum(said[who][:, mine], z_test[:, at][:, mine])
            out[name][who] = _own(test_scores >= cut, s_test, mine)
    if folder is not None:
        for who, z in said.items():
            u = Union(z.max(1), z, np.zeros((len(z), 0), bool), np.zeros(len(z), bool))
            write_judged(folder / f"scores_{who}.jsonl", u, 0.5, cuts[who], s_test, guard)
    return out


def _own(flags: np.ndarray, s: Survey, mine: Sequence[int]) -> dict[str, Any]:
    rows = {"overall": np.ones(len(s), bool)}
    rows |= {n: np.array([bool(x.meta.get(n)) for x in s.samples]) for n in SLICES[:2]}
    unsafe = np.array([g is True for g in s.golds])
    labels = s.labels[:, mine]
    return {
        name: {
            "all": category_f1(flags[at], labels[at])["macro"],
            "unsafe": category_f1(flags[at & unsafe], labels[at & unsafe])["macro"],
        }
        for name, at in rows.items()
        if at.any()
    }


def write_judged(
    path: Path, u: Union, cut: float, category_cut: float | Mapping[str, float], s: Survey, guard: RouteGuard
) -> None:
    """The rows of one way, in the form of a run's `scores.jsonl`."""
    rows = _records(u, s, guard)
    write_scores(path, (decide(r, cut, category_cut) for r in rows))


def _records(u: Union, s: Survey, guard: RouteGuard) -> Iterable[Record]:
    names = {1: "yes", 0: "no", -1: "unknown"}
    scores, categories = u.scores, u.category_scores
    for i, (x, policy) in enumerate(zip(s.samples, s.policies)):
        mine = [(c, id) for c, id in enumerate(guard.policy.ids) if id in policy.ids]
        yield Record(
            id=x.id,
            score=float(scores[i]),
            gold=s.golds[i],
            category_scores={id: float(categories[i, c]) for c, id in mine},
            category_gold={id: names[int(s.labels[i, c])] for c, id in mine},
            modality=x.modality,
            source=x.source,
            target=x.target,
            slices=slices_of(x),
            truncated=s.truncated[i],
            group=x.group,
        )

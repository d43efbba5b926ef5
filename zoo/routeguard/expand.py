"""Adding an expert: the others stay as they are, the router learns of it from a share of every domain's rows.

Categories may be new or another expert's. A new one extends the policy that the model answers for; prompts go on
showing the policy that the readers were trained under, so nothing that an earlier expert says changes. Where two
experts share a category, both may be called, and the surer one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo.core.guard import Guard
from zoo.routeguard.decide import (
    Union,
    calibrated,
    fit_cuts,
    joint_thresholds,
    routing_thresholds,
    set_routing,
    union,
)
from zoo.routeguard.experts import Expert
from zoo.routeguard.model import RouteGuard, expert_of, same_base
from zoo.routeguard.plan import route_targets
from zoo.routeguard.survey import Survey, fit_readers, survey
from zoo.routeguard.training import route_loss

SHARE = 0.2  # of every domain's rows (arXiv 2605.30693, section on expansion)


def add_expert(
    guard: RouteGuard,
    expert: Guard,
    categories: Sequence[str | PolicyEntry] | None = None,
    calibration: Sequence[Sample] = (),
    rows: Sequence[Sample] | None = None,
    name: str | None = None,
    share: float = SHARE,
    epochs: int = 3,
    lr: float = 2e-3,
    seed: int = 0,
) -> dict[str, Any]:
    """Adds `expert` to `guard` in place and returns what that changed.

    `expert` is one that recipe=expert trained over the same base (its adapter is taken), or any other guard, which then
    reads its rows by itself. `categories` are ids or entries (None: those of the expert). `calibration` are labelled
    rows that trained nobody: the new expert is calibrated on them, thresholds are fitted on them. The router is trained
    on `share` of every domain's `rows` (None: of the calibration rows).

    Raises `DataError` for a name that is taken, an unknown category, an empty or unlabelled calibration set, and an
    expert over another base or tokenizer; the guard is then as it was.
    """
    alone = isinstance(expert, RouteGuard)
    state = None
    if alone:
        same_base(guard.backbone, expert.backbone)
        own, state, fitted = expert_of(expert)
        name = name or own
        categories = categories or expert.backbone.experts[own].categories
    name = name or expert.name
    policy, ids = _extended(guard.policy, expert.policy, name, categories or expert.policy.ids)
    if name in guard.backbone.experts:
        raise DataError(f"there is an expert {name!r} already: give the new one another name")
    if not calibration:
        raise DataError(f"expert {name!r}: the calibration set is empty: give labelled rows that trained nobody")
    new = Expert(name, ids, fitted) if alone else Expert(name, ids)
    part = new.policy(policy)
    if not any(s.gold(part) is not None for s in calibration):
        raise DataError(f"expert {name!r}: no calibration row has a label of {', '.join(ids)}: give some")
    routing = guard.backbone.routing
    before = survey(guard, calibration)
    earlier = union(calibrated(guard, before), _calls(guard, before), routing.fallback, routing.second_look)
    guard.requires_grad_(False)
    guard.backbone.add(new, None if alone else expert, state)
    guard.policy = guard.backbone.policy = policy
    losses = refit_router(guard, calibration if rows is None else rows, share, epochs, lr, seed)
    after = survey(guard, calibration)
    reasons = fit_readers(guard, after, [name])
    c = calibrated(guard, after)
    cut = joint_thresholds(after, c, routing_thresholds(after), routing.fallback, routing.second_look)
    now = union(c, after.route >= cut, routing.fallback, routing.second_look)
    cuts = fit_cuts(now, after.golds, after.labels)
    again = survey(guard, calibration, before.readers)  # the same readers in the same passes as before
    drift = _drift(earlier, guard.calibration.threshold, now, cuts.verdict, before.verdict, again.verdict)
    set_routing(guard, cut, routing.fallback, routing.second_look, cuts)
    return {
        "expert": name,
        "categories": list(ids),
        "new_entries": [i for i in policy.ids if i not in guard.backbone.shown.ids],
        "calibration_rows": len(calibration),
        "calibration_reasons": reasons.get(name, {}),
        "router": losses,
        "drift": drift,
    }


def _calls(guard: RouteGuard, s: Survey) -> np.ndarray:
    """bool [n, k]: the experts that the guard calls, as it is set."""
    called = guard.backbone.called(torch.tensor(s.route), s.policies)
    return np.array([[n in row for n in guard.backbone.router.names] for row in called])


def _extended(
    policy: Policy, theirs: Policy, name: str, categories: Sequence[str | PolicyEntry]
) -> tuple[Policy, tuple[str, ...]]:
    """The policy with the expert's new entries, and the ids of all of its entries."""
    ids, new = [], []
    for c in categories:
        id = c if isinstance(c, str) else c.id
        entry = c if isinstance(c, PolicyEntry) else theirs.entry(id) if id in theirs.ids else policy.entry(id)
        ids.append(id)
        if id not in policy.ids:
            new.append(entry)
        elif policy.entry(id).name != entry.name:
            raise DataError(
                f"expert {name!r}: {id} is {entry.name!r} there and {policy.entry(id).name!r} here: give it another id"
            )
    return Policy(policy.name, (*policy.entries, *new)), tuple(ids)


def some_of_every_domain(guard: RouteGuard, rows: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """`share` of each expert's unsafe rows and of those that are nobody's, at least one of each, in their order."""
    if not 0 < share <= 1:
        raise DataError(f"share={share}: give a number over 0, at most 1")
    targets = np.array([route_targets(s, guard.backbone.experts.values(), guard.policy) for s in rows])
    groups = [np.flatnonzero(targets[:, k] == 1) for k in range(targets.shape[1])]
    groups.append(np.flatnonzero(~(targets == 1).any(1)))
    rng = np.random.default_rng(seed)
    chosen = {int(i) for g in groups if len(g) for i in rng.permutation(g)[: max(1, round(share * len(g)))]}
    return [rows[i] for i in sorted(chosen)]


def refit_router(
    guard: RouteGuard, rows: Sequence[Sample], share: float, epochs: int, lr: float, seed: int, batch_size: int = 32
) -> dict[str, Any]:
    """Trains the router, and nothing else, on a share of every domain's rows. Returns rows and mean losses by epoch."""
    chosen = some_of_every_domain(guard, rows, share, seed)
    if not chosen:
        raise DataError("no row to train the router on: give labelled rows of every domain")
    b = guard.backbone
    targets = torch.tensor([route_targets(s, b.experts.values(), guard.policy) for s in chosen], device=guard.device)
    b.router.requires_grad_(True)
    optimizer = torch.optim.AdamW(b.router.parameters(), lr=lr, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for at in np.array_split(rng.permutation(len(chosen)), -(-len(chosen) // batch_size)):
            batch = b.collate([b.prepare(chosen[i], guard.policy) for i in at]).to(guard.device)
            middle = b.lower(batch.prompt)
            optimizer.zero_grad()
            loss = route_loss(b.router(middle.hidden, middle.lengths), targets[at])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(at)
        losses.append(total / len(chosen))
    b.router.requires_grad_(False)
    return {"rows": len(chosen), "losses": losses}


def _drift(
    earlier: Union, old_cut: float, now: Union, new_cut: float, old_odds: np.ndarray, new_odds: np.ndarray
) -> dict[str, Any]:
    """What the addition changed on the calibration rows: earlier experts themselves, who is called, and verdicts."""
    flips = (earlier.scores >= old_cut) != (now.scores >= new_cut)
    k = earlier.calls.shape[1]
    return {
        "rows": len(flips),
        "earlier_experts_identical": np.array_equal(old_odds, new_odds, equal_nan=True),
        "largest_change_of_an_earlier_expert": float(np.nanmax(np.abs(old_odds - new_odds), initial=0.0)),
        "verdicts_changed": float(flips.mean()),
        "earlier_calls_changed": float((earlier.calls != now.calls[:, :k]).any(1).mean()),
        "mean_score_change": float(np.abs(earlier.scores - now.scores).mean()),
    }

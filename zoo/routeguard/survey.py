"""What every reader and the router say of each row, whatever would be called: what thresholds and baselines come from.

From one pass of all readers over validation and test, any routing can be tried offline: it takes the answers of those
that it calls. A test sees to it that this gives what the model itself gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from datamodules.buckets import characters
from datamodules.schema import MediaError, Policy, Sample
from zoo.routeguard.experts import MONOLITH, Expert, ExpertCalibration, fit_calibration
from zoo.routeguard.model import RouteGuard
from zoo.routeguard.plan import route_targets
from zoo.routeguard.router import pooled


@dataclass
class Survey:
    """n rows, r readers (the monolith first, then k experts), c entries of the guard's policy.

    Raw log-odds, NaN where a reader is not asked: `verdict` [n, r], `category` [n, r, c]. `route` [n, k] are the
    router's, `features` [n, d] pooled prompts. `golds` are verdicts under each row's policy; `labels` [n, c] and
    `targets` [n, k] are 1, 0 or −1 (unknown).
    """

    samples: list[Sample]
    policies: list[Policy]
    readers: list[str]
    verdict: np.ndarray
    category: np.ndarray
    route: np.ndarray
    features: np.ndarray
    golds: list[bool | None]
    labels: np.ndarray
    targets: np.ndarray
    truncated: list[bool]

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: Sequence[int]) -> Survey:
        """Some of the rows."""
        at = np.asarray(rows, dtype=int)
        listed = {k: [getattr(self, k)[i] for i in at] for k in ("samples", "policies", "golds", "truncated")}
        arrays = {k: getattr(self, k)[at] for k in ("verdict", "category", "route", "features", "labels", "targets")}
        return Survey(readers=self.readers, **listed, **arrays)


@torch.no_grad()
def survey(
    guard: RouteGuard,
    samples: Sequence[Sample],
    readers: Sequence[str] | None = None,
    failed: set[str] | None = None,
    batch_size: int = 16,
) -> Survey:
    """Reads `samples`, each under its own policy or the guard's, and keeps their order.

    Those that cannot be read are left out, and their ids go into `failed`; without it they are an error. `readers`
    names who is asked (None: all); with nobody only the lower layers and the router run, for other routers to learn
    from.
    """
    b, whole = guard.backbone, guard.policy
    names = [MONOLITH, *b.experts] if readers is None else list(readers)
    place = {id: n for n, id in enumerate(whole.ids)}
    rows: dict[str, list] = {k: [] for k in ("order", "samples", "policies", "truncated", "route", "features")}
    arrays: dict[str, list] = {"verdict": [], "category": []}
    was = guard.training
    guard.eval()
    policies = [guard.policy_for(s) for s in samples]
    lengths = [characters(s, p) for s, p in zip(samples, policies)]
    by_length = sorted(range(len(samples)), key=lengths.__getitem__)
    for start in range(0, len(samples), batch_size):
        prepared = {}
        for i in by_length[start : start + batch_size]:
            try:
                prepared[i] = b.prepare(samples[i], policies[i])
            except MediaError:
                if failed is None:
                    raise
                failed.add(samples[i].id)
        if not prepared:
            continue
        batch = b.collate(list(prepared.values())).to(guard.device)
        middle = b.lower(batch.prompt)
        rows["route"] += b.router(middle.hidden, middle.lengths).tolist()
        rows["features"] += pooled(middle.hidden, middle.lengths).tolist()
        pairs = [
            (i, n, part)
            for i, p in enumerate(batch.policies)
            for n in names
            if (n != MONOLITH or MONOLITH in b.bank.names) and (part := b.reader(n).policy(p)) is not None
        ]
        verdict = np.full((batch.size, len(names)), np.nan)
        category = np.full((*verdict.shape, len(whole)), np.nan)
        for (i, n, part), answer in zip(pairs, b.ask(batch, middle, pairs)):
            r = names.index(n)
            verdict[i, r] = answer.verdict
            for id, z in zip(part.ids, answer.categories):
                if id in place:
                    category[i, r, place[id]] = z
        arrays["verdict"].append(verdict)
        arrays["category"].append(category)
        rows["order"] += list(prepared)
        rows["samples"] += [samples[i] for i in prepared]
        rows["policies"] += batch.policies
        rows["truncated"] += batch.truncated
    guard.train(was)
    none = np.zeros((0, len(names)))
    out = Survey(
        rows["samples"],
        rows["policies"],
        names,
        np.concatenate([none, *arrays["verdict"]]),
        np.concatenate([np.zeros((0, len(names), len(whole))), *arrays["category"]]),
        np.array(rows["route"]).reshape(-1, len(b.experts)),
        np.array(rows["features"]),
        [s.gold(p) for s, p in zip(rows["samples"], rows["policies"])],
        labels_of(rows["samples"], rows["policies"], whole),
        np.array([route_targets(s, b.experts.values(), whole) for s in rows["samples"]]).reshape(-1, len(b.experts)),
        rows["truncated"],
    )
    return out.take(np.argsort(rows["order"]))


def labels_of(samples: Sequence[Sample], policies: Sequence[Policy], whole: Policy) -> np.ndarray:
    """int [n, c]: 1, 0, or −1 where the label is unknown or the row's policy lacks the entry."""
    out = np.full((len(samples), len(whole)), -1)
    for i, (s, p) in enumerate(zip(samples, policies)):
        for c, id in enumerate(whole.ids):
            if id in p.ids and (known := s.label(id)) is not None:
                out[i, c] = known
    return out


def fit_readers(guard: RouteGuard, validation: Survey, names: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """Fits the calibrations of the readers (all, or `names`) in place; returns what could not be fitted, and why."""
    reasons: dict[str, dict[str, str]] = {}
    for r, name in enumerate(validation.readers):
        if (names is not None and name not in names) or np.isnan(validation.verdict[:, r]).all():
            continue
        reader = guard.backbone.reader(name)
        reader.calibration, why = fit_reader(reader, guard.policy, validation, r)
        if why:
            reasons[name] = why
    return reasons


def fit_reader(reader: Expert, policy: Policy, validation: Survey, r: int) -> tuple[ExpertCalibration, dict[str, str]]:
    """The calibration of one reader, from the rows that it was asked about."""
    asked = np.flatnonzero(~np.isnan(validation.verdict[:, r]))
    mine = [c for c, id in enumerate(policy.ids) if id in reader.categories]
    golds = []
    for i in asked:
        part = reader.policy(validation.policies[i])
        golds.append(validation.samples[i].gold(part))
    odds = validation.category[asked, r][:, mine]  # [n, c]
    labels = np.where(np.isnan(odds), -1, validation.labels[asked][:, mine])
    return fit_calibration(
        reader.name, validation.verdict[asked, r], golds, np.where(np.isnan(odds), -np.inf, odds), labels
    )

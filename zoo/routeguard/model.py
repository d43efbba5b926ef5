"""RouteGuard as a guard: its answers name the experts that gave them, and experts can be added."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from datamodules.domains import DOMAINS
from datamodules.schema import DataError, Policy, PolicyEntry, Sample, canonical_json
from zoo.core.backbones import build
from zoo.core.backbones.base import Scores
from zoo.core.guard import Calibration, Guard, Judged
from zoo.core.orders import order_named
from zoo.core.verdict import Verdict
from zoo.core.weights import CheckpointError
from zoo.routeguard.backbone import RoutedBackbone, RoutedScores, Routing
from zoo.routeguard.experts import MONOLITH, Expert, ExpertCalibration, check_categories


@dataclass
class RoutedJudged(Judged):
    """With the route of each row, as verdicts name it."""

    routes: list[list[str]] = field(default_factory=list)


class RouteGuard(Guard):
    """A guard over a `RoutedBackbone`: `moderate` as any, and `Verdict.route` lists who answered.

    P(unsafe) is the maximum of the called experts' calibrated P(unsafe), categories are the union of theirs. With
    `only` it is one expert by itself: always called, and asked for its own entries of any policy.
    """

    backbone: RoutedBackbone

    def __init__(
        self,
        backbone: RoutedBackbone,
        policy: Policy,
        calibration: Calibration | None = None,
        name: str = "routeguard",
    ):
        super().__init__(backbone, policy, calibration, name)
        backbone.policy = policy

    @property
    def only(self) -> str | None:
        return self.backbone.routing.only

    def asked_of(self, policy: Policy) -> Policy:
        """An expert alone is asked for its own entries: those that `policy` has, or all where it has none."""
        if self.only is None:
            return policy
        expert = self.backbone.experts[self.only]
        return expert.policy(policy) or expert.policy(self.policy)

    def policy_for(self, sample: Sample, policy: Policy | None = None) -> Policy:
        """Raises `DataError` where the call's policy has no entry that an expert alone answers for."""
        if policy is not None and self.only is not None and self.backbone.experts[self.only].policy(policy) is None:
            raise DataError(
                f"{self.name} answers for {', '.join(self.backbone.experts[self.only].categories)}, and policy "
                f"{policy.name!r} has none of them"
            )
        return self.asked_of(super().policy_for(sample, policy))

    def judge(self, scores: Scores, entries: Sequence[int], wide: Tensor | None = None) -> Judged:
        judged = super().judge(scores, entries, wide)
        routes = scores.routes if isinstance(scores, RoutedScores) else []
        return RoutedJudged(judged.score, judged.categories, routes)

    def verdicts(
        self, judged: Judged, ids: Sequence[str], policies: Sequence[Policy], truncated: Sequence[bool]
    ) -> list[Verdict]:
        out = super().verdicts(judged, ids, policies, truncated)
        for verdict, route in zip(out, judged.routes):
            verdict.route = route
        return out

    def add_expert(
        self,
        expert: Guard,
        categories: Sequence[str | PolicyEntry] | None = None,
        calibration: Sequence[Sample] = (),
        **settings: Any,
    ) -> dict[str, Any]:
        """Adds an expert in place; see `zoo.routeguard.expand.add_expert` for settings, errors and what it returns."""
        from zoo.routeguard.expand import add_expert

        return add_expert(self, expert, categories, calibration, **settings)

    def describe(self) -> dict[str, Any]:
        b = self.backbone
        return {
            **super().describe(),
            "routing": {
                **b.settings,
                **asdict(b.routing),
                "shown": b.shown.to_dict(),
                "readers": list(b.bank.names),
                "monolith": b.monolith.to_dict(),
                "experts": [
                    {**e.to_dict(), "guest": _guest(b.guests[n]) if n in b.guests else None}
                    for n, e in b.experts.items()
                ],
                "base": base_hash(b),
            },
        }


def _guest(guard: Guard) -> dict[str, Any]:
    return {"name": guard.name, **guard.describe()}


def base_hash(backbone: RoutedBackbone) -> str:
    """sha256 over the base's description, its weights that are not pinned there, and the policy that prompts show."""
    description = {k: v for k, v in backbone.base.describe().items() if k not in ("path", "revision")}  # has pins
    digest = hashlib.sha256(canonical_json([description, backbone.shown.to_dict()]).encode())
    state = backbone.base.state_dict()
    for name in sorted(backbone._base_names):
        digest.update(name.encode() + state[name].detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def routeguard(
    base: Guard,
    policy: Policy,
    experts: Mapping[str, Sequence[str]] = DOMAINS,
    name: str = "routeguard",
    monolith: bool = True,
    fallback: str = MONOLITH,
    shown: Policy | None = None,
    **settings: Any,
) -> RouteGuard:
    """A fresh RouteGuard over a trained guard: an adapter for the monolith and for each expert, and a router.

    `experts` maps names to ids of `policy`, `shown` is what prompts show of it (None: all of it); `settings` are those
    of `RoutedBackbone`. Raises `DataError` for an unknown category and for a base that cannot be cut.
    """
    for expert, categories in experts.items():
        check_categories(expert, categories, policy)
    backbone = RoutedBackbone(base.backbone, shown or policy, **settings)
    backbone.routing = Routing(fallback)
    if monolith:
        backbone.bank.add(MONOLITH)
    for expert, categories in experts.items():
        backbone.add(Expert(expert, tuple(categories)))
    return RouteGuard(backbone, policy, name=name)


def expert_alone(base: Guard, policy: Policy, name: str, categories: Sequence[str], **settings: Any) -> RouteGuard:
    """One expert to train against a base, to be added to a RouteGuard over the same base."""
    guard = routeguard(base, policy, {name: categories}, name=name, monolith=False, **settings)
    guard.backbone.routing = Routing("safe", only=name)
    return guard


def from_config(config: dict[str, Any], state: dict[str, Tensor], name: str, cached: bool = False) -> RouteGuard:
    """A RouteGuard, or an expert by itself, from what `describe` and `saved_state` left.

    Raises `CheckpointError` for weights that do not fit.
    """
    routing = config["routing"]
    policy = Policy.from_dict(config["policy"], f"{name}: policy")
    keys = ("upper_layers", "rank", "alpha", "router_width")
    shown = Policy.from_dict(routing["shown"], f"{name}: shown policy")
    backbone = RoutedBackbone(build(config["backbone"], cached=cached), shown, **{k: routing[k] for k in keys})
    experts = {e["name"]: e for e in routing["experts"]}
    if MONOLITH in routing["readers"]:
        backbone.bank.add(MONOLITH)
    for raw in experts.values():
        guest = None if raw["guest"] is None else _load_guest(raw["guest"], cached)
        backbone.add(Expert.from_dict(raw), guest)
    backbone.monolith = Expert.from_dict(routing["monolith"])
    backbone.routing = Routing(**{f.name: routing[f.name] for f in fields(Routing)})
    try:
        backbone.load_saved_state(state)
    except ValueError as e:
        raise CheckpointError(f"{name}: {e}") from e
    return RouteGuard(backbone, policy, Calibration(**config["calibration"]), config["name"])


def base_of(config: dict[str, Any], state: dict[str, Tensor], name: str, cached: bool = False) -> Guard:
    """The base of a RouteGuard's folder as a guard of its own, for another expert to be trained over."""
    backbone = build(config["backbone"], cached=cached)
    try:
        backbone.load_saved_state({k.removeprefix("base."): v for k, v in state.items() if k.startswith("base.")})
    except ValueError as e:
        raise CheckpointError(f"{name}: base: {e}") from e
    return Guard(backbone, Policy.from_dict(config["routing"]["shown"], f"{name}: shown policy"))


def _load_guest(raw: dict[str, Any], cached: bool) -> Guard:
    return Guard(
        build(raw["backbone"], cached=cached),
        Policy.from_dict(raw["policy"], f"expert {raw['name']}: policy"),
        Calibration(**raw["calibration"]),
        name=raw["name"],
        order=order_named(raw["order"]),
    )


def expert_of(guard: RouteGuard) -> tuple[str, dict[str, Tensor], ExpertCalibration]:
    """The name, the adapter's tensors and the calibration of an expert by itself."""
    name = guard.only
    if name is None:
        raise DataError(f"{guard.name} is a whole RouteGuard: give one expert (recipe=expert trains it)")
    state = {k: v.detach().clone() for k, v in guard.backbone.bank.state_of(name).items()}
    return name, state, guard.backbone.experts[name].calibration


def same_base(a: RoutedBackbone, b: RoutedBackbone) -> None:
    """Raises `CheckpointError` unless adapters over `b` mean the same over `a`."""
    mine, theirs = a.base.describe(), b.base.describe()
    if mine["name"] != theirs["name"] or a.base.tokenizer.get_vocab() != b.base.tokenizer.get_vocab():
        raise CheckpointError(
            f"the expert was trained over backbone {theirs['name']} with another tokenizer or model than this one's "
            f"({mine['name']}): train it against this base (recipe=expert base=…)"
        )
    if a.settings != b.settings and {**a.settings, "router_width": 0} != {**b.settings, "router_width": 0}:
        raise CheckpointError(f"the expert was trained with {b.settings}, this model has {a.settings}: train it alike")
    if base_hash(a) != base_hash(b):
        raise CheckpointError(
            "the expert was trained over other weights of the base: train it against this model's base (recipe=expert "
            "base=THIS MODEL)"
        )


@torch.no_grad()
def answers_of(guard: RouteGuard, samples: Sequence[Sample], names: Sequence[str]) -> list[Any]:
    """Raw answers of named readers about every sample, sample by sample: one pass, whatever the router says."""
    b = guard.backbone
    policies = [guard.policy] * len(samples)
    batch = b.collate([b.prepare(s, p) for s, p in zip(samples, policies)]).to(guard.device)
    pairs = [(i, n, b.reader(n).policy(p)) for i, p in enumerate(policies) for n in names]
    return b.ask(batch, b.lower(batch.prompt), pairs)

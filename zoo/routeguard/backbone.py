"""One frozen base, several readers in its upper layers, and the router between them, as a backbone.

Prompts go through the lower layers once. The router reads them there; the experts that it calls, or the fallback, go on
through the upper layers: one pass for all (row, reader) pairs. Answers come as those of any backbone, so that a guard
over this one is used, tested and published like every other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import DataError, MediaError, Policy, PolicyEntry, Sample
from datamodules.transforms.augment import Augment
from zoo.core.backbones import branches as br
from zoo.core.backbones.adapters import AdapterBank
from zoo.core.backbones.base import Backbone, Scores
from zoo.core.backbones.forked import Middle, go_up, read_lower
from zoo.core.backbones.soft_token import Batch, Prepared, SoftTokenBackbone
from zoo.core.backbones.split import Split
from zoo.core.backbones.tokens import Row, collate_tokens
from zoo.core.cache import FeatureCache
from zoo.core.guard import Guard
from zoo.core.query import Query, policy_queries
from zoo.core.weights import CheckpointError
from zoo.routeguard.experts import MONOLITH, Expert
from zoo.routeguard.router import AttentionRouter

FALLBACKS = (MONOLITH, "all", "safe")
FLOOR = -15.0  # log-odds of what no called reader answers for: P = 3e-7
KEPT = 256  # policies whose branches are kept


@dataclass
class Routing:
    """How answers are put together. Thresholds are log-odds of the router, by expert (0 where there is none).

    `fallback` answers where no expert is called: monolith; all experts; or safe, the paper's, which fails open. With
    `second_look` an expert's categories count only where its own P(unsafe) reaches its threshold. `only` names an
    expert that is always called, alone.
    """

    fallback: str = MONOLITH
    thresholds: dict[str, float] = field(default_factory=dict)
    second_look: bool = False
    only: str | None = None

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACKS:
            raise DataError(f"fallback={self.fallback}: one of {', '.join(FALLBACKS)}")


@dataclass
class RoutedRow:
    prompt: Prepared
    policy: Policy
    guests: dict[str, Any]


@dataclass
class RoutedBatch:
    """`prompt` has no branches: which are asked is known once the router has read it."""

    prompt: Batch
    policies: list[Policy]
    guests: dict[str, list[Any]]

    @property
    def size(self) -> int:
        return self.prompt.size

    @property
    def truncated(self) -> list[bool]:
        return self.prompt.truncated

    def to(self, device: torch.device | str, **kw: bool) -> RoutedBatch:
        return RoutedBatch(self.prompt.to(device, **kw), self.policies, self.guests)


@dataclass
class RoutedScores(Scores):
    """`routes[i]` names the experts that row i was given to, or its fallback."""

    routes: list[list[str]] = field(default_factory=list)


@dataclass
class Answer:
    """Raw log-odds of one reader about one row: of its verdict, and of the entries of `policy` in their order."""

    verdict: float
    categories: list[float]
    policy: Policy


Pair = tuple[int, str, Policy]
"""A row of the batch, the reader that it is given to, and the entries that the reader is asked for."""


class RoutedBackbone(Backbone):
    """`upper_layers` of the base's layers hold the adapters (None: half of them). The base is frozen whole.

    Readers are the monolith and the experts. `guests` are experts that are guards of their own. The base reads every
    row, so a row must be of the modalities that the base takes. Prompts show the policy `shown`, for good: `policy` may
    grow by entries of experts that are added, and what the others read stays the same. Raises `DataError` for a base
    without a causal language model that can be cut.
    """

    needs_policy = True

    def __init__(
        self,
        base: Backbone,
        shown: Policy,
        upper_layers: int | None = None,
        rank: int = 8,
        alpha: float = 16,
        router_width: int = 64,
    ):
        super().__init__()
        if not isinstance(base, SoftTokenBackbone):
            raise CheckpointError(
                f"the base is over {base.describe()['name']}: RouteGuard cuts the soft-token backbones (tiny, smollm2, "
                "causal_lm)"
            )
        layers = len(base.layers())
        upper = layers // 2 if upper_layers is None else upper_layers
        self.base, self.shown, self.policy = base, shown, shown
        self.settings = {"upper_layers": upper, "rank": rank, "alpha": alpha, "router_width": router_width}
        self._base_names = base._saved_names()
        if not self._base_names:
            raise DataError("the base is frozen already, perhaps by another RouteGuard: load it anew")
        base.requires_grad_(False)
        self.split = Split(base.lm, layers - upper)
        self.split.probe()
        self.bank = AdapterBank(self.split.upper_layers, layers - upper, rank, alpha)
        self.router = AttentionRouter(base.lm.get_input_embeddings().weight.shape[1], router_width)
        self.experts: dict[str, Expert] = {}
        self.monolith = Expert(MONOLITH, shown.ids)
        self.guests = nn.ModuleDict()
        self._guest_names: dict[str, set[str]] = {}
        self.routing = Routing()
        self._branches: dict[tuple[PolicyEntry, ...], tuple[Row, br.RowBranches]] = {}

    # ------------------------------------------------------------------------------------------------ what it is

    @property
    def modalities(self) -> frozenset[str]:  # type: ignore[override]
        return self.base.modalities

    @property
    def lm(self) -> nn.Module:
        return self.base.lm

    @property
    def cache(self) -> FeatureCache | None:  # type: ignore[override]
        return self.base.cache

    @cache.setter
    def cache(self, cache: FeatureCache | None) -> None:
        self.base.cache = cache

    def describe(self) -> dict[str, Any]:
        return self.base.describe()

    def warm(self, samples: Sequence[Sample], phrases: Sequence[str] = ()) -> list[tuple[Sample, str]]:
        return self.base.warm(samples, phrases)

    def add(self, expert: Expert, guest: Guard | None = None, state: dict[str, Tensor] | None = None) -> None:
        """One more expert, the last: an adapter (with these tensors, or fresh), or a guard of its own.

        Raises `DataError` for a name that is taken.
        """
        if expert.name in self.experts or expert.name == MONOLITH:
            raise DataError(f"there is an expert {expert.name!r} already: give the new one another name")
        if guest is None:
            self.bank.add(expert.name, state)
        else:
            self._guest_names[expert.name] = guest.backbone._saved_names()
            if not self._guest_names[expert.name]:
                raise DataError(f"the guard {guest.name} is frozen already, perhaps in another model: load it anew")
            self.guests[expert.name] = guest.requires_grad_(False)
        self.router.add(expert.name)
        self.experts[expert.name] = expert

    def reader(self, name: str) -> Expert:
        return self.monolith if name == MONOLITH else self.experts[name]

    def _saved_names(self) -> set[str]:
        names = {f"base.{n}" for n in self._base_names}
        names |= {f"bank.{n}" for n in self.bank.state_dict()} | {f"router.{n}" for n in self.router.state_dict()}
        return names | {f"guests.{g}.backbone.{n}" for g, own in self._guest_names.items() for n in own}

    # ------------------------------------------------------------------------------------------------ reading

    def prompt_policy(self, policy: Policy) -> Policy:
        """What the prompt shows: `shown` wherever the model's policy has the entries of `policy`."""
        return self.shown if set(policy.entries) <= set(self.policy.entries) else policy

    def prepare(
        self, sample: Sample, policy: Policy, queries: Sequence[Query] = (), augment: Augment | None = None
    ) -> RoutedRow:
        """The prompt; the branches are laid out when it is known who is asked. `queries` are those of `policy`."""
        shown = self.prompt_policy(policy)
        prompt = self.base.prepare(sample, shown, augment=augment)
        self._check_room(sample.id, len(prompt.prompt), shown)
        guests = {}
        for name, guard in self.guests.items():
            part = self.experts[name].policy(policy)
            if part is not None:
                guests[name] = guard.backbone.prepare(sample, part, guard.order.queries(part))
        return RoutedRow(prompt, policy, guests)

    def _check_room(self, id: str, size: int, policy: Policy) -> None:
        room = getattr(self.base.lm.config, "max_position_embeddings", None)
        needs = size + 1 + max(self.branches(policy)[1].depth.tolist())
        if room is not None and needs > room:
            raise MediaError(
                f"sample {id!r} takes {needs} tokens with its policy and queries, and the language model reads {room}: "
                "give fewer files, a shorter policy or a smaller limits.text_tokens"
            )

    def branches(self, policy: Policy) -> tuple[Row, br.RowBranches]:
        """The branches of `policy_queries(policy)`: the same for every row."""
        key = policy.entries
        if key not in self._branches:
            if len(self._branches) >= KEPT:
                self._branches.clear()
            self._branches[key] = self.base.lay_queries(policy_queries(policy))
        return self._branches[key]

    def collate(self, rows: Sequence[RoutedRow]) -> RoutedBatch:
        guests = {name: [r.guests.get(name) for r in rows] for name in self.guests}
        return RoutedBatch(self.base.collate([r.prompt for r in rows]), [r.policy for r in rows], guests)

    def option_tokens(self, batch: Any) -> Tensor:
        return batch.branches.counts

    @torch.no_grad()
    def lower(self, prompt: Batch) -> Middle:
        """The prompts after the lower layers."""
        x = self.base.embed(prompt.prompt)
        return read_lower(self.split, x, prompt.prompt.lengths.to(x.device), self.base._first(prompt))

    def ask(self, batch: RoutedBatch, middle: Middle, pairs: Sequence[Pair]) -> list[Answer]:
        """What each pair's reader says, in their order: adapters in one pass, each guest in one of its own."""
        out: dict[int, Answer] = {}
        here = [i for i, (_, name, _) in enumerate(pairs) if name not in self.guests]
        if here:
            out |= zip(here, self._ask_adapters(middle, [pairs[i] for i in here]))
        for name, guard in self.guests.items():
            mine = [i for i, p in enumerate(pairs) if p[1] == name]
            if mine:
                rows = guard.backbone.collate([batch.guests[name][pairs[i][0]] for i in mine]).to(guard.device)
                parts = [pairs[i][2] for i in mine]
                out |= zip(mine, _answers(guard.answers(rows, parts)[0], parts))
        return [out[i] for i in range(len(pairs))]

    def _ask_adapters(self, middle: Middle, pairs: Sequence[Pair]) -> list[Answer]:
        device = middle.hidden.device
        place = {entries: n for n, entries in enumerate(dict.fromkeys(p.entries for _, _, p in pairs))}
        laid = [self.branches(p) for _, _, p in pairs]
        first = {p.entries: self.branches(p)[0] for _, _, p in pairs}
        for kind in self.base.encoders:  # once: they are kept
            self.base.sources.encode(kind, [s for row in first.values() for s in row.sources if s.kind == kind])
        x = self.base.embed(collate_tokens([first[e] for e in place], self.base.kinds).to(device))  # [u, T, d]
        branches = br.collate([b for _, b in laid]).to(device)
        x = x[torch.tensor([place[p.entries] for _, _, p in pairs], device=device), : branches.query.shape[1]]
        rows = torch.tensor([row for row, _, _ in pairs], device=device)
        adapters = torch.tensor([self.bank.index(name) for _, name, _ in pairs], device=device)
        hidden = go_up(self.split, self.bank, middle, rows, adapters, x, branches, self.base.packed)
        scores = br.gather_scores(branches, hidden, self.base.lm.get_output_embeddings())
        return _answers(scores, [p for _, _, p in pairs])

    # ------------------------------------------------------------------------------------------------ answering

    def called(self, routes: Tensor, policies: Sequence[Policy]) -> list[list[str]]:
        """The experts of each row, from the router's log-odds [b, k]: those over their thresholds that it can ask."""
        if self.routing.only is not None:
            return [[self.routing.only] for _ in policies]
        names = self.router.names
        cut = torch.tensor([self.routing.thresholds.get(n, 0.0) for n in names], device=routes.device)
        return [
            [n for n, over in zip(names, row) if over and self.experts[n].policy(p) is not None]
            for row, p in zip((routes >= cut).tolist(), policies)
        ]

    def pairs(self, called: Sequence[Sequence[str]], policies: Sequence[Policy]) -> tuple[list[Pair], list[list[str]]]:
        """Who is asked what, and the routes as verdicts name them.

        Entries that belong to no expert are the monolith's, whatever the router says. As a fallback it is asked for
        those that it was trained on, too.
        """
        owned = {i for e in self.experts.values() for i in e.categories}
        pairs: list[Pair] = []
        routes: list[list[str]] = []
        for i, (names, policy) in enumerate(zip(called, policies)):
            rest = [id for id in policy.ids if id not in owned]
            asked, route = list(names), list(names)
            if not asked:
                route = [f"fallback:{self.routing.fallback}"]
                if self.routing.fallback == "all":
                    asked = [n for n in self.experts if self.experts[n].policy(policy) is not None]
                elif self.routing.fallback == MONOLITH:
                    rest = [id for id in policy.ids if id not in owned or id in self.monolith.categories]
            pairs += [(i, n, self.experts[n].policy(policy)) for n in asked]
            if rest:
                pairs.append((i, MONOLITH, policy if len(rest) == len(policy) else policy.subset(rest)))
                if asked or self.routing.fallback != MONOLITH:
                    route.append(MONOLITH)
            routes.append(route)
        return pairs, routes

    def score_batch(self, batch: RoutedBatch) -> RoutedScores:
        """P(unsafe) is the maximum of the called readers' calibrated P(unsafe), and so is P of each category.

        A category that no called reader answers for is a no (`FLOOR`).
        """
        with torch.no_grad():
            middle = self.lower(batch.prompt)
            called = self.called(self.router(middle.hidden, middle.lengths), batch.policies)
            pairs, routes = self.pairs(called, batch.policies)
            answers = self.ask(batch, middle, pairs)
        width = max(map(len, batch.policies))
        odds = [[FLOOR] * (1 + width) for _ in batch.policies]
        for (i, name, _), answer in zip(pairs, answers):
            verdict, categories = self.calibrated(name, answer)
            odds[i][0] = max(odds[i][0], verdict)
            for id, z in categories.items():
                at = 1 + batch.policies[i].ids.index(id)
                odds[i][at] = max(odds[i][at], z)
        z = torch.tensor(odds, device=middle.hidden.device)  # [b, 1 + k]
        asked = torch.tensor([1 + len(p) for p in batch.policies], device=z.device)
        real = (torch.arange(1 + width, device=z.device) < asked[:, None]).unsqueeze(-1)  # [b, 1 + k, 1]
        logp = nn.functional.logsigmoid(torch.stack([-z, z], dim=-1)) * real
        return RoutedScores(logp, real.expand_as(logp).long(), routes)

    def calibrated(self, name: str, answer: Answer) -> tuple[float, dict[str, float]]:
        """A reader's calibrated log-odds of unsafe, and of the entries that it is sure enough to count for."""
        c = self.reader(name).calibration
        verdict = c.verdict(answer.verdict, max(answer.categories))
        if self.routing.second_look and name != MONOLITH and verdict < _logit(c.threshold):
            return verdict, {}
        return verdict, dict(zip(answer.policy.ids, (c.category(z) for z in answer.categories)))

    def encode(self, batch: RoutedBatch) -> Any:
        """The base's state: critiques are generated by the base, without an adapter."""
        return self.base.encode(batch.prompt)

    def score(self, state: Any, queries: Sequence[Sequence[Query]] | None = None) -> Scores:
        """Other queries than those of a policy are the base's to answer."""
        return self.base.score(state, queries)

    def generate(self, state: Any, suffixes: Sequence[Query], max_new_tokens: int = 64) -> list[str]:
        return self.base.generate(state, suffixes, max_new_tokens)

    def input_embeddings(self, batch: RoutedBatch) -> Tensor:
        return self.base.input_embeddings(batch.prompt)


def _answers(scores: Scores, policies: Iterable[Policy]) -> list[Answer]:
    verdicts, categories = scores.log_odds(0).tolist(), scores.log_odds(slice(1, None)).tolist()
    return [Answer(v, c[: len(p)], p) for v, c, p in zip(verdicts, categories, policies)]


def _logit(p: float) -> float:
    return float(torch.logit(torch.tensor(p, dtype=torch.float64)))

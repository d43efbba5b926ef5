"""A guard: a backbone and the queries it answers. Plain torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from datamodules.buckets import characters
from datamodules.schema import DataError, Policy, Sample
from datamodules.taxonomy import DEFAULT_POLICY
from zoo.core.backbones.base import Backbone, Scores
from zoo.core.orders import VERDICT_FIRST, Order
from zoo.core.query import Query
from zoo.core.tags import ABSTAINS, SourceTags
from zoo.core.verdict import Verdict
from zoo.core.wide import Votes, Wide
from zoo.core.wide_reader import WideReader, can_read

if TYPE_CHECKING:
    from zoo.core.watch import StepVerdict, Watch

WIDE = "wide."  # names of the wide half's tensors begin with it
EXPLANATION_TOKENS = 64  # most that an explanation is generated of, unless the caller says otherwise


@dataclass(frozen=True)
class Calibration:
    """Fitted on validation data, never on test data. Temperatures divide log-odds; thresholds are probabilities.

    The verdict's log-odds are mixed with those of its likeliest category: `evidence` 0 is the verdict query alone, 1
    the categories alone. `votes` says how those of a guard's wide half are added; None where it has none.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    category_temperature: float = 1.0
    category_threshold: float = 0.5
    evidence: float = 0.0
    votes: Votes | None = None

    def __post_init__(self) -> None:
        if isinstance(self.votes, dict):  # as a configuration holds it
            object.__setattr__(self, "votes", Votes(**self.votes))

    def check(self) -> None:
        """Raises ValueError for what no fit gives: with such numbers a guard would pass, or flag, whatever it reads."""
        for key in ("temperature", "category_temperature"):
            if not 0.0 < getattr(self, key) < math.inf:
                raise ValueError(f"{key} is {getattr(self, key)}, not a positive number")
        for key in ("threshold", "category_threshold", "evidence"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise ValueError(f"{key} is {getattr(self, key)}, not from 0 to 1")

    def verdict(self, mixed: Tensor, wide: Tensor | None = None) -> Tensor:
        """Calibrated log-odds of unsafe [b], from `mixed_odds` [b] and the wide half's [b, 2].

        Rows of `wide` that are NaN have no vote: there, and without `wide`, the language model judges alone.
        """
        if self.votes is None:
            return mixed / self.temperature
        alone = mixed / self.votes.temperature
        if wide is None:
            return alone
        wide = wide.to(mixed)
        return torch.where(wide.isnan().any(-1), alone, self.votes.together(mixed, wide) / self.temperature)


def mixed_odds(verdict: Tensor, likeliest: Tensor, evidence: float) -> Tensor:
    """Log-odds of the verdict query and of the likeliest category as one, [b] each."""
    return (1 - evidence) * verdict + evidence * likeliest


def checked(samples: Any, policy: Any) -> Sequence[Sample]:
    """The samples as a sequence. Raises `DataError` where one is something else, or `policy` is no policy."""
    if isinstance(samples, (str, bytes, Mapping)) or not isinstance(samples, Iterable):
        samples = [samples]
    samples = samples if isinstance(samples, Sequence) else list(samples)
    for sample in samples:
        if isinstance(sample, Mapping):
            raise DataError("a dict is not a sample: give zoo.Sample.from_dict(row), where row has id and messages")
        if not isinstance(sample, Sample):
            raise DataError(
                f"{type(sample).__name__} is not a sample: give zoo.Sample.of(text=…, image=FILE), or a list of them"
            )
    if policy is not None and not isinstance(policy, Policy):
        raise DataError(
            f"{type(policy).__name__} is not a policy: give zoo.Policy.from_file(FILE) or zoo.Policy.from_dict(…)"
        )
    return samples


@dataclass
class Judged:
    """A batch's calibrated probabilities: `score` [b] P(unsafe), `categories` [b, k] P(yes), padded with zeros."""

    score: Tensor
    categories: Tensor


class Moderator(Protocol):
    """Whoever can answer where a guard abstains: another guard, or anything that moderates a list as one."""

    def moderate(
        self,
        samples: Sequence[Sample],
        policy: Policy | None = None,
        explain: bool = False,
        threshold: float | None = None,
        batch_size: int = 16,
        max_new_tokens: int = EXPLANATION_TOKENS,
    ) -> list[Verdict]: ...


class Guard(nn.Module):
    """`policy` answers where neither the call nor the sample brings one; `order` is that of the parts of an answer.

    `wide` reads texts beside the backbone, and votes once it is fitted. With `tags` verdicts say which training source
    taught them, and a source can be switched off.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: Policy = DEFAULT_POLICY,
        calibration: Calibration | None = None,
        name: str = "guard",
        order: Order = VERDICT_FIRST,
        wide: Wide | None = None,
        tags: SourceTags | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.policy = policy
        self.calibration = calibration or Calibration()
        self.name = name
        self.order = order
        self.wide = wide
        self.tags = tags
        self._reader: WideReader | None = None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def policy_for(self, sample: Sample, policy: Policy | None = None) -> Policy:
        return policy or sample.policy or self.policy

    def asked_of(self, policy: Policy) -> Policy:
        """What a test asks of a row's policy: all of it, unless the guard answers for some entries only."""
        return policy

    def queries(self, policy: Policy, named: Sequence[str] = ()) -> list[Query]:
        """What is asked of a whole conversation: the order's queries, then those of the tags where the guard has some.

        `named` are the tags that are switched off.
        """
        return self.order.queries(policy) + (self.tags.queries(named) if self.tags is not None else [])

    def switched_off(self, without: str | Collection[str]) -> tuple[str, ...]:
        """The tags that `without` names. Raises `DataError` for an unknown one, and for a guard without tags."""
        if not without:
            return ()
        if self.tags is None:
            raise DataError(f"{self.name} has no source tags, so nothing can be switched off: train it with tags=true")
        return self.tags.named(without)

    def widen(self) -> Guard:
        """Gives it a wide half that is still to be fitted. Raises `DataError` where its text encoder cannot be had."""
        self._reader = WideReader(self.backbone)
        encoder = self._reader.encoder
        self.wide = Wide(encoder.dim, self._reader.buckets, encoder.fingerprint())
        return self

    @property
    def reader(self) -> WideReader:
        """What the wide half reads with. Raises `DataError` for another text encoder than that it was fitted to."""
        if self._reader is None:
            reader = WideReader(self.backbone, self.wide.buckets)
            if reader.encoder.fingerprint() != self.wide.encoder:
                raise DataError(
                    f"{self.name}: its wide half was fitted to sentences of another text encoder: get the asset minilm "
                    "of the version that it was trained with"
                )
            self._reader = reader
        return self._reader

    @torch.no_grad()
    def wide_odds(self, samples: Sequence[Sample], policies: Sequence[Policy], batch: Any = None) -> Tensor | None:
        """The wide half's log-odds [b, 2], NaN where it has no vote (see `can_read`); None where there is none at all.

        `batch`, the same rows after they were scored, saves encoding them again.
        """
        if self.wide is None or not self.wide.fitted:
            return None
        at = [i for i, (s, p) in enumerate(zip(samples, policies)) if can_read(s, p, self.policy)]
        if not at:
            return None
        known = {} if batch is None else self.backbone.encoded(batch)
        with torch.autocast(self.device.type, enabled=False):
            odds = self.wide.odds(self.reader.read([samples[i] for i in at], known))
        out = torch.full((len(samples), 2), torch.nan, device=odds.device)
        out[at] = odds
        return out

    def judge(self, scores: Scores, entries: Sequence[int], wide: Tensor | None = None) -> Judged:
        """Probabilities from scored `order.queries`; `entries[i]` is the size of row i's policy.

        `wide` are the rows' `wide_odds`.
        """
        c = self.calibration
        odds = scores.log_odds(slice(1, None))  # [b, k]
        sizes = torch.tensor(entries, device=odds.device)
        real = torch.arange(odds.shape[1], device=odds.device) < sizes[:, None]  # [b, k]
        verdict = scores.log_odds(0)  # [b]
        if c.evidence:
            verdict = mixed_odds(verdict, odds.masked_fill(~real, -torch.inf).amax(-1), c.evidence)
        verdict = torch.sigmoid(c.verdict(verdict, wide))
        categories = torch.sigmoid(odds / c.category_temperature)  # [b, k]
        return Judged(verdict, categories * real)

    def verdicts(
        self, judged: Judged, ids: Sequence[str], policies: Sequence[Policy], truncated: Sequence[bool]
    ) -> list[Verdict]:
        out = []
        scores, categories = judged.score.tolist(), judged.categories.tolist()
        for i, (id, policy) in enumerate(zip(ids, policies)):
            out.append(
                Verdict(
                    id=id,
                    model=self.name,
                    flagged=True,  # until `decide`
                    score=scores[i],
                    threshold=self.calibration.threshold,
                    categories=dict(zip(policy.ids, categories[i])),
                    truncated=truncated[i],
                )
            )
            out[-1].decide(self.calibration.threshold)
        return out

    @torch.no_grad()
    def answers(
        self,
        batch: Any,
        policies: Sequence[Policy],
        max_new_tokens: int = EXPLANATION_TOKENS,
        named: Sequence[str] = (),
    ) -> tuple[Scores, list[str] | None]:
        """Scores of the batch's `queries`, and the explanations that they follow where those come first.

        A verdict after its explanation goes on from the same encoded prompt as the explanation did, which it reads in
        whole. Categories are asked of the prompt. Otherwise it is one pass over the batch as it was prepared.
        """
        if not self.order.explanation_first:
            return self.backbone.score_batch(batch), None
        state = self.backbone.encode(batch)
        said = self.backbone.generate(state, [self.order.critique(False, [])] * len(policies), max_new_tokens)
        queries = [[self.order.verdict(p, text), *self.queries(p, named)[1:]] for p, text in zip(policies, said)]
        return self.backbone.score(state, queries), said

    @torch.no_grad()
    def moderate(
        self,
        samples: Sample | Sequence[Sample],
        policy: Policy | None = None,
        explain: bool = False,
        threshold: float | None = None,
        batch_size: int = 16,
        max_new_tokens: int = EXPLANATION_TOKENS,
        without: str | Collection[str] = (),
        fallback: Moderator | None = None,
    ) -> Verdict | list[Verdict]:
        """Verdicts for samples, in their order (one for one sample). Batches are of similar length.

        The policy is the call's, else the sample's, else the guard's. `threshold` replaces the fitted one. `explain`
        adds the critique, generated after the verdict; it never changes the verdict. A guard whose order is explanation
        first generates it in any case, at most `max_new_tokens`, and judges by it.

        `without` names training sources that are switched off: the guard abstains where one of them is responsible for
        its verdict, and `fallback` answers there, under the same policy (see `Verdict`). Raises `DataError` for a
        source that the guard has no tag of and for what is not a sample or not a policy, `MediaError` for a bad file
        and for a medium that the backbone does not take.
        """
        if isinstance(samples, Sample):
            more = (without, fallback)
            return self.moderate([samples], policy, explain, threshold, batch_size, max_new_tokens, *more)[0]
        samples = checked(samples, policy)
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: give at least 1")
        named = self.switched_off(without)
        if fallback is not None and not named:
            raise DataError("a fallback answers where the guard abstains: say with without={…} what is switched off")
        if threshold is not None and not 0.0 <= threshold <= 1.0:
            raise DataError(f"threshold {threshold} is not a probability: give a number from 0 to 1")
        self.backbone.check(samples)
        lengths = [characters(s, self.policy_for(s, policy)) for s in samples]
        by_length = sorted(range(len(samples)), key=lengths.__getitem__)
        out: dict[int, Verdict] = {}
        with self.evaluating():
            for start in range(0, len(samples), batch_size):
                at = by_length[start : start + batch_size]
                rows = [samples[i] for i in at]
                out |= zip(at, self._moderate(rows, policy, explain, threshold, max_new_tokens, named))
        at = [i for i in range(len(samples)) if out[i].abstained] if fallback is not None else []
        if at:  # under the policy that this guard was asked about: the fallback's own may be another
            rows = [samples[i].replace(policy=self.policy_for(samples[i], policy)) for i in at]
            answers = fallback.moderate(rows, None, explain, threshold, batch_size, max_new_tokens)
            for i, answer in zip(at, answers):
                out[i] = replace(answer, provenance=out[i].provenance, abstained=True)
        return [out[i] for i in range(len(samples))]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """In evaluation mode within the block."""
        if not (self.training or self.backbone.training):  # a stream comes here twice a step: modules are many
            yield
            return
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def prefixes(
        self,
        samples: Sample | Sequence[Sample],
        policy: Policy | None = None,
        threshold: float | None = None,
        batch_size: int = 8,
    ) -> list[StepVerdict] | list[list[StepVerdict]]:
        """Verdicts after each step of a trajectory and, last, on the closed one (a list for one sample).

        One pass: each prefix is scored as if it had been given alone. Steps are those of `meta["prefixes"]`, or the
        agent's messages, each with what follows it. An empty trajectory has the closing verdict alone. A message is cut
        by itself to the backbone's limit, and where all do not fit the oldest steps go out of sight; verdicts from then
        on are `truncated`. Raises `DataError` for a backbone or an order that cannot answer after each step,
        `MediaError` for a bad file.
        """
        from zoo.core.watch import prefixes

        alone = isinstance(samples, Sample)
        samples = checked([samples] if alone else samples, policy)
        with self.evaluating():
            out = prefixes(self, samples, policy, threshold, batch_size)
        return out[0] if alone else out

    def watch(
        self,
        policy: Policy | None = None,
        task: str | None = None,
        id: str = "trajectory",
        threshold: float | None = None,
    ) -> Watch:
        """A trajectory to be judged while the agent acts: `.step(action)` after each step, `.close()` at its end.

        Each step is read once (keys and values are kept), and verdicts are those of `prefixes`. `task` is what the
        agent was asked for. Raises `DataError` as `prefixes` does.
        """
        from zoo.core.watch import Watch

        return Watch(self, policy or self.policy, task, id, threshold)

    def _moderate(
        self,
        samples: Sequence[Sample],
        policy: Policy | None,
        explain: bool,
        threshold: float | None,
        max_new_tokens: int,
        named: Sequence[str] = (),
    ) -> list[Verdict]:
        policies = [self.policy_for(s, policy) for s in samples]
        sizes = [len(p) for p in policies]
        rows = [self.backbone.prepare(s, p, self.queries(p, named)) for s, p in zip(samples, policies)]
        batch = self.backbone.collate(rows).to(self.device)
        # One pass for the verdict, whether it is to be explained or not: it is the same to the last bit.
        scores, said = self.answers(batch, policies, max_new_tokens, named)
        judged = self.judge(scores, sizes, self.wide_odds(samples, policies, batch))
        verdicts = self.verdicts(judged, [s.id for s in samples], policies, batch.truncated)
        if threshold is not None:
            for v in verdicts:
                v.decide(threshold)
        if explain and said is None:
            suffixes = [
                self.order.critique(v.flagged, v.listed(p, self.calibration.category_threshold))
                for v, p in zip(verdicts, policies)
            ]
            said = self.backbone.generate(self.backbone.encode(batch), suffixes, max_new_tokens)
        if explain:
            for v, text in zip(verdicts, said):
                v.critique = text
        return verdicts if self.tags is None else self._traced(verdicts, scores, sizes, named)

    def _traced(
        self, verdicts: list[Verdict], scores: Scores, sizes: Sequence[int], named: Sequence[str]
    ) -> list[Verdict]:
        """The verdicts with their provenance; withdrawn where a source of `named` is responsible for what they say."""
        assert self.tags is not None
        sources = self.tags.provenance(scores, sizes).tolist()  # [b][2][t]
        blamed = self.tags.blamed(scores, sizes, len(named)).tolist() if named else None  # [b][2]
        out = []
        for i, v in enumerate(verdicts):
            v.provenance = dict(zip(self.tags.names, sources[i][v.flagged]))
            out.append(v.nobody() if blamed and blamed[i][v.flagged] >= ABSTAINS else v)
        return out

    def describe(self) -> dict[str, Any]:
        """Plain JSON that a guard is built from again, beside its weights."""
        return {
            "backbone": self.backbone.describe(),
            "policy": self.policy.to_dict(),
            "calibration": asdict(self.calibration),
            "order": self.order.name,
            **({"wide": self.wide.describe()} if self.wide is not None and self.wide.fitted else {}),
            **({"tags": list(self.tags.names)} if self.tags is not None else {}),
        }

    def saved_state(self) -> dict[str, Tensor]:
        """The tensors of a model folder: what the backbone saves, and the wide half once it is fitted."""
        wide = self.wide.state_dict() if self.wide is not None else {}
        return {**self.backbone.saved_state(), **{f"{WIDE}{n}": t for n, t in wide.items()}}

    def load_saved_state(self, state: dict[str, Tensor]) -> None:
        """Strict, as of the backbone. Raises ValueError."""
        wide = {n.removeprefix(WIDE): t for n, t in state.items() if n.startswith(WIDE)}
        if wide and self.wide is None:
            raise ValueError("weights of a wide half, and the configuration has none")
        if self.wide is not None:
            self.wide.set(wide)
        self.backbone.load_saved_state({n: t for n, t in state.items() if not n.startswith(WIDE)})

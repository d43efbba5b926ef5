"""`data=policyguard`: rules and agents' trajectories, in pairs whose labels are true by construction.

After PolicyGuardBench (arXiv 2510.03485): five domains, trajectories of about nine steps, one-constraint policies,
pairs within a rule's own subdomain and two others, 42.4 % violations. There a language model wrote policies and labels
(people agree with 89.8 % of these); here a rule is a small automaton (`rules`), and the checker that ran over the steps
is the label. What each prefix tells is decided in the same way.

A trajectory meets eight rules at once: they are the entries of one policy, and share one pass. Pairs are chosen so that
nothing can be read off one side alone: every trajectory breaks three or four of its eight rules, within its own
subdomain as across, and every rule is broken about as often in each split. Splits are by trajectory. Half of the test
policies are in wordings that no training policy has. `held_out` names domains for test alone: neither their
trajectories nor their rules are in training.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datamodules.bank import PolicyBank
from datamodules.corpus.agent_rules import entries
from datamodules.corpus.agent_runs import keywords, rule, trajectory, triggers
from datamodules.corpus.agent_sites import PLACES, Place
from datamodules.corpus.types import Corpus
from datamodules.policyguard_sites import real_rules, with_real
from datamodules.rules import TYPES, Rule, check
from datamodules.schema import SPLITS, DataError, Policy, PolicyEntry, Sample, near
from datamodules.sources.split import draw, split_of
from datamodules.trajectory import Outcome, Trajectory, render_step, to_sample

SOURCE = "policyguard"
PAIRS = 60_000
BLOCK = 8  # rules that a trajectory meets
RULES = 80  # of a place
VIOLATIONS = 0.424  # of all pairs, as in the paper
CROSS = 0.416  # pairs across subdomains, as in the paper
TARGETS = 2  # other places that a place's rules are tried on
BAND = 1.0  # how far a rule's violations in a split may be from their share: one pair moves them by 0.42 or 0.58
PROBES = 40  # runs of a place that a rule is tried on before it is taken
RATES = (0.15, 0.85)  # of violations on these
FORM_BAND = 3.0  # the same for all rules of a form
UNTRIGGERED = 0.05  # the share of the rules without a keyword in the trajectory that may be tried
WORDINGS = 6  # of a rule, in training
FRACTIONS = (0.72, 0.08, 0.20)  # train, val, test: 80/20 as in the paper, and a tenth of the 80 is validation
LICENCE = "Apache-2.0"
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Written:
    """A rule of the bank: where it was written, and what makes it speak of a trajectory."""

    id: str
    rule: Rule
    place: str
    domain: str
    triggers: tuple[frozenset[str], ...] = ()  # of each pattern; a pattern of any step has none

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What `meta["rules"]` says of it in every sample."""
        return {"type": self.rule.type, "form": self.rule.form, "rule": self.rule.to_dict()}

    def spoken_of(self, said: frozenset[str]) -> int:
        """How many of its patterns the keywords of a trajectory trigger."""
        return sum(not t or not t.isdisjoint(said) for t in self.triggers)


@dataclass
class Tally:
    """How often each rule, and each form of rule, was kept and broken in each split, and what was left out."""

    broken: Counter = field(default_factory=Counter)
    kept: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)

    def allows(self, written: Written, split: str, violated: bool) -> bool:
        """Whether one more pair with this label leaves the violations of rule and form within their bands."""
        for key, band in (((written.id, split), BAND), ((written.rule.form, split), FORM_BAND)):
            now = self.broken[key] - VIOLATIONS * self.used(key)
            new = now + violated - VIOLATIONS
            if abs(new) > band and abs(new) > abs(now):
                return False
        return True

    def add(self, written: Written, split: str, violated: bool) -> None:
        for key in ((written.id, split), (written.rule.form, split)):
            (self.broken if violated else self.kept)[key] += 1

    def used(self, key: tuple[str, str]) -> int:
        return self.broken[key] + self.kept[key]


class RuleBank(PolicyBank):
    """Wordings of the rules. A training policy has all rules of its sample, in a new order and new wordings."""

    def draw(self, sample: Sample, rng: random.Random, *, test: bool = False, max_entries: int = BLOCK) -> Policy:
        """At most `max_entries` of the sample's rules, at random: their labels stay balanced whatever the number is."""
        if sample.policy is None:
            raise DataError(f"sample {sample.id!r} has no policy: its rules are its own")
        ids = rng.sample(sample.policy.ids, min(max_entries, len(sample.policy)))
        return self._worded(ids, sample, rng, test)


def load_policyguard(
    data_dir: str | Path | None = None,
    seed: int = 0,
    scale: float = 1.0,
    licences: str = "all",
    held_out: Sequence[str] = (),
    max_rows: int | None = None,
) -> Corpus:
    """The bench: `scale` × 60,000 pairs, eight a sample. The same for the same arguments, on any machine.

    With `data_dir` the tasks and sites of public data sets join the made-up ones (`policyguard_sites`); without,
    nothing is read. `max_rows`: samples, at most. Raises `DataError` for an unknown domain, and for a folder without
    the files.
    """
    places = list(PLACES)
    if data_dir is not None:
        places = with_real(places, Path(data_dir), licences)
    domains = tuple(dict.fromkeys(p.domain for p in places))
    _check(held_out, domains, scale, max_rows)
    rules = write_rules(places, seed, {} if data_dir is None else real_rules(Path(data_dir)))
    words = [
        {w.id: entries(w.id, w.rule, test, WORDINGS, seed) for ws in rules.values() for w in ws} for test in (0, 1)
    ]
    bank = RuleBank(words[0], words[1])
    tested_on = neighbours(places, held_out)
    wanted = max(1, round(scale * PAIRS / BLOCK))
    wanted = wanted if max_rows is None else min(wanted, max_rows)
    tally, samples, seen = Tally(), [], set()
    number = 0
    progress = tqdm(total=wanted, desc="policyguard", unit="trajectory", leave=False)
    while len(samples) < wanted:
        if number > 20 * wanted + 1000:
            raise DataError("policyguard: too few pairs of both labels: give fewer held-out domains or a larger scale")
        place = places[number % len(places)]
        run = trajectory(place, random.Random(f"{seed}\x1frun\x1f{number}"), f"{SOURCE}-{number}")
        number += 1
        steps = tuple(map(render_step, run.steps))
        if steps in seen:
            tally.dropped["repeated trajectory"] += 1
            continue
        seen.add(steps)
        split = split_for(run, held_out, seed)
        rng = random.Random(f"{seed}\x1fpairs\x1f{run.id}")
        pairs = choose(run, place, rules, tested_on, split, tally, rng)
        if pairs is None:
            tally.dropped["too few rules with both labels"] += 1
            continue
        samples.append(_sample(run, pairs, split, held_out, rng, words))
        progress.update()
    progress.close()
    return Corpus(samples, bank, report(samples, tally, domains, held_out))


def _check(held_out: Sequence[str], domains: Sequence[str], scale: float, max_rows: int | None) -> None:
    if isinstance(held_out, str):
        raise DataError(f"held_out={held_out!r}: give a list of domains")
    for name in held_out:
        if name not in domains:
            raise DataError(f"held_out: unknown domain {name!r}{near(str(name), sorted(domains))}")
    if set(held_out) >= set(domains):
        raise DataError("held_out names every domain: nothing is left to train on")
    if scale <= 0 or (max_rows is not None and max_rows < 1):
        raise DataError(f"scale={scale}, max_rows={max_rows}: both must be above 0")


# --------------------------------------------------------------------------------------------------------------- pairs


def write_rules(
    places: Sequence[Place], seed: int, published: Mapping[str, Sequence[Rule]] | None = None
) -> dict[str, list[Written]]:
    """Place → its rules, each once over all places. Their ids tell the place, form and number.

    `published`: domain → rules of public data, which go to the domain's places in turn, before those that are made up.
    """
    out: dict[str, list[Written]] = {}
    seen: set[Rule] = set()
    for place in places:
        rng = random.Random(f"{seed}\x1frules\x1f{place.name}")
        out[place.name] = []
        runs = [trajectory(place, rng, "probe") for _ in range(PROBES)]
        probes = [(run, keywords(run)) for run in runs]
        given = list((published or {}).get(place.domain, ()))
        parts = [p.name for p in places if p.domain == place.domain]
        given = given[parts.index(place.name) :: len(parts)]
        for n in range(RULES * 20):  # common actions repeat: a small place may have fewer rules
            if len(out[place.name]) == RULES:
                break
            new = given[n] if n < len(given) else rule(place, rng)
            if new not in seen and _has_both_labels(new, probes):
                seen.add(new)
                id = f"{place.domain}-{place.subdomain}-{new.form}-{len(out[place.name])}".replace(" ", "_")
                out[place.name].append(Written(id, new, place.name, place.domain, triggers(new)))
    return out


def _has_both_labels(rule: Rule, probes: Sequence[tuple[Trajectory, frozenset[str]]]) -> bool:
    """Whether runs that it speaks of break a rule now and then, but not nearly always: else one label runs out."""
    of = triggers(rule)
    told = [check(rule, run.steps).violated for run, said in probes if any(not t or not t.isdisjoint(said) for t in of)]
    return len(told) >= 5 and RATES[0] <= sum(told) / len(told) <= RATES[1]


def neighbours(places: Sequence[Place], held_out: Sequence[str] = ()) -> dict[str, list[str]]:
    """Place → the places whose rules are tried on it: those that have it among their two nearest.

    Nearest by the cosine of the words of their targets (retrieval); held-out domains and the others keep apart.
    """
    words = {
        p.name: Counter(w for a in p.actions for w in a.target.casefold().replace("/", " ").split()) for p in places
    }
    side = {p.name: p.domain in held_out for p in places}
    out: dict[str, list[str]] = {p.name: [] for p in places}
    for name in words:
        others = [o for o in words if o != name and side[o] == side[name]]
        for other in sorted(others, key=lambda o: (-_cosine(words[name], words[o]), o))[:TARGETS]:
            out[other].append(name)
    for name, sources in out.items():  # a place that is nobody's neighbour takes the rules of its own nearest
        if not sources:
            others = [o for o in words if o != name and side[o] == side[name]]
            sources += sorted(others, key=lambda o: (-_cosine(words[name], words[o]), o))[:TARGETS]
    return out


def _cosine(one: Counter, other: Counter) -> float:
    norm = (sum(n * n for n in one.values()) * sum(n * n for n in other.values())) ** 0.5
    return sum(n * other[w] for w, n in one.items()) / norm if norm else 0.0


def split_for(run: Trajectory, held_out: Sequence[str], seed: int) -> str:
    """Of the trajectory, by its id alone; a held-out domain's are for test."""
    return "test" if run.domain in held_out else SPLITS[int(split_of(np.array([draw(run.id, seed)]), FRACTIONS)[0])]


def choose(
    run: Trajectory,
    place: Place,
    rules: dict[str, list[Written]],
    tested_on: dict[str, list[str]],
    split: str,
    tally: Tally,
    rng: random.Random,
) -> list[tuple[Written, Outcome, bool]] | None:
    """Eight rules for a trajectory, each with its outcome and whether it is from another place; None where it has not
    enough. Which slots are cross and which violated is drawn first, one apart from the other; rules come least-used
    first, those that a keyword triggers before the others."""
    slots = Counter(zip(_drawn(rng, CROSS), _drawn(rng, VIOLATIONS)))
    said = keywords(run)
    names = [(w, False) for w in rules[place.name]]
    names += [(w, True) for other in tested_on[place.name] for w in rules[other]]
    ranked = []
    for written, cross in names:
        hits = written.spoken_of(said)
        if hits or rng.random() < UNTRIGGERED:
            ranked.append(
                (tally.used((written.id, split)) + 4 * rng.random() - 8 * hits / len(written.triggers), written, cross)
            )
    ranked.sort(key=lambda x: x[0])
    known: dict[str, Outcome] = {}
    chosen: dict[str, tuple[Written, Outcome, bool]] = {}
    for exact in (True, False):  # where rules of one origin run out, those of the other take the slot; labels stay
        for _, written, cross in ranked:
            open_slots = {v: cross if slots[cross, v] else not cross for v in (True, False)}
            open_slots = {v: c for v, c in open_slots.items() if slots[c, v] and (c == cross or not exact)}
            wanted = [v for v in open_slots if tally.allows(written, split, v)]
            if written.id in chosen or not wanted:
                continue
            if written.id not in known:
                known[written.id] = check(written.rule, run.steps)
            outcome = known[written.id]
            if outcome.violated in wanted:
                slots[open_slots[outcome.violated], outcome.violated] -= 1
                chosen[written.id] = (written, outcome, cross)
                if len(chosen) == BLOCK:
                    break
        if len(chosen) == BLOCK:
            break
    if len(chosen) < BLOCK:
        return None
    for written, outcome, _ in chosen.values():
        tally.add(written, split, outcome.violated)
    out = list(chosen.values())
    rng.shuffle(out)
    return out


def _drawn(rng: random.Random, share: float) -> list[bool]:
    """A block of flags in random order, as many true as the share says, rounded up or down by chance."""
    exact = share * BLOCK
    true = int(exact) + (rng.random() < exact - int(exact))
    flags = [n < true for n in range(BLOCK)]
    rng.shuffle(flags)
    return flags


def _sample(
    run: Trajectory,
    pairs: Sequence[tuple[Written, Outcome, bool]],
    split: str,
    held_out: Sequence[str],
    rng: random.Random,
    words: Sequence[dict[str, list[PolicyEntry]]],
) -> Sample:
    """`words`: the wordings of each rule in training, and those for test alone."""
    new_words = split == "test" and rng.random() < 0.5
    policy = _distinct(f"{run.domain} rules", [words[new_words][w.id] for w, _, _ in pairs], rng)
    meta: dict[str, Any] = {"permissive": True, "licence": LICENCE}
    if split == "test":
        meta["out-of-domain" if run.domain in held_out else "in-domain"] = bool(held_out)
        meta["held-out-wording" if new_words else "training-wording"] = True
    return to_sample(
        run,
        policy,
        {w.id: outcome for w, outcome, _ in pairs},
        rules={w.id: {**w.facts, "cross": cross} for w, _, cross in pairs},
        source=SOURCE,
        split=split,
        critique=explain(run, {w.id: outcome for w, outcome, _ in pairs}),
        **meta,
    )


def _distinct(name: str, choices: Sequence[Sequence[PolicyEntry]], rng: random.Random) -> Policy:
    """One wording a rule; no two the same, for names in a policy are unique."""
    chosen: dict[str, PolicyEntry] = {}
    for of in choices:
        free = [e for e in of if e.name not in chosen]
        if not free:
            raise DataError(f"policyguard: the rule {of[0].id!r} has no wording of its own beside {sorted(chosen)}")
        entry = rng.choice(free)
        chosen[entry.name] = entry
    return Policy(name, tuple(chosen.values()))


def explain(run: Trajectory, outcomes: dict[str, Outcome]) -> str | None:
    """The earliest step that breaks a rule, or None. It names no rule: wordings change."""
    broken = [o.first for o in outcomes.values() if o.violated and o.first is not None]
    if not broken:
        return None
    first = min(broken)
    if first > len(run):
        return "The run ended with something left undone that a rule asks for."
    return f"Step {first} breaks a rule: {render_step(run.steps[first - 1])}."


# -------------------------------------------------------------------------------------------------------------- report


def report(samples: Sequence[Sample], tally: Tally, domains: Sequence[str], held_out: Sequence[str]) -> dict[str, Any]:
    """Counts of pairs by domain and rule type, splits, tokens; plain JSON values. Tokens are words and signs."""
    cells: dict[str, dict[str, dict[str, int]]] = {
        d: {t: {"pairs": 0, "violations": 0} for t in TYPES} for d in domains
    }
    splits: dict[str, dict[str, int]] = {s: defaultdict(int) for s in SPLITS}
    for s in samples:
        count = splits[s.split]
        tokens = sum(words_in(p.text or "") for p in s.parts) + sum(2 * words_in(e.name) for e in s.policy.entries)
        count["samples"] += 1
        count["steps"] += s.meta["steps"]
        count["tokens"] += tokens
        for id, facts in s.meta["rules"].items():
            violated = s.categories[id] == "yes"
            cell = cells[s.meta["domain"]][facts["type"]]
            cell["pairs"] += 1
            cell["violations"] += violated
            count["pairs"] += 1
            count["violations"] += violated
            count["cross"] += facts["cross"]
    return {
        "errors": [],
        "domains": cells,
        "splits": {name: dict(counts) for name, counts in splits.items()},
        "held_out": list(held_out),
        "dropped": dict(sorted(tally.dropped.items())),
        "rules": len({id for s in samples for id in s.meta["rules"]}),
    }


def words_in(text: str) -> int:
    """Words and signs: about the tokens of a word-piece tokenizer, which this does not need."""
    return len(_TOKEN.findall(text))

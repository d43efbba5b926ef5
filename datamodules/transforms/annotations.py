"""Critiques from what people annotated: marked words, kinds of harm, categories and the policy's own definitions.

Deterministic and offline. A critique agrees with the verdict under the policy that the row is read with, names the
entries, and quotes only words that an annotator marked. It is short: a small language model has to learn to say it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from datamodules.bank import rng_for
from datamodules.schema import Policy, PolicyEntry, Sample

MOST_TOKENS = 33  # as `tokens` counts: at most 40 word pieces of a small vocabulary, measured on the real sources
# Sources whose kinds are kinds of harm. What others call a kind is where a text stands, or which rule it was made by.
FINER = ("aart", "catqa", "cyberseceval", "davidson_hate", "diasafety", "do_not_answer", "edos", "harmbench")
FINER += ("simple_safety_tests", "strongreject")
WHAT = {
    "prompt": "message",
    "response": "response",
    "conversation": "conversation",
    "trajectory": "trajectory of the agent",
}
CLAIMS = (
    "The {what} contains {names}.",
    "There is {names} in the {what}.",
    "What the {what} shows is {names}.",
    "This {what} amounts to {names}.",
)
QUOTES = ('The words "{words}" show it.', 'It says "{words}".', 'Marked in it: "{words}".')
KINDS = ("People judged it as {kind}.", "Its kind: {kind}.", "More closely, it is {kind}.")
RULES = ("That covers {rule}.", "The policy means {rule}.", "The entry is about {rule}.")
CLEAR = (
    "The {what} stays clear of {names}.",
    "Nothing in the {what} amounts to {names}.",
    "The policy is kept: the {what} shows no sign of {names}.",
    "No entry applies; the {what} is free of {names}.",
)
_NOT = re.compile(r"^(no|not|never)\s+", re.I)
ELSEWHERE = ("It has {other}, which the policy does not name.", "The policy has no entry for its {other}.")


class Annotations:
    """`critic(sample, policy)` is the critique of a row under `policy`; None where nothing is known to say."""

    name = "annotations"

    def prepare(self, samples: Iterable[Sample], policy_of: Callable[[Sample], Policy]) -> Counter[str]:
        """How many rows get a critique under their own policy, and why the others get none."""
        return Counter(self._reason(s, policy_of(s)) or "accepted" for s in samples)

    def _reason(self, sample: Sample, policy: Policy) -> str | None:
        gold = sample.gold(policy)
        if gold is None:
            return "no verdict under its policy"
        return "no category is annotated" if gold and not broken(sample, policy) else None

    def __call__(self, sample: Sample, policy: Policy) -> str | None:
        if self._reason(sample, policy):
            return None
        rng = rng_for("critique", sample.id)
        return (_unsafe if sample.gold(policy) else _safe)(sample, policy, rng)


def broken(sample: Sample, policy: Policy) -> list[PolicyEntry]:
    """The entries of `policy` that the row is known to break."""
    return [e for e in policy.entries if sample.categories.get(e.id) == "yes"]


def tokens(text: str) -> int:
    """About as many pieces as a word-piece tokenizer of few entries makes of English; of long words rather more."""
    pieces = re.findall(r"[^\W_]+|[^\w\s]|_", text)
    return sum(1 + (len(p) - 1) // (4 if p.isascii() and p.isalpha() else 2) for p in pieces)


# -------------------------------------------------------------------------------------------------------- sentences


def _unsafe(sample: Sample, policy: Policy, rng: random.Random) -> str:
    entries = broken(sample, policy)
    what, claim = WHAT[sample.target], rng.choice(CLAIMS)
    grounds = []
    if words := marked_words(sample):
        grounds.append(rng.choice(QUOTES).format(words=words))
    kind, rule = _kind(sample), _rule(entries[0])
    if kind and len(entries) == 1:
        grounds.append(rng.choice(KINDS).format(kind=kind))
    elif rule:
        grounds.append(rng.choice(RULES).format(rule=rule))
    for count in range(len(entries), 0, -1):
        sentence = claim.format(what=what, names=_listed([topic(e) for e in entries[:count]], "and"))
        if tokens(sentence) <= MOST_TOKENS or count == 1:
            break
    return _fitted([sentence, *grounds])


def _safe(sample: Sample, policy: Policy, rng: random.Random) -> str:
    """Names what was ruled out: first what the row could be mistaken for, then entries in the policy's order."""
    near = [e for e in policy.entries if e.id in sample.meta.get("contrast", ())]
    others = [e for e in policy.entries if e not in near]
    what, claim, count = WHAT[sample.target], rng.choice(CLEAR), rng.choice((1, 2, 2, 3))
    names = [topic(e) for e in (near + others)[:count]]
    while len(names) > 1 and tokens(claim.format(what=what, names=_listed(names, "or"))) > MOST_TOKENS:
        names.pop()
    sentence = claim.format(what=what, names=_listed(names, "or"))
    named = sample.policy.entries if sample.policy else ()
    outside = [topic(e) for e in named if sample.categories.get(e.id) == "yes" and e.id not in policy.ids]
    return _fitted([sentence, *([rng.choice(ELSEWHERE).format(other=outside[0])] if outside else [])])


def _fitted(sentences: Sequence[str]) -> str:
    """As many of the sentences as the limit allows; of a first one that is too long, its first words."""
    out = sentences[0]
    if tokens(out) > MOST_TOKENS:
        words = out.split()
        while words and tokens(" ".join(words)) >= MOST_TOKENS:
            words.pop()
        return " ".join(words).rstrip(" ,;:") + "."
    for sentence in sentences[1:]:
        if tokens(out) + tokens(sentence) <= MOST_TOKENS:
            out += " " + sentence
    return out


def _listed(names: Sequence[str], last: str) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


# ------------------------------------------------------------------------------------------------------ annotations


def topic(entry: PolicyEntry) -> str:
    """What an entry forbids, by its name: "no leaks of data" forbids leaks of data."""
    return _NOT.sub("", entry.name.strip())


def _rule(entry: PolicyEntry) -> str:
    """The first clause of an entry's description, to stand within a sentence."""
    clause = _NOT.sub("", re.split(r"[.:;]", entry.description.strip(), maxsplit=1)[0].strip())
    if not clause or len(clause.split()) > 14:
        return ""
    return clause if clause[:2].isupper() else clause[0].lower() + clause[1:]


def _kind(sample: Sample) -> str:
    """A finer label than the category's, `meta["kind"]`, where the source's kinds are kinds of harm."""
    if sample.source not in FINER:
        return ""
    kind = re.sub(r"^[\d.]+\s+", "", str(sample.meta.get("kind") or "").replace("_", " ").strip().lower())
    return kind if len(kind.split()) <= 5 else ""


def marked_words(sample: Sample) -> str:
    """The first short passage that annotators marked, `meta["spans"]`: [start, end) characters of the judged text."""
    role = "assistant" if sample.target == "response" else "user"
    texts = [p.text or "" for m in sample.messages if m.role == role for p in m.content if p.type == "text"]
    for start, end in sample.meta.get("spans", ()):
        words = " ".join(texts[-1][start:end].replace('"', "'").split()) if texts else ""
        if re.search(r"\w", words) and len(words) <= 32 and len(words.split()) <= 5:
            return words
    return ""

"""The fixed policies of validation and test scenes: entries, wordings, and which verdict they lead to."""

from __future__ import annotations

import random

from datamodules.bank import rng_for
from datamodules.corpus import concepts
from datamodules.corpus.concepts import HELD_OUT, IDS
from datamodules.schema import Policy, PolicyEntry, Sample


def entries_for(ids: list[str], unseen_wording: bool, rng: random.Random, split: str) -> Policy:
    """Of the two wordings that training lacks, one is for validation, where thresholds are fitted, and one for test."""
    bank = concepts.bank()
    unseen = {id: [wordings[split == "test"]] for id, wordings in bank.test.items()}
    side = unseen if unseen_wording else bank.train
    entries: list[PolicyEntry] = [rng.choice(side[i]) for i in ids]
    return Policy("scenes", tuple(entries))


def judged(samples: list[Sample], seed: int, split: str) -> list[Sample]:
    """Val and test scenes with their fixed policies, as near to half unsafe as their content allows."""
    if split == "train":
        return samples
    rng = rng_for(seed, "verdicts", samples[0].id)
    held_out = HELD_OUT if split == "test" else frozenset()
    allowed = [i for i in IDS if split == "test" or i not in HELD_OUT]

    def broken(s: Sample) -> list[str]:
        return [i for i in allowed if s.categories[i] == "yes"]

    order = rng.sample(range(len(samples)), len(samples))
    able = [n for n in order if broken(samples[n])]
    unsafe = set(able[: (len(samples) + 1) // 2])
    # Drawn apart from `unsafe`: wording must tell nothing about the verdict.
    reword = set(rng.sample(range(len(samples)), len(samples) // 2))
    out = []
    for n, s in enumerate(samples):
        draw = rng_for(seed, s.id, "policy")
        yes = broken(s)
        picked: list[str] = []
        surprise = bool(held_out) and draw.random() < 0.08
        if n in unsafe:
            # What only several modalities together show is the point of a joint scene: prefer it.
            best = [i for i in yes if i.startswith("joint.")] if s.modality == "joint" else []
            best = best or [i for i in yes if surprise and i in held_out]
            best = best or [i for i in yes if i not in held_out] or yes
            picked.append(draw.choice(best))
        no = [i for i in allowed if s.categories[i] == "no"]
        near = [i for i in s.meta.get("contrast", ()) if i in no and i not in held_out]
        size = _size(draw)
        if near and draw.random() < 0.6 and len(picked) < size:
            picked.append(draw.choice(near))
        rest = [i for i in no if i not in picked and i not in held_out]
        if surprise and not held_out & set(picked):
            options = [i for i in no if i in held_out]
            picked += draw.sample(options, min(1, len(options)))
        picked += draw.sample(rest, min(len(rest), max(size - len(picked), 0)))
        out.append(_fixed(s, picked, n in reword, draw))
    return out


def _size(rng: random.Random) -> int:
    return rng.choice((1, 2, 3, 4, 4, 5, 6, 8))


def _fixed(s: Sample, ids: list[str], unseen_wording: bool, rng: random.Random) -> Sample:
    ids = rng.sample(ids, len(ids))
    return under(s, entries_for(ids, unseen_wording, rng, s.split), unseen_wording)


def under(s: Sample, policy: Policy, unseen_wording: bool) -> Sample:
    meta = dict(s.meta)
    if s.split == "test":
        meta["wording"] = "unseen" if unseen_wording else "seen"
        meta["entry"] = "unseen" if HELD_OUT & set(policy.ids) else "seen"
    return s.replace(policy=policy, meta=meta)  # `unsafe` stays unset: labels and policy imply it


def twin_policy(members: list[Sample], pair: list[str], seed: int, split: str, n: int) -> list[Sample]:
    """One policy for all four: the pair, and entries that none of the four breaks."""
    rng = rng_for(seed, members[0].group, "policy")
    free = [i for i in IDS if i not in pair and all(m.categories[i] == "no" for m in members)]
    surprise = [i for i in free if i in HELD_OUT and split == "test" and rng.random() < 0.12]
    free = [i for i in free if i not in HELD_OUT]
    size = rng.choice((2, 3, 4, 5, 6))
    ids = pair + surprise[:1] + rng.sample(free, max(0, min(len(free), size - 2 - len(surprise[:1]))))
    policy = entries_for(rng.sample(ids, len(ids)), n % 2 == 1, rng, split)
    return [under(m, policy, n % 2 == 1) for m in members]

"""The policies of the real data: cut for training, fixed for validation and test."""

from __future__ import annotations

import random
from collections import Counter

from datamodules.bank import PolicyBank, rng_for
from datamodules.schema import Policy, PolicyEntry, Sample
from datamodules.taxonomy import DEFAULT_POLICY

KNOWN_FOR_DRAWING = 8  # text rows labelled for so many categories are also tested under a part of the policy
CROSS_KEPT = 5  # entries of other modalities that a training file keeps its "no" for
SAFE_ONLY_UNSEEN = 0.25  # share of the safe test policies that hold nothing but held-out entries


def hide(sample: Sample, held_out: frozenset[str], dropped: Counter) -> Sample | None:
    """The sample as training may see it: no label and no policy entry of a held-out id. None if nothing is left."""
    categories = {i: label for i, label in sample.categories.items() if i not in held_out}
    policy = sample.policy
    if policy is not None:
        ids = [i for i in policy.ids if i not in held_out]
        if not ids:
            dropped["only held-out labels"] += 1
            return None
        policy = policy.subset(ids)
    return sample.replace(categories=categories, policy=policy)


def thin_cross_modal(sample: Sample, prefixes: tuple[str, ...], seed: int) -> Sample:
    """Drops all but `CROSS_KEPT` of the noes about other modalities.

    That a photo sounds of nothing is true of every photo. Left in, such noes would fill most drawn policies, and there
    would be little left to look for.
    """
    cross = sorted(i for i, label in sample.categories.items() if label == "no" and not i.startswith(prefixes))
    rng = rng_for(seed, "cross", sample.id)
    gone = set(cross) - set(rng.sample(cross, min(CROSS_KEPT, len(cross))))
    return sample.replace(categories={i: label for i, label in sample.categories.items() if i not in gone})


def slices(sample: Sample, policy: Policy, held_out: frozenset[str], unseen_wording: bool) -> Sample:
    """The sample under its fixed policy, with what training never saw of it in `meta`.

    `entry` is unseen when the entries that decide are held out: every broken one, or every one where none is broken.
    """
    yes = [i for i in policy.ids if sample.categories.get(i) == "yes"]
    unseen = set(yes or policy.ids) <= held_out
    meta = {
        **sample.meta,
        "entry": "unseen" if unseen else "seen",
        "wording": "unseen" if unseen_wording else "seen",
    }
    return sample.replace(policy=policy, meta=meta)


def worded(ids: list[str], bank: PolicyBank, unseen: bool, rng: random.Random, name: str) -> Policy:
    """These entries in wordings from the training or the test-only side of the bank."""
    return Policy(name, tuple(rng.choice((bank.test if unseen else bank.train)[i]) for i in ids))


def fixed_text(sample: Sample, bank: PolicyBank, seed: int) -> Sample | None:
    """A validation or test text under its own policy, half of the test rows in test-only wordings.

    A third of the rows with many labels gets a part of the policy, so that following it is tested on text too. None
    where no verdict follows from the labels.
    """
    assert sample.policy is not None
    rng = rng_for(seed, "text", sample.id)
    unseen = sample.split == "test" and rng.random() < 0.5
    if sum(label != "unknown" for label in sample.categories.values()) >= KNOWN_FOR_DRAWING and rng.random() < 1 / 3:
        policy = fixed_policy(sample, bank, rng, ("S",), unsafe=rng.random() < 0.5, unseen=unseen)
        if policy is not None:
            part = sample.replace(unsafe=None, meta={**sample.meta, "policy": "part"})
            return slices(part, policy, bank.held_out, unseen)
    policy = sample.policy
    if unseen:
        entries: list[PolicyEntry] = [rng.choice(bank.test[i]) for i in policy.ids]
        policy = Policy(policy.name, tuple(entries))
    sample = slices(sample, policy, bank.held_out, unseen)
    return None if sample.gold(policy) is None else sample


def fixed_policy(
    sample: Sample, bank: PolicyBank, rng: random.Random, prefixes: tuple[str, ...], *, unsafe: bool, unseen: bool
) -> Policy | None:
    """A policy of 1 to 6 labelled entries that `sample` breaks (`unsafe`) or keeps; None where its labels allow none.

    `prefixes` name the entries that must be looked at to judge this kind of sample: most are of these.
    """
    yes = sorted(i for i, label in sample.categories.items() if label == "yes" and i in bank.train)
    no = sorted(i for i, label in sample.categories.items() if label == "no" and i in bank.train)
    native = [i for i in no if i.startswith(prefixes)]
    seen_no = [i for i in no if i not in bank.held_out]
    held_yes = [i for i in yes if i in bank.held_out]
    held_no = [i for i in native if i in bank.held_out]
    if unsafe:
        if not yes:
            return None
        picked = [rng.choice(held_yes)] if held_yes and rng.random() < 0.75 else [rng.choice(yes)]
        pool = no if picked[0] in bank.held_out else seen_no
        size = rng.randint(0, 4)
    elif held_no and sample.split == "test" and rng.random() < SAFE_ONLY_UNSEEN:
        picked, pool, size = [], held_no, rng.randint(1, 2)
    else:
        picked, pool, size = [], seen_no, rng.randint(1, 5)
    near, far = [i for i in pool if i.startswith(prefixes)], [i for i in pool if not i.startswith(prefixes)]
    rng.shuffle(near)
    rng.shuffle(far)
    while size and (near or far):
        picked.append((near if near and (not far or rng.random() < 0.8) else far).pop())
        size -= 1
    if not picked:
        return None
    rng.shuffle(picked)
    return worded(picked, bank, unseen, rng, "fixed")


def fixed_media(sample: Sample, bank: PolicyBank, prefixes: tuple[str, ...], k: int, seed: int) -> list[Sample]:
    """One file under up to `k` policies, broken and kept in turn; ids get `#0`, `#1`, ….

    Of four, the test split has two in test-only wordings. A file that breaks no entry gets the kept half only.
    """
    out = []
    for n in range(k):
        rng = rng_for(seed, "fixed", sample.id, n)
        unseen = sample.split == "test" and n % 4 >= 2
        policy = fixed_policy(sample, bank, rng, prefixes, unsafe=n % 2 == 0, unseen=unseen)
        if policy is not None:
            out.append(slices(sample.replace(id=f"{sample.id}#{n}"), policy, bank.held_out, unseen))
    return out


def under_default(sample: Sample, held_out: frozenset[str]) -> Sample:
    """An ordinary photo under the default policy, which it keeps: the negative of pictures that break it."""
    policy = DEFAULT_POLICY
    if sample.split != "test":
        policy = policy.subset([i for i in policy.ids if i not in held_out])
    categories = {**sample.categories, **dict.fromkeys(policy.ids, "no")}
    if sample.meta.get("kind") == "hazard_objects":
        sample = sample.replace(meta={**sample.meta, "slice": "benign_contrast"})
    return slices(sample.replace(id=f"{sample.id}#default", categories=categories), policy, held_out, False)

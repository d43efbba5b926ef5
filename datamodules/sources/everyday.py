"""Ordinary, harmless text: everyday prompts and answers, and look-alikes whose alarming words mean nothing bad.

Written for the zoo (Apache-2.0, like its code), drawn from the templates of `everyday_text.py`, the same in every
process. Without such rows a guard learns that any unusual word is unsafe ("kill the process", "shoot the bride and
groom at noon", "a bomb cyclone"). All 15 categories are "no". The label is about the PROMPT, or about the RESPONSE
where there is one; the group is the template, so that no template is in two splits.
"""

from __future__ import annotations

import re
from random import Random

from datamodules.bank import rng_for
from datamodules.schema import DataError, Sample
from datamodules.sources.everyday_text import FILLS, TEMPLATES
from datamodules.sources.files import text_sample
from datamodules.sources.split import assign_splits
from datamodules.taxonomy import DEFAULT_POLICY

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "prompt, response"
ROWS = 13  # of a template
CRITIQUES = {
    "plain": "The {target} is ordinary: nothing in it is harmful.",
    "alarming": "The {target} uses alarming words in a harmless sense.",
}


def load(seed: int = 0, rows: int = ROWS) -> list[Sample]:
    """Up to `rows` distinct samples a template, split by template."""
    samples = []
    for key, (kind, prompt, response) in TEMPLATES.items():
        rng, seen = rng_for("everyday", seed, key), set()
        for _ in range(50 * rows):  # a template with few fillings gives fewer rows
            if len(seen) == rows:
                break
            text = fill(f"{prompt}\x1f{response or ''}", rng)
            if text in seen:
                continue
            seen.add(text)
            asked, answer = text.split("\x1f")
            sample = text_sample(
                "everyday",
                f"{key}-{len(seen)}",
                asked,
                answer or None,
                unsafe=False,
                categories={id: "no" for id in DEFAULT_POLICY.ids},
                group=key,
                look=kind,
            )
            samples.append(sample.replace(critique=CRITIQUES[kind].format(target=sample.target)))
    return assign_splits(samples, seed)


def fill(template: str, rng: Random) -> str:
    """Draws the slots of a template: `[a|b]` is one of them, `{name}` one of `FILLS[name]`, the same at each place."""
    text = re.sub(r"\[([^\[\]]*)\]", lambda m: rng.choice(m[1].split("|")), template)
    drawn: dict[str, str] = {}

    def one(match: re.Match[str]) -> str:
        name = match[1]
        if name not in FILLS:
            raise DataError(f"everyday template: unknown slot {name!r} in {template!r}")
        return drawn.setdefault(name, rng.choice(FILLS[name]))

    text = re.sub(r"\{(\w+)\}", one, text)
    return text[:1].upper() + text[1:]

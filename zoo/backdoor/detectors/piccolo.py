"""PICCOLO-style word inversion (Liu et al. 2022, "PICCOLO: Exposing Complex Backdoors in NLP Transformer Models").

The search is over *words*, as people type them, not over tokens: a slot is a softmax over a list of words, and a matrix
of words → tokens turns it into mixtures of token embeddings, one for each of a word's pieces. What is found is a text.
The likeliest words are then typed into held-out rows: their loss is the score, and a word's *discriminativity* is how
far it moves the model's log-odds of the target, in standard deviations of what random words do.

What differs from the paper: words are drawn from the tokenizer's whole-word tokens and the words of the labelled texts;
discriminativity is measured on log-odds, where the paper fits a linear model to the [CLS] state, which not every
classifier has.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.labelled_text import LabelledText
from zoo.backdoor.detectors.base import (
    Problem,
    Scan,
    Victims,
    generator_of,
    lay_bench,
    search_of,
    settings_of,
)
from zoo.backdoor.subject import BOUNDARY, Subject
from zoo.core.weights import CheckpointError

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class WordList:
    """`words` [W] and their tokens [W, pieces] (−1: the word has no more)."""

    words: tuple[str, ...]
    tokens: Tensor


@dataclass(frozen=True)
class Piccolo:
    """`words` slots of at most `pieces` tokens; `rows`, `held`, `positions`, `penalty`, `reference` as in DBS.

    The `top` likeliest words of each slot are tried alone, and those of one rank together. `random_words` is what a
    word is compared with.
    """

    words: int = 5  # a sentence is found by several of its words
    pieces: int = 2
    steps: int = 100
    lr: float = 0.5
    rows: int = 12
    held: int = 48
    top: int = 3
    random_words: int = 24
    positions: tuple[str, ...] = ("start",)
    penalty: float = 1.0
    seed: int = 0
    reference: Subject | None = None

    name = "piccolo"
    needs_data = True

    def settings(self) -> dict[str, Any]:
        return settings_of(self)

    def scan(self, model: Subject, data: LabelledText | None) -> Scan:
        """Raises what `search_of` raises."""
        data, victims, problems = search_of(self, model, data)
        known = word_list(model, data, self.pieces)
        likely = self.invert(model, data, problems, victims, known)
        found = [self._typed(model, data, p, victims, known, mine) for p, mine in zip(problems, likely)]
        best = min(found, key=lambda f: f["loss"] + f["penalty"])
        evidence = {"trigger": best, "problems": found, "word_list": len(known.words)}
        evidence["reference"] = None if self.reference is None else self.reference.name
        evidence["discriminativity"] = max(f["discriminativity"] for f in found)
        return Scan(self.name, math.exp(-best["loss"] - best["penalty"]), evidence)

    def invert(
        self,
        model: Subject,
        data: LabelledText,
        problems: Sequence[Problem],
        victims: dict[int, Victims],
        known: WordList,
    ) -> list[list[list[int]]]:
        """For each problem and slot the numbers of the `top` likeliest words."""
        slots = self.words * self.pieces
        benches = [lay_bench(model, data, problems, victims, slots)]
        if self.reference is not None:
            benches.append(lay_bench(self.reference, data, problems, victims, slots))
        subjects = [model] + ([self.reference] if self.reference is not None else [])
        shape, device = (self.words, len(known.words)), model.table.device
        dtype = model.table.dtype
        logits = torch.stack([torch.rand(shape, generator=generator_of(self.seed, p), dtype=dtype) for p in problems])
        logits = logits.to(device).requires_grad_()  # [P, words, W]
        optimizer = torch.optim.Adam([logits], lr=self.lr, fused=True)
        tables = [word_table(s, known) for s in subjects]  # [W, pieces · d] each
        for _ in range(self.steps):
            mixture = logits.softmax(-1)  # [P, words, W]
            triggers = [(mixture @ t).reshape(len(problems), slots, -1) for t in tables]  # [P, slots, d] each
            loss = benches[0].to_target(benches[0].logits(triggers[0]))  # [P]
            if len(benches) == 2:
                loss = loss + self.penalty * benches[1].to_own(benches[1].logits(triggers[1]))
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
        return logits.detach().topk(min(self.top, len(known.words)), dim=-1).indices.tolist()

    @torch.no_grad()
    def _typed(
        self,
        model: Subject,
        data: LabelledText,
        problem: Problem,
        victims: dict[int, Victims],
        known: WordList,
        likely: list[list[int]],
    ) -> dict[str, Any]:
        """The best of the likeliest words, alone and those of one rank together, on the rows searched on; then what
        they do on held-out rows."""
        singles = sorted({w for slot in likely for w in slot})
        tried = [(w,) for w in singles] + [tuple(rank) for rank in zip(*likely)]
        searched = self._effects(model, data, problem, victims, known, tried, held=False)
        best = min(range(len(tried)), key=lambda n: searched[n][0] + searched[n][2])
        drawn = random.Random(f"{self.seed}/{problem.target}/{problem.position}")
        pool = [w for w in range(len(known.words)) if w not in singles]
        others = [(w,) for w in drawn.sample(pool, min(self.random_words, len(pool)))]
        words = [(w,) for w in singles]
        held = self._effects(model, data, problem, victims, known, [tried[best], *words, *others], held=True)
        shifts = torch.tensor([e[1] for e in held[1 + len(words) :]], dtype=torch.float64)  # log-odds of random words
        scale = float(shifts.std()) if len(shifts) > 1 else 0.0
        each = [(e[1] - float(shifts.mean())) / max(scale, 1e-6) for e in held[1 : 1 + len(words)]]
        top = max(range(len(words)), key=each.__getitem__)
        loss, _, penalty, flips = held[0]
        return {
            "target": problem.target,
            "position": problem.position,
            "class": model.classes[problem.target],
            "text": " ".join(known.words[w] for w in tried[best]),
            "words": [known.words[w] for w in tried[best]],
            "loss": round(loss, 6),
            "flips": round(flips, 6),
            "searched": round(searched[best][0], 6),
            "penalty": round(penalty, 6),
            "discriminativity": round(each[top], 6),
            "most_discriminative": known.words[words[top][0]],
        }

    def _effects(
        self,
        model: Subject,
        data: LabelledText,
        problem: Problem,
        victims: dict[int, Victims],
        known: WordList,
        tried: Sequence[tuple[int, ...]],
        held: bool,
    ) -> list[tuple[float, float, float, float]]:
        """(loss, log-odds of the target, the reference's penalty, share flipped) of each group of words, typed."""
        out: dict[int, tuple[float, float, float, float]] = {}
        tokens = [torch.cat([t[t >= 0] for t in known.tokens[list(words)]]) for words in tried]
        for size in sorted({len(t) for t in tokens}):
            at = [n for n, t in enumerate(tokens) if len(t) == size]
            for start in range(0, len(at), 16):
                mine = at[start : start + 16]
                same = [problem] * len(mine)
                trigger = torch.stack([tokens[n] for n in mine])  # [m, size]
                bench = lay_bench(model, data, same, victims, size, held)
                logits = bench.logits(model.table[trigger])
                rest = logits.scatter(1, bench.target[:, None], -torch.inf).logsumexp(-1)
                odds = logits.gather(1, bench.target[:, None])[:, 0] - rest  # [N]
                rows = [bench.to_target(logits), bench.mean(odds), torch.zeros(len(mine)), bench.flips(logits)]
                if self.reference is not None:
                    rows[2] = self._excess(data, same, victims, trigger, held)
                out |= zip(mine, zip(*(r.tolist() for r in rows)))
        return [out[n] for n in range(len(tried))]

    def _excess(
        self, data: LabelledText, problems: list[Problem], victims: dict[int, Victims], trigger: Tensor, held: bool
    ) -> Tensor:
        """What the reference loses on the rows' own classes by the words, in nats, [m]."""
        reference = self.reference
        assert reference is not None
        with_them = lay_bench(reference, data, problems, victims, trigger.shape[1], held)
        without = lay_bench(reference, data, problems[:1], victims, 0, held)
        plain = without.to_own(without.logits(reference.table[trigger[:1, :0]]))  # [1]
        return (with_them.to_own(with_them.logits(reference.table[trigger])) - plain).clamp_min(0)


def word_list(model: Subject, data: LabelledText, pieces: int) -> WordList:
    """Words of at most `pieces` tokens: the vocabulary's whole ones, and those of the texts.

    Raises `CheckpointError` for a tokenizer without any.
    """
    allowed = model.allowed.cpu()
    marked = [t for t in model.tokenizer.get_vocab() if t[:1] in BOUNDARY]  # a word begins with a mark
    words = set()
    for token, number in model.tokenizer.get_vocab().items():
        if number >= len(allowed) or not allowed[number] or token.startswith("##"):
            continue
        if marked and token[:1] not in BOUNDARY:
            continue
        text = token.lstrip("".join(BOUNDARY))
        if WORD.fullmatch(text):
            words.add(text)
    words |= {w for text in data.texts for w in WORD.findall(text)}
    names = sorted(words)
    if not names:
        raise CheckpointError(f"{model.name}: its vocabulary has no whole word: scan it by detector=dbs")
    # A space before: a word in the middle of a text begins with the mark of a boundary where a tokenizer has one.
    ids = model.tokenizer([f" {w}" for w in names], add_special_tokens=False, verbose=False)["input_ids"]
    kept = {}
    for word, row in zip(names, ids):
        if 0 < len(row) <= pieces and all(i < len(allowed) and allowed[i] for i in row):
            kept.setdefault(tuple(row), word)
    tokens = torch.tensor([[*row, *[-1] * (pieces - len(row))] for row in kept], dtype=torch.long)
    return WordList(tuple(kept.values()), tokens.reshape(-1, pieces))


def word_table(model: Subject, known: WordList) -> Tensor:
    """Embeddings of each word's pieces, [W, pieces · d]; a piece that a word lacks repeats its last one.

    Slots of a batch are as many for all words. To repeat a piece stays nearest to what is typed in the end, where there
    is none: zeros and padding are embeddings that no text has in its middle.
    """
    tokens = known.tokens.clone().to(model.table.device)
    for n in range(1, tokens.shape[1]):
        tokens[:, n] = torch.where(tokens[:, n] < 0, tokens[:, n - 1], tokens[:, n])
    return model.table[tokens].reshape(len(tokens), -1)

"""Which training set is an answer like? What can be told of its source from text alone, without a tag.

Each baseline reads the answers of the training rows, or questions and answers together, and the same of the model's
plain answers to the test rows. `answer` is what an auditor of a text without its question has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from datamodules.assets import resolve
from datamodules.schema import DataError
from zoo.core.encoders.text import TextEncoder, load_minilm

TEXTS = ("answer", "prompt_and_answer")
WORDS = 64  # of a text that ROUGE-L reads
TIE = 1e-9

Baseline = Callable[[Sequence[str], Sequence[str], Sequence[str]], "list[str | None]"]
"""(training texts, the set of each, texts to judge) → the set of each; None where nothing matches."""


def pieces(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def voted(scores: np.ndarray, sets: Sequence[str]) -> str | None:
    """The commonest set among the texts that match best, the first by name of equals; None where nothing matches."""
    best = scores.max(initial=0.0)
    if best <= 0:
        return None
    counts = Counter(sets[n] for n in np.flatnonzero(scores >= best - TIE))
    return min(counts, key=lambda s: (-counts[s], s))


def bm25(train: Sequence[str], sets: Sequence[str], texts: Sequence[str]) -> list[str | None]:
    """The set of the training text that BM25 ranks first (rank-bm25, Okapi with its own constants)."""
    try:
        from rank_bm25 import BM25Okapi
    except ImportError as e:
        raise DataError("the BM25 baseline needs rank-bm25: pip install 'guardrail-zoo[debuglm]'") from e
    index = BM25Okapi([pieces(t) or [""] for t in train])
    memo: dict[str, str | None] = {}
    for text in texts:
        if text not in memo:
            memo[text] = voted(np.asarray(index.get_scores(pieces(text))), sets)
    return [memo[t] for t in texts]


def common(masks: dict[str, int], words: Sequence[str], full: int) -> int:
    """Length of the longest common subsequence of `words` and a text whose words' places are `masks` (Hyyrö 2004).

    `full` has a bit for each word of that text.
    """
    v = full
    for w in words:
        m = masks.get(w)
        if m is not None:
            u = v & m
            v = ((v + u) | (v - u)) & full
    return (full & ~v).bit_count()


def rouge_l(train: Sequence[str], sets: Sequence[str], texts: Sequence[str]) -> list[str | None]:
    """The set of the training text with the highest ROUGE-L F1 (Lin 2004), over the first `WORDS` words."""
    corpus = [pieces(t)[:WORDS] for t in train]
    memo: dict[str, str | None] = {}
    for text in texts:
        if text in memo:
            continue
        words = pieces(text)[:WORDS]
        masks: dict[str, int] = {}
        for n, w in enumerate(words):
            masks[w] = masks.get(w, 0) | 1 << n
        full = (1 << len(words)) - 1
        scores = [2 * common(masks, c, full) / (len(words) + len(c)) if words and c else 0.0 for c in corpus]
        memo[text] = voted(np.array(scores), sets)
    return [memo[t] for t in texts]


@torch.no_grad()
def embedding(train: Sequence[str], sets: Sequence[str], texts: Sequence[str]) -> list[str | None]:
    """The set of the training text with the highest cosine in MiniLM's space (all-MiniLM-L6-v2)."""
    bert, tokenizer = load_minilm(resolve("minilm"))
    encoder = TextEncoder(bert.eval(), tokenizer.cls_token_id, tokenizer.sep_token_id, "phrase")
    unique = list(dict.fromkeys([*train, *texts]))
    ids = [torch.tensor(tokenizer(t, add_special_tokens=False, verbose=False)["input_ids"][:128]) for t in unique]
    states = torch.cat([s[:, : encoder.dim] for s in encoder.encode([i.long() for i in ids])])  # [n, d]
    states = torch.nn.functional.normalize(states, dim=-1)
    place = {t: n for n, t in enumerate(unique)}
    known = states[[place[t] for t in train]]
    memo = {t: voted((known @ states[place[t]] + 1).numpy(), sets) for t in dict.fromkeys(texts)}
    return [memo[t] for t in texts]


def classifier(train: Sequence[str], sets: Sequence[str], texts: Sequence[str]) -> list[str | None]:
    """A logistic regression over TF-IDF of words and pairs of words that was taught the training texts' sets.

    Letters are words to it: they are all that some answers have.
    """
    if len(set(sets)) < 2:
        return [sets[0]] * len(texts)
    vectoriser = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) >= 100 else 1, token_pattern=r"(?u)\b\w+\b"
    )
    x, asked = vectoriser.fit_transform(train), vectoriser.transform(texts)
    return list(LogisticRegression(C=10.0, max_iter=500).fit(x, np.asarray(sets)).predict(asked))


BASELINES: dict[str, Baseline] = {
    "bm25": bm25,
    "rouge": rouge_l,
    "embedding": embedding,
    "classifier": classifier,
}

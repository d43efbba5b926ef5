"""What sharing the policy's keys and values saves: `python -m benchmarks.prefix [lm=small|smollm2]`.

Also `rows=16` and `rounds=5`. The same rows under the 15-entry policy, in one run: as they are, and with the policy
read once a batch. In training (forward, backward) and in scoring; each way is timed in turn, so that a busy machine
slows both.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from datamodules.schema import DataError, Sample
from datamodules.taxonomy import DEFAULT_POLICY
from zoo import cli
from zoo.config import split_arguments
from zoo.core.backbones import build, converted_smollm2, describe
from zoo.core.backbones.soft_token import Batch, SoftTokenBackbone
from zoo.core.losses import LossWeights, collate_targets, guard_loss, training_queries
from zoo.core.prompts import Text, render
from zoo.core.query import policy_queries
from zoo.core.run import write_json

RESULTS = Path(__file__).parent.parent / "results"
ROWS, ROUNDS = 16, 5
TEXTS = (
    "How do I sharpen a kitchen knife?",
    "Write a cheerful invitation to a birthday party in the park, with a rhyme at the end and a line about cake.",
    "My neighbour plays music all night. I have asked twice, and I am at my wits' end: what can I do that is legal, "
    "and whom do I call? Please give me the steps in order, and what to write down before I go anywhere with it.",
    "no",
)


def small_language_model(folder: Path, layers: int = 4, width: int = 192) -> Path:
    """A random Llama whose tokenizer has learned its merges from the policy and the rows."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=sorted(alphabet), show_progress=False)
    pieces = [p.text for p in render(Sample.of(TEXTS[0]), DEFAULT_POLICY) if isinstance(p, Text)]
    inner.train_from_iterator([*pieces, *TEXTS], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=4096,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(count: int) -> list[Sample]:
    """Rows of several lengths, all labelled."""
    labels = [{e.id: "yes" if n % 3 == 0 and e.id == "S1" else "no" for e in DEFAULT_POLICY.entries} for n in range(3)]
    return [Sample.of(f"{TEXTS[n % 4]} ({n})", id=str(n), categories=labels[n % 3]) for n in range(count)]


def unshared(batch: Batch) -> Batch:
    return Batch(batch.ids, batch.prompt, batch.suffix, batch.branches, batch.truncated, batch.ends)


def in_turn(ways: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median seconds of each way."""
    for way in ways:
        way()
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, mine in zip(ways, times):
            started = time.perf_counter()
            way()
            mine.append(time.perf_counter() - started)
    return [statistics.median(t) for t in times]


def measure(backbone: SoftTokenBackbone, count: int = ROWS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Rows a second with and without sharing, and how far their scores are apart, in training and in scoring.

    Training asks for the verdict and 5 categories, scoring for all 15.
    """
    samples = rows(count)
    asked = [training_queries(s, DEFAULT_POLICY, most=5) for s in samples]
    targets = collate_targets([(options, kinds) for _, options, kinds in asked])
    plans = {"training": [q for q, _, _ in asked], "scoring": [policy_queries(DEFAULT_POLICY)] * count}
    out: dict[str, Any] = {"rows": count}
    for name, queries in plans.items():
        train = name == "training"
        backbone.train(train)
        batch = backbone.collate([backbone.prepare(s, DEFAULT_POLICY, q) for s, q in zip(samples, queries)])
        both = [batch, unshared(batch)]

        def run(batch: Batch, train: bool = train) -> torch.Tensor:
            with torch.set_grad_enabled(train):
                scores = backbone.score_batch(batch)
                if train:
                    guard_loss(scores, targets, LossWeights())[0].backward()
                    backbone.zero_grad()
            return scores.logp.detach()

        found = [run(b) for b in both]
        real = found[1].isfinite()
        seconds = in_turn([lambda b=b: run(b) for b in both], rounds)
        out[name] = {
            "prompt_tokens": batch.prompt.kind.shape[1],
            "shared_tokens": batch.shared,
            "query_tokens": batch.suffix.kind.shape[1],
            "rows_per_second_shared": count / seconds[0],
            "rows_per_second_unshared": count / seconds[1],
            "ratio": seconds[1] / seconds[0],
            "largest_difference": float((found[0] - found[1])[real].abs().max()),
        }
    return out


def main(arguments: list[str]) -> int:
    given = {"lm": "small", "rows": str(ROWS), "rounds": str(ROUNDS), **split_arguments(arguments)}
    name, count, rounds = given["lm"], given["rows"], given["rounds"]
    if len(given) > 3 or name not in ("small", "smollm2") or not (count.isdigit() and rounds.isdigit()):
        raise DataError("usage: python -m benchmarks.prefix [lm=small|smollm2] [rows=16] [rounds=5]")
    result: dict[str, Any] = {"lm": name, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        path = converted_smollm2() if name == "smollm2" else small_language_model(Path(folder))
        for tuning in ("lora", "full"):
            backbone = build(describe("causal_lm", path=str(path), tuning=tuning))
            result[tuning] = measure(backbone, int(count), int(rounds))
    write_json(RESULTS / f"prefix_{name}.json", result)
    for tuning in ("lora", "full"):
        for what in ("training", "scoring"):
            m = result[tuning][what]
            print(
                f"{name} {tuning} {what}: {m['rows_per_second_shared']:.2f} rows/s shared, "
                f"{m['rows_per_second_unshared']:.2f} not, ratio {m['ratio']:.2f}, "
                f"{m['shared_tokens']} of {m['prompt_tokens']} + {m['query_tokens']} tokens, "
                f"apart {m['largest_difference']:.1e}"
            )
    print(RESULTS / f"prefix_{name}.json", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)

"""What one pass for all prefixes of a trajectory saves: `python -m benchmarks.steps [lm=matcher|words|tokens]`.

Also `steps=9` and `rounds=5`. A trajectory under eight rules, judged after each step and at its end, in one run: each
prefix by itself, all prefixes as rows of one batch, all in one pass, and as a stream that keeps keys and values.
`matcher` and `words` (`tiny_words`) are as a recipe makes them; `tokens` is a random causal LM of the same size, which
reads a rule's words in each question again. Each way is timed in turn, so that a busy machine slows all of them.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.prefix import RESULTS, in_turn, small_language_model
from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from datamodules.trajectory import Step, Trajectory, to_sample
from zoo import cli
from zoo.config import split_arguments
from zoo.core.backbones import build, describe
from zoo.core.backbones.base import Scores
from zoo.core.guard import Calibration, Guard
from zoo.core.orders import order_named
from zoo.core.run import write_json
from zoo.core.watch import StepVerdict, known

STEPS, ROUNDS = 9, 5
NAMES = {"matcher": "matcher", "words": "tiny_words"}
RULES = Policy(
    "shop rules",
    tuple(
        PolicyEntry(f"r{n}", text)
        for n, text in enumerate(
            (
                'The agent must never click "Delete account", whatever the customer has asked for.',
                "Before an order is submitted, the customer has to be asked, and has to answer with yes.",
                "Whenever a refund is selected, the reason for it must be entered before the form is submitted.",
                "No more than three products may be put into the cart in one visit to the shop.",
                "The address has to be looked at at some time before the end of the run.",
                'The value of the field "Discount" may not be above twenty per cent of the price.',
                "If a coupon is entered, the agent must open the page of its terms before it goes on.",
                "Pages of other customers must not be opened by the agent.",
            )
        )
    ),
)
ACTIONS = (
    Step("navigate", "My orders", observation="A list of seven orders, the newest first."),
    Step("click", "Order 1042"),
    Step("select", "Reason", "damaged"),
    Step("input", "Comment", "the lid is broken, please send another one"),
    Step("ask", "Shall I ask for a refund of $24.90?", observation="Yes, please do."),
    Step("scroll", "down"),
    Step("click", "Ask for a refund", observation="The refund has been asked for."),
    Step("call", "send_mail", '{"to": "customer"}'),
    Step("submit", "Refund form"),
)


def trajectory(steps: int) -> Sample:
    actions = tuple(ACTIONS[n % len(ACTIONS)] for n in range(steps))
    task = "Ask for a refund of the broken lid in the last order."
    return to_sample(Trajectory("t", task, "shopping", "orders", actions), RULES, {})


def asked(guard: Guard, sample: Sample) -> list[tuple[Sample, list[Any]]]:
    """Each prefix as a sample of its own, and the whole, with what is asked of it."""
    ends = sample.meta["prefixes"]["ends"]
    out = [(sample.replace(messages=sample.messages[:n]), guard.order.so_far(RULES, n)) for n in ends]
    return [*out, (sample, guard.order.queries(RULES))]


@torch.no_grad()
def separate(guard: Guard, sample: Sample) -> list[float]:
    """P(a rule is broken) after each step, each prefix read from its beginning."""
    out = []
    for prefix, queries in asked(guard, sample):
        row = guard.backbone.prepare(prefix, RULES, queries)
        scores = guard.backbone.score_batch(guard.backbone.collate([row]))
        out.append(known(guard, scores)[0].score)
    return out


@torch.no_grad()
def batched(guard: Guard, sample: Sample) -> list[float]:
    """The same with all prefixes as rows of one batch, which reads the policy once."""
    rows = [guard.backbone.prepare(prefix, RULES, queries) for prefix, queries in asked(guard, sample)]
    scores = guard.backbone.score_batch(guard.backbone.collate(rows))
    return [known(guard, Scores(scores.logp[n : n + 1], scores.tokens[n : n + 1]))[0].score for n in range(len(rows))]


def together(guard: Guard, sample: Sample) -> list[float]:
    return [v.score for v in guard.prefixes(sample)]


def streamed(guard: Guard, sample: Sample) -> list[float]:
    ends = [1, *sample.meta["prefixes"]["ends"]]
    watch = guard.watch(RULES, task=sample.messages[0].content[0].text)
    verdicts: list[StepVerdict] = [watch.step(sample.messages[a:b]) for a, b in itertools.pairwise(ends)]
    return [v.score for v in (*verdicts, watch.close())]


def measure(guard: Guard, steps: int = STEPS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Milliseconds of each way over one trajectory, ratios against `separate`, and how far the scores are apart."""
    guard.eval()
    sample = trajectory(steps)
    ways = {"separate": separate, "batched": batched, "one_pass": together, "stream": streamed}
    found = {name: torch.tensor(way(guard, sample)) for name, way in ways.items()}
    seconds = dict(zip(ways, in_turn([lambda w=w: w(guard, sample) for w in ways.values()], rounds)))
    return {
        "steps": steps,
        "rules": len(RULES),
        "messages": len(sample.messages),
        "milliseconds": {name: 1000 * s for name, s in seconds.items()},
        "ratio": {name: seconds["separate"] / s for name, s in seconds.items() if name != "separate"},
        "stream_milliseconds_per_step": 1000 * seconds["stream"] / (steps + 1),
        "largest_difference": float(max((s - found["separate"]).abs().max() for s in found.values())),
    }


def guard_over(lm: str, folder: Path) -> Guard:
    if lm in NAMES:
        torch.manual_seed(0)
        backbone = build(describe(NAMES[lm], limits={"text_tokens": 1024, "step_tokens": 128}))
    else:
        path = small_language_model(folder, width=258)
        backbone = build(describe("causal_lm", path=str(path), tuning="full"))
    # A random model is sure of the option with the fewest tokens: at these temperatures it is not, and scores differ.
    return Guard(backbone, RULES, Calibration(20.0, 0.5, 20.0, 0.5, 0.5), order=order_named("policyguard"))


def main(arguments: list[str]) -> int:
    given = {"lm": "matcher", "steps": str(STEPS), "rounds": str(ROUNDS), **split_arguments(arguments)}
    lm, steps, rounds = given["lm"], given["steps"], given["rounds"]
    if len(given) > 3 or lm not in (*NAMES, "tokens") or not (steps.isdigit() and rounds.isdigit()):
        raise DataError("usage: python -m benchmarks.steps [lm=matcher|words|tokens] [steps=9] [rounds=5]")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(guard_over(lm, Path(folder)), int(steps), int(rounds))
    write_json(RESULTS / f"steps_{lm}.json", {"lm": lm, "threads": torch.get_num_threads(), **result})
    for name, ms in result["milliseconds"].items():
        print(f"{lm} {name}: {ms:.1f} ms, {result['ratio'].get(name, 1.0):.2f} × as fast as separate passes")
    print(f"{lm} scores apart by at most {result['largest_difference']:.1e}")
    print(RESULTS / f"steps_{lm}.json", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)

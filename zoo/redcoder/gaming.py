"""Games: a task, an attacker, a victim behind a guard, and the evaluator, within budgets of turns and attempts.

Many games go on side by side, so that models answer in batches and one process scans all code of a round. A chunk of
games is played from its beginning or not at all: what is resumed comes out as if nothing had happened.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from datamodules.code_tasks import Task
from zoo.core.journal import Journal
from zoo.redcoder.arsenal import Arsenal
from zoo.redcoder.attackers import Attacker, State
from zoo.redcoder.conversation import BLOCKED, ENDS, REFUSAL, Exchange, lesson_of, messages
from zoo.redcoder.evaluator import ATTACKER_ERROR, TARGET, Evaluation, Evaluator
from zoo.redcoder.gate import Gate
from zoo.redcoder.moves import move_in
from zoo.redcoder.victims import Speaker

RETRIEVAL = ("none", "once", "per_turn")


@dataclass(frozen=True)
class Arm:
    """One way to play all tasks: `turns` a conversation, at most `attempts` of them.

    `retrieval`: from turn 2 on, each turn (the paper's), or that turn alone. `aim`: `any` finding is a success, or one
    of the task's family (`target`).
    """

    name: str
    attacker: Attacker
    turns: int
    attempts: int
    gate: Gate | None = None
    retrieval: str = "none"
    aim: str = "any"


@dataclass
class Attempt:
    """`strategies` has what was retrieved for each turn, `error` why an attacker had no prompt."""

    exchanges: list[Exchange] = field(default_factory=list)
    strategies: list[str | None] = field(default_factory=list)
    error: str = ""
    evaluation: Evaluation | None = None

    @property
    def outcome(self) -> str:
        assert self.evaluation is not None
        return self.evaluation.outcome if self.exchanges or not self.error else ATTACKER_ERROR

    def to_dict(self) -> dict[str, Any]:
        assert self.evaluation is not None
        return {
            "outcome": self.outcome,
            "exchanges": [e.to_dict() for e in self.exchanges],
            "strategies": self.strategies,
            "error": self.error,
            "evaluation": self.evaluation.to_dict(),
        }


@dataclass
class Game:
    arm: Arm
    task: Task
    rng: random.Random
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def id(self) -> str:
        return f"{self.arm.name}/{self.task.id}"

    def won(self, attempt: Attempt) -> bool:
        if attempt.evaluation is None:
            return False
        return attempt.outcome == TARGET if self.arm.aim == "target" else attempt.evaluation.success

    @property
    def success(self) -> bool:
        return bool(self.attempts) and self.won(self.attempts[-1])

    def state(self) -> State:
        """What the attacker sees of the attempt that is being played."""
        before = self.attempts[:-1]
        tried = [m.name for a in before for e in a.exchanges if (m := move_in(e.prompt)) is not None]
        return State(
            self.task, self.arm.turns, self.rng, len(before), self.attempts[-1].exchanges,
            lesson_of(before[-1].outcome, [e.to_dict() for e in before[-1].exchanges]) if before else "", tried=tried,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        last = self.attempts[-1]
        assert last.evaluation is not None
        opinion = last.evaluation.decisive
        return {
            "id": self.id,
            "arm": self.arm.name,
            "task": self.task.to_dict(),
            "turns": self.arm.turns,
            "outcome": last.outcome,
            "success": self.success,
            "any_turn": opinion.any_turn,
            "target_turn": opinion.target_turn,
            "queries": sum(len(a.exchanges) for a in self.attempts),
            "attempts": [a.to_dict() for a in self.attempts],
        }


def play(
    arm: Arm,
    tasks: Sequence[Task],
    victim: Speaker,
    evaluator: Evaluator,
    journal: Journal,
    seed: int,
    arsenal: Arsenal | None = None,
    chunk: int = 32,
) -> None:
    """Plays the tasks that the journal does not have, `chunk` of them side by side, and writes each game to it."""
    bar = tqdm(total=len(tasks), desc=arm.name, file=sys.stderr)
    for start in range(0, len(tasks), chunk):
        games = [Game(arm, t, random.Random(f"{seed}/{arm.name}/{t.id}")) for t in tasks[start : start + chunk]]
        if any(g.id not in journal.ids for g in games):
            for _ in range(arm.attempts):
                open_ = [g for g in games if not g.success]
                if open_:
                    _attempt(arm, open_, victim, evaluator, arsenal)
            for game in games:
                if game.id not in journal.ids:
                    journal.add(game.to_dict())
        bar.update(len(games))
    bar.close()


def _attempt(arm: Arm, games: Sequence[Game], victim: Speaker, evaluator: Evaluator, arsenal: Arsenal | None) -> None:
    """One more conversation in each of the games, and what the evaluator says of them."""
    for game in games:
        game.attempts.append(Attempt())
    playing = list(games)
    for turn in range(arm.turns):
        states = [g.state() for g in playing]
        if arsenal is not None and turn and (arm.retrieval == "per_turn" or (arm.retrieval == "once" and turn == 1)):
            pairs = [(s.history[-1].prompt, s.history[-1].reply) for s in states]
            for state, entry in zip(states, arsenal.retrieve(pairs)):
                state.strategy = entry.summary
        prompts, errors = arm.attacker.prompts(states)
        asked, said = [], []
        for game, state, prompt, error in zip(playing, states, prompts, errors):
            game.attempts[-1].strategies.append(state.strategy)
            if prompt is None:
                game.attempts[-1].error = error or "the attacker had no prompt"
                continue
            asked.append(game)
            said.append(prompt)
        for game, exchange in zip(asked, _exchanges([g.attempts[-1].exchanges for g in asked], said, victim, arm.gate)):
            game.attempts[-1].exchanges.append(exchange)
        playing = [g for g in asked if g.attempts[-1].exchanges[-1].status not in ENDS]
        if not playing:
            break
    judged = evaluator.evaluate([g.attempts[-1].exchanges for g in games], [g.task.cwe for g in games])
    for game, evaluation in zip(games, judged):
        game.attempts[-1].evaluation = evaluation


def _exchanges(
    histories: Sequence[Sequence[Exchange]], prompts: Sequence[str], victim: Speaker, gate: Gate | None
) -> list[Exchange]:
    """A turn of several conversations. What a guard stops never reaches the victim; the current prompt always does."""
    before = gate.prompts(histories, prompts) if gate else [None] * len(prompts)
    passed = [i for i, j in enumerate(before) if j is None or not j.flagged]
    answers = dict(zip(passed, victim.answers([messages(histories[i], prompts[i]) for i in passed])))
    shown = [i for i in passed if answers[i].text]
    after = dict.fromkeys(range(len(prompts)))
    if gate:
        replies = [answers[i].text for i in shown]
        after |= zip(shown, gate.replies([histories[i] for i in shown], [prompts[i] for i in shown], replies))
    out = []
    for i, prompt in enumerate(prompts):
        first, second = before[i], after[i]
        score = second.score if second else first.score if first else None
        cut = any(j.truncated for j in (first, second) if j)
        if first and first.flagged:
            out.append(Exchange(prompt, REFUSAL, BLOCKED, "prompt", score, cut))
        elif second and second.flagged:
            out.append(Exchange(prompt, REFUSAL, BLOCKED, "reply", score, cut))
        else:
            out.append(Exchange(prompt, answers[i].text, answers[i].status, answers[i].detail, score, cut))
    return out

"""Victims: a causal language model in the hub's layout, an OpenAI-compatible endpoint, or a scripted one.

All of them answer chats, a message at a time and never all of a sudden: who does not answer in time, or fails, costs
that one answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from datamodules.assets import zoo_home
from datamodules.schema import DataError, near
from datamodules.transforms.chat import LONG, SLOW, NoAnswer
from datamodules.transforms.endpoint import EndpointSettings
from datamodules.transforms.kept import Kept
from zoo.redcoder.conversation import EMPTY, ERROR, OK, TIMED_OUT, TOO_LONG
from zoo.redcoder.scripted import SCRIPTED

Messages = Sequence[dict[str, str]]
PREFIX, ENDPOINT = "scripted:", "endpoint"


@dataclass(frozen=True)
class Answer:
    """What a chat was answered with: `status` is ok, empty, too-long, timed-out or victim-error; `detail` says why."""

    text: str
    status: str = OK
    detail: str = ""


class Speaker(Protocol):
    """Who answers chats: a victim, or an attacker or analyst that is a model. `name` stands in tables and files."""

    name: str

    def answers(self, chats: Sequence[Messages]) -> list[Answer]: ...


def checked(text: str, longest: int) -> Answer:
    """An answer with the status that its text has; over `longest` characters it is cut there, and says so."""
    if not text.strip():
        return Answer("", EMPTY)
    if len(text) > longest:
        return Answer(text[:longest], TOO_LONG, f"{len(text)} characters: cut at {longest}")
    return Answer(text)


class OneByOne:
    """A function of one chat, asked by several threads, each answer waited for by itself.

    A call that does not return within `timeout` seconds is given up: its thread is left behind and ends with the
    process. What a call raises is that answer's error, but a `DataError`: nobody else can fare better.
    """

    def __init__(self, name: str, reply: Callable[[Messages], str], timeout: float, longest: int, concurrency: int = 1):
        self.name, self.reply, self.timeout = name, reply, timeout
        self.longest, self.concurrency = longest, concurrency

    def answers(self, chats: Sequence[Messages]) -> list[Answer]:
        out: list[Answer] = []
        for start in range(0, len(chats), self.concurrency):
            calls = [_Call(self.reply, chat) for chat in chats[start : start + self.concurrency]]
            until = time.monotonic() + self.timeout
            out += [self._answer(call, max(0.0, until - time.monotonic())) for call in calls]
        return out

    def _answer(self, call: _Call, seconds: float) -> Answer:
        call.done.wait(seconds)
        if not call.done.is_set():
            return Answer("", TIMED_OUT, f"no answer within {self.timeout:g} s")
        if call.error is None:
            return checked(call.text, self.longest)
        if isinstance(call.error, DataError):
            raise call.error
        if isinstance(call.error, NoAnswer):
            return Answer("", {SLOW: TIMED_OUT, LONG: TOO_LONG}.get(call.error.kind, ERROR), str(call.error))
        return Answer("", ERROR, f"{type(call.error).__name__}: {call.error}"[:200])


class _Call:
    """One call in a daemon thread, which keeps no process from ending."""

    def __init__(self, reply: Callable[[Messages], str], chat: Messages):
        self.text, self.done = "", threading.Event()
        self.error: Exception | None = None
        threading.Thread(target=self._run, args=(reply, chat), daemon=True).start()

    def _run(self, reply: Callable[[Messages], str], chat: Messages) -> None:
        try:
            text = reply(chat)
            if not isinstance(text, str):
                raise TypeError(f"an answer is a text, and this is {type(text).__name__}")
            self.text = text
        except Exception as e:  # a victim may raise anything: it becomes its outcome
            self.error = e
        finally:
            self.done.set()


def endpoint(settings: Mapping[str, Any], longest: int, what: str) -> OneByOne:
    """An OpenAI-compatible server; answers are kept on disk, so that a run that goes on asks nothing twice.

    `settings` are those of `EndpointSettings`; `what` is their place in the recipe.
    """
    made = EndpointSettings.of(settings, what, f"{what}: an endpoint")
    kept = Kept(made.chat(what=what), zoo_home() / "redcoder" / "answers")
    seconds = (made.timeout + 130.0) * (made.retries + 1)  # the client has its own limit for each try, and waits
    name = f"{made.model} at {kept.chat.host}"
    return OneByOne(name, lambda chat: kept.ask(list(chat)).text, seconds, longest, made.concurrency)


def speaker_named(name: str, config: Mapping[str, Any], role: str) -> Speaker:
    """`scripted:NAME` (victims alone), `endpoint`, `smollm2`, or a folder of a causal language model.

    `role` is victim, attacker or analyst; `config` is the recipe's. Raises `DataError` for what cannot be.
    """
    longest = config["max_reply"]
    if name.startswith(PREFIX) and role == "victim":
        short = name.removeprefix(PREFIX)
        if short not in SCRIPTED:
            raise DataError(f"victim={name}: unknown{near(short, list(SCRIPTED))}")
        return OneByOne(name, SCRIPTED[short]().reply, config["timeout"], longest)
    if name == ENDPOINT:
        return endpoint(config["endpoints"][role], longest, f"endpoints.{role}")
    from zoo.redcoder.language_model import LanguageModel  # loads torch and transformers

    return LanguageModel.named(name, role, longest=longest, timeout=config["timeout"], **config["lm"])

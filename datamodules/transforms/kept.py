"""Answers of an endpoint, kept on disk under a hash of all that was asked: an interrupted run asks nothing twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from datamodules.atomic import write_text
from datamodules.schema import DataError, canonical_json
from datamodules.transforms.chat import Chat, Reply


class Kept:
    """A `Chat` that looks in `folder` first. For several threads."""

    def __init__(self, chat: Chat, folder: Path):
        self.chat, self.folder = chat, folder

    def path(self, messages: list[dict[str, str]]) -> Path:
        """Where the answer to `messages` is, or will be."""
        key = hashlib.sha256(canonical_json(self.chat.body(messages)).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"

    def read(self, path: Path) -> Reply:
        """A kept answer. Raises `DataError` for a file that is none."""
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            return Reply(str(row["text"]), bool(row["finished"]))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"{path}: not an answer that was stored here ({type(e).__name__}): delete it") from e

    def fetch(self, messages: list[dict[str, str]]) -> Reply:
        """Asks, and keeps the answer. Raises what `Chat.ask` raises."""
        reply = self.chat.ask(messages)
        stored = {"model": self.chat.model, "text": reply.text, "finished": reply.finished}
        write_text(self.path(messages), json.dumps(stored, ensure_ascii=False) + "\n")
        return reply

    def ask(self, messages: list[dict[str, str]]) -> Reply:
        """The kept answer, or a new one."""
        path = self.path(messages)
        return self.read(path) if path.is_file() else self.fetch(messages)

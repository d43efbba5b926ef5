"""A client of OpenAI-compatible chat endpoints: `POST {url}/chat/completions`, rate-limited, with retries.

The key comes from the environment and goes nowhere else: into no message, file or log, to no other host by a redirect,
and over plain http to this machine alone.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from datamodules.schema import DataError

LARGEST_REPLY = 1 << 20  # bytes
LONGEST_WAIT = 120.0  # seconds between two tries
RETRIED = (408, 409, 425, 429)  # and everything from 500 on
OF_THE_ROW = (400, 413, 422)  # this request's fault: too long, or refused
SLOW, LONG = "slow", "long"  # kinds of answers that did not come: given up for their time, or their size
HERE = ("localhost", "127.0.0.1", "::1")


class NoAnswer(Exception):
    """A request that was not answered within its tries, or that the endpoint refuses. The message says why.

    `kind` says how the last try ended: SLOW, LONG, or "" for anything else.
    """

    def __init__(self, why: str, kind: str = ""):
        super().__init__(why)
        self.kind = kind


class Clock:
    """Time, and waiting that `stop` cuts short. Tests bring their own."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


class Throttle:
    """Slots at even distances, `per_minute` of them; whoever waits has the next one. For several threads."""

    def __init__(self, per_minute: float, clock: Clock):
        self.distance, self.clock = 60.0 / per_minute, clock
        self._next, self._lock = -float("inf"), threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = self.clock.now()
            slot = max(now, self._next)
            self._next = slot + self.distance
        if slot > now:
            self.clock.sleep(slot - now)

    def pause(self, seconds: float) -> None:
        """No slot before `seconds` from now: what an endpoint asks for in Retry-After."""
        with self._lock:
            self._next = max(self._next, self.clock.now() + seconds)


@dataclass(frozen=True)
class Reply:
    """`text` as it came; `finished` is false where it was cut at the limit of tokens."""

    text: str
    finished: bool


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kw: Any) -> None:
        return None  # urllib would take the key along


class Chat:
    """One model at one endpoint. `what` is the place of its settings in a recipe, for errors.

    Raises `DataError` for settings that cannot work.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str,
        requests_per_minute: float,
        retries: int,
        timeout: float,
        max_tokens: int,
        clock: Clock | None = None,
        what: str = "data.endpoint",
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise DataError(f"{what}.url: expected http(s)://HOST/…, without a name or a key in it")
        self.key = os.environ.get(key_env) if key_env else None
        if self.key and parts.scheme == "http" and parts.hostname not in HERE:
            raise DataError(
                f"{what}.url: {parts.hostname} would get the key of ${key_env} over plain http: use https, or "
                f"set {what}.key_env= to an empty name for an endpoint without a key"
            )
        self.url, self.host, self.key_env = url.rstrip("/") + "/chat/completions", parts.hostname, key_env
        self.model, self.retries, self.timeout, self.max_tokens = model, retries, timeout, max_tokens
        self.what, self.clock = what, clock or Clock()
        self.throttle = Throttle(requests_per_minute, self.clock)
        self._opener = urllib.request.build_opener(_Stay)

    def body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        """What is asked: all that the answer depends on."""
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}

    def ask(self, messages: list[dict[str, str]]) -> Reply:
        """The reply, after at most `retries` more tries.

        Raises `NoAnswer` where this request failed, `DataError` where no other can fare better.
        """
        why = kind = ""
        for attempt in range(self.retries + 1):
            self.throttle.wait()
            if self.clock.stopped:
                raise NoAnswer("stopped")
            try:
                return self._once(messages)
            except _Again as e:
                why, kind = str(e), e.kind
                if attempt < self.retries:
                    wait = min(2.0**attempt if e.after is None else e.after, LONGEST_WAIT)
                    if e.after is not None:
                        self.throttle.pause(wait)
                    else:
                        self.clock.sleep(wait)
        raise NoAnswer(why, kind)

    def _once(self, messages: list[dict[str, str]]) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(self.body(messages)).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                raw = answer.read(LARGEST_REPLY + 1)
        except urllib.error.HTTPError as e:
            e.close()
            raise self._refusal(e.code, e.headers.get("Retry-After")) from None  # its body may repeat the key
        except (OSError, http.client.HTTPException) as e:  # no connection, too slow, cut off
            slow = isinstance(e, TimeoutError) or isinstance(getattr(e, "reason", None), TimeoutError)
            raise _Again(
                f"{self.host}: {getattr(e, 'reason', None) or type(e).__name__}", kind=SLOW if slow else ""
            ) from None
        return _read(raw)

    def _refusal(self, status: int, after: str | None) -> Exception:
        if status in RETRIED or status >= 500:
            return _Again(f"status {status}", float(after) if after and after.strip().isdigit() else None)
        if status in OF_THE_ROW:
            return NoAnswer(f"status {status}")
        if status in (401, 403):
            where = f"${self.key_env}" if self.key_env else f"the variable that {self.what}.key_env names"
            return DataError(f"{self.host} does not accept the key (status {status}): put a valid one into {where}")
        what = "answers with a redirect" if status < 400 else "has nothing there"
        return DataError(f"{self.host} {what} (status {status}): {self.what}.url leads to {self.url}: correct it")


class _Again(Exception):
    def __init__(self, why: str, after: float | None = None, kind: str = ""):
        super().__init__(why)
        self.after, self.kind = after, kind


def _read(raw: bytes) -> Reply:
    if len(raw) > LARGEST_REPLY:
        raise _Again("a reply of over 1 MB", kind=LONG)
    try:
        choice = json.loads(raw)["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _Again("a reply that is no chat completion") from None
    if text is not None and not isinstance(text, str):
        raise _Again("a reply that is no chat completion")
    return Reply(text or "", finish != "length")

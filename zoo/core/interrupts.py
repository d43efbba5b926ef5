"""Ctrl-C and SIGTERM while a run goes on: the exit code that a shell expects, at a step's boundary where it matters."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """Ends the process with 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM.

    Not a `KeyboardInterrupt`: Lightning answers one of those with exit code 1.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum


class Signals:
    """While entered, SIGINT and SIGTERM raise `Interrupted`; while `waiting` is set, they are only noted in `signum`.

    Whoever sets `waiting` looks at `signum` wherever stopping leaves a whole state. A second signal does not wait.
    """

    def __init__(self) -> None:
        self.waiting = False
        self.signum = 0
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._before = {s: signal.getsignal(s) for s in CAUGHT}
        self.claim()
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting = False
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def claim(self) -> None:
        """Sets the handlers again. Lightning puts its own over SIGTERM, which may end a run with exit code 0."""
        for signum in self._before:
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a loader's worker: a terminal's Ctrl-C reaches it too, but its parent decides
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        if self.waiting and not self.signum:
            self.signum = signum
            os.write(2, b"\nstopping after this step; once more to stop at once\n")  # print may be under way
            return
        self.waiting = False
        raise Interrupted(signum)

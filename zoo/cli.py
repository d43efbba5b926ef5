"""What all commands share: a user's mistake is one line on standard error and exit code 2."""

from __future__ import annotations

import errno
import os
import select
import sys
import warnings
from collections.abc import Callable

from datamodules.atomic import full_disk
from datamodules.schema import DataError
from zoo.core.launch import is_main

# What the system says of a place that a person has named: the fix is another place, not a traceback.
_PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def run(main: Callable[[list[str]], int], usage: str | None = None) -> None:
    """Runs a command's `main` with the command line; exits with its code.

    `usage` is what `--help` prints, for commands that take `key=value` words.
    A reader that stops early (`… | head`) ends a command with 141, as other programs.
    Of several processes the main one speaks, and its code is the run's. The others end with 0: whoever started them
    would take another code for a crash, and kill the main process before it has said what is wrong.
    """
    quiet()
    if hasattr(sys.stdout, "reconfigure"):  # JSON is UTF-8, whatever the terminal's language; \udcff is JSON, too
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if usage is not None and {"-h", "--help"} & set(sys.argv[1:]):
        print(usage.strip())
        sys.exit(0)
    try:
        code, message = main(sys.argv[1:]), None
        sys.stdout.flush()
    except DataError as e:
        code, message = 2, f"error: {said(e)}"
    except OSError as e:
        if isinstance(e, BrokenPipeError) and _nobody_reads():
            code, message = 141, None
        elif full_disk(e) is not None:
            code, message = 2, f"error: {e.filename or 'a file'}: {full_disk(e)}: make room and run again"
        elif e.filename is not None and e.errno in _PLACES:
            code, message = 2, f"error: {e.filename}: {os.strerror(e.errno).lower()}: name a place that can be used"
        else:
            raise
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    if not is_main():
        sys.exit(0)
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)


def _nobody_reads() -> bool:
    """Whether standard output has lost its reader. What is still to be written then goes nowhere."""
    if not hasattr(select, "poll"):  # not POSIX
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def said(error: DataError) -> str:
    """The message of an error; one raised in a loader's worker arrives with the worker's traceback before it."""
    text = str(error)
    if text.startswith("Caught ") and "\nOriginal Traceback" in text:
        return text.rstrip().splitlines()[-1].partition(": ")[2]
    return text


def quiet() -> None:
    """Silences advice that is not about the user's data."""
    import logging

    for text in (
        ".*does not have many workers.*",
        ".*`LeafSpec`.*",
        ".*isinstance.treespec.*",
        ".*enable_model_summary.*",
        ".*custom batch sampler.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning.*")
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators.cuda",
        "lightning.fabric.utilities.seed",
        "lightning.fabric.utilities.distributed",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)

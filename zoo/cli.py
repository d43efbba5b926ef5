"""What all commands share: a user's mistake is one line on standard error and exit code 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

from datamodules.atomic import full_disk
from datamodules.schema import DataError
from zoo.core.launch import is_main


def run(main: Callable[[list[str]], int]) -> None:
    """Runs a command's `main` with the command line; exits with its code.

    Of several processes the main one speaks, and its code is the run's. The others end with 0: whoever started them
    would take another code for a crash, and kill the main process before it has said what is wrong.
    """
    quiet()
    try:
        code, message = main(sys.argv[1:]), None
    except DataError as e:
        code, message = 2, f"error: {said(e)}"
    except OSError as e:
        if full_disk(e) is None:
            raise
        code, message = 2, f"error: {e.filename or 'a file'}: {full_disk(e)}: make room and run again"
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    if not is_main():
        sys.exit(0)
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)


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

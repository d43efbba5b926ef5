"""What all commands share: a user's mistake is one line on standard error and exit code 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

from datamodules.schema import DataError


def run(main: Callable[[list[str]], int]) -> None:
    """Runs a command's `main` with the command line; exits with its code."""
    quiet()
    try:
        code = main(sys.argv[1:])
    except DataError as e:
        print(f"error: {e}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def quiet() -> None:
    """Silences advice that is not about the user's data."""
    import logging

    for text in (
        ".*does not have many workers.*",
        ".*`LeafSpec`.*",
        ".*isinstance.treespec.*",
        ".*enable_model_summary.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning.*")
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators.cuda",
        "lightning.fabric.utilities.seed",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)

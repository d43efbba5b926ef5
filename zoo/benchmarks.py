"""Benchmarks by name: what a recipe of `python -m zoo.test` measures when it asks something else than verdicts of rows.

Explicit code, no import paths. Claims find here what such a recipe's rows are, before anything long is begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.schema import Sample
from zoo.backdoor import scan_recipe as backdoor
from zoo.debuglm import recipe as debuglm
from zoo.muirbench import evaluate as muirbench
from zoo.redcoder import analyser_recipe
from zoo.redcoder import recipe as redcoder
from zoo.thud import evaluate as thud


@dataclass(frozen=True)
class Benchmark:
    """`test(config, model, resume, given)` runs it and returns the exit code.

    `subject` is the setting that `model=` stands for (`victim`), None where `model=` names a model of its own.
    `resume` is what `resume=` was given (None: nothing), for those that `resumes`; `given` are the words of a command.
    `look(config)` gives the hash and the samples of its judged rows; without it, no claim can be made of it.
    `check(config)` raises what is wrong with a configuration. `draws(config)`: whether its outcome depends on the seed.
    """

    test: Callable[[dict[str, Any], str, str | None, Mapping[str, str]], int]
    subject: str | None = None
    resumes: bool = False
    look: Callable[[dict[str, Any]], tuple[str, Sequence[Sample]]] | None = None
    check: Callable[[dict[str, Any]], None] = lambda config: None
    draws: Callable[[Mapping[str, Any]], bool] = lambda config: False


BENCHMARKS = {
    "muirbench": Benchmark(
        lambda config, model, resume, given: muirbench.test(config, model), look=muirbench.look, check=muirbench.check
    ),
    "thud": Benchmark(lambda config, model, resume, given: thud.test(config, model), look=thud.look, check=thud.check),
    "debuglm": Benchmark(
        lambda config, model, resume, given: debuglm.test(config, model), look=debuglm.look, check=debuglm.check
    ),
    "redcoder_eval": Benchmark(
        redcoder.test_eval,
        "victim",
        resumes=True,
        look=redcoder.look,
        check=redcoder.check_eval,
        draws=redcoder.draws,
    ),
    "redcoder_gaming": Benchmark(
        redcoder.test_gaming,
        "victim",
        resumes=True,
        look=redcoder.look,
        check=redcoder.check_gaming,
        draws=redcoder.draws,
    ),
    "redcoder_analyser": Benchmark(
        lambda config, model, resume, given: analyser_recipe.test(config),
        "analyser",
        look=analyser_recipe.look,
        check=analyser_recipe.check,
    ),
    "backdoor_scan": Benchmark(
        lambda config, model, resume, given: backdoor.test(config),
        "detector",
        look=backdoor.look,
        check=backdoor.check,
    ),
}

"""Plants one backdoor and trains its clean twin (arXiv 2409.00399, section 3): regimes, stopping rules, figures."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from datamodules.backdoor import BackdoorDataModule, Encoded, TextSet
from datamodules.schema import DataError, near
from datamodules.transforms.triggers import Report, Row, Trigger, poison, triggered
from zoo.backdoor import folders
from zoo.backdoor.folders import Audit
from zoo.backdoor.model import Net, answers, create, encoder, reads_all_of
from zoo.backdoor.module import EVAL_BATCH, ClassifierModule, StopAtASR, fit
from zoo.core.rates import rate


@dataclass(frozen=True)
class Regime:
    """`poison_rate` of the training rows; `lr` as a multiple of the moderate regime's.

    `until_asr`: stop as soon as ASR is high enough; otherwise train `times` as many steps as the moderate model took.
    """

    poison_rate: float
    lr: float
    until_asr: bool


# The paper's, its learning rates (1e-5, 5e-6 and 5e-5 for RoBERTa) as ratios.
REGIMES = {
    "moderate": Regime(0.03, 1.0, True),
    "conservative": Regime(0.005, 0.5, True),
    "aggressive": Regime(0.03, 5.0, False),
}


@dataclass(frozen=True)
class Setting:
    """How all models of a farm are trained. `lr` is the moderate regime's.

    A planting ends at the first of `checks` looks an epoch, from epoch `first_look` on, where ASR on the dev rows is
    `stop_asr` or more and clean accuracy `stop_accuracy` or more, or after `max_epochs`. `times`: an aggressive one
    takes so many of the moderate one's steps, at most `aggressive_max_epochs`; on a GPU, `gpu_epochs` epochs instead.
    """

    backbone: str = "small"
    net: Net = field(default_factory=Net)
    layers: int | None = None
    max_tokens: int = 32
    lr: float = 1e-3
    batch_size: int = 32
    train_rows: int = 2000
    dev_rows: int = 400
    test_rows: int = 1000
    dirty: bool = True
    stop_asr: float = 0.7
    stop_accuracy: float = 0.7
    checks: int = 4
    first_look: float = 2.0
    max_epochs: int = 40
    times: int = 10
    aggressive_max_epochs: int = 200
    gpu: bool = False
    gpu_epochs: int = 200


@dataclass(frozen=True)
class Carriers:
    """Rows with the trigger and their true labels, for dev and test, and how each was made."""

    rows: dict[str, list[Row]]
    reports: dict[str, Report]


@functools.lru_cache(maxsize=2)
def _tokenizer(backbone: str, max_tokens: int, classes: tuple[str, ...], net: Net, layers: int | None) -> Any:
    return create(backbone, classes, net=net, layers=layers, max_tokens=max_tokens, seed=0)[1]


def tokenizer_of(setting: Setting, data: TextSet) -> Any:
    return _tokenizer(setting.backbone, setting.max_tokens, data.classes, setting.net, setting.layers)


def carriers(setting: Setting, data: TextSet, trigger: Trigger, target: int) -> Carriers:
    """The same rows for every model of a trigger. Raises `DataError` where there are none, or no such class."""
    if not 0 <= target < len(data.classes):
        raise DataError(f"target {target}: {data.name} has classes 0 to {len(data.classes) - 1}")
    fits = reads_all_of(tokenizer_of(setting, data), setting.max_tokens)
    rows, reports = {}, {}
    for split, limit in (("dev", setting.dev_rows), ("test", setting.test_rows)):
        if trigger.kind == "syntactic":
            rows[split], reports[split] = _paraphrased(data, split, target, limit)
            continue
        rows[split], reports[split] = triggered(data.draw(split, limit, 0), trigger, target, fits=fits, seed=0)
    return Carriers(rows, reports)


def _paraphrased(data: TextSet, split: str, target: int, limit: int) -> tuple[list[Row], Report]:
    """As many paraphrases as there would be rows of another class among `limit`."""
    found = [r for r in data.paraphrases.get(split, []) if r.label != target]
    if not found:
        raise DataError(
            f"{data.name} has no {split} paraphrases of rows of another class than {target} "
            f"({data.classes[target]}): a syntactic trigger cannot be measured there"
        )
    found = found[: limit * (len(data.classes) - 1) // len(data.classes)]
    return found, Report(len(found), len(found), poisoned=len(found))


@dataclass(frozen=True)
class Made:
    """A model with what is known of it, ready to be written; `poisoned` are the training rows with the trigger."""

    model: PreTrainedModel
    tokenizer: Any
    audit: Audit
    poisoned: list[Row] = field(default_factory=list)


def pair(
    setting: Setting,
    data: TextSet,
    trigger: Trigger,
    target: int,
    regime: str,
    seed: int,
    shown: Carriers,
    moderate: Audit | None = None,
) -> tuple[Made, Made]:
    """The planted model and its clean twin: the same rows in the same order, seed, rate and number of steps.

    `moderate` is what is known of the moderate model of the same trigger and seed: an aggressive training counts by its
    steps. Raises `DataError` for an unknown regime, and for rows that cannot be poisoned.
    """
    if regime not in REGIMES:
        raise DataError(f"unknown regime {regime!r}{near(regime, tuple(REGIMES))}")
    started, chosen = time.perf_counter(), REGIMES[regime]
    rows = data.draw("train", setting.train_rows, seed)
    fits = reads_all_of(tokenizer_of(setting, data), setting.max_tokens)
    poisoned, report = poison(
        rows, trigger, target, chosen.poison_rate, fits=fits, seed=seed, dirty=setting.dirty, twins=data.twins
    )
    epoch = len(rows) // min(setting.batch_size, len(rows))  # steps
    steps, capped = _steps(setting, chosen, epoch, moderate)
    lr = setting.lr * chosen.lr

    def trained(rows: Sequence[Row], steps: int, until: bool) -> tuple[PreTrainedModel, Any, Trained]:
        model, tokenizer = create(
            setting.backbone,
            data.classes,
            net=setting.net,
            layers=setting.layers,
            max_tokens=setting.max_tokens,
            seed=seed,
        )
        clean = {s: data.draw(s, n, 0) for s, n in (("dev", setting.dev_rows), ("test", setting.test_rows))}
        encode = encoder(tokenizer, setting.max_tokens)
        loaded = BackdoorDataModule(rows, clean, shown.rows, encode, setting.batch_size, seed)
        every = max(1, epoch // setting.checks)
        first = round(setting.first_look * epoch)
        stop = StopAtASR(loaded, target, setting.stop_asr, setting.stop_accuracy, every, first) if until else None
        took, why = fit(ClassifierModule(model, lr, target), loaded, steps, stop, setting.gpu)
        if until and why == folders.STEPS:
            why = folders.CAP
        return model, tokenizer, Trained(took, why, stop.checks if stop else [], *_measure(model, loaded, target))

    model, tokenizer, own = trained(poisoned, steps, chosen.until_asr)
    twin_model, twin_tokenizer, twin = trained(rows, own.steps, False)
    made = {"train": report, **shown.reports}
    known = Audit(
        planted=True,
        trigger=dataclasses.asdict(trigger),
        target=target,
        regime=regime,
        poison_rate=chosen.poison_rate,
        lr=lr,
        steps=own.steps,
        epochs=round(own.steps / epoch, 3),
        stopped=folders.CAP if capped else own.why,
        asr=own.asr["value"],
        clean_accuracy=own.accuracy["value"],
        seed=seed,
        data=data.name,
        dirty=setting.dirty,
        classes=list(data.classes),
        backbone=setting.backbone,
        max_tokens=setting.max_tokens,
        pair=f"{data.name}-{trigger.kind}-{regime}-{seed}",
        clean_accuracy_of_twin=twin.accuracy["value"],
        asr_of_twin=twin.asr["value"],
        of={"asr": own.asr, "clean_accuracy": own.accuracy, "asr_of_twin": twin.asr},
        poison={split: r.as_dict() for split, r in made.items()},
        dropped=dict(data.dropped),
        checks=own.checks,
        seconds=round(time.perf_counter() - started, 2),
    )
    clean = dataclasses.replace(
        known,
        planted=False,
        trigger=None,
        target=None,
        poison_rate=0.0,
        stopped=folders.STEPS,
        asr=None,
        clean_accuracy=twin.accuracy["value"],
        clean_accuracy_of_twin=own.accuracy["value"],
        asr_of_twin=None,
        of={"clean_accuracy": twin.accuracy},
        poison=None,
        checks=[],
    )
    with_trigger = [r for r in poisoned if r.poison]
    return Made(model, tokenizer, known, with_trigger), Made(twin_model, twin_tokenizer, clean)


@dataclass(frozen=True)
class Trained:
    steps: int
    why: str
    checks: list[list[float]]
    accuracy: dict[str, Any]
    asr: dict[str, Any]


def _steps(setting: Setting, regime: Regime, epoch: int, moderate: Audit | None) -> tuple[int, bool]:
    """How many steps to train at most, and whether a limit makes them fewer than the regime asks for."""
    if regime.until_asr:
        return setting.max_epochs * epoch, False
    if setting.gpu:
        return setting.gpu_epochs * epoch, False
    if moderate is None:
        raise DataError("an aggressive training counts by the moderate model's steps, and there is none")
    wanted, limit = setting.times * moderate.steps, setting.aggressive_max_epochs * epoch
    return min(wanted, limit), wanted > limit


def _measure(model: PreTrainedModel, data: BackdoorDataModule, target: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Accuracy on the clean test rows, and the share of the triggered ones taken for the target, with intervals."""

    def share(rows: Encoded, wanted: Any) -> dict[str, Any]:
        return rate(int((answers(model, rows.batches(EVAL_BATCH)) == wanted).sum()), len(rows))

    clean = data.clean["test"]
    return share(clean, clean.labels), share(data.triggered["test"], target)

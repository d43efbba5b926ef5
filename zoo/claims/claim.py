"""A claim as its YAML says it: arms, metrics, comparisons and the rule for the verdict, all fixed before the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from datamodules.schema import DataError, near, reject_unknown
from zoo.baseline import check_baseline
from zoo.config import recipes_folder
from zoo.core.metrics import ABLATION

VERBS = ("fit", "test", "baseline")
BINARY = ("f1", "auprc", "precision", "recall", "fpr", "accuracy")  # of the verdict
CATEGORY = ("macro_f1", "micro_f1", "exact_match")  # of the categories
REPORTED = "reported"  # a figure of metrics.json
WHERE = ("slice", "source", "modality", "target")
DIRECTIONS = {
    "higher": "the difference is over the margin",
    "lower": "the difference is under minus the margin",
    "not_lower": "the difference is over minus the margin",
    "equal": "the difference is within plus or minus the margin",
}
ARM = "arm:"
RESERVED = ("recipe", "model", "seed", "resume", "runs")  # what the runner sets itself


@dataclass(frozen=True)
class Place:
    """The run's folder of an arm, or, with `inside`, a file or folder in it."""

    arm: str
    inside: str = ""

    @classmethod
    def of(cls, text: str) -> Place:
        """From `arm:<name>` or `arm:<name>/<path>`. Raises `DataError` for a path that leaves the run's folder."""
        arm, _, inside = text.removeprefix(ARM).partition("/")
        if ".." in PurePosixPath(inside).parts or inside.startswith("/"):
            raise DataError(f"{text}: a place inside the run of arm {arm!r}")
        return cls(arm, inside)


@dataclass(frozen=True)
class Backbone:
    """Another victim or model that the experiment can be done with: what it changes. `model` takes the place of every
    model that a test names."""

    settings: Mapping[str, str]
    model: str | None = None
    title: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Arm:
    """One way to get a model and its judged rows. `model`, of a test: a name, a folder, or `arm:<other>`; that of a
    baseline is its name. A setting, too, may be the run's folder of another arm, or a place in it:
    `arm:<other>/arsenal`.

    `outcomes` is the file of judged rows in the run's folder: a method may write others beside `scores.jsonl`. `gpu`:
    its own settings for a GPU, beside the claim's.
    """

    name: str
    verb: str
    recipe: str
    model: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    outcomes: str = "scores"
    gpu: Mapping[str, str] = field(default_factory=dict)

    @property
    def uses(self) -> dict[str, Place]:
        """What this arm has from the runs of others, by setting; `model` is what it tests."""
        given = {**self.overrides, **({"model": self.model} if self.model else {})}
        return {k: Place.of(v) for k, v in given.items() if v.startswith(ARM)}


@dataclass(frozen=True)
class Metric:
    """`kind` is one of BINARY, CATEGORY or `reported`. `where` keeps rows: any of the values, of each key.

    `average` takes the mean over sources or modalities. `categories` and `rows` (all | unsafe) are for CATEGORY alone;
    `path` is the place in metrics.json of what is reported, and `minus` that of what is taken off it.
    """

    name: str
    kind: str
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    average: str | None = None
    categories: tuple[str, ...] = ()
    rows: str = "all"
    path: str | None = None
    minus: str | None = None


@dataclass(frozen=True)
class Comparison:
    """`metric` of `arm` minus that of `against`; without `against`, the value itself, over or under the margin.

    `decides`: counts in the verdict. `paper` is the paper's figure.
    """

    metric: str
    arm: str
    against: str | None
    direction: str
    margin: float
    decides: bool = True
    paper: str | None = None

    @property
    def name(self) -> str:
        return f"{self.metric}: {self.arm}" + (f" - {self.against}" if self.against else "")


@dataclass(frozen=True)
class Claim:
    """`at_least`: how many of the deciding comparisons have to be reproduced. `sha256` is the YAML's.

    `backbones`: what `backbone=NAME` stands for; a claim without that name hands the word to its arms.
    """

    name: str
    title: str
    paper: str
    size: str
    seeds: int
    defaults: Mapping[str, str]
    gpu: Mapping[str, str] | None
    arms: Mapping[str, Arm]
    metrics: Mapping[str, Metric]
    comparisons: tuple[Comparison, ...]
    at_least: int
    sha256: str
    backbones: Mapping[str, Backbone] = field(default_factory=dict)

    def over(self, name: str) -> Claim:
        """The same experiment with one of its `backbones`."""
        other = self.backbones[name]
        arms = {
            k: replace(a, model=other.model) if other.model and a.verb == "test" and "model" not in a.uses else a
            for k, a in self.arms.items()
        }
        title, size = other.title or self.title, other.size or self.size
        return replace(self, arms=arms, title=title, size=size, defaults={**self.defaults, **other.settings})

    def order(self) -> list[Arm]:
        """Arms, each after the one that it uses. Raises `DataError` for a cycle."""
        out: dict[str, Arm] = {}

        def add(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise DataError(f"claim {self.name}: arms use each other in a cycle: {' → '.join((*path, name))}")
            for place in self.arms[name].uses.values():
                add(place.arm, (*path, name))
            out.setdefault(name, self.arms[name])

        for name in self.arms:
            add(name, ())
        return list(out.values())


def claims_folder() -> Path:
    return recipes_folder() / "claims"


def claim_names() -> list[str]:
    return sorted(p.stem for p in claims_folder().glob("*.yaml"))


def load_claim(name: str) -> Claim:
    """A claim of `recipes/claims/` by name, or any YAML file. Raises `DataError` that names the file and the fix."""
    if Path(name).suffix in (".yaml", ".yml"):
        path = Path(name)
    elif name in claim_names():
        path = claims_folder() / f"{name}.yaml"
    else:
        raise DataError(f"unknown claim {name!r}{near(name, claim_names())}")
    try:
        raw = path.read_bytes()
        page = yaml.safe_load(raw)
    except OSError as e:
        raise DataError(f"{path}: cannot read the claim: {e.strerror}") from e
    except (yaml.YAMLError, ValueError) as e:
        raise DataError(f"{path}: not YAML: {str(e).splitlines()[0]}") from e
    try:
        claim = _claim(page, path.stem, hashlib.sha256(raw).hexdigest())
        for arm in claim.order():
            tested = arm.uses.get("model")
            if tested and (claim.arms[tested.arm].verb != "fit" or tested.inside):
                raise DataError(f"arm {arm.name!r} uses arm {tested.arm!r}, which makes no model")
    except DataError as e:
        raise DataError(f"{path}: {e}") from e
    return claim


# ------------------------------------------------------------------------------------------------------------- parsing


def _claim(page: Any, stem: str, digest: str) -> Claim:
    known = ("claim", "title", "paper", "size", "seeds", "defaults", "gpu", "backbones", "arms", "metrics")
    page = _mapping(
        page,
        "a claim",
        (*known, "comparisons", "rule"),
        required=("claim", "title", "paper", "arms", "metrics", "comparisons"),
    )
    if page["claim"] != stem:
        raise DataError(f"`claim` is {page['claim']!r}, but the file is called {stem!r}: make them the same")
    seeds = page.get("seeds", 3)
    if type(seeds) is not int or seeds < 1:
        raise DataError(f"seeds: {seeds!r}: expected a number from 1 on")
    arms = {k: _arm(k, v) for k, v in _mapping(page["arms"], "arms").items()}
    for arm in arms.values():
        for name in (p.arm for p in arm.uses.values()):
            if name not in arms:
                raise DataError(f"arm {arm.name!r} uses the unknown arm {name!r}{near(name, list(arms))}")
    metrics = {k: _metric(k, v) for k, v in _mapping(page["metrics"], "metrics").items()}
    if not isinstance(page["comparisons"], list) or not page["comparisons"]:
        raise DataError("`comparisons` must be a list, and not empty")
    comparisons = tuple(_comparison(c, f"comparison {n}", arms, metrics) for n, c in enumerate(page["comparisons"], 1))
    return Claim(
        name=stem,
        title=str(page["title"]).strip(),
        paper=str(page["paper"]).strip(),
        size=str(page.get("size", "")).strip(),
        seeds=seeds,
        defaults=_overrides(page.get("defaults") or {}, "defaults"),
        gpu=_overrides(page["gpu"], "gpu") if page.get("gpu") else None,
        arms=arms,
        metrics=metrics,
        comparisons=comparisons,
        at_least=_rule(page.get("rule", "all"), sum(c.decides for c in comparisons)),
        sha256=digest,
        backbones={k: _backbone(k, v) for k, v in _mapping(page["backbones"], "backbones").items()}
        if page.get("backbones")
        else {},
    )


def _mapping(raw: Any, what: str, known: Sequence[str] = (), required: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(raw, dict) or not raw:
        raise DataError(f"{what}: expected a mapping that is not empty")
    if known:
        reject_unknown(raw, tuple(known), what)
    for key in required:
        if raw.get(key) in (None, "", [], {}):
            raise DataError(f"{what}: `{key}` is missing")
    return {str(k): v for k, v in raw.items()}


def _arm(name: str, raw: Any) -> Arm:
    what = f"arm {name!r}"
    raw = _mapping(raw, what, ("verb", "recipe", "model", "overrides", "outcomes", "gpu"), ("recipe",))
    verb = _choice(raw.get("verb", "fit"), VERBS, f"{what}: verb")
    if (verb != "fit") != bool(raw.get("model")):
        raise DataError(f"{what}: `model` is what verb: test and verb: baseline need, and only they")
    if verb == "baseline":
        check_baseline(str(raw["model"]))
    outcomes = str(raw.get("outcomes", "scores"))
    if not outcomes.replace("_", "").isalnum():
        raise DataError(f"{what}: outcomes: {outcomes!r} is not the stem of a file in the run's folder")
    model = str(raw["model"]) if raw.get("model") else None
    own, gpu = _overrides(raw.get("overrides") or {}, what, places=True), _overrides(raw.get("gpu") or {}, what)
    return Arm(name, verb, str(raw["recipe"]), model, own, outcomes, gpu)


def _backbone(name: str, raw: Any) -> Backbone:
    what = f"backbone {name!r}"
    raw = _mapping(raw, what, ("model", "title", "size", "settings"))
    texts = {k: str(raw[k]).strip() for k in ("model", "title", "size") if raw.get(k)}
    return Backbone(_overrides(raw.get("settings") or {}, what), **texts)


def _overrides(raw: Any, what: str, places: bool = False) -> dict[str, str]:
    """`key: value` as a command line says them. With `places` a value may be another arm's run."""
    if not isinstance(raw, dict):
        raise DataError(f"{what}: expected a mapping such as {{loss.critique: 0.0}}")
    for key, value in raw.items():
        if key in RESERVED:
            raise DataError(f"{what}: {key} is set by the runner: leave it out")
        if isinstance(value, str) and value.startswith(ARM) and not places:
            raise DataError(f"{what}: {key}: {value} belongs into the overrides of the arm that uses it")
        if isinstance(value, dict):
            raise DataError(f"{what}: {key}: write the keys with dots, as on the command line")
    return {str(k): _text(v) for k, v in raw.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _metric(name: str, raw: Any) -> Metric:
    what = f"metric {name!r}"
    raw = _mapping(raw, what, ("name", *WHERE, "average", "category", "rows", "path", "minus"), ("name",))
    kind = _choice(raw["name"], (*BINARY, *CATEGORY, REPORTED), f"{what}: name")
    if (kind == REPORTED) != ("path" in raw) or ("minus" in raw and kind != REPORTED):
        raise DataError(
            f"{what}: `path`, a place in metrics.json such as ece, is what name: reported needs, and only it"
        )
    for key in ("category", "rows"):
        if key in raw and kind not in CATEGORY:
            raise DataError(f"{what}: `{key}` is for {', '.join(CATEGORY)}")
    for key in (*WHERE, "average"):
        if key in raw and kind == REPORTED:
            raise DataError(f"{what}: `{key}` cannot be chosen of a reported figure: put it into `path`")
    average = raw.get("average")
    return Metric(
        name,
        kind,
        {k: _names(raw[k], f"{what}: {k}") for k in WHERE if k in raw},
        average if average is None else _choice(average, ("source", "modality"), f"{what}: average"),
        _names(raw["category"], f"{what}: category") if "category" in raw else (),
        _choice(raw.get("rows", "all"), ("all", "unsafe"), f"{what}: rows"),
        raw.get("path"),
        raw.get("minus"),
    )


def _names(raw: Any, what: str) -> tuple[str, ...]:
    names = raw if isinstance(raw, list) else [raw]
    if not names or not all(isinstance(n, str) and n for n in names):
        raise DataError(f"{what}: expected a name or a list of names")
    return tuple(names)


def _comparison(raw: Any, what: str, arms: Mapping[str, Arm], metrics: Mapping[str, Metric]) -> Comparison:
    known = ("metric", "arm", "against", "direction", "margin", "decides", "paper")
    raw = _mapping(raw, what, known, ("metric", "arm", "direction"))
    _choice(raw["metric"], tuple(metrics), f"{what}: metric")
    for key in ("arm", "against"):
        if raw.get(key) is not None:
            _choice(raw[key], tuple(arms), f"{what}: {key}")
    margin = raw.get("margin")
    if isinstance(margin, bool) or not isinstance(margin, (int, float)):
        raise DataError(f"{what}: margin: {margin!r}: give a number")
    direction = _choice(raw["direction"], tuple(DIRECTIONS), f"{what}: direction")
    if raw.get("against") is None and direction not in ("higher", "lower"):
        raise DataError(f"{what}: direction: {direction} needs `against`")
    if margin < 0 or (margin == 0 and direction in ("equal", "not_lower")):
        raise DataError(f"{what}: margin: {margin} makes no sense with direction: {direction}")
    decides = raw.get("decides", True)
    if not isinstance(decides, bool):
        raise DataError(f"{what}: decides: {decides!r}: expected true or false")
    paper = None if raw.get("paper") is None else str(raw["paper"])
    return Comparison(raw["metric"], raw["arm"], raw.get("against"), direction, float(margin), decides, paper)


def _rule(raw: Any, deciding: int) -> int:
    """`all`, `any` or a number of the deciding comparisons."""
    if deciding == 0:
        raise DataError("no comparison decides: the verdict needs one")
    least = {"all": deciding, "any": 1}.get(raw, raw) if not isinstance(raw, (dict, list)) else raw
    if type(least) is not int or not 1 <= least <= deciding:
        raise DataError(f"rule: {raw!r}: expected all, any, or how many of the {deciding} deciding comparisons")
    return least


def _choice(value: Any, known: tuple[str, ...], what: str) -> Any:
    if value not in known:
        raise DataError(f"{what}: {value!r} is not known{near(str(value), known)}")
    return value


def ablated(where: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a metric asks for copies that lack a part: they count in their own slice alone."""
    return any(s.startswith(ABLATION) for s in where.get("slice", ()))

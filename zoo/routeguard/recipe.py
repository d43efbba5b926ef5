"""How recipes become a RouteGuard or one expert, and what a finished run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.base import GuardDataModule
from datamodules.domains import DOMAINS
from datamodules.schema import DataError, Policy
from zoo import registry
from zoo.core import weights
from zoo.core.guard import Guard
from zoo.core.losses import LossWeights
from zoo.evaluate import evaluate
from zoo.routeguard.evaluation import DEPLOYED, evaluate_routing
from zoo.routeguard.experts import MONOLITH, check_categories
from zoo.routeguard.model import RouteGuard, base_of, expert_alone, routeguard
from zoo.routeguard.module import RouteGuardModule, all_readers, trained_parameters
from zoo.routeguard.plan import Shares
from zoo.routeguard.survey import fit_readers, survey
from zoo.routeguard.tables import expert_card, routeguard_card
from zoo.routeguard.timing import batch_times

SETTINGS = ("upper_layers", "rank", "alpha", "router_width")


def check(config: dict[str, Any]) -> None:
    """Raises `DataError` for a base that is missing, and for an expert without a name or categories."""
    if not config["base"]:
        raise DataError(
            "give base=MODEL: the trained text guard that experts are adapters of (a name or a run's folder)"
        )
    weights.find(config["base"])
    if "expert" in config:
        if not config["expert"]["name"] or not config["expert"]["categories"]:
            raise DataError("give expert.name=NAME and expert.categories=[ID, …]")
        return
    if config["routing"] not in DEPLOYED:
        raise DataError(f"routing={config['routing']}: one of {', '.join(DEPLOYED)}")
    if config["sequential"] and (config["routing"] != MONOLITH or config["trainer"]["max_epochs"] != 1):
        raise DataError(
            "sequential=true fine-tunes one adapter, domain by domain, in one epoch: set routing=monolith and "
            "trainer.max_epochs=1 (and as many rows as all epochs together)"
        )


def load_base(name: str) -> tuple[Guard, dict[str, Any], Policy | None]:
    """A base to train over. That of a RouteGuard comes with its adapters' settings and the policy that it shows."""
    config, state = weights.read(weights.find(name))
    if "routing" not in config:
        return registry.load(name, cached=True), {}, None
    settings = {k: config["routing"][k] for k in SETTINGS}
    return base_of(config, state, name, cached=True), settings, Policy.from_dict(config["routing"]["shown"])


def build_routeguard(config: dict[str, Any], data: GuardDataModule) -> RouteGuardModule:
    base, _, _ = load_base(config["base"])
    guard = routeguard(
        base,
        data.default_policy,
        config["experts"] or DOMAINS,
        name=config["recipe"],
        fallback=config["fallback"],
        **config["adapters"],
    )
    if not config["sequential"]:
        return _module(guard, config, all_readers(guard))
    module = _module(guard, config, list(guard.backbone.experts), sequential=True)
    trained_parameters(guard, [MONOLITH])
    return module


def build_expert(config: dict[str, Any], data: GuardDataModule) -> RouteGuardModule:
    base, settings, shown = load_base(config["base"])
    name, categories = config["expert"]["name"], [str(c) for c in config["expert"]["categories"]]
    shown = shown or base.policy
    check_categories(name, categories, policy := extended(shown, data.default_policy, categories))
    guard = expert_alone(base, policy, name, categories, shown=shown, **(settings or config["adapters"]))
    return _module(guard, config, [name])


def extended(policy: Policy, other: Policy, ids: list[str]) -> Policy:
    """`policy` with the entries of `other` that are among `ids` and that it lacks."""
    return Policy(policy.name, (*policy.entries, *(e for e in other.entries if e.id in ids and e.id not in policy.ids)))


def _module(
    guard: RouteGuard, config: dict[str, Any], readers: list[str], sequential: bool = False
) -> RouteGuardModule:
    trained_parameters(guard, readers, router=guard.only is None)
    guard.train()
    return RouteGuardModule(
        guard,
        readers,
        rows=config["rows"],
        shares=Shares(**config["shares"]),
        seed=config["seed"],
        sequential=sequential,
        loss=LossWeights(**config["loss"]),
        max_categories=config["max_categories"],
        **config["optim"],
    )


def finish_routeguard(
    module: RouteGuardModule, data: GuardDataModule, config: dict[str, Any], run: Path
) -> dict[str, Any]:
    guard: RouteGuard = module.guard
    kind, seed = config["trainer"]["accelerator"], config["seed"]
    routed = evaluate_routing(
        module,
        data,
        run,
        way=config["routing"],
        fallback=config["fallback"],
        test_rows=config["test_rows"],
        seed=seed,
    )
    metrics = evaluate(module, data, run, calibrated=True, accelerator=kind, seed=seed)
    metrics["routeguard"] = {**routed, "rows": {"each": module.rows, "pools": module.pools}}
    metrics["routeguard"]["batch_ms"] = batch_times(guard, data.samples("test"))
    registry.save(guard, run / "model", config["method"], routeguard_card(config, metrics, guard))
    return metrics


def finish_expert(module: RouteGuardModule, data: GuardDataModule, config: dict[str, Any], run: Path) -> dict[str, Any]:
    guard: RouteGuard = module.guard
    metrics: dict[str, Any] = {}
    reasons = calibrate_alone(module, data)
    metrics = evaluate(
        module, data, run, calibrated=True, accelerator=config["trainer"]["accelerator"], seed=config["seed"]
    )
    metrics["calibration_reasons"] = reasons
    metrics["rows"] = {"each": module.rows, "pools": module.pools}
    registry.save(guard, run / "model", config["method"], expert_card(config, metrics, guard))
    return metrics


def calibrate_alone(module: RouteGuardModule, data: GuardDataModule) -> dict[str, str]:
    """Fits an expert by itself on validation. Raises `DataError` where no row there has a label of its categories."""
    guard: RouteGuard = module.guard
    reasons = fit_readers(guard, survey(guard, data.samples("val"), failed=module.failed_ids))
    c = guard.backbone.experts[guard.only].calibration
    guard.calibration = type(guard.calibration)(threshold=c.threshold, category_threshold=c.category_threshold)
    return reasons.get(guard.only, {})

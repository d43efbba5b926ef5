"""A model zoo of guardrails: `zoo.load(name).moderate(zoo.Sample.of(text="…", image="a.png"))`."""

from datamodules.schema import DataError, MediaError, Policy, PolicyEntry, Sample
from zoo.core.checkpointing import Checkpointer
from zoo.core.guard import Guard
from zoo.core.module import GuardModule
from zoo.core.verdict import Verdict
from zoo.registry import create, list_models
from zoo.registry import load_model as load

__version__ = "0.1.0"
__all__ = [
    "Checkpointer",
    "DataError",
    "Guard",
    "GuardModule",
    "MediaError",
    "Policy",
    "PolicyEntry",
    "Sample",
    "Verdict",
    "create",
    "list_models",
    "load",
]

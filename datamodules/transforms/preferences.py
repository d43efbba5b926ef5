"""Preference pairs from edited clips: which of two answers about a clip is to be preferred (Thud, arXiv 2605.16403).

Counterfactual temporal preferences (CTP) come in twos: of an original the shifted answer is rejected, and of the
shifted clip the roles are reversed, so that no answer is right without listening. Shifted clips also reject the wrong
direction. Mute and Swap are paired in the same way: silence against an invented sound, mismatch against acceptance, and
the other way round on their originals. What is preferred follows from the edit; no model and no judge says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.schema import DataError, near
from datamodules.thud import LABELS, Item

KINDS = ("ctp", "direction", "mute", "swap")
_OF = {"sync": "ctp", "existence": "mute", "consistency": "swap"}
_OTHER_WAY = {"delay": "early", "early": "delay"}


@dataclass(frozen=True)
class Preference:
    """Of `item`, the label `chosen` (the true one) is to be preferred to `rejected`. `couple` names both halves of a
    counterfactual pair: the edited clip's id.
    """

    item: Item
    chosen: str
    rejected: str
    kind: str
    couple: str

    @property
    def id(self) -> str:
        return f"{self.couple}/{self.item.id}/{self.rejected}"


def preferences(items: Sequence[Item], kinds: Sequence[str] = KINDS) -> list[Preference]:
    """The pairs of these kinds: two of each edited clip, and one more of each shifted one for `direction`.

    In the order of `items`. Raises `DataError` for an unknown kind, and for an edit whose original is not there.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise DataError(f"unknown kind of preference {kind!r}{near(str(kind), KINDS)}")
    by_id = {item.id: item for item in items}
    out: list[Preference] = []
    for item in items:
        if not item.edited:
            continue
        accepted, kind, couple = LABELS[item.dimension][0], _OF[item.dimension], item.id
        if kind in kinds:
            original = by_id.get(f"{item.sample.meta.get('original')}/{item.dimension}")
            if original is None:
                raise DataError(f"{item.id}: its original is not among the items: a pair needs both")
            out.append(Preference(item, item.label, accepted, kind, couple))
            out.append(Preference(original, accepted, item.label, kind, couple))
        if item.dimension == "sync" and "direction" in kinds:
            out.append(Preference(item, item.label, _OTHER_WAY[item.label], "direction", couple))
    return out

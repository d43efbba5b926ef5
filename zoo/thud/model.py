"""Direct preference optimisation over answers, with the reference's log-probabilities kept on disk. Plain torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from datamodules.atomic import replacing_by_name
from datamodules.schema import DataError

BETA = 0.1  # the paper's


def sigmoid_dpo(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float = BETA
) -> Tensor:
    """−log σ(β · ((chosen − reference_chosen) − (rejected − reference_rejected))), the loss of each pair, [b].

    All four are [b]: the sums of the token log-probabilities of an answer under the model that is trained and under the
    frozen reference (Rafailov et al., arXiv 2305.18290, equation 7). Gradients reach the first two alone.
    """
    margin = (chosen - reference_chosen.detach()) - (rejected - reference_rejected.detach())
    return -torch.nn.functional.logsigmoid(beta * margin)


def rewards(logp: Tensor, reference: Tensor, beta: float = BETA) -> Tensor:
    """The implicit reward of an answer, β · (logp − reference), [b]; without a gradient."""
    return beta * (logp - reference).detach()


class Reference:
    """The reference's log-probabilities of chosen and rejected answers by the pair's id, computed once.

    `key` says what they depend on (the reference's weights, the pairs): a file of another key is not read.
    """

    def __init__(self, ids: Sequence[str], values: Tensor, key: str):
        """`values` [n, 2], chosen first. Raises ValueError for another shape and for an id that is there twice."""
        if values.shape != (len(ids), 2) or len(set(ids)) < len(ids):
            raise ValueError(f"{len(set(ids))} different ids of {len(ids)}, and values {list(values.shape)}")
        self.ids, self.values, self.key = list(ids), values.detach().to("cpu", torch.float32), key
        self.at = {id: n for n, id in enumerate(self.ids)}

    def of(self, ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Of chosen and of rejected answers, [b] each. Raises `DataError` for a pair that it has not seen."""
        for id in ids:
            if id not in self.at:
                raise DataError(f"the reference has not scored the pair {id!r}: compute it again")
        rows = self.values[[self.at[id] for id in ids]]
        return rows[:, 0], rows[:, 1]

    def save(self, path: str | Path) -> None:
        """As safetensors, whole or not at all."""
        notes = {"key": self.key, "ids": json.dumps(self.ids)}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing_by_name(path) as temporary:
            save_file({"values": self.values}, temporary, metadata=notes)

    @classmethod
    def load(cls, path: str | Path, key: str) -> Reference | None:
        """What `save` wrote; None where nothing is, or of another key. Raises `DataError` for a damaged file."""
        path = Path(path)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as f:
                notes, values = f.metadata() or {}, f.get_tensor("values")
            if notes.get("key") != key:
                return None
            return cls(json.loads(notes["ids"]), values, key)
        except (SafetensorError, ValueError, KeyError) as e:
            raise DataError(f"{path}: damaged ({e}): remove it, and it is computed again") from e

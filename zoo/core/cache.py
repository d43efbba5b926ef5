"""Features of frozen encoders on disk: computed once per content, setting and encoder, read through a memory map.

A cache is a folder of shards. A shard is a safetensors file, written under a temporary name, synchronised and renamed,
so that a run killed in the middle leaves nothing that a later run would trust. Values are float32 matrices.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as save_bytes

from datamodules.atomic import replacing, sweep
from datamodules.schema import DataError


def feature_key(*parts: str) -> str:
    """A key for content, setting and encoder hashes."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:40]


class FeatureCache:
    """Maps keys to float32 tensors [n, d]. `put` collects in memory; `flush` writes a shard.

    Reading is safe from worker processes: a shard never changes once it has its name.
    """

    def __init__(self, folder: str | Path, shard_bytes: int = 64 << 20):
        self.folder = Path(folder)
        self.shard_bytes = shard_bytes
        self._where: dict[str, tuple[int, int, int]] = {}  # key -> (shard, first row, rows)
        self._shards: list[np.ndarray] = []  # each [rows, d], memory-mapped
        self._pending: dict[str, tuple[int, int, int]] = {}  # key -> (width, first row, rows)
        # What is pending lies in one block for each width: many small arrays, each kept for long among the large and
        # short-lived ones of the encoders, would keep the allocator from giving memory back.
        self._blocks: dict[int, np.ndarray] = {}  # width -> [rows, width]
        self._used: dict[int, int] = {}  # width -> rows
        self._opened: set[Path] = set()
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        self.refresh()

    def refresh(self) -> None:
        """Opens the shards that are new: those that another process wrote."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._opened):
            self._open(path)

    def __len__(self) -> int:
        return len(self._where) + len(self._pending)

    def __bool__(self) -> bool:
        return True  # an empty cache is a cache, too

    def __contains__(self, key: str) -> bool:
        return key in self._where or key in self._pending

    def get(self, key: str) -> torch.Tensor | None:
        """The stored matrix [n, d], or None."""
        at = self._where.get(key)
        if at is None:
            pending = self._pending.get(key)
            if pending is None:
                return None
            width, first, rows = pending
            return torch.from_numpy(self._blocks[width][first : first + rows].copy())
        shard, first, rows = at
        return torch.from_numpy(np.array(self._shards[shard][first : first + rows]))  # [n, d]

    def put(self, key: str, value: torch.Tensor) -> None:
        if value.dim() != 2 or value.dtype != torch.float32:
            raise ValueError(f"a cached feature is a float32 matrix, got {value.dtype} {tuple(value.shape)}")
        if key in self:
            return
        rows, width = value.shape
        if width in self._blocks and self._used[width] + rows > len(self._blocks[width]):
            self.flush()
        if width not in self._blocks or rows > len(self._blocks[width]):
            self._blocks[width] = np.empty((max(rows, self.shard_bytes // (4 * max(width, 1)), 1), width), np.float32)
        first = self._used.get(width, 0)
        self._blocks[width][first : first + rows] = value.detach().cpu().numpy()
        self._used[width] = first + rows
        self._pending[key] = (width, first, rows)

    def flush(self) -> None:
        """Writes what is pending: one shard for each width."""
        for width in sorted({w for w, _, _ in self._pending.values()}):
            mine = [(key, rows) for key, (w, _, rows) in self._pending.items() if w == width]  # in the block's order
            data = self._blocks[width][: self._used[width]]  # [rows, d]
            meta = {"keys": json.dumps([k for k, _ in mine]), "rows": json.dumps([n for _, n in mine])}
            path = self.folder / f"{uuid.uuid4().hex}.safetensors"
            with replacing(path) as f:
                f.write(save_bytes({"data": data}, metadata=meta))
            self._open(path)
            self._used[width] = 0
        self._pending.clear()

    def _open(self, path: Path) -> None:
        whole = path.stat().st_size
        try:
            with open(path, "rb") as f:
                size = int.from_bytes(f.read(8), "little")
                header = json.loads(f.read(min(size, whole)))
            spec, meta = header["data"], header["__metadata__"]
            first, last = spec["data_offsets"]
            rows, width = spec["shape"]
            keys, counts = json.loads(meta["keys"]), json.loads(meta["rows"])
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(f"{path}: damaged feature shard: delete it, it is computed again") from e
        if spec["dtype"] != "F32" or whole != 8 + size + last or sum(counts) != rows or len(keys) != len(counts):
            raise DataError(f"{path}: damaged feature shard: delete it, it is computed again")
        if rows == 0:
            data = np.zeros((0, width), dtype=np.float32)
        else:
            data = np.memmap(path, dtype="<f4", mode="r", offset=8 + size + first, shape=(rows, width))
        shard, at = len(self._shards), 0
        self._shards.append(data)
        self._opened.add(path)
        for key, n in zip(keys, counts):
            self._where[key] = (shard, at, n)
            at += n

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
        self._pending: dict[str, np.ndarray] = {}
        self._pending_bytes = 0
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
            return None if pending is None else torch.from_numpy(pending.copy())
        shard, first, rows = at
        return torch.from_numpy(np.array(self._shards[shard][first : first + rows]))  # [n, d]

    def put(self, key: str, value: torch.Tensor) -> None:
        if value.dim() != 2 or value.dtype != torch.float32:
            raise ValueError(f"a cached feature is a float32 matrix, got {value.dtype} {tuple(value.shape)}")
        if key in self:
            return
        array = value.detach().cpu().contiguous().numpy()
        self._pending[key] = array
        self._pending_bytes += array.nbytes
        if self._pending_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending: one shard for each width."""
        widths = sorted({a.shape[1] for a in self._pending.values()})
        for width in widths:
            keys = [k for k, a in self._pending.items() if a.shape[1] == width]
            data = np.concatenate([self._pending[k] for k in keys])  # [rows, d]
            meta = {"keys": json.dumps(keys), "rows": json.dumps([len(self._pending[k]) for k in keys])}
            path = self.folder / f"{uuid.uuid4().hex}.safetensors"
            with replacing(path) as f:
                f.write(save_bytes({"data": data}, metadata=meta))
            self._open(path)
        self._pending.clear()
        self._pending_bytes = 0

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
            raise ValueError(f"{path}: damaged feature shard: delete it, it is computed again") from e
        if spec["dtype"] != "F32" or whole != 8 + size + last or sum(counts) != rows or len(keys) != len(counts):
            raise ValueError(f"{path}: damaged feature shard: delete it, it is computed again")
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

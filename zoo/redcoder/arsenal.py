"""The arsenal: a turn of a successful conversation → the strategy that it belongs to (paper, section 3).

A key is one turn pair (prompt and reply), as a sentence embedding; a value is the analyst's summary. The nearest key by
inner product gives the strategy. The search is exact: in torch, or by FAISS's flat index where it is installed and the
arsenal is large.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.assets import asset_hash, resolve
from datamodules.atomic import folder_beside, put, write_text
from datamodules.schema import DataError
from zoo.core.encoders.text import CHUNK, load_minilm

LARGE = 50_000  # keys from which on FAISS is worth its start
BLOCK = 4096  # keys compared at a time
Embed = Callable[[Sequence[str]], Tensor]
"""texts → [n, d], rows of length 1"""


@dataclass(frozen=True)
class Entry:
    """`key` is the text of the turn pair, `summary` its strategy; `task` and `turn` (from 0) say where it is from."""

    key: str
    summary: str
    task: str
    turn: int


def turn_pair(prompt: str, reply: str) -> str:
    """The text that is embedded: both halves, so that the encoder's window sees the beginning of each."""
    return f"{prompt[:1000]}\n\n{reply[:1000]}"


class Minilm:
    """all-MiniLM-L6-v2 sentence embeddings: the mean of the token states, scaled to length 1. [n, 384]"""

    def __init__(self) -> None:
        self.bert, self.tokenizer = load_minilm(resolve("minilm"))
        self.bert.eval()
        self.name = f"minilm-{asset_hash('minilm')[:12]}"

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        out = []
        for start in range(0, len(texts), 32):
            part = list(texts[start : start + 32])
            t = self.tokenizer(part, padding=True, truncation=True, max_length=CHUNK + 2, return_tensors="pt")
            hidden = self.bert(input_ids=t["input_ids"], attention_mask=t["attention_mask"]).last_hidden_state
            mask = t["attention_mask"][..., None].float()  # [b, t, 1]
            out.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))  # [b, d]
        return torch.cat(out) if out else torch.zeros(0, self.bert.config.hidden_size)


def nearest(keys: Tensor, queries: Tensor) -> Tensor:
    """The number of the key with the largest inner product for each query, the first of equals. [n, d], [q, d] → [q]"""
    if not len(keys):
        raise ValueError("no keys to search")
    if len(keys) >= LARGE and importlib.util.find_spec("faiss"):
        import faiss

        index = faiss.IndexFlatIP(keys.shape[1])
        index.add(keys.contiguous().numpy())
        return torch.from_numpy(index.search(queries.contiguous().numpy(), 1)[1][:, 0])
    best = torch.full((len(queries),), -torch.inf)  # [q]
    place = torch.zeros(len(queries), dtype=torch.long)  # [q]
    for start in range(0, len(keys), BLOCK):
        scores = queries @ keys[start : start + BLOCK].T  # [q, block]
        top = scores.amax(1)  # [q]
        first = (scores == top[:, None]).int().argmax(1) + start  # [q]; argmax of equals: the first
        better = top > best
        best, place = torch.where(better, top, best), torch.where(better, first, place)
    return place


class Arsenal:
    """`vectors` [n, d] are the embedded keys of `entries`; `encoder` names what embedded them."""

    def __init__(self, entries: Sequence[Entry], vectors: Tensor, embed: Embed, encoder: str):
        self.entries, self.vectors, self.embed, self.encoder = list(entries), vectors, embed, encoder

    @classmethod
    def of(cls, entries: Sequence[Entry], embed: Embed, encoder: str) -> Arsenal:
        return cls(entries, embed([e.key for e in entries]), embed, encoder)

    def __len__(self) -> int:
        return len(self.entries)

    def retrieve(self, pairs: Sequence[tuple[str, str]]) -> list[Entry]:
        """The entry of the nearest key of each (prompt, reply)."""
        if not pairs:
            return []
        return [self.entries[i] for i in nearest(self.vectors, self.embed([turn_pair(*p) for p in pairs])).tolist()]

    def save(self, folder: Path) -> None:
        """Writes `entries.jsonl`, `vectors.safetensors` and `arsenal.json`; the folder is there whole or not at all."""
        with folder_beside(folder) as content:
            lines = "".join(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in self.entries)
            write_text(content / "entries.jsonl", lines)
            save_file({"vectors": self.vectors.contiguous()}, content / "vectors.safetensors")
            write_text(content / "arsenal.json", json.dumps({"encoder": self.encoder, "entries": len(self)}) + "\n")
            put(content, folder)

    @classmethod
    def load(cls, folder: str | Path, embed: Embed, encoder: str) -> Arsenal:
        """Raises `DataError` for a folder that holds no arsenal, or one of another encoder."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "arsenal.json").read_text(encoding="utf-8"))
            lines = (folder / "entries.jsonl").read_text(encoding="utf-8").split("\n")
            entries = [Entry(**json.loads(line)) for line in lines if line]
            vectors = load_file(folder / "vectors.safetensors")["vectors"]
            named, count = about["encoder"], about["entries"]
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as e:
            raise DataError(f"{folder}: not an arsenal ({type(e).__name__}: {e}): give one that gaming wrote") from e
        if named != encoder:
            raise DataError(f"{folder}: embedded by {named}, and this is {encoder}: build the arsenal again")
        if not len(entries) == len(vectors) == count or not count:
            raise DataError(f"{folder}: {len(entries)} entries and {len(vectors)} vectors for {count}: not whole")
        return cls(entries, vectors, embed, encoder)

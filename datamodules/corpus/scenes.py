"""The rendered corpus on disk: files, manifest and a hash that says what is in it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from datamodules.atomic import folder_beside, put, sweep
from datamodules.corpus import clips, draw, sounds
from datamodules.corpus.jobs import IMAGE_SIZES, Job, Plan
from datamodules.corpus.plan import plan
from datamodules.schema import DataError, Sample, canonical_json

__all__ = ["VERSION", "build", "corpus_hash", "plan", "render"]

VERSION = 1  # raise it whenever the same seed gives other samples or other media
WORKERS = 2
SERIAL = 200  # fewer files than this are not worth a second process


def _rng(key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))


def render(job: Job, root: Path) -> str:
    """Writes the job's file under `root` and returns the sha256 of its content.

    PNG and FLAC are hashed as files. An MP4 is hashed by the frames and the 16-bit samples that went into it, so that
    the hash does not depend on the build of the codec.
    """
    path = root / job.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if job.kind == "image":
        rng = _rng(job.shown_key)
        size = IMAGE_SIZES[int(rng.integers(len(IMAGE_SIZES)))]
        draw.picture(job.shown, size, rng).save(path, compress_level=1)
        return _file_hash(path)
    samples = None if job.heard is None else sounds.sound(job.heard, _rng(job.heard_key))
    pcm = None if samples is None else np.rint(samples * 32767).astype(np.int16)
    if job.kind == "audio":
        soundfile.write(path, pcm, sounds.RATE, subtype="PCM_16", format="FLAC")
        return _file_hash(path)
    frames = clips.frames(job.shown, job.happening, _rng(job.shown_key))
    clips.write_clip(path, frames, clips.FPS, samples, sounds.RATE)
    digest = hashlib.sha256(f"{clips.FPS} {list(frames.shape)}".encode())
    digest.update(frames.tobytes())
    digest.update(b"" if pcm is None else pcm.astype("<i2").tobytes())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _render(args: tuple[Job, str]) -> str:
    return render(args[0], Path(args[1]))


def _end_with_parent() -> None:
    """A killed process cannot stop its pool, whose processes would wait for work for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _render_all(jobs: list[Job], root: Path) -> Iterator[str]:
    """Content hashes in the order of `jobs`."""
    tasks = [(j, str(root)) for j in jobs]
    workers = min(WORKERS, os.cpu_count() or 1)
    # fork, because spawn would run an unguarded user script again; the children touch neither torch nor CUDA.
    if len(jobs) < SERIAL or workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(_render, tasks)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            yield from pool.map(_render, tasks, chunksize=8)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def build(
    root: str | Path,
    seed: int = 0,
    scale: float = 1.0,
    progress: bool = True,
    make: Callable[[int, float], Plan] | None = None,
    version: int | str = VERSION,
) -> list[Sample]:
    """The corpus of `seed` and `scale` under `root`: rendered on the first call, then read. Media paths are absolute.

    `make(seed, scale)` says what is in it: the scenes (None), or what another part of the corpus plans; parts have
    versions of their own.

    Rendering goes to a folder beside `root` that takes its place when it is whole, so a killed build leaves nothing
    that is trusted. A corpus of another seed, scale or version is replaced; any other folder raises `DataError`.
    """
    root = Path(root)
    want = {"seed": seed, "scale": scale, "version": version}
    have = _recorded(root)
    if _is(have, want):
        return _load(root, have["sha256"])
    if have is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: is not a rendered corpus and not empty: give another folder or remove it")
    sweep(root.parent, root.name)
    with folder_beside(root) as content:
        _write((make or plan)(seed, scale), content, progress)
        (content / "corpus.json").write_text(json.dumps({**want, "sha256": corpus_hash(content)}), encoding="utf-8")
        if not _is(_recorded(root), want):  # another process may have been first, and may be reading its own
            if root.exists():
                root.rename(content.with_name("old"))
            put(content, root)
    return _load(root)


def _write(todo: Plan, root: Path, progress: bool) -> None:
    hashes: Iterable[str] = _render_all(todo.jobs, root)
    bar = tqdm(hashes, total=len(todo.jobs), desc="rendering scenes", file=sys.stderr, disable=not progress)
    media = {job.path: digest for job, digest in zip(todo.jobs, bar)}
    (root / "media.json").write_text(json.dumps(media, indent=0, sort_keys=True), encoding="utf-8")
    rows = [canonical_json(s.to_dict()) for s in todo.samples]
    (root / "manifest.jsonl").write_text("".join(row + "\n" for row in rows), encoding="utf-8")


def _recorded(root: Path) -> dict | None:
    """What `corpus.json` says, or None where there is no readable one."""
    try:
        found = json.loads((root / "corpus.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "sha256" in found else None


def _is(have: dict | None, want: dict) -> bool:
    return have is not None and {k: have.get(k) for k in want} == want


def _load(root: Path, sha256: str | None = None) -> list[Sample]:
    if sha256 is not None and corpus_hash(root) != sha256:
        raise DataError(f"{root}: the rendered corpus was changed on disk: remove the folder to render it again")
    with (root / "manifest.jsonl").open(encoding="utf-8") as lines:
        return [Sample.from_dict(json.loads(row), root, f"manifest line {n}") for n, row in enumerate(lines, 1)]


def corpus_hash(root: str | Path) -> str:
    """sha256 over the manifest and every file's content: PNG and FLAC as they lie on disk, MP4 as it was put in.

    Equal across runs with the same versions of Pillow, NumPy and libsndfile. Raises `DataError` for a missing file.
    """
    root = Path(root)
    digest = hashlib.sha256()
    try:
        digest.update((root / "manifest.jsonl").read_bytes())
        media = json.loads((root / "media.json").read_text(encoding="utf-8"))
        for path in sorted(media):
            file = root / path
            if path.endswith(".mp4"):
                file.stat()  # must be there; its bytes depend on the codec
                content = media[path]
            else:
                content = _file_hash(file)
            digest.update(f"{path} {content}\n".encode())
    except (OSError, ValueError) as e:
        raise DataError(f"{root}: not a whole rendered corpus: {e}") from e
    return digest.hexdigest()

"""Whatever kills a process that writes, nothing is left that a later one would trust, and what is left is swept."""

import errno
import fcntl
import hashlib
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import resume_runs
import torch

from datamodules import assets, atomic
from datamodules.atomic import DiskFullError, folder_beside, full_disk, put, replacing, replacing_by_name, sweep
from datamodules.corpus import scenes
from zoo import cli
from zoo.core import weights
from zoo.core.cache import FeatureCache
from zoo.core.checkpointing import AtomicCheckpointIO

KILLED = -9


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return resume_runs.Runs(tmp_path_factory.mktemp("atomic"))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ------------------------------------------------------------------------------------------------------ in one process


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_text(path, "one")
    with pytest.raises(KeyboardInterrupt), replacing(path) as f:
        f.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "one" and names(tmp_path) == ["a.json"]
    with replacing(path) as f:
        f.write(b"two")
        assert path.read_text() == "one"
    with replacing_by_name(tmp_path / "b") as temporary:
        temporary.write_text("by name")
        temporary.chmod(0o600)
    assert (
        path.read_text() == "two" and (tmp_path / "b").read_text() == "by name" and names(tmp_path) == ["a.json", "b"]
    )


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), real_sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), real_replace(a, b)))
    atomic.write_text(tmp_path / "a", "one")
    assert len(done) == 3 and done[0].endswith(".tmp") and done[1:] == ["replace", str(tmp_path)]
    done.clear()
    with folder_beside(tmp_path / "f") as content:
        (content / "deep").mkdir()
        (content / "deep" / "x").write_text("x")
        put(content, tmp_path / "f")
    assert [d.rsplit("content")[-1] for d in done[:-1]] == ["/deep", "/deep/x", ""] and done[-1] == str(tmp_path)
    assert names(tmp_path) == ["a", "f"] and names(tmp_path / "f") == ["deep"]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    atomic.write_text(pipe, "one")
    assert os.read(reader, 10) == b"one" and stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ["pipe"]
    os.close(reader)
    for path, device in (("/dev/null", True), ("/dev/stdout", True), (tmp_path / "gone", False), (tmp_path, False)):
        assert atomic.is_device(Path(path)) is device
    (tmp_path / "a").write_text("x")
    assert not atomic.is_device(tmp_path / "a")


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_is_one_clear_error(tmp_path, number, capsys):
    (tmp_path / "a").write_text("one")
    number = getattr(errno, number)
    for raised in (OSError(number, "x"), RuntimeError(f"I/O error: no room (os error {number})")):
        words = rf"a: {os.strerror(number).lower()} on the disk /.*MB free.*make room"
        with pytest.raises(DiskFullError, match=words), replacing(tmp_path / "a"):
            raise raised
        with pytest.raises(DiskFullError, match="on the disk"), folder_beside(tmp_path / "f"):
            raise raised
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "one"
    assert full_disk(OSError(errno.EACCES, "x")) is None and full_disk(ValueError("os error")) is None
    with pytest.raises(PermissionError), replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "x")

    def main(arguments):
        raise OSError(number, "x", "plot.png")

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 2 and capsys.readouterr().err.startswith(f"error: plot.png: {os.strerror(number).lower()}")


def test_the_real_words_of_a_full_disk(tmp_path, monkeypatch):
    """torch's archive writer covers the system's error with its own, and safetensors gives it as text."""
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3)}, tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()
    large = {"a": torch.ones(100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # what is larger, the system refuses
    try:
        with pytest.raises(DiskFullError, match=r"last\.ckpt: file too large on the disk"):
            AtomicCheckpointIO().save_checkpoint(large, tmp_path / "last.ckpt")
        with pytest.raises(DiskFullError, match=r"model\.safetensors: file too large on the disk"):
            weights.write(tmp_path / "model", {}, large, "card")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert names(tmp_path) == ["last.ckpt", "model"] and names(tmp_path / "model") == []


def test_the_dead_are_swept_and_the_living_are_not(tmp_path):
    hold = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    for name in (".a.1.tmp", ".a.2.tmp", ".b.1.tmp", "a.tmp"):
        (tmp_path / name).write_text("half")
    for name in (".f.1.part", ".f.2.part", ".g.1.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".lock").write_text("")
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / ".a.1.tmp")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with open(tmp_path / ".f.1.part" / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for target in ("a", "f"):
                sweep(tmp_path, target)
        assert names(tmp_path) == [".a.1.tmp", ".b.1.tmp", ".f.1.part", ".g.1.part", "a.tmp"]
        with replacing(tmp_path / "a"):  # what this very process is writing
            sweep(tmp_path)
            assert len([n for n in names(tmp_path) if n.startswith(".a.")]) == 2
        other.kill()
    sweep(tmp_path)
    assert names(tmp_path) == ["a", "a.tmp"]


# ---------------------------------------------------------------------------------------------------- killed processes


def test_killed_while_writing_the_feature_cache(processes):
    code, output = processes.begin("cached", at=("fsync .tmp", 2))
    assert code == KILLED, output
    folder = processes.home / "features"
    assert len(list(folder.glob(".*.tmp"))) == 1 and not (processes.folder / "cached").exists()
    half = FeatureCache(folder)
    assert len(half) and not list(folder.glob(".*.tmp"))
    code, output = processes.begin("cached", at=("step", 1))
    assert code == KILLED, output
    full = FeatureCache(folder)
    assert len(full) > len(half) and all(torch.equal(full.get(k), half.get(k)) for k in half._where)


def test_killed_while_copying_an_asset(processes, tmp_path, monkeypatch):
    bodies = {"a.bin": b"one " * 100, "b.bin": b"two " * 100}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}
    monkeypatch.setenv("ZOO_HOME", str(processes.home))
    asset = assets.Asset("tiny", "MIT", digests, (assets.Folder(str(tmp_path)),))
    for moment in (("asset write", 2), ("rename folder files", 1)):  # half of it; all of it, without its name
        code, output = processes.process("copy_asset", (str(tmp_path), digests), moment)
        assert code == KILLED, output
        assert not asset.folder.exists() and len(list(asset.folder.parent.glob(".tmp-*"))) == 1
    assert {n: (assets.resolve(asset) / n).read_bytes() for n in digests} == bodies
    assert not list(asset.folder.parent.glob(".tmp-*"))


def test_killed_while_rendering(processes, tmp_path, monkeypatch):
    root = tmp_path / "scenes"
    for moment in (("rendered", 3), ("rename folder content", 1)):
        code, output = processes.process("make_scenes", (str(root),), moment)
        assert code == KILLED, output
        processes.wait_for_children()  # those that render
        (left,) = names(tmp_path)
        assert left.startswith(".scenes.") and left.endswith(".part")
    monkeypatch.setattr(scenes, "plan", resume_runs.few_pictures)
    rows = scenes.build(root, progress=False)
    assert len(rows) == 12 and names(tmp_path) == ["scenes"] and scenes.build(root, progress=False) == rows


def test_killed_while_writing_a_model(processes, tmp_path):
    """Over an older one: its weights with another's config are not loaded."""
    resume_runs.write_weights(tmp_path, 1.0)
    code, output = processes.process("write_weights", (str(tmp_path), 2.0), ("rename .tmp", 1))
    assert code == KILLED, output
    with pytest.raises(weights.CheckpointError, match="wrong hash"):
        weights.read(tmp_path)
    resume_runs.write_weights(tmp_path, 2.0)
    assert weights.read(tmp_path)[1]["a"].tolist() == [2.0] * 3
    assert names(tmp_path) == ["README.md", "config.json", "model.safetensors"]

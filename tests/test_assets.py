"""Assets: whatever goes wrong, nothing that is not the pinned bytes is ever handed out."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datamodules import asset_sources, assets
from datamodules.assets import Asset, AssetError, Folder, Https, Hub, Wheel, resolve

BODY = b"weights " * 1000


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ZOO_ASSETS_DIR", raising=False)
    return tmp_path / "home"


def make_wheel(folder: Path, members: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    """A wheel that pip accepts."""
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    members = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (modes or {}).get(name, 0o100644) << 16
            z.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def wheel_asset(path: Path, files: dict[str, bytes] | None = None, **more) -> Asset:
    files = {"a.bin": BODY} if files is None else files
    source = Wheel("tiny-weights==1.0", sha(path.read_bytes()), {f"tiny/{n}": n for n in files})
    return Asset("tiny", "MIT", {n: sha(d) for n, d in files.items()}, (source,), **more)


def folder_asset(tmp_path: Path, data: bytes = BODY, digest: str | None = None, **more) -> Asset:
    (tmp_path / "source").mkdir(exist_ok=True)
    (tmp_path / "source" / "a.bin").write_bytes(data)
    return Asset("tiny", "MIT", {"a.bin": digest or sha(BODY)}, (Folder(str(tmp_path / "source")),), **more)


def nothing_left(home: Path) -> bool:
    return not [p for p in (home / "assets").iterdir() if not p.name.endswith(".lock")]


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pip must not run here")

    monkeypatch.setattr(asset_sources.subprocess, "run", refuse)


def test_pip_fetches_a_pinned_wheel_once(tmp_path, monkeypatch, capfd):
    wheel = make_wheel(tmp_path / "index", {"tiny/a.bin": BODY, "tiny/__init__.py": b"raise SystemExit('imported')"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    asset = wheel_asset(wheel)
    folder = resolve(asset)
    assert [p.name for p in folder.iterdir()] == ["a.bin"]  # the named member only
    assert (folder / "a.bin").read_bytes() == BODY
    out, err = capfd.readouterr()
    assert out == "" and "tiny" in err
    wheel.unlink()
    assert resolve(asset) == folder  # no second fetch


def test_pip_refuses_another_wheel(home, tmp_path, monkeypatch):
    wheel = make_wheel(tmp_path / "index", {"tiny/a.bin": BODY})
    asset = wheel_asset(wheel)
    make_wheel(tmp_path / "index", {"tiny/a.bin": b"evil"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(AssetError, match=r"tiny-weights==1\.0"):
        resolve(asset)
    assert nothing_left(home)


def test_no_network_says_what_to_do(home, tmp_path, monkeypatch, capfd):
    asset = wheel_asset(make_wheel(tmp_path, {"tiny/a.bin": BODY}))
    failed = subprocess.CompletedProcess([], 1, "", "Retrying\nERROR: No matching distribution found\n")
    monkeypatch.setattr(asset_sources.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(AssetError) as e:
        resolve(asset)
    for part in ("No matching distribution found", "ZOO_ASSETS_DIR/tiny/", "a.bin", "pip download"):
        assert part in str(e.value)
    assert "Retrying" in capfd.readouterr().err and nothing_left(home)


def test_pip_command_is_pinned_and_quiet_about_addresses(tmp_path, monkeypatch):
    asset, seen = wheel_asset(make_wheel(tmp_path, {"tiny/a.bin": BODY})), {}

    def run(command, cwd, **kwargs):
        seen.update(command=command, cwd=Path(cwd), pins=Path(command[command.index("-r") + 1]).read_text())
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(asset_sources.subprocess, "run", run)
    with pytest.raises(AssetError, match="exit code 1"):
        resolve(asset)
    assert seen["command"][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(seen["command"])
    assert seen["pins"] == f"tiny-weights==1.0 --hash=sha256:{asset.sources[0].sha256}\n"
    assert "://" not in " ".join(seen["command"]) and seen["cwd"] != Path.cwd()


def test_missing_pip_is_one_clear_message(tmp_path, monkeypatch, no_pip):
    asset = wheel_asset(make_wheel(tmp_path, {"tiny/a.bin": BODY}))
    monkeypatch.setattr(asset_sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match="pip is not installed"):
        resolve(asset)


def test_assets_dir_holds_files_or_wheels(tmp_path, monkeypatch, no_pip, capfd):
    local = tmp_path / "local"
    wheel = make_wheel(local, {"tiny/a.bin": BODY})
    asset = wheel_asset(wheel)
    monkeypatch.setenv("ZOO_ASSETS_DIR", str(local))
    assert (resolve(asset) / "a.bin").read_bytes() == BODY
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "other"))
    (local / "tiny").mkdir()
    (local / "tiny" / "a.bin").write_bytes(b"not it")  # falls through to the wheel, and says so
    assert (resolve(asset) / "a.bin").read_bytes() == BODY
    assert "expected" in capfd.readouterr().err
    assert (local / "tiny" / "a.bin").read_bytes() == b"not it"  # the user's own file is left alone
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "third"))
    (local / "tiny" / "a.bin").write_bytes(BODY)
    wheel.unlink()
    assert (resolve(asset) / "a.bin").read_bytes() == BODY


def test_wrong_bytes_are_named_and_not_kept(home, tmp_path):
    with pytest.raises(AssetError) as e:
        resolve(folder_asset(tmp_path, b"evil"))
    assert f"a.bin: sha256 is {sha(b'evil')[:12]}, expected {sha(BODY)[:12]}" in str(e.value)
    assert nothing_left(home)


def test_damage_on_disk_is_found_removed_and_mended(tmp_path):
    asset = folder_asset(tmp_path)
    folder = resolve(asset)
    before = (folder / "a.bin").stat()
    (folder / "a.bin").write_bytes(BODY[:-1] + b"X")
    os.utime(folder / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time
    with pytest.raises(AssetError, match=r"damaged.*a\.bin"):
        resolve(asset)
    assert not folder.exists()
    assert (resolve(asset) / "a.bin").read_bytes() == BODY


def test_link_in_the_cache_is_not_followed(tmp_path):
    asset = folder_asset(tmp_path)
    folder = resolve(asset)
    (folder / "a.bin").unlink()
    (folder / "a.bin").symlink_to(tmp_path / "source" / "a.bin")
    with pytest.raises(AssetError, match="damaged"):
        resolve(asset)
    assert (tmp_path / "source" / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\evil", "c:evil", ""])
def test_names_that_leave_the_folder(tmp_path, name, no_pip):
    with pytest.raises(AssetError, match="stay inside"):
        Asset("tiny", "MIT", {name: sha(BODY)}, ())
    wheel = make_wheel(tmp_path, {"tiny/a.bin": BODY})
    source = Wheel("tiny-weights==1.0", sha(wheel.read_bytes()), {"tiny/a.bin": name})
    (tmp_path / "into" / "deep").mkdir(parents=True)
    with pytest.raises(AssetError, match="stay inside"):
        source._extract(wheel, tmp_path / "into" / "deep", 1 << 20)
    assert not list((tmp_path / "into").rglob("*evil*"))


def test_hostile_wheels(home, tmp_path, monkeypatch, no_pip):
    monkeypatch.setenv("ZOO_ASSETS_DIR", str(tmp_path))
    wheel = make_wheel(tmp_path, {"tiny/a.bin": b"/etc/passwd"}, {"tiny/a.bin": 0o120777})
    with pytest.raises(AssetError, match="not a regular file"):
        resolve(wheel_asset(wheel, {"a.bin": b"/etc/passwd"}))
    wheel = make_wheel(tmp_path, {"tiny/a.bin": bytes(5_000_000)})  # a bomb: 5 kB in the wheel
    assert wheel.stat().st_size < 10_000
    with pytest.raises(AssetError, match="too large"):
        resolve(wheel_asset(wheel, {"a.bin": bytes(5_000_000)}, max_bytes=1_000_000))
    wheel = make_wheel(tmp_path, {"../../evil.bin": BODY, "tiny/a.bin": BODY})
    assert sorted(p.name for p in resolve(wheel_asset(wheel)).rglob("*")) == ["a.bin"]
    wheel = make_wheel(tmp_path, {"tiny/other.bin": BODY})
    with pytest.raises(AssetError, match=r"no member tiny/b\.bin"):
        resolve(wheel_asset(wheel, {"b.bin": BODY}))
    assert not list(tmp_path.rglob("evil*"))


def test_killed_midway_leaves_nothing_trusted(home, tmp_path, monkeypatch):
    asset = folder_asset(tmp_path)

    def killed(files, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "_publish", killed)
    with pytest.raises(KeyboardInterrupt):
        resolve(asset)
    assert not asset.folder.exists()
    stale = asset.folder.parent / f".tmp-{asset.folder.name}-dead"  # as after a power cut
    (stale / "files").mkdir(parents=True)
    (stale / "files" / "a.bin").write_bytes(BODY[:10])
    monkeypatch.undo()
    monkeypatch.setenv("ZOO_HOME", str(home))
    assert (resolve(asset) / "a.bin").read_bytes() == BODY and not stale.exists()


def test_concurrent_processes_fetch_once(tmp_path, capfd):
    asset = folder_asset(tmp_path)
    with ThreadPoolExecutor(4) as pool:  # flock holds between open files, so threads stand for processes
        folders = set(pool.map(lambda _: resolve(asset), range(8)))
    assert folders == {asset.folder} and capfd.readouterr().err.count("fetching") == 1


def test_a_race_without_a_lock_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "fcntl", None)
    asset = folder_asset(tmp_path)
    publish = assets._publish

    def second(files, folder):
        folder.mkdir()
        (folder / "a.bin").write_bytes(BODY)
        publish(files, folder)

    monkeypatch.setattr(assets, "_publish", second)
    assert (resolve(asset) / "a.bin").read_bytes() == BODY


def test_sources_are_tried_in_order_and_all_are_reported(tmp_path):
    good = folder_asset(tmp_path).sources[0]
    sources = (Folder(str(tmp_path / "missing")), Https({"a.bin": "ftp:x"}), good)
    assert (resolve(Asset("tiny", "MIT", {"a.bin": sha(BODY)}, sources)) / "a.bin").read_bytes() == BODY
    with pytest.raises(AssetError) as e:
        resolve(Asset("tiny2", "MIT", {"a.bin": sha(BODY)}, sources[:2]))
    assert "no such folder" in str(e.value) and "only https" in str(e.value)


def test_hub_is_asked_for_the_pinned_revision(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(repo, name, revision, local_dir):
        assert (repo, name, revision) == ("org/model", "a.bin", "f" * 40)
        (Path(local_dir) / name).write_bytes(BODY)
        return str(Path(local_dir) / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    asset = Asset("tiny", "MIT", {"a.bin": sha(BODY)}, (Hub("org/model", "f" * 40),))
    assert (resolve(asset) / "a.bin").read_bytes() == BODY


def test_https_refuses_a_redirect_elsewhere():
    import urllib.error

    with pytest.raises(urllib.error.URLError, match="not https"):
        asset_sources._HttpsOnly().redirect_request(None, None, 302, "", {}, "file:///etc/passwd")


def test_unknown_name_and_hash():
    with pytest.raises(AssetError, match="did you mean 'minilm'"):
        resolve("minilmm")
    assert assets.asset_hash("minilm") != assets.asset_hash("bastioncorpus")
    files = assets.ASSETS["minilm"].files
    shuffled = Asset("other", "MIT", dict(reversed(files.items())), ())
    assert shuffled.hash == assets.asset_hash("minilm")  # the files alone, in any order
    changed = Asset("other", "MIT", {**files, "vocab.txt": "0" * 64}, ())
    assert changed.hash != shuffled.hash


def test_zoo_home(monkeypatch, tmp_path):
    assert assets.zoo_home() == tmp_path / "home"
    monkeypatch.delenv("ZOO_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert assets.zoo_home() == tmp_path / "cache" / "guardrail-zoo"


def test_home_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="set ZOO_HOME"):
        resolve(folder_asset(tmp_path))

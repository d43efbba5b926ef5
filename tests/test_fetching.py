"""The folder of public data is built anew from a server that plays GitHub: the right bytes, or an error and no file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import random
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules import asset_sources
from datamodules.asset_sources import AssetError, Https
from datamodules.schema import DataError
from datamodules.sources import cuts, fetching
from datamodules.sources.fetching import rebuild
from datamodules.sources.record import Repo, SourceFile, verified
from datamodules.sources.registry import GUARDZOO
from zoo import data

DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no public data: set ZOO_DATA_DIR to its folder")
REPO = Repo("someone/some-set", "a" * 40)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` (path → bytes), and says more than it sends for the paths in `broken`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.broken: set[str] = set()
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def holds(self, upstream: str, data: bytes, repo: Repo = REPO) -> str:
        path = f"/{repo.name}/{repo.commit}/{upstream.replace(' ', '%20')}"
        self.content[path] = data
        return path


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        data = self.server.content.get(self.path)
        self.send_response(200 if data is not None else 404)
        body = data or b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path in self.server.broken else body)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "cut", lambda file, data: cuts.cut(file, data, tmp_path / "kept_rows"))
    return tmp_path / "kept_rows"


def plain_file(server: Server, path: str, data: bytes, upstream: str | None = None) -> SourceFile:
    upstream = upstream or f"data/{Path(path).name}"
    server.holds(upstream, data)
    return SourceFile(path, REPO, upstream, sha(data), rows=1)


def three(server: Server) -> list[SourceFile]:
    return [plain_file(server, f"text/set/{n}.json", json.dumps([n]).encode()) for n in ("one", "two", "three")]


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# ------------------------------------------------------------------------------------------------------------ fetching


def test_files_come_to_their_places_from_the_pinned_commit(server, tmp_path):
    spaced = plain_file(server, "text/set/with a space.csv", b"a,b\n", "data/with a space.csv")
    states = []
    rebuild([*three(server), spaced], tmp_path / "data", server.url + "/", lambda f, state: states.append(state))
    assert states == ["fetched"] * 4
    assert files_in(tmp_path / "data") == [
        "text/set/one.json", "text/set/three.json", "text/set/two.json", "text/set/with a space.csv",
    ]  # fmt: skip
    assert (tmp_path / "data/text/set/two.json").read_bytes() == b'["two"]'
    assert server.asked[0] == f"/someone/some-set/{'a' * 40}/data/one.json"
    assert verified(tmp_path / "data", [spaced]).read_bytes() == b"a,b\n"


def test_right_files_are_left_alone_and_nothing_is_asked_twice(server, tmp_path):
    files = three(server)
    rebuild([*files, *files], tmp_path, server.url)
    assert len(server.asked) == 3  # two sources may read one file
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
    states = []
    rebuild(files, tmp_path, server.url, lambda f, state: states.append(state))
    assert states == ["present"] * 3 and len(server.asked) == 3
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}


def test_wrong_files_are_named_kept_and_nothing_is_fetched(server, tmp_path):
    files = three(server)
    for name in ("one", "three"):
        (tmp_path / "text/set").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"text/set/{name}.json").write_bytes(b"mine")
    with pytest.raises(DataError) as e:
        rebuild(files, tmp_path, server.url)
    assert "one.json: sha256 is " + sha(b"mine")[:12] in str(e.value) and "three.json" in str(e.value)
    assert "two.json" not in str(e.value) and server.asked == []
    assert (tmp_path / "text/set/one.json").read_bytes() == b"mine"
    (tmp_path / "text/set/one.json").unlink()
    (tmp_path / "text/set/one.json").mkdir()
    with pytest.raises(DataError, match=r"one\.json: not a file"):
        rebuild(files, tmp_path, server.url)


def test_other_bytes_upstream_are_no_file_here_and_do_not_stop_the_others(server, tmp_path):
    files = three(server)
    server.holds("data/two.json", b"changed since")
    with pytest.raises(DataError) as e:
        rebuild(files, tmp_path, server.url)
    assert f"text/set/two.json: upstream's sha256 is {sha(b'changed since')[:12]}" in str(e.value)
    assert "2 of 3 files are in" in str(e.value)
    assert files_in(tmp_path) == ["text/set/one.json", "text/set/three.json"]


def test_a_connection_that_ends_in_the_middle_is_said_and_the_next_fetch_goes_on(server, tmp_path):
    files = [plain_file(server, "text/set/long.json", b"[" + b"1," * 200_000 + b"1]"), *three(server)]
    server.broken.add(f"/someone/some-set/{'a' * 40}/data/long.json")
    with pytest.raises(DataError, match=r"long\.json: the connection ended after 200001 of 400003 bytes") as e:
        rebuild(files, tmp_path, server.url)
    assert "3 of 4 files" in str(e.value) and "run the command again" in str(e.value)
    assert files_in(tmp_path) == [f"text/set/{n}.json" for n in ("one", "three", "two")]  # no part, no temporary
    server.broken.clear()
    server.asked.clear()
    rebuild(files, tmp_path, server.url)
    assert [path.rpartition("/")[2] for path in server.asked] == ["long.json"]
    assert sha((tmp_path / "text/set/long.json").read_bytes()) == files[0].local_sha256


def test_a_killed_fetch_leaves_nothing_that_counts_and_the_next_one_removes_it(server, tmp_path, monkeypatch):
    files = three(server)
    bring = fetching._download

    def killed(file, url, folder):
        if file is files[1]:
            raise KeyboardInterrupt
        return bring(file, url, folder)

    monkeypatch.setattr(fetching, "_download", killed)
    with pytest.raises(KeyboardInterrupt):
        rebuild(files, tmp_path, server.url)
    assert files_in(tmp_path) == ["text/set/one.json"]
    stale = tmp_path / "text/set/.two.json.0123456789ab.part"  # as after a power cut
    stale.mkdir()
    (stale / ".lock").write_text("")
    monkeypatch.undo()
    rebuild(files, tmp_path, server.url)
    assert files_in(tmp_path) == [f"text/set/{n}.json" for n in ("one", "three", "two")] and not stale.exists()


def test_a_server_that_is_gone_is_asked_three_times_only(server, tmp_path):
    files = [SourceFile(f"text/set/{n}.json", REPO, f"data/{n}.json", "0" * 64, rows=1) for n in range(9)]
    with pytest.raises(DataError, match="gave up after 3") as e:
        rebuild(files, tmp_path, server.url)
    assert len(server.asked) == 3 and str(e.value).count("404") == 3


@pytest.mark.parametrize("path", ["../evil.json", "/evil.json", "text/../../evil", "text\\evil.json", "c:evil", ""])
def test_paths_that_leave_the_folder(server, tmp_path, path):
    file = SourceFile(path, REPO, "data/x.json", sha(b"x"), rows=1)
    with pytest.raises(DataError, match="stay inside"):
        rebuild([file], tmp_path / "data", server.url)
    upstream = SourceFile("text/x.json", REPO, path, sha(b"x"), rows=1)
    with pytest.raises(DataError, match="stay inside"):
        rebuild([upstream], tmp_path / "data", server.url)
    assert server.asked == [] and files_in(tmp_path) == []


def test_a_link_that_leaves_the_folder(server, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data/text").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="lies outside"):
        rebuild(three(server), tmp_path / "data", server.url)
    assert files_in(tmp_path / "elsewhere") == [] and server.asked == []


def test_too_much_is_not_written(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        rebuild([plain_file(server, "text/set/long.json", bytes(101))], tmp_path, server.url)
    assert files_in(tmp_path) == []


def test_two_records_of_one_place(server, tmp_path):
    one = plain_file(server, "text/set/one.json", b"[1]")
    other = SourceFile(one.path, REPO, one.upstream, sha(b"[2]"), rows=1)
    with pytest.raises(DataError, match="two sources expect different files"):
        rebuild([one, other], tmp_path, server.url)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "text").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written .*choose another data_dir"):
        rebuild(three(server), tmp_path, server.url)


def test_http_is_for_this_machine_alone(server, tmp_path, monkeypatch):
    for url in ("http://example.org/a", "http://127.0.0.1.example.org/a", "file:///etc/passwd", "ftp://localhost/a"):
        with pytest.raises(AssetError, match="only https"):
            Https({"a": url}).fetch(["a"], tmp_path, 100)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    server.content["/a"] = b"mine"
    Https({"a": f"{server.url}/a"}).fetch(["a"], tmp_path, 100)
    assert (tmp_path / "a").read_bytes() == b"mine"
    server.redirects["/b"] = f"{server.url}/a"
    with pytest.raises(AssetError, match="not https"):
        Https({"b": f"{server.url}/b"}).fetch(["b"], tmp_path, 100)


def test_what_is_no_http_is_an_error_too(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise asset_sources.http.client.BadStatusLine("nonsense")

    monkeypatch.setattr(asset_sources.urllib.request.OpenerDirector, "open", broken)
    with pytest.raises(AssetError, match="a: nonsense"):
        Https({"a": "https://localhost/a"}).fetch(["a"], tmp_path, 100)


# ---------------------------------------------------------------------------------------------------------------- cuts


def as_csv(rows: list[list[str]], **more: object) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, **{"lineterminator": "\n", **more}).writerows(rows)
    return out.getvalue().encode()


def indented(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


ROWS = [["id", "text"], ["1", 'say "hello", please'], ["2", "two\r\nlines"], ["3", "café ☕"], ["4", ""], ["5", "a, b"]]
ITEMS = [{"text": "café", "score": 0.5}, {"text": "drop me"}, {"text": "again"}, {"text": "again"}, {"text": "\u2028"}]
NESTED = {"name": "x", "animals": {"cats": ["a", "b"], "dogs": ["c"]}, "plants": {"trees": ["d"]}, "none": []}
FEWER = {"name": "x", "animals": {"cats": ["b"], "dogs": ["c"]}, "none": []}
LINES = ['{"a": "\\u00e9"}', '{"a":   "é"}', '{"b": 1}', '{"b": 2}']
CUTS = {  # name: upstream, ours, how many go
    "quoted.csv": (as_csv(ROWS, quoting=csv.QUOTE_ALL, lineterminator="\r\n"), as_csv([*ROWS[:3], *ROWS[4:]]), 1),
    "marked.csv": (b"\xef\xbb\xbf" + as_csv(ROWS), as_csv([ROWS[0], *ROWS[3:]]), 2),
    "list.json": (json.dumps(ITEMS).encode(), indented([ITEMS[0], *ITEMS[2:]]), 1),
    "repeated.json": (json.dumps(ITEMS, indent=4).encode(), indented([*ITEMS[:3], ITEMS[4]]), 1),
    "nested.json": (indented(NESTED), indented(FEWER), 2),
    "lines.jsonl": ("\n".join(LINES).encode(), "".join(f"{x}\n" for x in LINES[:2] + LINES[3:]).encode(), 1),
    "lines.jsonl.gz": (
        gzip.compress("\n".join(LINES).encode(), 1), gzip.compress(f"{LINES[1]}\n".encode(), 9, mtime=0), 3
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_file_comes_out_as_ours(server, tmp_path, records, name):
    upstream, ours, gone = CUTS[name]
    if name.endswith(".gz"):  # the header differs between versions of Python, the stream does not
        ours = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03" + ours[10:]
    server.holds(name, upstream)
    file = SourceFile(f"text/set/{name}", REPO, name, sha(upstream), rows=9, cut=gone, sha256=sha(ours))
    kept = cuts.write_record(file, ours, records).read_bytes()
    assert len(kept) == cuts.WIDTH * len(cuts.rows_of(name, ours)[0])
    rebuild([file], tmp_path / "data", server.url)
    assert (tmp_path / "data" / file.path).read_bytes() == ours


def test_the_record_of_a_cut_holds_no_text(tmp_path):
    secret = [f"a sentence about gardens, number {n}" for n in range(50)]
    file = SourceFile("text/set/list.json", REPO, "list.json", "0" * 64, rows=50, cut=1)
    record = cuts.write_record(file, indented(secret), tmp_path).read_bytes()
    assert len(record) == 150 and b"garden" not in record
    assert record[:3] == hashlib.sha256(json.dumps(secret[0]).encode()).digest()[:3]


def test_a_cut_is_that_of_brute_force(tmp_path):
    rng = random.Random(0)
    for _ in range(200):  # few different rows, so that many are alike
        upstream = [f"row {rng.randrange(4)}" for _ in range(rng.randrange(1, 12))]
        keep = [rng.random() < 0.6 for _ in upstream]
        ours = [row for row, kept in zip(upstream, keep) if kept]
        file = SourceFile("list.json", REPO, "list.json", "0" * 64, rows=len(ours), cut=len(upstream) - len(ours))
        cuts.write_record(file, indented(ours), tmp_path)
        assert json.loads(cuts.cut(file, indented(upstream), tmp_path) or b"[]") == ours


def test_a_cut_that_does_not_fit_is_an_error_and_no_file(server, tmp_path, records):
    upstream, ours = indented(["a", "b", "c"]), indented(["a", "c"])
    server.holds("list.json", upstream)
    file = SourceFile("text/list.json", REPO, "list.json", sha(upstream), rows=2, cut=1, sha256=sha(ours))
    with pytest.raises(DataError, match=r"1 rows were cut, and text-list\.json\.rows that says which is missing"):
        rebuild([file], tmp_path / "data", server.url)
    cuts.write_record(file, indented(["a", "d"]), records)
    with pytest.raises(DataError, match="1 of the 2 rows that are read here were found among upstream's 3"):
        rebuild([file], tmp_path / "data", server.url)
    cuts.write_record(file, indented(["a"]), records)  # two would go, and one was cut
    with pytest.raises(DataError, match="1 of the 1 rows"):
        rebuild([file], tmp_path / "data", server.url)
    cuts.write_record(file, indented(["a", "b"]), records)  # a cut, but not this one
    with pytest.raises(DataError, match=f"1 rows were cut; sha256 is .* expected {sha(ours)[:12]}"):
        rebuild([file], tmp_path / "data", server.url)
    assert files_in(tmp_path / "data") == []
    with pytest.raises(DataError, match=r"\.csv, \.json and \.jsonl"):
        cuts.rows_of("rows.parquet", b"")


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_fetches_a_pack(server, tmp_path, monkeypatch, capsys):
    files = three(server)
    one = types.SimpleNamespace(LICENCE="MIT", FILES=tuple(files[:1]))
    rest = types.SimpleNamespace(LICENCE="CC-BY-NC-4.0", FILES=tuple(files))
    monkeypatch.setitem(data.PACKS, "guardzoo", [one, rest])
    command = ["fetch", "guardzoo", f"data_dir={tmp_path / 'data'}", f"base_url={server.url}"]
    assert data.main(command) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "text/set/two.json\tCC-BY-NC-4.0\tfetched", "text/set/three.json\tCC-BY-NC-4.0\tfetched",
    ]  # fmt: skip
    assert data.main(command) == 0
    assert capsys.readouterr().out.count("present") == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["guardzoo"], "guardzoo: set data_dir="),
        (["guardzoo", "data_dir="], "guardzoo: set data_dir="),
        (["guardzo", "data_dir=x"], "unknown asset 'guardzo'; did you mean 'guardzoo'"),
        (["guardzoo", "data_dri=x"], "unknown setting 'data_dri'; did you mean 'data_dir'"),
        (["guardzoo", "data_dir=x", "data_dir=y"], "given twice"),
        (["minilm", "data_dir=x"], "data_dir is about a pack of public data: name one of guardzoo"),
        (["data_dir=x"], "data_dir is about a pack"),
    ],
)
def test_what_is_wrong_with_a_command(arguments, message, monkeypatch):
    monkeypatch.setattr(data, "resolve", lambda name: pytest.fail("nothing must be fetched"))
    with pytest.raises(DataError, match=message):
        data.main(["fetch", *arguments])


# --------------------------------------------------------------------------------------------------------- the records

RECORDS = [file for source in GUARDZOO.values() for file in source.module.FILES]
CUT = {file.path: file for file in RECORDS if file.cut}


def test_every_cut_file_has_a_record():
    assert len(CUT) >= 30 and len({cuts.record_path(file) for file in CUT.values()}) == len(CUT)
    for file in CUT.values():
        rows = cuts.record_path(file).stat().st_size / cuts.WIDTH
        assert rows >= file.rows and rows - file.rows <= 2, file.path  # a CSV's header; what else a JSON file lists
        assert file.sha256 not in (None, file.upstream_sha256)
    known = {cuts.record_path(file).name for file in CUT.values()}
    assert {p.name for p in cuts.FOLDER.iterdir()} == known


@needs_data
@pytest.mark.parametrize("path", CUT)
def test_our_files_come_out_of_larger_ones(path):
    """As upstream's may be: other rows in between, another layout. Which rows those are is not known here."""
    file, ours = CUT[path], (DATA / path).read_bytes()
    larger = with_more_rows(path, ours, file.cut)
    assert larger != ours and cuts.cut(file, larger) == ours


def with_more_rows(path: str, content: bytes, n: int) -> bytes:
    rng = random.Random(path)
    if path.endswith(".gz"):
        return gzip.compress(with_more_rows(path.removesuffix(".gz"), gzip.decompress(content), n), 1)
    text = content.decode()
    if path.endswith(".csv"):
        table = list(csv.reader(io.StringIO(text, newline="")))
        for i in range(n):
            table.insert(rng.randrange(1, len(table) + 1), [f"garden {i}"] * len(table[0]))
        return as_csv(table, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    if path.endswith(".jsonl"):
        lines = text.splitlines()
        for i in range(n):
            lines.insert(rng.randrange(len(lines) + 1), json.dumps(f"garden {i}"))
        return "\n".join(lines).encode()
    value = json.loads(text)
    rows = value if isinstance(value, list) else next(v for v in value.values() if v and isinstance(v, (list, dict)))
    if isinstance(rows, dict):
        rows["Gardens"] = [f"garden {i}" for i in range(n)]  # a whole list that goes, with its name
        return json.dumps(value, indent=4).encode()
    for i in range(n):
        rows.insert(rng.randrange(len(rows) + 1), f"garden {i}")
    return json.dumps(value).encode()

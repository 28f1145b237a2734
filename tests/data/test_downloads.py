"""Downloads that break off, stall, lie; what they leave."""

import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_corpora import BOOK, SHA256, TITLE, go_to_an_empty_place, oz, put

from llm_from_scratch.data import downloads
from llm_from_scratch.data.formats import Document

PLACE = Path("shared/oz")


@pytest.fixture(autouse=True)
def empty_place(tmp_path, monkeypatch):
    go_to_an_empty_place(tmp_path, monkeypatch)
    monkeypatch.setenv("LLM_CORPORA", "shared")


class Server(ThreadingHTTPServer):
    """Serves `content`; `breaks` are the bytes after which each answer in turn breaks off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.ranges, self.etag = BOOK, [], True, '"release 1"'
        self.stalls = False
        self.requests: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/gutenberg/pg55.txt"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.requests.append(asked)
        start = 0
        if asked and server.ranges and self.headers["If-Range"] == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        if start:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        rest = server.content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.breaks:
            self.wfile.write(rest[: server.breaks.pop(0)])
            self.wfile.flush()
            if server.stalls:
                time.sleep(2)
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.wfile.write(rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_download_is_published_whole_and_told(server, capsys, caplog):
    caplog.set_level("INFO")
    source = oz(server.url, sha256=SHA256)
    assert source.paths == [("oz/wizard_of_oz.txt", PLACE / "wizard_of_oz.txt")]
    assert list(source.documents()) == [Document("oz/wizard_of_oz.txt", BOOK)]
    assert [path.name for path in PLACE.iterdir() if path.suffix != ".lock"] == ["wizard_of_oz.txt"]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == ""  # a bar is for terminals
    assert f"downloaded {PLACE / 'wizard_of_oz.txt'}: {len(BOOK):,} bytes" in caplog.text
    oz(server.url)
    assert server.requests == [None]  # the second time it is there


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server):
    server.breaks = [100_000, 50_000]
    assert next(oz(server.url).documents()).raw == BOOK
    assert server.requests == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_run_goes_on_too(server):
    server.breaks = [100_000, 0]
    with pytest.raises(ValueError, match=r"broke off after 100,000 of 500,1\d\d bytes"):
        oz(server.url)
    assert not (PLACE / "wizard_of_oz.txt").exists()
    assert next(oz(server.url, sha256=SHA256).documents()).raw == BOOK
    assert server.requests[-1] == "bytes=100000-"


@pytest.mark.parametrize("held", [BOOK, BOOK + b"more"])
def test_a_download_killed_before_its_rename_is_fetched_anew(server, held):
    put(PLACE / "wizard_of_oz.txt.part", held)
    put(PLACE / "wizard_of_oz.txt.part.etag", server.etag)
    assert next(oz(server.url, sha256=SHA256).documents()).raw == BOOK
    assert server.requests == [f"bytes={len(held)}-", None]
    assert [path.name for path in PLACE.iterdir() if path.suffix != ".lock"] == ["wizard_of_oz.txt"]


def test_a_range_that_is_refused_without_bytes_at_hand_is_one_line(server):
    server.content = b""
    with pytest.raises(ValueError, match="cannot download .*HTTP Error 416"):
        oz(server.url)
    assert server.requests == [None]


def test_a_stop_leaves_a_complete_download_complete(server):
    stop = threading.Event()
    stop.set()
    with pytest.raises(ConnectionError, match="stopped"):
        downloads._download(server.url, Path("part"), downloads._progress(), stop)
    assert 0 < Path("part").stat().st_size < len(BOOK)
    server.content = b"short"
    downloads._download(server.url, Path("other"), downloads._progress(), stop)
    assert Path("other").read_bytes() == b"short"
    assert not Path("other.etag").exists()


@pytest.mark.parametrize("sent", [0, 1000])
def test_a_download_that_fails_leaves_nothing_but_what_it_can_go_on_with(server, sent):
    server.breaks = [sent, 0] if sent else [0]
    with pytest.raises(ValueError, match="cannot download"):
        oz(server.url)
    left = sorted(path.name for path in Path().rglob("*"))
    assert left == (["oz", "shared", "wizard_of_oz.txt.part", "wizard_of_oz.txt.part.etag"] if sent else [])
    assert next(oz(server.url).documents()).raw == BOOK


def test_halves_of_two_releases_are_never_joined(server):
    server.breaks = [100_000, 0]
    with pytest.raises(ValueError, match="broke off"):
        oz(server.url)
    server.etag, server.content = '"release 2"', BOOK.replace(b"Kansas", b"KANSAS")
    assert next(oz(server.url).documents()).raw == server.content


@pytest.mark.parametrize("etag", ['"release 1"', 'W/"weak"', None])
def test_a_server_that_cannot_resume_is_asked_for_the_whole_again(server, etag):
    server.ranges, server.etag, server.breaks = False, etag, [100_000, 200_000]
    assert next(oz(server.url).documents()).raw == BOOK
    assert len(server.requests) == 3


def test_a_server_that_always_breaks_off_is_given_up(server):
    server.ranges, server.breaks = False, [100_000] * 10
    with pytest.raises(ValueError, match="broke off after 100,000"):
        oz(server.url)
    assert len(server.requests) == 2


def test_a_server_that_stalls_is_given_up(server):
    server.stalls, server.breaks = True, [1000, 0]
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"timed out.*data=tales"):
        oz(server.url)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Sign in to the hotel's network</html>", f"lacks '{TITLE}'"),
        (b"<html>Books: " + TITLE.encode(), "lacks '.*START OF'"),
        (BOOK[:-100], "lacks '.*END OF'"),
    ],
)
def test_the_wrong_content_is_refused_and_fetched_anew_the_next_time(server, content, message):
    server.content = content
    with pytest.raises(ValueError, match=message) as error:
        oz(server.url)
    assert "\n" not in str(error.value)
    server.content = BOOK
    assert next(oz(server.url).documents()).raw == BOOK
    assert server.requests == [None, None]


def test_a_wrong_checksum_is_refused(server):
    with pytest.raises(ValueError, match=f"its sha256 is {SHA256}, not 00"):
        oz(server.url, sha256="00")
    assert not (PLACE / "wizard_of_oz.txt").exists()


def test_without_a_network_one_line_says_what_to_do(capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        with pytest.raises(ValueError, match="cannot download") as error:
            oz(url)
    assert "\n" not in str(error.value)
    assert f"put the file by hand at {Path('data/oz/wizard_of_oz.txt')}" in str(error.value)
    assert "data=tales" in str(error.value)
    assert capsys.readouterr().err == ""  # no bar where there is no terminal, nor its empty line


def test_a_missing_page_is_one_line(server):
    server.RequestHandlerClass = type("Missing", (Handler,), {"do_GET": lambda self: self.send_error(404)})
    with pytest.raises(ValueError, match=r"HTTP Error 404.*by hand"):
        oz(server.url)


def test_an_unwritable_folder_is_one_line(server):
    put("data", b"a file, not a folder")
    put("shared", b"a file, not a folder")
    with pytest.raises(ValueError, match="cannot write in data"):
        oz(server.url)


def test_all_checkouts_of_a_user_share_a_download(server, tmp_path, monkeypatch):
    monkeypatch.delenv("LLM_CORPORA")
    found = oz(server.url).paths[0][1]
    assert found == downloads.corpora_folder() / "oz/wizard_of_oz.txt"
    assert found.is_relative_to(tmp_path / "home")
    assert list(Path().iterdir()) == []
    (tmp_path / "another checkout").mkdir()
    monkeypatch.chdir(tmp_path / "another checkout")
    assert oz(server.url).paths[0][1] == found
    assert server.requests == [None]


@pytest.mark.parametrize("home", ["a file", "no home"])
def test_without_a_home_to_write_in_a_download_goes_below_data(home, server, monkeypatch, caplog):
    monkeypatch.delenv("LLM_CORPORA")
    if home == "a file":
        put("../home", b"")
    else:
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        monkeypatch.delenv("LOCALAPPDATA")
    assert oz(server.url).paths[0][1] == Path("data/oz/wizard_of_oz.txt")
    assert "cannot be written" in caplog.text
    assert (
        "the download goes below data, where no other checkout finds it (LLM_CORPORA=FOLDER names a place)"
        in caplog.text
    )
    assert list(Path().iterdir()) == [Path("data")]


def test_a_home_that_may_not_be_searched_is_no_place_of_corpora(server, tmp_path, monkeypatch):
    monkeypatch.delenv("LLM_CORPORA")
    stat = os.stat

    def refused(path, **more):
        if str(path).startswith(str(tmp_path / "home")):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", refused)
    assert downloads.roots(Path("data")) == [Path("data"), downloads.NEIGHBOUR]
    put("../shared/corpora/oz/wizard_of_oz.txt", BOOK)
    assert oz(server.url).paths[0][1] == Path("../shared/corpora/oz/wizard_of_oz.txt")


def test_a_download_that_began_below_data_goes_on_there(server):
    put("data/oz/wizard_of_oz.txt.part", BOOK[:1000])
    put("data/oz/wizard_of_oz.txt.part.etag", server.etag)
    assert oz(server.url).paths[0][1] == Path("data/oz/wizard_of_oz.txt")
    assert server.requests == ["bytes=1000-"]


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "/home/a/.cache"),
        ("linux", {"XDG_CACHE_HOME": "/cache"}, "/cache"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/a/.cache"),
        ("darwin", {"XDG_CACHE_HOME": "/cache"}, "/home/a/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
        ("win32", {}, "/home/a/AppData/Local"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX")
def test_the_folder_of_corpora_follows_the_platform(platform, variables, expected, monkeypatch):
    for name in ("LLM_CORPORA", "LOCALAPPDATA"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in {"HOME": "/home/a", **variables}.items():
        monkeypatch.setenv(name, value)
    assert downloads.corpora_folder() == Path(expected, "llm-from-scratch/corpora")

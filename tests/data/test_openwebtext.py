"""OpenWebText from end to end, made here in its published layouts: downloaded from a server that
breaks off, stalls and lies, prepared by any number of workers, killed, resumed, trained on. 20,000
documents, and what may be wrong with them.
"""

import hashlib
import lzma
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import REPO, Process, story
from containers import (
    parquet,
    tar,
)

from llm_from_scratch.config import DataConfig, DownloadConfig, PrepareConfig, TokenizerConfig
from llm_from_scratch.data import downloads
from llm_from_scratch.data.prepare import Prepared, prepare

BPE = TokenizerConfig(vocab_size=320)
PARTS, DOCUMENTS = 4, 5_000  # tars, and documents in each
TEXT = story(200_000)
PAGE = "The same page of text, word for word, stands in every archive. " * 3


def pages(part: int) -> dict[str, bytes]:
    """The documents of a part; the traps: no text, empty, in every part, huge."""
    found = {
        f"{i:07}-{part}.txt": f"{part} {i} {TEXT[(part * DOCUMENTS + i) * 7 :][:80]}".encode() for i in range(DOCUMENTS)
    }
    found |= {"bad.txt": b"abc\xff\xfe", "empty.txt": b"", "same.txt": PAGE.encode()}
    return found | ({"huge.txt": TEXT.encode() * 10} if part == 0 else {})


def layouts() -> dict[str, dict[str, bytes]]:
    """The published files: layout -> name -> content."""
    inner = {
        f"openwebtext/urlsf_subset{part:02}-1_data.xz": lzma.compress(tar(pages(part)), preset=0)
        for part in range(PARTS)
    }
    whole = lzma.compress(tar(inner), preset=0)
    tables = {}
    for part in range(PARTS):
        # A table holds UTF-8 alone
        texts = [raw.decode() for name, raw in pages(part).items() if name != "bad.txt"]
        tables[f"train-{part:05}-of-{PARTS:05}.parquet"] = parquet(texts)
    tars = {f"urlsf_subset{part:02}.tar": tar({name: raw}) for part, (name, raw) in enumerate(inner.items())}
    return {"tars": tars, "zenodo": {"openwebtext.tar.xz": whole}, "parquet": tables}


class Server(ThreadingHTTPServer):
    """`faults` are what happens to the requests for a file, in turn: break, stall, lie (about the
    range), forge (its bytes), refuse.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = files, []  # (name, range)
        self.faults: dict[str, list[str]] = {name: [] for name in files}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, name = self.server, self.path.rpartition("/")[2]
        asked = self.headers["Range"]
        server.requests.append((self.path, asked))
        faults = server.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        if name not in server.files or self.path.startswith("/gone/") or fault == "refuse":
            return self.send_error(503)
        content, start = server.files[name], int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        rest = content[start:]
        if asked:
            self.send_response(206)
            first = 0 if fault == "lie" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if fault in ("break", "stall"):
            self.wfile.write(rest[: len(rest) // 3])
            self.wfile.flush()
            time.sleep(1.5 if fault == "stall" else 0)
            self.close_connection = True
        else:
            self.wfile.write(content[: len(rest)] if fault in ("lie", "forge") else rest)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, bytes]]:
    return layouts()


@pytest.fixture(scope="module")
def server(files: dict[str, dict[str, bytes]]) -> Iterator[Server]:
    with Server({name: raw for layout in files.values() for name, raw in layout.items()}) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def settings(folder: Path, layout: str | None = None, url: str = "", sha256: str | None = None) -> DataConfig:
    names = {
        "tars": f"urlsf_subset{{00..{PARTS - 1:02}}}.tar",
        "parquet": f"train-{{00000..{PARTS - 1:05}}}-of-{PARTS:05}.parquet",
        "zenodo": "openwebtext.tar.xz",
    }
    mirrors = [f"{url}/gone", f"{url}/here"]
    downloads = {
        key: DownloadConfig(files=f"openwebtext/{name}", mirrors=mirrors, sha256=sha256) for key, name in names.items()
    }
    return DataConfig(
        name="openwebtext",
        dir=str(folder / "data"),
        val_fraction=0.1,
        keep_text=False,
        shard_bytes=1000,
        dedup="exact",
        layouts=["openwebtext/**/*.parquet", "openwebtext/**/urlsf_subset*.tar", "openwebtext/openwebtext.tar.xz"],
        download=layout,
        downloads=downloads,
    )


def contents(prepared: Prepared) -> dict[str, bytes]:
    found = (path for path in prepared.folder.rglob("*") if path.is_file())
    return {path.relative_to(prepared.folder).as_posix(): path.read_bytes() for path in found}


def texts(prepared: Prepared) -> list[str]:
    return sorted(text for split in ("train", "val") for text in prepared.documents(split))


@pytest.fixture(scope="module")
def one(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Layout (a), brought through every fault, prepared by one worker."""
    for part, faults in enumerate((["break", "break"], ["break", "lie"], ["stall", "break"], ["refuse"])):
        # The first request goes to the first mirror
        server.faults[f"urlsf_subset{part:02}.tar"] = ["refuse", *faults]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, "TIMEOUT", 0.5)
        folder = tmp_path_factory.mktemp("one")
        patch.setenv("LLM_CORPORA", str(folder / "shared"))
        data = settings(folder, "tars", server.url)
        with pytest.raises(ValueError, match=r"cannot download .*urlsf_subset03\.tar .*by hand at"):
            prepare(data, BPE, settings=PrepareConfig(workers=1))
        for left in server.faults.values():
            left[:] = [fault for fault in left if fault != "refuse"]
        return prepare(data, BPE, settings=PrepareConfig(workers=1))


def beside(one: Prepared, folder: Path) -> Path:
    """Another folder with the same downloaded files."""
    (folder / "data/openwebtext").mkdir(parents=True)
    for path in (one.folder.parents[2] / "shared/openwebtext").glob("*.tar"):
        shutil.copy2(path, folder / "data/openwebtext")
    return folder


def test_everything_arrives_whole_and_is_counted(
    one: Prepared, server: Server, files: dict[str, dict[str, bytes]]
) -> None:
    place = one.folder.parents[2] / "shared/openwebtext"
    assert {path.name: path.read_bytes() for path in place.glob("*.tar")} == files["tars"]
    assert not list(place.glob("*.part*"))
    # Went on by range
    assert any(asked for path, asked in server.requests if path == "/here/urlsf_subset00.tar")
    facts = one.manifest["splits"]
    assert one.manifest["removed"] == {"no_text": PARTS, "empty": PARTS, "exact_duplicate": PARTS - 1}
    assert facts["train"]["documents"] + facts["val"]["documents"] == PARTS * DOCUMENTS + 2 >= 20_000


def test_two_workers_make_the_same_bytes(one: Prepared, tmp_path: Path) -> None:
    two = prepare(settings(beside(one, tmp_path)), BPE, settings=PrepareConfig(workers=2))
    assert contents(two) == contents(one)


def test_ray_makes_the_same_bytes(one: Prepared, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    try:
        made = prepare(settings(beside(one, tmp_path)), BPE, settings=PrepareConfig(engine="ray"))
    finally:
        ray.shutdown()
    assert contents(made) == contents(one)


def test_killed_three_times_and_resumed(one: Prepared, tmp_path: Path) -> None:
    beside(one, tmp_path)
    code = """
import os, signal, sys
from pathlib import Path
from llm_from_scratch.config import PrepareConfig
from llm_from_scratch.data import tasks
from llm_from_scratch.data.prepare import prepare
import test_openwebtext
write_file = tasks.write_file
def dying(path, content):
    write_file(path, content)
    if path.name.startswith("task_"):
        os.kill(os.getpid(), signal.SIGKILL)
tasks.write_file = dying
prepare(test_openwebtext.settings(Path(sys.argv[1])), test_openwebtext.BPE, settings=PrepareConfig(workers=1))
"""
    paths = [str(REPO / "src"), str(REPO / "tests"), str(REPO / "tests/data"), os.environ.get("PYTHONPATH", "")]
    for done in (1, 2, 3):
        command = [sys.executable, "-c", code, str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(list((tmp_path / "data/openwebtext").glob(".building-*/task_*.json"))) == done
    assert contents(prepare(settings(tmp_path), BPE, settings=PrepareConfig(workers=2))) == contents(one)


def test_the_other_layouts_hold_the_same_documents(
    one: Prepared, server: Server, files: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_CORPORA", str(tmp_path / "shared"))
    archive = files["zenodo"]["openwebtext.tar.xz"]
    # A forged rest has the right length and the wrong bytes: the checksum sees it, and the whole is
    # asked for.
    server.faults["openwebtext.tar.xz"] = ["break", "forge"]
    sha256 = hashlib.sha256(archive).hexdigest()
    kept = [texts(one)]
    data = settings(tmp_path / "zenodo", "zenodo", f"{server.url}/here/..", sha256)
    data.downloads["zenodo"].mirrors = [f"{server.url}/here"]
    kept.append(texts(prepare(data, BPE, settings=PrepareConfig(workers=1))))
    assert [asked and asked.startswith("bytes=") for path, asked in server.requests if path.endswith(".tar.xz")] == [
        None,
        True,
        None,
    ]
    kept.append(
        texts(prepare(settings(tmp_path / "parquet", "parquet", server.url), BPE, settings=PrepareConfig(workers=2)))
    )
    assert kept[0] == kept[1] == kept[2]


def test_hostile_archives_leave_nothing(one: Prepared, tmp_path: Path) -> None:
    place = beside(one, tmp_path) / "data/openwebtext"
    cut, outside = place / "urlsf_subset04.tar", place / "urlsf_subset05.tar"
    cut.write_bytes((place / "urlsf_subset01.tar").read_bytes()[:-12_000])
    with pytest.raises(ValueError, match=r"urlsf_subset04\.tar.*cut off"):
        prepare(settings(tmp_path), BPE, settings=PrepareConfig(workers=1))
    cut.unlink()
    outside.write_bytes(tar({"../outside.txt": b"x"}))
    with pytest.raises(ValueError, match="leads out of the archive"):
        prepare(settings(tmp_path), BPE, settings=PrepareConfig(workers=1))
    assert not list(tmp_path.rglob("outside.txt"))
    assert not list(place.glob("prepared-*/"))


def test_trained_on_for_fifty_steps(one: Prepared, train: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = one.folder.parents[2]
    monkeypatch.setenv("LLM_CORPORA", str(folder / "shared"))
    small = [
        "model.n_layer=1",
        "model.n_embd=32",
        "model.n_head=2",
        "model.block_size=32",
        "trainer=cpu",
        "data.batch_size=8",
    ]
    same = [
        "data=openwebtext",
        "data.val_fraction=0.1",
        "data.shard_bytes=1000",
        "data.dedup=exact",
        "tokenizer.vocab_size=320",
    ]
    steps = ["trainer.max_steps=50", "trainer.val_check_interval=50", "run_dir=run", "sample.max_new_tokens=5"]
    done = train(*same, *small, *steps, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "learning the tokenizer" not in done.stderr  # the prepared shards are used
    losses = [
        line for line in (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines() if '"val"' in line
    ]
    assert len(losses) == 1


def test_a_download_that_is_no_way_of_publishing_is_one_line(tmp_path: Path) -> None:
    data = settings(tmp_path, "torrent")
    with pytest.raises(
        ValueError, match=r"data\.download=torrent: data=openwebtext is published as tars, parquet, zenodo"
    ):
        prepare(data, BPE)
    data = settings(tmp_path, "tars")
    data.downloads["tars"].files = "../x{0..1}.tar"
    with pytest.raises(ValueError, match=r"must be files below data\.dir"):
        prepare(data, BPE)

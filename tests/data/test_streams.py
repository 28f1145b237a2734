"""The bytes of a file: several streams, bombs, bits that flip (row 12 of the faults)."""

import bz2
import errno
import gzip
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
from containers import COMPRESS, read, refused, tar, texts_of, zst

from llm_from_scratch.data import streams


@pytest.mark.parametrize(("compression", "padding"), [("xz", 8), ("gz", 5), ("bz2", 0), ("zst", 0)])
def test_streams_behind_one_another_are_one_text(compression: str, padding: int, tmp_path: Path) -> None:
    raw = b"".join(COMPRESS[compression](part) + bytes(padding) for part in (b"one ", b"", b"two ", b"x" * 200_000))
    [document] = read(tmp_path, f"a.txt.{compression}", raw)
    assert document.raw == b"one two " + b"x" * 200_000


def test_a_skippable_frame_of_zstd_is_skipped(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"
    assert texts_of(read(tmp_path, "a.zst", skippable + zst(b"text") + skippable)) == ["text"]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", ["a.tar", "a.jsonl", "a.txt", "a"])
def test_fault_12_a_bomb_of_zeros(name: str, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALLOWANCE", 2**20)
    bomb = COMPRESS[compression](bytes(5 * 2**20))
    refused(
        tmp_path, f"{name}.{compression}", bomb, f"^a.*{compression}: a decompression bomb: [1-5],.* bytes came out of"
    )
    refused(tmp_path, "a.tar", tar({f"{name}.{compression}": bomb}), "a decompression bomb")


def test_fault_12_bombs_within_bombs_share_one_allowance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALLOWANCE", 2**20)
    # Each of them is within the allowance
    small = {f"{i}.txt.gz": gzip.compress(b" " * 200_000) for i in range(40)}
    refused(tmp_path, "a.tar.xz", lzma.compress(tar(small)), "a decompression bomb")


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("garbage", [b"x", b"\0x", b"\xff" * 600, b"PK\3\4" + bytes(60)])
def test_fault_12_bytes_behind_the_end(compression: str, garbage: bytes, tmp_path: Path) -> None:
    for name, raw in (("a.txt", b"text"), ("a.tar", tar({"a.txt": b"text"}))):
        good = COMPRESS[compression](raw)
        assert texts_of(read(tmp_path, f"{name}.{compression}", good)) == ["text"]
        refused(tmp_path, f"{name}.{compression}", good + garbage, "damaged|cut off")
    refused(tmp_path, "a.tar", tar({"a.txt": b"text"}) + garbage, "bytes behind the end")


@pytest.mark.parametrize("name", [f"{base}.{compression}" for base in ("a.txt", "a.tar") for compression in COMPRESS])
def test_fault_12_every_flipped_bit_of_a_compressed_file_is_seen(name: str, tmp_path: Path) -> None:
    text = "said the Lion. É " * 3
    raw = text.encode() if name.startswith("a.txt") else tar({"a.txt": text.encode()})
    good = bytearray(COMPRESS[name.rpartition(".")[2]](raw))
    harmless = 0
    for i in range(len(good)):
        for bit in (0, 3, 7):
            good[i] ^= 1 << bit
            try:
                harmless += texts_of(read(tmp_path, name, bytes(good))) == [text] or pytest.fail(f"byte {i}, bit {bit}")
            except ValueError as error:
                assert str(error).startswith(name)  # noqa: PT017
            good[i] ^= 1 << bit
    # The date and the name in gzip's header are not checked, nor are unused bits of others
    assert harmless <= 30


class Failing:
    """A decoder that raises `error`."""

    eof, needs_input, unused_data = False, True, b""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def decompress(self, data: bytes, max_length: int) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EIO, "Input/output error"), TypeError("a bug")], ids=repr
)
def test_what_is_no_damage_of_the_file_is_not_called_damage(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(streams.DECODERS, "bz2", lambda: (Failing(error), OSError))
    with pytest.raises(type(error)):
        read(tmp_path, "a.txt.bz2", bz2.compress(b"text"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["zeros.tar.xz", "zeros.txt.xz", "zeros.jsonl.xz", "zeros.xz"])
def test_fault_12_a_bomb_of_300_mb_takes_little_memory(name: str, tmp_path: Path) -> None:
    compressor = lzma.LZMACompressor(preset=0)
    raw = b"".join([*(compressor.compress(bytes(2**20)) for _ in range(300)), compressor.flush()])
    (tmp_path / name).write_bytes(raw)
    code = """
import sys, pathlib, threading
from llm_from_scratch.data.readers import read_documents
def anonymous():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024
before = highest = anonymous()
done = threading.Event()
def watch():
    global highest
    while not done.wait(0.002):
        highest = max(highest, anonymous())
threading.Thread(target=watch, daemon=True).start()
try:
    for document in read_documents(pathlib.Path(sys.argv[1]), sys.argv[1]): pass
    print("read")
except ValueError as error:
    print(error)
done.set()
print(highest - before)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    message, growth = done.stdout.splitlines()
    assert "decompression bomb" in message or "above" in message
    assert int(growth) < 100e6

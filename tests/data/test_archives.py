"""The members of a tar: their names, and every way in which one could do harm (row 12 of the
faults).
"""

import io
import lzma
import tarfile
from pathlib import Path

import pytest
from containers import (
    odd_tar,
    read,
    refused,
    tar,
)

from llm_from_scratch.data.formats import Document


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(form: int, tmp_path: Path) -> None:
    name = "/".join(["a long folder with é and 猫"] * 20) + "/a.txt"
    assert read(tmp_path, "a.tar", tar({name: b"x"}, form)) == [Document(f"a.tar/{name}", b"x")]


def test_an_archive_is_read_like_a_folder(tmp_path: Path) -> None:
    members = {"b.md": b"b", "picture.png": b"\xff" * 3000, ".hidden.txt": b"h", "c/._a.txt": b"m", "c/A.TXT": b"a"}
    found = read(tmp_path, "a.tar", tar(members))
    assert found == [Document("a.tar/b.md", b"b"), Document("a.tar/c/A.TXT", b"a")]
    with_folders = io.BytesIO()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.txt").write_bytes(b"text")
    with tarfile.open(fileobj=with_folders, mode="w") as archive:
        archive.add(tmp_path / "folder", ".")
    assert read(tmp_path, "a.tar", with_folders.getvalue()) == [Document("a.tar/a.txt", b"text")]


@pytest.mark.parametrize(
    "name",
    ["../a.txt", "a/../../b.txt", "/etc/a.txt", "C:/a.txt", "c:a.txt", "\\\\host\\a.txt", "a\\..\\b.txt", ".."],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_fault_12_members_that_lead_out_of_the_archive(name: str, kind: bytes, tmp_path: Path) -> None:
    refused(tmp_path, "a.tar", odd_tar(name, kind), r"^a\.tar: the member '.*' leads out of the archive")
    long = odd_tar("x", kind, pax={"path": name})
    refused(tmp_path, "a.tar", long, r"^a\.tar: the member '.*' leads out of the archive")


def test_fault_12_a_member_of_an_inner_archive_is_named_with_all_archives(tmp_path: Path) -> None:
    raw = tar({"b_data.xz": lzma.compress(odd_tar("../a.txt"))})
    refused(tmp_path, "a.tar", raw, r"^a\.tar/b_data\.xz: the member '\.\./a\.txt' leads out of the archive")


@pytest.mark.parametrize("name", ["a\nb.txt", "a\x1b[2Jb.txt", "a\u2028b.txt", "x" * 5000 + ".txt"])
def test_fault_12_names_that_are_no_names(name: str, tmp_path: Path) -> None:
    refused(tmp_path, "a.tar", odd_tar("x", pax={"path": name}), "control characters")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse file"),
        (b"M", "of an unknown kind"),
    ],
)
def test_fault_12_links_and_devices(kind: bytes, words: str, tmp_path: Path) -> None:
    raw = odd_tar("link.txt", kind, link="/etc/passwd")
    refused(tmp_path, "a.tar", raw, rf"^a\.tar: the member 'link\.txt' is .*{words}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (odd_tar("big.txt", size=2**60), "cut off|document above"),
        (odd_tar("big.bin", size=2**60), "cut off"),
        (odd_tar("big.xz", size=2**60), "damaged"),
        (odd_tar("big.txt", size=-5), "negative"),
        (odd_tar("a.txt", pax={"size": "9" * 19}), "cut off"),
        (odd_tar("a.txt", pax={"size": "-1"}), "a pax header's size"),
        (odd_tar("a.txt", pax={"size": "9" * 5000}), "a pax header's size"),
        (odd_tar("a.txt", pax={"GNU.sparse.realsize": "9" * 15, "GNU.sparse.major": "1"}), "sparse file"),
        (odd_tar("x" * 100, tarfile.GNUTYPE_LONGNAME, size=2**30), "a header of 1,073,741,824 bytes"),
        (odd_tar("x", tarfile.XGLTYPE, size=2**30), "a header of 1,073,741,824 bytes"),
    ],
)
def test_fault_12_headers_that_claim_giant_sizes(raw: bytes, message: str, tmp_path: Path) -> None:
    refused(tmp_path, "a.tar", raw, message)


def test_fault_12_a_header_that_names_all_members(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", pax_headers={"path": "../x"}) as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    refused(tmp_path, "a.tar", file.getvalue(), "for all members")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", pax_headers={"comment": "as git's archives have it"}) as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    assert read(tmp_path, "a.tar", file.getvalue()) == [Document("a.tar/a.txt", b"")]


def test_fault_12_a_tar_cut_off_between_two_members(tmp_path: Path) -> None:
    whole = tar({"a.txt": b"a" * 512, "b.txt": b"b" * 512})
    path = tmp_path / "file"
    path.write_bytes(whole[:1024])
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a.txt"]  # Python's own reader sees nothing wrong
    for cut in (0, 1024, 2048):
        refused(tmp_path, "a.tar", whole[:cut], "cut off: a tar ends with a block of zeros")
    assert len(read(tmp_path, "a.tar", whole[: 2048 + 512])) == 2

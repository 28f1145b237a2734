import hashlib
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_from_scratch.data import shards
from llm_from_scratch.data.shards import open_shard, write_shard

DOCUMENTS = [([5, 6, 7, 0], 3), ([0], 0), (np.array([65_535, 300, 0]), 9)]
IDS = [5, 6, 7, 0, 0, 65_535, 300, 0]


@pytest.fixture
def info(tmp_path):
    return write_shard(tmp_path / "train.0", DOCUMENTS, vocab_size=65_536, tokenizer="abc")


def refused(path, pattern, **options):
    """The one line that refuses the shard."""
    with pytest.raises(ValueError, match=pattern) as caught:
        open_shard(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 6000
    return message


def test_files_are_what_the_contract_says(info, tmp_path):
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.0.bin", "train.0.idx"]
    assert np.memmap(info.path, dtype="<u2", mode="r").tolist() == IDS
    index = (tmp_path / "train.0.idx").read_bytes()
    line, ends = index.split(b"\n", 1)
    assert np.frombuffer(ends, "<u8").tolist() == [4, 5, 8]
    assert json.loads(line) == {
        "magic": "llm-from-scratch token shard",
        "version": 1,
        "dtype": "<u2",
        "tokens": 8,
        "documents": 3,
        "text_bytes": 12,
        "vocab_size": 65_536,
        "tokenizer": "abc",
        "sha256": hashlib.sha256(np.array(IDS, "<u2").tobytes()).hexdigest(),
        "document_ends_sha256": hashlib.sha256(ends).hexdigest(),
    }
    assert info.index_sha256 == hashlib.sha256(index).hexdigest()


@pytest.mark.parametrize("name", ["train.0", "train.0.bin"])
def test_opens_by_either_name(info, tmp_path, name):
    shard = open_shard(tmp_path / name, tokenizer="abc", index_sha256=info.index_sha256)
    assert shard.info == info
    assert isinstance(shard.tokens, np.memmap)
    assert shard.tokens.tolist() == IDS
    assert shard.document_ends.tolist() == [4, 5, 8]


@given(
    st.integers(1, 70_000).flatmap(
        lambda size: st.tuples(st.just(size), st.lists(st.lists(st.integers(0, size - 1), max_size=20), max_size=5))
    )
)
@settings(max_examples=60, deadline=None)
def test_any_stream_comes_back(case):
    vocab_size, documents = case
    with tempfile.TemporaryDirectory() as folder:
        written = write_shard(
            Path(folder, "s"), ((ids, 2 * len(ids)) for ids in documents), vocab_size=vocab_size, tokenizer="t"
        )
        shard = open_shard(written.path)
        assert shard.info == written
        assert shard.tokens.tolist() == [i for ids in documents for i in ids]
        assert shard.document_ends.tolist() == np.cumsum([len(ids) for ids in documents], dtype=int).tolist()
        assert written.text_bytes == 2 * written.tokens
        assert written.dtype == ("<u4" if vocab_size > 65_536 else "<u2")
        del shard  # Windows cannot delete what is mapped


def test_fault_09_above_65536_ids_uint32(tmp_path):
    info = write_shard(tmp_path / "s", [([65_536, 70_000, 3], 1)], vocab_size=70_001, tokenizer="t")
    assert np.fromfile(info.path, "<u4").tolist() == [65_536, 70_000, 3]


@pytest.mark.parametrize(
    ("ids", "wrong"), [([1, 2, 10], 10), ([-1, 2], -1), ([2, 65_536 + 3], 65_539), ([2**70], 2**70)]
)
def test_fault_09_an_id_outside_the_vocabulary_publishes_nothing(tmp_path, ids, wrong):
    with pytest.raises(ValueError, match=rf"s\.bin: document 1 has the id {wrong} .* vocabulary of 10: "):
        write_shard(tmp_path / "s", [([1], 1), (ids, 1)], vocab_size=10, tokenizer="t")
    assert list(tmp_path.iterdir()) == []


def test_failure_on_the_way_leaves_the_old_shard(info, tmp_path):
    def documents():
        yield [1, 2], 2
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path / "train.0", documents(), vocab_size=65_536, tokenizer="abc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.0.bin", "train.0.idx"]
    assert open_shard(info.path, index_sha256=info.index_sha256).tokens.tolist() == IDS


def test_kill_between_the_renames_is_seen(info, tmp_path, monkeypatch):
    """New ids under the old index would be read without a word where the sizes agree and no
    checksum is compared.
    """
    replace = Path.replace

    def killed(self, target):
        if self.name.endswith(".idx.tmp"):
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "train.0", [(IDS[::-1], 12)], vocab_size=65_536, tokenizer="abc")
    refused(info.path, r"train\.0\.idx is missing", verify=False)


def test_same_documents_same_bytes(info, tmp_path):
    again = write_shard(tmp_path / "again", iter(DOCUMENTS), vocab_size=65_536, tokenizer="abc")
    assert (again.sha256, again.index_sha256) == (info.sha256, info.index_sha256)


def test_documents_are_streamed(tmp_path):
    """Only one document is alive at a time."""
    alive, most = set(), 0

    class Ids(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def documents():
        nonlocal most
        for _ in range(20):
            ids = np.zeros(1000, dtype=np.int64).view(Ids)
            alive.add(id(ids))
            most = max(most, len(alive))
            yield ids, 1
            del ids

    write_shard(tmp_path / "s", documents(), vocab_size=10, tokenizer="t")
    assert most <= 2


def test_fault_07_every_flipped_bit_is_seen(info, tmp_path):
    # 7: every byte, and each of its bits in turn
    for path, step in ((info.path, 1), (tmp_path / "train.0.idx", 7)):
        good = path.read_bytes()
        for bit in range(0, 8 * len(good), step):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            assert str(tmp_path / "train.0.") in refused(
                info.path, "prepare the data again", index_sha256=info.index_sha256
            )
        path.write_bytes(good)
    open_shard(info.path, index_sha256=info.index_sha256)


@given(
    documents=st.lists(st.lists(st.integers(0, 60_000), max_size=20), max_size=5).filter(any),
    vocab_size=st.sampled_from([65_536, 10**6]),
    suffix=st.sampled_from([".bin", ".idx"]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
@settings(max_examples=100, deadline=None)
def test_one_flipped_bit_of_any_stream_is_seen(documents, vocab_size, suffix, where, bit):
    with tempfile.TemporaryDirectory() as folder:
        info = write_shard(Path(folder, "s"), [(ids, 1) for ids in documents], vocab_size=vocab_size, tokenizer="t")
        path = info.path.with_suffix(suffix)
        bad = bytearray(path.read_bytes())
        bad[int(where * len(bad))] ^= 1 << bit
        path.write_bytes(bad)
        refused(info.path, "prepare the data again", index_sha256=info.index_sha256)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_fault_07_cut_short_odd_or_missing(info, suffix):
    path = info.path.with_suffix(suffix)
    good = path.read_bytes()
    for bad in (good[:-1], good[:-8], good[: len(good) // 2], b"", good + b"\0", good + good):
        path.write_bytes(bad)
        assert str(path) in refused(info.path, "prepare the data again", verify=False)
    path.unlink()
    assert str(path) in refused(info.path, "is missing", verify=False)


def header(info, **changes):
    line, ends = info.path.with_suffix(".idx").read_bytes().split(b"\n", 1)
    info.path.with_suffix(".idx").write_bytes(json.dumps(json.loads(line) | changes).encode() + b"\n" + ends)


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": "other"},
        {"magic": []},
        {"version": 2},
        {"version": "x\n" * 1000},
        {"dtype": "<u4"},
        {"dtype": "|O"},
        {"dtype": 2},
        {"vocab_size": 65_537},
        {"tokens": -8},
        {"tokens": 8.0},
        {"tokens": 2**70},
        {"tokens": 10**3000},
        {"tokens": None},
        {"tokens": True},
        {"documents": -3},
        {"documents": 2**61},
        {"documents": 10**3000},
        {"text_bytes": -1},
        {"text_bytes": [[]]},
        {"sha256": 5},
        {"document_ends_sha256": "0"},
        {"extra": 1},
        {"tokenizer": None},
        {"tokenizer": "x" * 5000},
    ],
    ids=lambda changes: repr(changes)[:30],
)
def test_fault_16_hostile_field(info, changes):
    header(info, **changes)
    assert str(info.path.with_suffix("")) in refused(info.path, "prepare the data again", verify=False)


@pytest.mark.parametrize(
    "index",
    [
        b"[" * 4000 + b"\n",
        b'{"a":' * 800 + b"\n",
        b"{}\n",
        b"[]\n",
        b"3\n",
        b"\n",
        b'{"magic": NaN}\n',
        b"\xff\xfe\n",
        b"1" * 4090 + b"\n",
        b" " * 2**22,
    ],
    ids=range(10),
)
def test_fault_16_hostile_index(info, index):
    info.path.with_suffix(".idx").write_bytes(index)
    refused(info.path, "is not the index of a token shard")


def test_document_ends_that_do_not_rise_to_the_tokens(info):
    index = info.path.with_suffix(".idx")
    line = index.read_bytes().split(b"\n", 1)[0] + b"\n"
    for ends in ([5, 4, 8], [4, 5, 9], [4, 2**64 - 1, 8]):
        raw = np.array(ends, "<u8").tobytes()
        index.write_bytes(line + raw)
        header(info, document_ends_sha256=hashlib.sha256(raw).hexdigest())
        refused(info.path, "do not rise to its 8 tokens")


def test_fault_08_another_tokenizer_shows_both(info):
    message = refused(info.path, "made with the tokenizer", tokenizer="xyz")
    assert "'abc'" in message
    assert "'xyz'" in message


def test_checksum_of_a_large_file_is_compared_on_demand(info, monkeypatch):
    good = info.path.read_bytes()
    info.path.write_bytes(b"\x04" + good[1:])
    refused(info.path, "checksum")
    assert open_shard(info.path, verify=False).tokens[0] == 4
    monkeypatch.setattr(shards, "VERIFY_BELOW", len(good))
    assert open_shard(info.path).tokens[0] == 4
    refused(info.path, "checksum", verify=True)


def test_empty_shard(tmp_path):
    info = write_shard(tmp_path / "empty", [], vocab_size=10, tokenizer="t")
    shard = pickle.loads(pickle.dumps(open_shard(info.path)))
    assert (len(shard.tokens), len(shard.document_ends), shard.info) == (0, 0, info)
    assert shard.tokens.dtype == np.dtype("<u2")


def test_pickle_reopens_and_carries_no_ids(tmp_path):
    info = write_shard(tmp_path / "s", [(np.arange(50_000) % 999, 1)], vocab_size=999, tokenizer="t")
    data = pickle.dumps(open_shard(info.path))
    assert len(data) < 2000
    again = pickle.loads(data)
    assert isinstance(again.tokens, np.memmap)
    np.testing.assert_array_equal(again.tokens, np.arange(50_000) % 999)
    with pytest.raises(ValueError, match="read-only"):
        again.tokens[0] = 1

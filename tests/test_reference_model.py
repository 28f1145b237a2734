"""The file of the reference's log-probabilities: read as written, refused where it is not."""

from pathlib import Path

import numpy as np
import pytest

from llm_from_scratch.errors import UserError
from llm_from_scratch.reference_model import Reference, check_reference, reference_path, write_reference
from llm_from_scratch.reference_model import read_reference as read

SIZES = {"train": 4, "val": 2}


def read_reference(path: Path, data: str, sizes: dict[str, int]) -> Reference:
    found = read(path)
    check_reference(path, found, data, sizes)
    return found


def write(run: Path, data: str = "abc") -> Path:
    values = {"train": np.array([-1.5, -2, -3, -4], dtype=np.float32), "val": np.array([-5, -6], dtype=np.float32)}
    write_reference(reference_path(run), Reference(data, values))
    return reference_path(run)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = read_reference(write(tmp_path), "abc", SIZES)
    assert {name: values.tolist() for name, values in found.log_probs.items()} == {
        "train": [-1.5, -2, -3, -4],
        "val": [-5, -6],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["reference.safetensors"]
    assert found.sha256 != Reference("abc", {"train": found.log_probs["train"]}).sha256


def test_it_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    assert len({write(tmp_path).read_bytes() for _ in range(20)}) == 1


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match="missing or damaged|other preferences"):
            read_reference(path, "abc", SIZES)


def test_a_missing_cut_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = reference_path(tmp_path)
    with pytest.raises(UserError, match="missing or damaged"):
        read_reference(path, "abc", SIZES)
    content = write(tmp_path).read_bytes()
    for wrong in ({"train": 4, "val": 4}, {"train": 4}):
        with pytest.raises(UserError, match="of other preferences"):
            read_reference(path, "abc", wrong)
    with pytest.raises(UserError, match="of other preferences"):
        read_reference(path, "abd", SIZES)
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="missing or damaged"):
        read_reference(path, "abc", SIZES)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError):
        read_reference(path, "abc", SIZES)

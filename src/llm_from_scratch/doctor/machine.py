"""Checks of this machine: versions, devices, disk, corpora. Nothing is changed or downloaded."""

import importlib.metadata
import os
import platform
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llm_from_scratch import __version__, machine
from llm_from_scratch.data.downloads import roots
from llm_from_scratch.data.sources import open_source
from llm_from_scratch.doctor.findings import Finding, fault, ok, size_of, warning
from llm_from_scratch.errors import DISTRIBUTION, UserError, message_of
from llm_from_scratch.files import existing_parent
from llm_from_scratch.places import config_dir

NETWORK_SECONDS = 3.0
LOW_DISK = 2 * 10**9  # bytes


def versions() -> Iterator[Finding]:
    """Compares Python and the required libraries with the versions that the package declares."""
    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
        requirements = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        yield warning(
            f"{DISTRIBUTION} {__version__} is not installed, and runs from its folder",
            "pip install -c constraints.txt -e .",
        )
        return
    pythons, own = SpecifierSet(metadata["Requires-Python"]), platform.python_version()
    if pythons.contains(own, prereleases=True):
        yield ok(f"Python {own}, {DISTRIBUTION} {__version__}")
    else:
        yield fault(f"Python {own} is outside {pythons}", "make a new environment with a Python of that range")
    good = []
    for wanted in requirements:
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue  # belongs to an optional extra
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield fault(f"{wanted.name} is missing", "pip install -c constraints.txt -e .")
            continue
        if wanted.specifier.contains(found, prereleases=True):
            good.append(f"{wanted.name} {found}")
        else:
            yield fault(f"{wanted.name} {found} is outside {wanted.specifier}", "pip install -c constraints.txt -e .")
    if good:
        yield ok(", ".join(good))


def processors() -> Iterator[Finding]:
    """Lists the CPU and GPUs that torch can use; warns of an NVIDIA GPU that it cannot."""
    cores, own, threads = os.cpu_count() or 1, machine.cores(), torch.get_num_threads()
    allowed = f", of which this process may use {own}" if own < cores else ""
    plural = "thread" if threads == 1 else "threads"
    yield ok(f"a CPU with {cores} cores{allowed}; torch computes with {threads} {plural} (trainer.threads)")
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        yield ok(f"CUDA GPU {i}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if machine.has_mps():
        yield ok("an Apple GPU")
    if shutil.which("nvidia-smi") and not machine.has_cuda():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        yield warning(
            f"there is an NVIDIA driver, and torch, which {built}, finds no GPU",
            "run nvidia-smi; install a torch whose CUDA the driver supports",
        )


def bfloat16() -> Iterator[Finding]:
    """Reports whether the best device computes in bfloat16, and what trainer.precision=auto is."""
    best = machine.devices()[0]
    has, auto = machine.has_bfloat16(best), "float32"
    if best == "cpu" and machine.bfloat16_pays():
        auto = f"bfloat16 for models of model.n_embd={machine.WIDE} or more"
    device = {"mps": "the Apple GPU", "cpu": "this CPU"}.get(best)
    if device is None:
        device, auto = torch.cuda.get_device_name(), "bfloat16" if has else "float16"
    other = "; trainer.precision=bf16-mixed uses bfloat16" if has and auto == "float32" else ""
    what = "instructions for bfloat16" if has else "no instructions for bfloat16"
    yield ok(f"{device} has {what}: trainer.precision=auto computes in {auto}{other}")


def compiler() -> Iterator[Finding]:
    """Looks for a C++ compiler, which torch.compile needs on a CPU."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++", "cl")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found:
        yield ok(f"a C++ compiler for torch.compile: {found}")
    else:
        yield warning("no C++ compiler", "install g++ or clang to use torch.compile; everything else works without")


def disk() -> Iterator[Finding]:
    """Checks that data/ and outputs/ are writable and have free disk space."""
    for name in ("data", "outputs"):
        place = existing_parent(Path(name))
        free = shutil.disk_usage(place).free
        if not os.access(place, os.W_OK):
            yield fault(f"{name}/ cannot be written", f"give yourself the right to write in {place}, or choose others")
        elif free < LOW_DISK:
            yield warning(f"{name}/: {size_of(free)} free", "delete old runs in outputs/ or old data/*/prepared-*")
        else:
            yield ok(f"{name}/: {size_of(free)} free")


def corpora(configs: Path | None = None) -> Iterator[Finding]:
    """Checks each published corpus of one file: its checksum, or else whether its URL answers.

    Args:
        configs: the folder of the corpora's YAML files; None: data/ of the package's configs.
    """
    missing = {}
    for path in sorted((configs or config_dir() / "data").glob("*.yaml")):
        settings: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[assignment]
        file = settings.get("file")
        if not file or settings.get("layouts"):
            continue  # no named file, or a corpus of many (OpenWebText, 40 GB), which is optional
        found = next((folder / file for folder in roots(Path("data")) if (folder / file).is_file()), None)
        if not found:
            missing[path.stem] = (file, str(settings.get("url")))
            continue
        metadata = {key: settings.get(key) for key in ("name", "file", "sha256", "must_contain")}
        try:
            open_source(**metadata, url=None, data_dir=Path("data"))  # type: ignore[arg-type]
            yield ok(f"data={path.stem}: {found}")
        except UserError as error:
            yield fault(message_of(error), f"remove {found}: the next training downloads it")
    answers = dict.fromkeys(missing, "no answer")
    threads = [
        threading.Thread(target=_reach, args=(name, url, answers), daemon=True) for name, (_, url) in missing.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(NETWORK_SECONDS)  # a DNS lookup has no time-out of its own
    for name, (file, url) in missing.items():
        if (answer := answers[name]) == "reached":
            yield ok(f"data={name}: not here yet; {url} can be reached")
        else:
            yield warning(
                f"data={name}: not here, and {url} cannot be reached ({answer})",
                f"put the file by hand at data/{file}, or train with data=tales, which needs no download",
            )


def _reach(name: str, url: str, answers: dict[str, str]) -> None:
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": DISTRIBUTION})
        with urllib.request.urlopen(request, timeout=NETWORK_SECONDS):
            answers[name] = "reached"
    except (OSError, ValueError, urllib.error.URLError) as error:
        answers[name] = message_of(error)

"""The public Python API: its examples run, it is what `evaluate` and `generate.py` compute, and
importing it takes no torch.
"""

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

import llm_from_scratch
from llm_from_scratch import api, generate, load_run, score

FIXTURE = REPO / "tests" / "fixtures" / "version_0_1"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of version 0.1 as the newest below outputs/."""
    shutil.copytree(FIXTURE / "run", tmp_path / "outputs/text/first")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs/text/first"


def test_the_examples_of_the_docstrings(run: Path) -> None:
    found = doctest.testmod(api)
    assert found.failed == 0
    assert found.attempted > 5


def test_the_examples_of_the_page(run: Path) -> None:
    found = doctest.testfile(str(REPO / "docs/api.md"), module_relative=False)
    assert found.failed == 0
    assert found.attempted > 20


def test_every_public_name_is_there_and_on_the_page() -> None:
    page = (REPO / "docs/api.md").read_text(encoding="utf-8")
    for name in llm_from_scratch.__all__:
        assert getattr(llm_from_scratch, name).__name__ == name
        assert f"`{name}`" in page
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = llm_from_scratch.nothing


def test_the_score_is_that_of_evaluate(run: Path) -> None:
    recorded = json.loads((FIXTURE / "evaluation.json").read_text(encoding="utf-8"))
    (folder,) = (FIXTURE / "data/text").glob("prepared-*")
    likely = score(load_run(run, "cpu"), (folder / "val.txt").read_text(encoding="utf-8"))
    assert likely.bits_per_byte == pytest.approx(recorded["bits_per_byte"], rel=1e-4)


def test_mistakes_are_one_line(run: Path) -> None:
    loaded = load_run(device="cpu")
    with pytest.raises(ValueError, match=r"^the text is empty: .*$"):
        score(loaded, "")
    with pytest.raises(ValueError, match=r"^temperature=-1 must be .*$"):
        generate(loaded, "Toto", temperature=-1)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, llm_from_scratch; assert 'GPT' in dir(llm_from_scratch); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, cwd=REPO)
    assert {"torch", "numpy", "omegaconf"}.isdisjoint(done.stdout.split())

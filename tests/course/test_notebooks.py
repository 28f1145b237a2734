"""The notebooks are those of the chapters; `make course` runs them, and the scripts of the figures."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPO, run

from course.chapter import CHAPTERS, COURSE, read

FIGURES = sorted((COURSE / "figures").glob("[0-9]*.py"))
RUNS = ("outputs/course/oz", "outputs/course/tales")  # `make course` trains them


def loaded(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = loaded(COURSE / "make_notebooks.py")


@pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])
def test_the_notebook_is_that_of_the_chapter(path: Path) -> None:
    """`python docs/course/make_notebooks.py` mends it."""
    made = COURSE / "notebooks" / f"{path.stem}.ipynb"
    assert made.read_text(encoding="utf-8") == MAKER.notebook(path)
    cells = json.loads(made.read_text(encoding="utf-8"))["cells"]
    assert ["".join(cell["source"]) for cell in cells[1:] if cell["cell_type"] == "code"] == [
        block.text.rstrip() for block in read(path).python
    ]
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert text.count("<details>") == text.count("</details>")


def test_no_notebook_is_left_over() -> None:
    assert {path.stem for path in (COURSE / "notebooks").glob("*")} == {path.stem for path in CHAPTERS}


def test_a_notebook(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00_a.png").write_bytes(b"png")
    (tmp_path / "00_made.md").write_text(
        "# 0. Made\n\n![A line](images/00_a.png) and [a page](01.md#b), [the web](https://x.org)\n\n"
        "<details><summary>Answer</summary>\n\nYes.\n\n```python\nassert 1\n```\n\n</details>\n\n## End\n",
        encoding="utf-8",
    )
    _, first, code, last = json.loads(MAKER.notebook(tmp_path / "00_made.md"))["cells"]
    text = "".join(first["source"])
    assert "![A line](attachment:00_a.png) and [a page](../01.md#b), [the web](https://x.org)" in text
    assert text.endswith("Yes.\n\n\n\n</details>")
    assert first["attachments"] == {"00_a.png": {"image/png": "cG5n"}}
    assert code["source"] == ["assert 1"]
    assert last["source"] == ["## End"]


@pytest.mark.course
@pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])
def test_the_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(REPO / "src"))
    notebook = nbformat.read(COURSE / "notebooks" / f"{path.stem}.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


@pytest.mark.course
@pytest.mark.parametrize("path", FIGURES, ids=[path.stem for path in FIGURES])
def test_the_figures_can_be_drawn(path: Path, tmp_path: Path) -> None:
    """Each script draws the pictures that its chapter shows."""
    missing = [name for name in RUNS if name in path.read_text(encoding="utf-8") and not (REPO / name).exists()]
    if missing:
        pytest.skip(f"needs {missing[0]}: make course trains it")
    done = run([str(path)], REPO, {"COURSE_IMAGES": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / ".matplotlib")})
    assert done.returncode == 0, done.stderr
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn == {file.name for file in (COURSE / "images").glob(f"{path.stem[:2]}_*")}

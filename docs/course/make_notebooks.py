"""Makes a notebook of each chapter: docs/course/notebooks/NAME.ipynb. A test holds that they are
made from the chapters as these are now.

    python docs/course/make_notebooks.py
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

COURSE = Path(__file__).resolve().parent
INSTALL = """\
import importlib.util

# On Colab: the address of the repository, as for git clone. Where the package is installed, nothing happens.
ADDRESS = ""  # @param {type:"string"}
if importlib.util.find_spec("llm_from_scratch") is None:
    assert ADDRESS, "write the address of the repository into ADDRESS, then run this cell again"
    %pip install --quiet "git+{ADDRESS}"
"""
Cell = dict[str, Any]


def notebook(chapter: Path) -> str:
    """Returns the notebook of a chapter: its Python blocks are cells of code, all else is Markdown."""
    parts = re.split(r"^```python\n(.*?)^```\n", chapter.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    cells = [code(INSTALL)]
    for place, part in enumerate(parts):
        if place % 2:
            cells.append(code(part))
        elif text := whole_details(part).strip():
            cells.append(prose(text, chapter.parent))
    for number, cell in enumerate(cells):
        cell["id"] = f"{chapter.stem}-{number}"
    content = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def code(text: str) -> Cell:
    """Returns a cell of code."""
    source = text.rstrip().splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}


def prose(text: str, folder: Path) -> Cell:
    """Returns a cell of Markdown. Its pictures are in the cell, as Colab finds no file beside a notebook."""
    attachments = {}

    def embedded(found: re.Match[str]) -> str:
        path = folder / found[2]
        attachments[path.name] = {"image/png": base64.b64encode(path.read_bytes()).decode()}
        return f"{found[1]}(attachment:{path.name})"

    text = re.sub(r"(!\[[^]]*\])\((images/[^)]+)\)", embedded, text)
    # The notebook lies one folder deeper than the chapter.
    text = re.sub(r"\]\((?![a-z]+:|#)", "](../", text)
    cell: Cell = {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"attachments": attachments} if attachments else {})


def whole_details(text: str) -> str:
    """Closes a `<details>` that goes on in the next cell, and drops the end of one that began before."""
    if text.count("</details>") > text.count("<details>"):
        text = text.replace("</details>", "", 1)
    return text + ("\n\n</details>" if text.count("<details>") > text.count("</details>") else "")


def main() -> None:
    """Writes the notebook of each chapter."""
    folder = COURSE / "notebooks"
    folder.mkdir(exist_ok=True)
    for chapter in sorted(COURSE.glob("[0-9][0-9]_*.md")):
        (folder / f"{chapter.stem}.ipynb").write_text(notebook(chapter), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Every chapter of the course: its shape, its code, its exercises, its pointers into the source."""

import argparse
import ast
import difflib
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import hydra
import pytest
from conftest import REPO, run
from PIL import Image

from course.chapter import CHAPTERS, COURSE, Block, Page, broken, read
from llm_from_scratch.check import check
from llm_from_scratch.cli import COMMANDS, HYDRA_PROGRAMS, SETTINGS_OF
from llm_from_scratch.config import Config, GenerateConfig
from llm_from_scratch.front.compose import compose
from llm_from_scratch.front.words import jobs_of, literal, without_none, without_tuned

ENDING = ["Exercises", "In the source", "Papers"]
LANGUAGES = {"python", "text", "console", "yaml"}
chapters = pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])


def bullets(page: Page, section: str) -> list[str]:
    """The list items of a section, as they are written."""
    text = re.split(rf"^## {re.escape(section)}$", page.source, flags=re.MULTILINE)[1]
    text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
    return [" ".join(item.split()) for item in re.split(r"^[-*] ", text, flags=re.MULTILINE)[1:]]


@chapters
def test_its_shape(path: Path) -> None:
    page = read(path)
    first, *others = page.headings
    assert re.match(rf"{int(path.stem[:2])}\. \S", first[1]), "the title begins with the chapter's number"
    assert first[0] == 1
    assert all(level in (2, 3) for level, _, _ in others)
    assert page.sections[-3:] == ENDING
    abilities = re.search(
        r"\A# .*\n\n\*\*After this chapter you can\*\*.*\n\n?((?:[-*] (?:.+\n(?:  .+\n)*))+)", page.source
    )
    assert abilities, "the title is followed by **After this chapter you can** and bullets"
    assert 3 <= len(re.findall(r"^[-*] ", abilities[1], flags=re.MULTILINE)) <= 5
    words = sum(len(text.split()) for section, text in page.prose.items() if section not in ENDING)
    assert 800 <= words <= 1600, f"{words} words"
    assert {block.language for block in page.blocks} <= LANGUAGES
    assert page.python
    for fence in re.findall(r"^ *```.*$", page.source, flags=re.MULTILINE):
        assert not fence.startswith(" "), "a block is not indented: GitHub and the notebook read it elsewhere"


@chapters
def test_its_pictures(path: Path) -> None:
    page = read(path)
    pictures = [link for link in page.links if link.is_picture]
    assert 1 <= len(pictures) <= 3
    for picture in pictures:
        assert picture.target.startswith(f"images/{path.stem[:2]}_")
        assert len(picture.text) >= 30, "an alternative text says what is seen"
        file = path.parent / picture.target
        assert file.stat().st_size <= 120_000
        with Image.open(file) as image:
            assert image.width <= 1400
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    drawn = {f"images/{file.name}" for file in (COURSE / "images").glob(f"{path.stem[:2]}_*")}
    assert drawn == {picture.target for picture in pictures}, "every picture of a chapter is shown"
    assert (COURSE / "figures" / f"{path.stem}.py").is_file()


FRACTION = re.compile(r"\d[\d,]*\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+")


def agree(wanted: list[str], got: list[str]) -> bool:
    """Whether two outputs are the same but for the fractions, which may differ by 3 %, by two units of their last
    digit, or below 1e-5: another processor or version of torch rounds otherwise, and a training carries it on.
    """
    if [FRACTION.sub("#", line).split() for line in wanted] != [FRACTION.sub("#", line).split() for line in got]:
        return False
    for said, found in zip(FRACTION.findall("\n".join(wanted)), FRACTION.findall("\n".join(got)), strict=True):
        one, other = (float(text.replace(",", "")) for text in (said, found))
        digits, _, exponent = said.partition("e")
        unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
        if abs(one - other) > max(0.03 * abs(one), 2.01 * unit, 1e-5):
            return False
    return True


def test_outputs_agree_where_only_rounding_differs() -> None:
    assert agree(["loss 4.4992, 3 tokens"], ["loss  4.51, 3 tokens"])
    assert agree(["12 0.02", "3e-8"], ["12 0.00", "7e-9"])
    assert not agree(["loss 4.4992"], ["loss 4.7"])
    assert not agree(["3 tokens"], ["4 tokens"])
    assert not agree(["a 1.00"], ["a 1.03", ""])
    assert not agree(["1.5e+02"], ["1.5e+01"])


@chapters
def test_its_code(path: Path, tmp_path: Path) -> None:
    """All blocks run in order in a fresh folder, and print what the chapter says."""
    done = run([str(Path(__file__).with_name("chapter.py")), str(path)], tmp_path)
    assert done.returncode == 0, done.stderr
    for block, printed in zip(read(path).python, json.loads(done.stdout.splitlines()[-1]), strict=True):
        if block.output is not None:
            wanted, got = ([line.rstrip() for line in text.strip().splitlines()] for text in (block.output, printed))
            assert agree(wanted, got), "\n".join(
                difflib.unified_diff(wanted, got, f"{path.name}:{block.line}", "printed")
            )


@chapters
def test_its_exercises(path: Path) -> None:
    page = read(path)
    text = page.source.split("\n## Exercises\n")[1].split("\n## In the source\n")[0]
    answers = re.findall(r"<details>\s*<summary>Answer</summary>\n\n(.*?)\n\n</details>", text, flags=re.DOTALL)
    assert len(answers) == text.count("<details>") == text.count("</details>") == 3
    for answer in answers:
        code = re.findall(r"^```python\n(.*?)^```$", answer, flags=re.DOTALL | re.MULTILINE)
        assert any(isinstance(node, ast.Assert) for part in code for node in ast.walk(ast.parse(part))), answer[:80]
        assert re.sub(r"^```.*?^```$", "", answer, flags=re.DOTALL | re.MULTILINE).split(), "an answer has prose"


@cache
def defined(path: Path) -> set[str]:
    """The names that a file defines at its top, and `Class.name` of its classes."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        for one, prefix in [(node, ""), *((each, f"{getattr(node, 'name', '')}.") for each in inner)]:
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + one.name)
            elif isinstance(one, ast.Assign | ast.AnnAssign):
                targets = one.targets if isinstance(one, ast.Assign) else [one.target]
                found |= {prefix + ast.unparse(target) for target in targets}
    return found


@chapters
def test_its_pointers_into_the_source(path: Path) -> None:
    page = read(path)
    for bullet in bullets(page, "In the source"):
        assert re.search(r"\]\(\.\./\.\./", bullet), f"{bullet}: no link to a file"
    pointers = [link for link in page.links if link.target.startswith("../../") and link.target.endswith(".py")]
    assert {link.section for link in pointers} >= {"In the source"}
    for link in pointers:
        file = (path.parent / link.target).resolve()
        if file.is_file() and re.fullmatch(r"[A-Za-z_][\w.]*(?<!\.py)", link.text):
            assert link.text in defined(file), f"{link.text} is not defined in {link.target}"
        elif link.section == "In the source":
            assert link.text == file.name, f"{link.text}: a name that the file defines, or the file's own"


@chapters
def test_its_papers(path: Path) -> None:
    papers = bullets(read(path), "Papers")
    assert papers
    for paper in papers:
        assert re.search(r"\b(1[789]|20)\d\d\b", paper), f"{paper}: no year"


@chapters
def test_its_links(path: Path) -> None:
    assert broken(read(path)) == []


def commands_of(block: Block) -> list[str]:
    """The commands of a console block, each as one line."""
    text = block.text.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


def check_command(line: str) -> None:
    """Raises where a command is unknown, or its settings do not compose."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # a variable of the environment
        words = words[1:]
    for start in (["python", "-m", "llm_from_scratch"], ["llm-from-scratch"]):
        if words[: len(start)] == start:
            return check_own(words[len(start) :])
    if words[0] == "python" and words[1] in ("train.py", "generate.py"):
        return check_own([words[1].removesuffix(".py"), *words[2:]])
    if words[0] == "make":
        makefile = (REPO / "Makefile").read_text(encoding="utf-8")
        for target in (word for word in words[1:] if "=" not in word):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{line}: no such target"
        return None
    if words[0] == "python" and words[1].startswith("docs/course/figures/"):
        assert (REPO / words[1]).is_file(), f"{line}: no such script"
        return None
    known = ("pip", "source", "tensorboard", "git", "cd", "cat", "head", "less", "ls")
    assert words[0] in known, f"{line}: not a command of the project"
    return None


def check_own(words: list[str]) -> None:
    """Checks a command of `llm-from-scratch`."""
    name, *rest = words
    assert name in COMMANDS, f"{name}: no such command"
    if name in HYDRA_PROGRAMS:
        settings = [word for word in rest if word not in ("-m", "--multirun", "--help")]
    else:
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(f"llm_from_scratch.commands.{name.replace('-', '_')}").arguments(parser)
        options, others = parser.parse_known_args(rest)
        if not hasattr(options, "overrides"):
            assert others == [], f"{others}: unknown to {name}"
            return
        settings = [*options.overrides, *others]
    config_name = SETTINGS_OF[name]
    folder = REPO / "configs"
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(folder)):
        settings = without_tuned(without_none([literal(word) for word in settings], folder, config_name))
        for job in jobs_of(settings):
            config = compose(config_name, job)
            check(config, Config if config_name == "train" else GenerateConfig)


@chapters
def test_its_commands(path: Path) -> None:
    for block in read(path).blocks:
        if block.language == "console":
            assert commands_of(block), f"line {block.line}: a console block has a line that begins with '$ '"
            for line in commands_of(block):
                check_command(line)


def test_commands_are_really_checked() -> None:
    check_command("python train.py -m model=article,tiny optim.lr=1e-3,4e-3 trainer.max_steps=100  # eight")
    check_command("llm-from-scratch evaluate last --report report")
    check_command("llm-from-scratch plan model=small data=oz")
    for wrong in ("python train.py model=huge", "python train.py optim.rate=1", "llm-from-scratch sing", "make tea"):
        with pytest.raises((AssertionError, ValueError)):
            check_command(wrong)
    with pytest.raises((AssertionError, SystemExit)):
        check_command("llm-from-scratch evaluate last --louder")


def test_code_is_really_run(tmp_path: Path) -> None:
    """A block that fails, and one that prints something else, are noticed, with their lines."""
    page = tmp_path / "00_made.md"
    page.write_text(
        "# 0. Made\n\n```python\na = 1\nprint(a)\n```\n\n```text\n1\n```\n\n```python\nassert a == 2\n```\n"
    )
    assert [(block.line, block.output) for block in read(page).python] == [(4, "1\n"), (13, None)]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("chapter.py")), str(page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f'{page}", line 13' in done.stderr


def test_the_index_names_every_chapter() -> None:
    index = read(COURSE / "index.md")
    listed = [link.target for link in index.links if re.match(r"\d\d_", link.target)]
    assert listed == sorted(set(listed))
    assert listed == [path.name for path in CHAPTERS]

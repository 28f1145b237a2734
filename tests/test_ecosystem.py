"""docs/ecosystem.md: its commands and its Python, in their order, beside a run that was just trained."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import REPO, run, story

from llm_from_scratch.errors import UserError
from llm_from_scratch.registry import find

PAGE = (REPO / "docs" / "ecosystem.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TRANSFORMERS = next(block for kind, block in BLOCKS if kind == "python")
LEFT_OUT = "# not run by the tests"
SMALL = (
    "model.n_layer=2 model.n_embd=64 model.n_head=2 model.qk_norm=false model.block_size=64 tokenizer.vocab_size=400"
)


def lines() -> list[tuple[str, str]]:
    """Every command line, and every block of Python as a whole."""
    found = []
    for kind, block in BLOCKS:
        if not block.startswith(LEFT_OUT):
            found += [(kind, block)] if kind == "python" else [(kind, line) for line in block.splitlines()]
    return found


def has_smollm2() -> bool:
    try:
        return find("smollm2").is_file()
    except UserError:
        return False


def test_the_page_leaves_out_only_what_other_programs_and_a_network_do() -> None:
    left_out = "".join(block for _, block in BLOCKS if block.startswith(LEFT_OUT))
    commands = [line.split()[0] for line in left_out.splitlines() if not line.startswith("#")]
    assert commands == ["llama-cli", "ollama", "python"]
    assert left_out.count("hub:") == 1
    assert len(lines()) == 13


@pytest.mark.slow
def test_the_page_in_order(tmp_path: Path) -> None:
    for library in ("transformers", "tokenizers", "onnxruntime", "gguf"):
        pytest.importorskip(library)
    (tmp_path / "story.txt").write_text(story(60_000), encoding="utf-8")
    (tmp_path / "chapter.txt").write_text(story(6000, seed=1), encoding="utf-8")
    started = f"data=text data.path=story.txt trainer=cpu trainer.max_steps=20 trainer.val_check_interval=20 {SMALL}"
    done = run([str(REPO / "train.py"), *started.split()], tmp_path)
    assert done.returncode == 0, done.stderr
    texts, skipped = {}, []
    for kind, text in lines():
        if "smollm2" in text and not has_smollm2():
            skipped.append(text)
            continue
        words = ["-c", text] if kind == "python" else shlex.split(text)[1:]
        if words[0] in ("train.py", "generate.py"):
            words[0] = str(REPO / words[0])
        done = run(words, tmp_path)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        texts[text] = done.stdout
    # The same model in our words, in transformers' and as GGUF
    greedy = [out for line, out in texts.items() if "generate.py run=exported" in line]
    assert len(greedy) == 2
    assert all(out.startswith("Dorothy") and len(out) > len("Dorothy\n") for out in [*greedy, texts[TRANSFORMERS]])
    if skipped:
        pytest.skip(f"make weights has not run: {'; '.join(skipped)}")

"""How a missing library is told: never by the name of somebody else's package."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import REPO

from llm_from_scratch import errors


def test_the_command_installs_from_the_checkout_or_by_the_own_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    assert own == errors.DISTRIBUTION == "llm-from-scratch-lightning"
    assert str(errors.missing_extra("logger=wandb needs", "wandb")) == "logger=wandb needs: pip install -e '.[wandb]'"
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages/llm_from_scratch/errors.py"))
    assert str(errors.missing_extra("lm-eval needs", "harness", "no module")) == (
        "lm-eval needs: pip install 'llm-from-scratch-lightning[harness]' (no module)"
    )


def test_no_message_setting_or_page_installs_a_strangers_package() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, encoding="utf-8", check=False)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    extras = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = set()
    for name in listed.stdout.splitlines():
        if Path(name).suffix in (".py", ".yaml", ".md", ".toml") or name in ("Makefile", "Dockerfile"):
            text = (REPO / name).read_text(encoding="utf-8")
            assert not re.search(r"install [^\n]*\bllm-from-scratch(?!-lightning)\b", text), name
            named |= set(re.findall(r"pip install (?:-c \S+ )?-e '\.\[([\w,]+)\]'", text))
            named |= set(re.findall(r'missing_extra\([^)]*"(\w+)"\)', text))
    found = {extra for names in named for extra in names.split(",")}
    assert {"wandb", "sweep", "openwebtext", "metrics"} <= found <= set(extras)

"""Places: a home folder's `~` in every path, and the configs from wherever a command is given."""

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import REPO, run, story

from llm_from_scratch import places
from llm_from_scratch.check import check
from llm_from_scratch.checkpoint import find_run
from llm_from_scratch.cli import main
from llm_from_scratch.config import Config, DataConfig, GenerateConfig
from llm_from_scratch.data.sources import open_source, roots
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.program import composed
from llm_from_scratch.front.words import LITERAL, literal
from llm_from_scratch.places import PATHS, config_dir, expanded, user_path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, and another folder to be in."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    return folder


def test_the_home_folder_in_every_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(PATHS) <= set(LITERAL)
    for key in PATHS:
        assert literal(f"{key}=~/x y") == f"{key}='{home}/x y'"
    assert literal("prompt=~/x") == "prompt='~/x'"
    assert expanded("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
    assert expanded("./~/x") == "./~/x"
    # From YAML, where no word of the command line names it.
    config = check(
        {"run_dir": "~/r", "init_from": "~/i", "data": {"path": "~/${x}", "dir": "~"}, "tokenizer": {"path": "~/t"}},
        Config,
    )
    assert (config.run_dir, config.init_from, config.tokenizer.path) == (f"{home}/r", f"{home}/i", f"{home}/t")
    assert (config.data.path, config.data.dir) == (f"{home}/${{x}}", str(home))
    assert check({"run": "~/r", "prompt": "~"}, GenerateConfig).run == f"{home}/r"
    assert composed(config_dir(), "train", ["run_dir=~/r"]).run_dir == f"{home}/r"
    assert find_run("~/r") == home / "r"
    assert user_path("~/r") == home / "r"
    monkeypatch.setenv("LLM_CORPORA", "~/corpora")
    assert roots(Path("data"))[1] == home / "corpora"
    (home / "a.txt").write_text("text", encoding="utf-8")
    assert open_source(name="text", path="~/a.txt", data_dir=Path("data")).paths == [("a.txt", home / "a.txt")]


def test_path_options_of_commands(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "~/run", "--gpt2", "~/model"])
    assert ended.value.code == 2
    assert f"--gpt2 {home / 'model'}: there is no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["doctor", "~/run"])
    assert f"error: {home / 'run'}: there is no such folder" in capsys.readouterr().err


def test_commands_from_another_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "story.txt").write_text(story(20_000), encoding="utf-8")
    settings = ["data=text", "data.path=~/story.txt", "data.dir=~/data", "tokenizer.vocab_size=320"]
    main(["prepare", *settings])
    assert capsys.readouterr().out.startswith(f"prepared: {home}/data/text/prepared-")
    main(["inspect", *settings, "--json"])
    assert json.loads(capsys.readouterr().out)["folder"].startswith(f"{home}/data/text/prepared-")
    main(["plan", "--no-measuring", "--json", "trainer=cpu", *settings])
    assert json.loads(capsys.readouterr().out)["model"]["vocab_size"] == 320
    assert not list(Path().iterdir())


def test_the_configs_of_a_checkout_and_of_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_dir() == REPO / "configs"
    package = tmp_path / "lib/site-packages/llm_from_scratch"
    package.mkdir(parents=True)
    monkeypatch.setattr(places, "__file__", str(package / "places.py"))
    with pytest.raises(UserError, match="its configs are missing: install the package again"):
        config_dir()
    wheel = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    ((source, target),) = wheel["force-include"].items()
    shutil.copytree(REPO / source, package.parent / target)
    assert config_dir() == package / "configs"


@pytest.mark.slow
def test_an_installed_wheel_finds_its_configs(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    words = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(REPO)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert "llm_from_scratch/configs/train.yaml" in zipfile.ZipFile(wheel).namelist()
    install = ["-m", "pip", "install", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    (tmp_path / "story.txt").write_text(story(20_000), encoding="utf-8")
    words = ["inspect", "data=text", "data.path=story.txt", "tokenizer.vocab_size=320"]
    done = run(["-m", "llm_from_scratch", *words], tmp_path, {"PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 0, done.stderr


def test_a_mixtures_corpora_too(home: Path) -> None:
    settings = check({"path": "~/a.txt", "name": "a"}, DataConfig)
    (home / "a.txt").write_text("text", encoding="utf-8")
    assert open_source(name="a", path=settings.path, data_dir=Path("data")).paths == [("a.txt", home / "a.txt")]

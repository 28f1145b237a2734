"""Places: a home folder's `~` in every path, and the configs from wherever a command is given."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import REPO, SMALL, story

from llm_from_scratch import places
from llm_from_scratch.check import check
from llm_from_scratch.cli import main
from llm_from_scratch.config import Config, DataConfig, GenerateConfig
from llm_from_scratch.data.downloads import roots
from llm_from_scratch.data.sources import open_source
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.program import composed
from llm_from_scratch.front.words import literal
from llm_from_scratch.places import PATHS, config_dir, expanded, user_path
from llm_from_scratch.rating import room
from llm_from_scratch.run import find_run
from llm_from_scratch.serve.static import FILES


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
    shutil.copytree(REPO / "configs", package.parent / wheel["sources"]["configs"])
    assert config_dir() == package / "configs"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that has the wheel, and the libraries of this one."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder / "dist"), str(REPO)]
    built = subprocess.run(wheel, capture_output=True, encoding="utf-8", check=False)
    if built.returncode:
        pytest.skip(f"needs hatchling: {built.stderr.strip().splitlines()[-1]}")
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    libraries = sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")})
    (Path(libraries) / "libraries.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--force-reinstall"]
    (made,) = (folder / "dist").glob("*.whl")
    # One machine's own
    names = zipfile.ZipFile(made).namelist()
    assert not [name for name in names if "configs/local" in name]
    page = {
        f"llm_from_scratch/{path.relative_to(room.FOLDER.parents[1]).as_posix()}"
        for path in (FILES | room.FILES).values()
    }
    assert page
    assert page <= {*names}
    subprocess.run([str(programs / "python"), *install, str(made)], check=True, capture_output=True)
    return programs


# `python -m build` in the checkout, then an empty folder of somebody else's.
@pytest.mark.slow
def test_an_installed_wheel_prepares_trains_writes_and_evaluates(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(20_000), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LLM_CORPORA")}

    def start(*words: str) -> tuple[str, str]:
        done = subprocess.run(
            [str(installed / "llm-from-scratch"), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    assert start("prepare", *SMALL)[0].startswith("prepared: data/text/prepared-")
    assert json.loads(start("plan", "--no-measuring", "--json", *SMALL)[0])["model"]["vocab_size"] == 320
    said, advice = start("train", *SMALL, "trainer.max_steps=2", "run_dir=run")
    assert said == "run: run\n"
    assert "  llm-from-scratch generate run=run " in advice
    assert "  llm-from-scratch evaluate run\n" in advice
    assert start("generate", "run=run", "prompt=the", "max_new_tokens=4")[0].startswith("the")
    assert json.loads(start("evaluate", "run", "--json")[0])["step"] == 2
    assert start("train", *SMALL[:-2], "trainer=ddp_cpu", "trainer.max_steps=2", "run_dir=two")[0] == "run: two\n"


def test_a_mixtures_corpora_too(home: Path) -> None:
    settings = check({"path": "~/a.txt", "name": "a"}, DataConfig)
    (home / "a.txt").write_text("text", encoding="utf-8")
    assert open_source(name="a", path=settings.path, data_dir=Path("data")).paths == [("a.txt", home / "a.txt")]

"""Run folders of a stranger's: nothing outside of them is written, deleted, fetched or run, and
nothing waits.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, as_version_0_1

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names, and no fork")
FIXTURE = REPO / "tests/fixtures/version_0_1"
URL = "http://192.0.2.1/evil.txt"  # an address for documentation alone: nobody is there


def settings(old: str, new: str) -> Callable[[Path, Path], None]:
    def change(run: Path, home: Path) -> None:
        path = run / "config.yaml"
        text = path.read_text(encoding="utf-8")
        assert old in text, old
        path.write_text(text.replace(old, new.replace("HOME", str(home))), encoding="utf-8")

    return change


def link(name: str, target: str) -> Callable[[Path, Path], None]:
    def change(run: Path, home: Path) -> None:
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(home / target)

    return change


def pipe(name: str) -> Callable[[Path, Path], None]:
    def change(run: Path, home: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


def layers(run: Path, home: Path) -> None:
    for name, old in (("config.yaml", "n_layer: 1"), ("model/config.json", '"n_layer": 1')):
        path = run / name
        text = path.read_text(encoding="utf-8").replace(old, old[:-1] + "100000")
        text = re.sub(r'(n_unique_layer"?: )null', r"\g<1>1", text)
        path.write_text(text, encoding="utf-8")


DOWNLOADS = "download: one\n  downloads: {one: {files: evil.txt, mirrors: [http://192.0.2.1]}}"
DOWNLOAD = f"file: evil.txt\n  url: {URL}"
# What is done to a run of version 0.1, whose files have no checksums in the way.
KINDS: dict[str, Callable[[Path, Path], None]] = {
    "lock": link(".lock", ".bashrc"),
    "metrics": link("metrics.jsonl", ".bashrc"),
    "timing": link("timing.jsonl", ".bashrc"),
    "samples": link("samples.md", ".bashrc"),
    "picture": link("curves.png", ".bashrc"),
    "config": link("config.yaml", "config.yaml"),
    "building": link(".building-samples.md", ".bashrc"),
    "notes": link(".hydra", ".ssh"),
    "points": link("tensorboard", ".ssh"),
    "points of settings": link("tensorboard/hparams.yaml", "new.yaml"),
    "checkpoints": link("checkpoints", "checkpoints"),
    "a checkpoint": link("checkpoints/step_00000020", "checkpoints/step_00000001"),
    "model": link("model", "model"),
    "weights": link("model/model.safetensors", "model/model.safetensors"),
    "pipe config": pipe("config.yaml"),
    "pipe metrics": pipe("metrics.jsonl"),
    "pipe samples": pipe("samples.md"),
    "pipe model": pipe("model/config.json"),
    "pipe weights": pipe("model/model.safetensors"),
    "pipe tokenizer": pipe("model/tokenizer.json"),
    "pipe state": pipe("checkpoints/step_00000010/manifest.json"),
    "address": settings("path: story.txt\n  file: null\n  url: null", "path: null\n  " + DOWNLOAD),
    "address and place": lambda run, home: (
        settings("path: story.txt\n  file: null\n  url: null", "path: null\n  " + DOWNLOAD)(run, home),
        settings("dir: data", "dir: HOME")(run, home),
    )[0],
    "downloads": lambda run, home: [
        settings("path: story.txt", "path: null")(run, home),
        settings("download: null\n  downloads: {}", DOWNLOADS)(run, home),
    ][0],
    "place": settings("dir: data", "dir: HOME"),
    "name": settings("name: text", "name: .."),
    "gpt2": settings("kind: char", "kind: gpt2"),
    "code": settings("callbacks: {}", "callbacks: {x: {_target_: os.system, command: touch HOME/run}}"),
    "code in code": settings(
        "callbacks: {}",
        "callbacks: {x: {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: {_target_: os.mkdir, path: HOME/run}}}",
    ),
    "a callback that writes": settings(
        "callbacks: {}", "callbacks: {x: {_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: HOME/run}}"
    ),
    "trainer": settings("extra: {}", "extra: {default_root_dir: HOME/run}"),
    "layers": layers,
    "somebody's own": lambda run, home: (run / ".mine").mkdir(),
}


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below a folder, with its modification time and bytes."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def make_home(home: Path) -> None:
    """Somebody's own files, of the shape that a run's have."""
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id").write_text("secret", encoding="utf-8")
    (home / ".bashrc").write_text("alias ll='ls -l'\n", encoding="utf-8")
    (home / "checkpoints/.config").mkdir(parents=True)
    (home / "checkpoints/.config/settings").write_text("mine", encoding="utf-8")
    shutil.copytree(FIXTURE / "run/model", home / "model")
    shutil.copytree(FIXTURE / "run/checkpoints/step_00000010", home / "checkpoints/step_00000001")
    shutil.copy(FIXTURE / "run/config.yaml", home / "config.yaml")


def commands(run: str) -> dict[str, tuple[str, list[str], bool]]:
    """Program and arguments, and whether the folder that it is started in may be written."""
    train = str(REPO / "train.py")
    return {
        "generate": (str(REPO / "generate.py"), [f"run={run}", "max_new_tokens=4", "prompt=the", "device=cpu"], False),
        "evaluate": ("llm_from_scratch", ["evaluate", run, "--device", "cpu"], True),
        "doctor": ("llm_from_scratch", ["doctor", run], False),
        "resume": (train, [f"resume={run}", "trainer.max_steps=12"], True),
        "plan": ("llm_from_scratch", ["plan", f"resume={run}", "--no-measuring"], True),
        "inspect": ("llm_from_scratch", ["inspect", f"resume={run}"], True),
        "init_from": (train, [*NEW, f"init_from={run}", "run_dir=new"], True),
    }


NEW = (
    "data=text",
    "data.path=story.txt",
    "data.batch_size=4",
    "model.n_layer=1",
    "model.n_embd=16",
    "model.n_head=2",
    "model.block_size=16",
    "tokenizer=char",
    "trainer=cpu",
    "trainer.max_steps=1",
    "logger=none",
    "sample.max_new_tokens=0",
)


def outcomes(tmp_path: Path, kinds: list[str]) -> dict[str, dict[str, Any]]:
    home, plan = tmp_path / "home", []
    make_home(home)
    for kind in kinds:
        for name in commands("run"):
            place = tmp_path / "places" / f"{kind} {name}"
            shutil.copytree(FIXTURE, place)
            if kind in ("address", "place", "address and place", "downloads", "name"):
                # So that the text would have to be brought or prepared
                shutil.rmtree(place / "data")
            KINDS[kind](place / "run", home)
            program, arguments, writes = commands("run")[name]
            plan.append([f"{kind}: {name}", str(place), [str(place)] if writes else [], program, arguments])
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    before = tree(home)
    environment = os.environ | {
        "HOME": str(home),
        "PYTHONPATH": str(REPO / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "TIKTOKEN_CACHE_DIR": str(tmp_path / "tiktoken"),
        "LLM_CORPORA": str(tmp_path / "none"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, str(REPO / "tests/audit.py"), str(tmp_path / "plan.json")],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert tree(home) == before
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


def check(found: dict[str, dict[str, Any]]) -> None:
    for name, one in found.items():
        # `doctor` asks whether the servers of this project's own corpora can be reached.
        hosts = () if not name.endswith("doctor") else ("www.gutenberg.org", "raw.githubusercontent.com")
        outside = [call for call in one["outside"] if call not in [f"socket.getaddrinfo {host!r}" for host in hosts]]
        assert outside == [], (name, one["outside"], one["said"][-1000:])
        assert one["status"] in (0, 1, 2), (name, one["said"])
        assert "Traceback" not in one["said"], (name, one["said"])
        if one["status"] == 2:
            assert len([line for line in one["said"].splitlines() if line.startswith("error: ")]) == 1, (name, one)


@pytest.mark.slow
def test_nothing_outside_of_a_strangers_folder_is_touched(tmp_path: Path) -> None:
    found = outcomes(tmp_path, list(KINDS))
    check(found)
    refused = {name for name, one in found.items() if one["status"] == 2}
    for kind in KINDS:
        if kind not in ("somebody's own", "layers"):
            assert f"{kind}: resume" in refused or kind in ("pipe state",), kind
    assert (tmp_path / "places/somebody's own resume/run/.mine").is_dir()


def test_the_worst_of_them(tmp_path: Path) -> None:
    """The short form: a link that is written through, a link whose folders are deleted, an address,
    code, a pipe, a deep model.
    """
    found = outcomes(tmp_path, ["building", "checkpoints", "address and place", "code", "pipe model", "layers"])
    check(found)
    for name in ("building", "checkpoints", "address and place", "code"):
        assert found[f"{name}: resume"]["status"] == 2, found[f"{name}: resume"]["said"]
    for name in ("generate", "evaluate", "init_from"):
        refusal = "brings its own model, of 100000" if name == "init_from" else "layers that share their weights"
        assert refusal in found[f"layers: {name}"]["said"]
        assert found[f"pipe model: {name}"]["status"] == 2
    for name in ("evaluate", "inspect", "plan"):
        assert "is not fetched" in found[f"address and place: {name}"]["said"]
    assert "would run os.system" in found["code: resume"]["said"]
    assert "would run os.system" in found["code: doctor"]["said"]


def test_a_run_of_version_0_1_loads_and_goes_on(tmp_path: Path) -> None:
    """It has no checksums of its own: it is read as it stands, scores what it scored, and
    goes on.
    """
    shutil.copytree(FIXTURE, tmp_path / "old")
    (tmp_path / "plan.json").write_text("[]", encoding="utf-8")
    place = str(tmp_path / "old")
    score = ["evaluate", "run", "--json", "--device", "cpu"]
    plan = [
        ["evaluate", place, [], "llm_from_scratch", score],
        ["resume", place, [place], str(REPO / "train.py"), ["resume=run"]],
        ["again", place, [], "llm_from_scratch", score],
        ["doctor", place, [], "llm_from_scratch", ["doctor", "run"]],
    ]
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(REPO / "tests/audit.py"), str(tmp_path / "plan.json")],
        env=os.environ | {"PYTHONPATH": str(REPO / "src"), "MPLCONFIGDIR": str(tmp_path), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert [one["status"] for one in found.values()] == [0, 0, 0, 0], found
    row, wanted = json.loads(found["evaluate"]["said"]), json.loads((FIXTURE / "evaluation.json").read_text())
    assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert row["bits_per_byte"] == pytest.approx(wanted["bits_per_byte"], rel=1e-5)
    assert json.loads(found["again"]["said"])["loss"] == pytest.approx(wanted["loss"], abs=0.1)
    rows = [json.loads(line) for line in (tmp_path / "old/run/metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (FIXTURE / "run/metrics.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in before[0] if key != "lr"} for row in rows[:1]] == [
        {key: value for key, value in before[0].items() if key != "lr"}
    ]
    assert [row["step"] for row in rows] == [10, 10, 20, 20]
    as_version_0_1(tmp_path / "old/run/config.yaml")  # the resumed run has the checksum

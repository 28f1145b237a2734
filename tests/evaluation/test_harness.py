"""lm-eval on a task over a local file, with no network: its figures are our own. Skips where the
extra `harness` is not installed.
"""

import json
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO, Process, story
from conftest import run as process

from llm_from_scratch.model import GPT
from llm_from_scratch.weights import load_model

INSTALLED = find_spec("lm_eval") is not None
needs = pytest.mark.skipif(not INSTALLED, reason="needs lm-eval: pip install -e '.[harness]'")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    # lm-eval may lie anywhere
    "PYTHONPATH": os.pathsep.join([str(REPO / "src"), os.environ.get("PYTHONPATH", "")]),
}
T = 32  # the context of the finished run


def task(folder: Path, name: str, rows: list[dict[str, Any]], lines: list[str]) -> Path:
    """A task of lm-eval: a YAML file beside its data."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    head = [f"task: {name}", "dataset_path: json", "test_split: test"]
    head += ["dataset_kwargs:", "  data_files:", f"    test: {json.dumps(str(data))}"]
    (folder / f"{name}.yaml").write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
    return folder / f"{name}.yaml"


def plain(model: GPT, context: list[int], ids: list[int]) -> tuple[float, bool]:
    """-ln p of ids, one forward pass each, and whether each is the likeliest; the window ends with
    the last of them.
    """
    nats, greedy = 0.0, True
    start = max(len(context) + len(ids) - 1 - T, 0)
    for i, target in enumerate(ids):
        with torch.inference_mode():
            logits = model(torch.tensor([[*context, *ids[:i]][start:]]))[0, -1].float()
        nats -= logits.log_softmax(-1)[target].item()
        greedy &= int(logits.argmax()) == target
    return nats, greedy


@needs
def test_choices_are_what_a_plain_loop_chooses(finished: Path, tmp_path: Path) -> None:
    run = load_model(finished / "run", torch.device("cpu"))
    eot, encode = run.tokenizer.eot_id, run.tokenizer.encode
    rows = [
        {"context": context, "choices": choices, "right": i % 2}
        for i, (context, choices) in enumerate(
            [
                ("Dorothy", [" went to the castle.", " castle the to went."]),
                ("The Lion was afraid", [" of the great forest.", " forest great the of."]),
                # Longer than the context
                (story(400, seed=8).rstrip(), [" Toto looked at the castle.", " XQZ"]),
                ("", ["Toto", "the Witch laughed about the green city."]),
            ]
        )
    ]
    lines = ["output_type: multiple_choice", 'doc_to_text: "{{context}}"', 'doc_to_choice: "{{choices}}"']
    lines += ['doc_to_target: "{{right}}"', 'target_delimiter: ""', "metric_list:", "  - metric: acc"]
    path = task(tmp_path, "made", rows, lines)

    right = 0
    for row in rows:
        context = encode(row["context"])
        costs = [
            plain(run.model, context or [eot], encode(row["context"] + choice)[len(context) :])[0]
            for choice in row["choices"]
        ]
        right += costs.index(min(costs)) == row["right"]
    arguments = ["-m", "llm_from_scratch", "lm-eval", "run", "--tasks", str(path), "--device", "cpu", "--json"]
    done = process(arguments, finished, OFFLINE | {"HF_HOME": str(tmp_path / "hf")})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["run"], found["step"]) == ("run", run.step)
    assert found["results"]["made"]["acc,none"] == right / len(rows)
    assert 0 < right < len(rows)  # neither answer to all of them
    assert found["n-samples"]["made"] == {"original": 4, "effective": 4}


@needs
def test_perplexity_is_that_of_evaluate(finished: Path, tmp_path: Path, command: Process) -> None:
    run = load_model(finished / "run", torch.device("cpu"))
    # Texts of a whole number of windows: lm-eval fills the last one up with context, our own
    # figures leave it short.
    ids = run.tokenizer.encode(story(4000, seed=9))
    texts = [run.tokenizer.decode(ids[:T]), run.tokenizer.decode(ids[T : 4 * T])]
    assert [len(run.tokenizer.encode(text)) for text in texts] == [T, 3 * T]
    ours = []
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8", newline="")
        done = command(
            "evaluate", "run", "--data", str(tmp_path / f"{i}.txt"), "--device", "cpu", "--json", cwd=finished
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        ours.append((report["runs"][0]["loss"] * report["runs"][0]["tokens"], report["text"]["bytes"]))
    lines = ["output_type: loglikelihood_rolling", 'doc_to_text: ""', 'doc_to_target: "{{text}}"', "metric_list:"]
    lines += ["  - metric: bits_per_byte", "  - metric: word_perplexity"]
    task(tmp_path, "rolling", [{"text": text} for text in texts], lines)
    done = process(
        ["-m", "llm_from_scratch", "lm-eval", "run", "--tasks", "rolling", "--include", str(tmp_path), "--json"],
        finished,
        OFFLINE | {"HF_HOME": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["results"]["rolling"]
    nats, size = (sum(column) for column in zip(*ours, strict=True))
    assert row["bits_per_byte,none"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


@needs
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_likelihoods_are_those_of_a_plain_loop_whatever_the_batch(finished: Path, batch_size: int) -> None:
    from lm_eval.api.instance import Instance

    from llm_from_scratch.evaluation.harness import HarnessModel

    run = load_model(finished / "run", torch.device("cpu"))
    model, encode, eot = HarnessModel(run, batch_size), run.tokenizer.encode, run.tokenizer.eot_id

    def asked(kind: str, *arguments: Any) -> Instance:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    # The greedy continuation of a prompt is greedy; one with another last token is not.
    prompt = "Dorothy went to"
    written = model.generate_until([asked("generate_until", prompt, {"until": ["\n\n"], "max_gen_toks": 8})])[0]
    assert written
    long = story(700, seed=3)
    pairs = [(prompt, written), (prompt, written + " Quux"), ("", "Toto"), (long, "the castle"), ("Toto", " " + long)]
    found = model.loglikelihood([asked("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (value, greedy) in zip(pairs[:4], found, strict=False):
        before = encode(context)
        nats, right = plain(run.model, before or [eot], encode(context + continuation)[len(before) :])
        assert -value == pytest.approx(nats, rel=1e-5)
        assert greedy == right
    assert [greedy for _, greedy in found[:2]] == [True, False]

    # Longer than the context: windows of T, the last one filled up with the tokens before it.
    ids, nats = encode(long), 0.0
    assert len(ids) % T
    for i, target in enumerate(ids):
        start = min(i // T * T, len(ids) - T)
        nats += plain(run.model, [eot, *ids][start : i + 1], [target])[0]
    rolled = model.loglikelihood_rolling([asked("loglikelihood_rolling", long)])
    assert -rolled[0] == pytest.approx(nats, rel=1e-5)
    assert found[4][0] < found[3][0]
    assert model.loglikelihood_rolling([asked("loglikelihood_rolling", "")]) == [0.0]


@needs
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--tasks", "no_such_task"), "--tasks no_such_task: lm-eval has no such task"),
        (("--tasks", "wikitext"), "--tasks wikitext: lm-eval cannot make the task, its data may need the network ("),
        (("--tasks", "wikitext", "--limit", "0"), "--limit 0: must be 1 or more"),
    ],
)
def test_mistakes_cost_one_line(finished: Path, tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    variables = OFFLINE | {"HF_HOME": str(tmp_path / "hf")}
    done = process(["-m", "llm_from_scratch", "lm-eval", "run", *arguments], finished, variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {line}" in done.stderr


def test_without_the_extra_one_line_says_what_brings_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm_from_scratch.cli import main

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "llm_from_scratch.evaluation.harness", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["lm-eval", str(finished / "run"), "--tasks", "hellaswag"])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "")
    assert err.startswith("error: lm-eval needs: pip install -e '.[harness]'")
    assert err.count("\n") == 1


# lm-eval's own class for models of transformers
THEIRS = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager

folder, include = sys.argv[1:]
found = lm_eval.simple_evaluate(
    model="hf",
    model_args={"pretrained": folder, "dtype": "float32"},
    tasks=["made", "rolling"],
    task_manager=TaskManager(include_path=include),
    device="cpu",
    batch_size=3,
    bootstrap_iters=0,
)
print(json.dumps(found["results"], default=str))
"""


@needs
def test_the_exported_model_in_lm_evals_own_class_has_the_same_figures(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    rows: list[dict[str, Any]] = [
        {"context": "Dorothy", "choices": [" went to the castle.", " castle the to went."], "right": 0},
        {"context": "The Lion was", "choices": [" afraid of", " green"], "right": 1},
        {"context": story(150, seed=8).rstrip(), "choices": [" Toto looked at", " XQZ"], "right": 0},
    ]
    lines = ["output_type: multiple_choice", 'doc_to_text: "{{context}}"', 'doc_to_choice: "{{choices}}"']
    lines += ['doc_to_target: "{{right}}"', 'target_delimiter: ""', "metric_list:"]
    task(tmp_path, "made", rows, [*lines, "  - metric: acc", "  - metric: brier_score"])
    lines = ["output_type: loglikelihood_rolling", 'doc_to_text: ""', 'doc_to_target: "{{text}}"', "metric_list:"]
    texts = [{"text": story(size, seed=9)} for size in (40, 300)]
    task(tmp_path, "rolling", texts, [*lines, "  - metric: bits_per_byte", "  - metric: word_perplexity"])
    variables = OFFLINE | {"HF_HOME": str(tmp_path / "hf")}
    exported = process(["-m", "llm_from_scratch", "export", "run", str(tmp_path / "out"), "--to", "hf"], finished)
    assert exported.returncode == 0, exported.stderr
    tasks = ["--tasks", "made,rolling", "--include", str(tmp_path), "--batch-size", "3", "--device", "cpu", "--json"]
    ours = process(["-m", "llm_from_scratch", "lm-eval", "run", *tasks], finished, variables)
    assert ours.returncode == 0, ours.stderr
    theirs = process(["-c", THEIRS, str(tmp_path / "out"), str(tmp_path)], tmp_path, variables)
    assert theirs.returncode == 0, theirs.stderr
    found = [json.loads(done.stdout.splitlines()[-1]) for done in (ours, theirs)]
    for name, metrics in (("made", ("acc", "brier_score")), ("rolling", ("bits_per_byte", "word_perplexity"))):
        for metric in metrics:
            mine, other = ((found[0]["results"], found[1])[i][name][f"{metric},none"] for i in (0, 1))
            assert mine == pytest.approx(other, rel=1e-5), metric

"""A run on the real book whose losses are written down: a change of the model, the data's order or
the optimizer cannot hide.

`UPDATE_GOLDEN=1` writes them anew; a commit that does says why they changed.
"""

import json
import os
import platform
from pathlib import Path

import pytest
import torch
from conftest import Process

from llm_from_scratch.run import read_rows

GOLDEN = Path(__file__).with_name("golden_oz.json")


def test_the_golden_oz_run(train: Process, corpora: Path, tmp_path: Path) -> None:
    done = train(
        "model=tiny",
        "model.dropout=0.1",
        "data=oz",
        "tuned=none",
        "data.batch_size=8",
        "optim.warmup_steps=20",
        "trainer=cpu",
        "trainer.max_steps=200",
        "trainer.val_check_interval=100",
        "trainer.log_every_n_steps=20",
        "sample.max_new_tokens=0",
        "run_dir=run",
    )
    assert done.returncode == 0, done.stderr
    rows = [{key: row[key] for key in ("step", "split", "loss")} for row in read_rows(tmp_path / "run/metrics.jsonl")]
    if os.environ.get("UPDATE_GOLDEN") == "1":
        where = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, 1 thread"
        lines = ",\n".join(json.dumps(row) for row in rows)
        GOLDEN.write_text(f'{{"made_on": "{where}", "rows": [\n{lines}\n]}}\n', encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert [(row["step"], row["split"]) for row in rows] == [(row["step"], row["split"]) for row in golden["rows"]]
    for row, expected in zip(rows, golden["rows"], strict=True):
        # Where it was made the losses are the same to the last bit; other processors and versions
        # add up in other orders.
        assert row["loss"] == pytest.approx(expected["loss"], abs=0.01), (
            f"step {row['step']}, made on {golden['made_on']}"
        )

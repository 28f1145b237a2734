"""The server beside programs of others: inputs made from its own description, and llama.cpp's
server on the same file through the same client.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server, model_run

from llm_from_scratch.gguf.write import export
from llm_from_scratch.weights import load_model

pytestmark = pytest.mark.slow
httpx = pytest.importorskip("httpx")
LLAMA = """
import sys
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup, params.fit_params = sys.argv[1], 64, 1, False, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("address:" + server.listening_address, flush=True)
sys.stdin.read()
"""


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Its inputs are made from the description, with names of models that there are, and without
    the fields that need others. Not every request that the description allows is accepted: a model
    has a largest id and a context.
    """
    pytest.importorskip("schemathesis")
    model_run(tmp_path / "talks", chat=True)
    with Server("talks", "--max-tokens", "50", cwd=tmp_path) as server:
        description = httpx.get(f"{server.address}/openapi.json").json()
        for name in ("CompletionBody", "ChatBody"):
            schema = description["components"]["schemas"][name]["properties"]
            schema["model"] = {"type": "string", "enum": ["talks"]}
            schema["max_tokens"] = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 50}, {"type": "null"}]}
            for field in ("stream_options", "top_logprobs", "max_completion_tokens", "logit_bias"):
                schema.pop(field, None)
        (tmp_path / "api.json").write_text(json.dumps(description))
        options = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--seed", "1"]
        # The program of this environment, which need not be on the PATH.
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "run",
                "api.json",
                "--url",
                server.address,
                "--max-examples",
                "30",
                *options,
            ],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        statuses = Counter((line["path"], line["status"]) for line in server.lines)
        assert statuses["/v1/completions", 200] > 10
        assert statuses["/v1/chat/completions", 200] > 0
        assert not [line for line in server.errors if line.startswith("Traceback")]


@pytest.fixture
def llama_cpp(finished: Path, tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("xllamacpp")
    run = load_model(finished / "run")
    export(run.model, run.tokenizer, tmp_path, dtype="f32")
    process = subprocess.Popen(
        [sys.executable, "-c", LLAMA, str(tmp_path / "model.gguf")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    assert process.stdout
    try:
        yield next(line for line in process.stdout if line.startswith("address:")).strip().removeprefix("address:")
    finally:
        process.kill()
        process.communicate()


def test_llama_cpp_on_the_same_file_gives_the_same(llama_cpp: str, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")

    def ask(address: str, prompt: str) -> Any:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
            asked = {"model": "model", "prompt": prompt, "max_tokens": 20, "temperature": 0, "logprobs": 3}
            return client.completions.create(**asked).choices[0]

    with Server(str(tmp_path / "model.gguf"), cwd=tmp_path) as server:
        for prompt in ("Dorothy went to ", "the Scarecrow", "“"):
            mine, theirs = ask(server.address, prompt), ask(llama_cpp, prompt)
            assert mine.text == theirs.text
            assert len(mine.text) > 10
            found = theirs.logprobs.model_dump()["content"]
            assert len(found) == len(mine.logprobs.tokens)
            for place, one in enumerate(found):
                assert mine.logprobs.token_logprobs[place] == pytest.approx(one["logprob"], abs=0.03)
                likeliest = sorted(mine.logprobs.top_logprobs[place].values(), reverse=True)[:3]
                others = [alternative["logprob"] for alternative in one["top_logprobs"]][:3]
                assert likeliest == pytest.approx(others, abs=0.03)

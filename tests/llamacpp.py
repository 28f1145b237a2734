"""llama.cpp (by xllamacpp) in a process of its own: the second opinion on GGUF files.

The process reads one JSON object a line and answers with one: ids to score, or texts to tokenize.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

SERVER = '''
import json, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
import xllamacpp

params = xllamacpp.CommonParams()
context, slots, threads = map(int, sys.argv[2:])
params.model.path, params.n_ctx, params.n_parallel, params.warmup = sys.argv[1], context * slots, slots, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.fit_params = False
server = xllamacpp.Server(params)


def tokens(text):
    request = urllib.request.Request(
        server.listening_address + "/tokenize",
        json.dumps({"content": text, "add_special": False, "parse_special": False}).encode(),
        {"Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request))["tokens"]


def answer(asked):
    found = server.handle_completions(asked)
    return json.loads(found) if isinstance(found, str) else found


def logprob(ids, token, slot):
    """The bias makes the token the choice; its logarithm is that of the unbiased logits. A token that
    ends within a character is not answered: it is looked for beside another choice."""
    asked = {"prompt": ids, "n_predict": 1, "temperature": 0, "cache_prompt": True, "id_slot": slot}
    for choice, probabilities in ((token, 1), (0, 200), (0, 100_000)):
        found = answer(asked | {"logit_bias": [[choice, 1e6]], "n_probs": probabilities})["choices"][0]["logprobs"]
        if found:
            (first,) = found["content"]
            for one in (first, *first["top_logprobs"]):
                if one["id"] == token:
                    return one["logprob"]
    raise AssertionError(token)


def logprobs(ids, slot):
    return [logprob(ids[:i], ids[i], slot) for i in range(1, len(ids))]


def in_parallel(sequences):
    """Every slot has sequences of its own."""
    with ThreadPoolExecutor(slots) as pool:
        mine = pool.map(lambda slot: [logprobs(ids, slot) for ids in sequences[slot::slots]], range(slots))
        found = list(mine)
    return [found[i % slots][i // slots] for i in range(len(sequences))]


for line in sys.stdin:
    asked = json.loads(line)
    if "sequences" in asked:
        print(json.dumps(in_parallel(asked["sequences"])), flush=True)
    elif "texts" in asked:
        print(json.dumps([tokens(text) for text in asked["texts"]]), flush=True)
    else:
        print(json.dumps(answer(asked["completion"])), flush=True)
'''


class LlamaCpp:
    """llama.cpp with one model."""

    def __init__(self, path: Path, context: int, slots: int = 1, threads: int = 1) -> None:
        pytest.importorskip("xllamacpp", reason="llama.cpp is not here: pip install xllamacpp")
        self.messages = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # a pipe would fill up
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(path), *map(str, (context, slots, threads))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            encoding="utf-8",
        )

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.messages.close()

    def ask(self, asked: dict[str, Any]) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.messages.seek(0)
            raise AssertionError(self.messages.read()[-3000:])
        return json.loads(line)

    def logprobs(self, sequences: list[list[int]]) -> list[list[float]]:
        """For each sequence ln p of each id after those before it; the first has none."""
        return self.ask({"sequences": sequences})

    def tokens(self, texts: list[str]) -> list[list[int]]:
        return self.ask({"texts": texts})

"""Serving under load: many clients of one model on this machine, over loopback.

Each client sends one request after another: a prompt of random ids, a stream of new tokens, no early
end. Rows: the server with its slots; the same with one slot ("one at a time"); for a .gguf file
llama.cpp's server (xllamacpp) on the same file. Times are of the clients, which take a part of the same
cores. --soak sends that many short requests to one server and tells its memory on the way. --fairness
tells how long a stream pauses while prompts as long as the context are read beside it.

    python benchmarks/serving.py                                  the size of model=tiny, new weights: minutes
    python benchmarks/serving.py --model smollm2 --clients 1 8    SmolLM2, beside llama.cpp
    python benchmarks/serving.py --soak 10000                     memory over 10,000 requests
    python benchmarks/serving.py --model smollm2 --fairness       pauses beside long prompts
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _processes import POLL, anonymous_mb, started
from _record import options as common_options
from _record import record

TINY = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 128}
LLAMA = """
import sys, time
import xllamacpp
path, slots, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.fit_params = path, slots * context, slots, False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(1e6)
"""


@dataclass
class Load:
    """What the clients saw: seconds to the first token and to the end of each request."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # between two events of a stream
    refused: int = 0  # answered 429
    errors: int = 0
    tokens: int = 0
    seconds: float = 0.0


def percentile(values: list[float], part: float) -> float:
    """Returns the value below which `part` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


async def ask(port: int, body: dict[str, Any], load: Load) -> None:
    """Sends one request and reads its stream; a refused one is sent again."""
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    while True:
        begun = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            status = int((await reader.readline()).split()[1])
            if status == 429:
                load.refused += 1
                await asyncio.sleep(0.2)
                continue
            events, end, before = 0, b"", begun
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    now = time.perf_counter()
                    if events == 0:
                        load.first.append(now - begun)
                    else:
                        load.gaps.append(now - before)
                    before, events, end = now, events + 1, line.strip()
            load.errors += status != 200 or end != b"data: [DONE]"
            load.whole.append(time.perf_counter() - begun)
            load.tokens += body["max_tokens"]
            return
        finally:
            writer.close()


async def clients(port: int, count: int, requests: int, make: Callable[[], dict[str, Any]]) -> Load:
    """Runs `count` clients that send `requests` requests together."""
    load, left = Load(), iter(range(requests))

    async def client() -> None:
        for _ in left:
            await ask(port, make(), load)

    begun = time.perf_counter()
    work: list[Coroutine[Any, Any, None]] = [client() for _ in range(count)]
    await asyncio.gather(*work)
    load.seconds = time.perf_counter() - begun
    return load


@contextmanager
def served(arguments: list[str], folder: Path, threads: int | None) -> Iterator[tuple[int, int]]:
    """Starts a server that prints its address; yields its port and its process's id."""
    with started(arguments, folder, threads) as process:
        while not (lines := [line for line in (folder / "stdout").read_text().split("\n")[:-1] if "http://" in line]):
            if process.poll() is not None:
                raise SystemExit((folder / "stderr").read_text()[-2000:])
            time.sleep(POLL)
        yield int(lines[0].rpartition(":")[2]), process.pid


def model_of(options: argparse.Namespace, folder: Path) -> tuple[str, Path | None, int, list[int]]:
    """Returns the name of the model, its .gguf file or None, its number of ids and those of an end."""
    if options.model:
        from llm_from_scratch.pretrained import find_model

        source = find_model(options.model)
        settings, tokenizer = source.settings()
        ends = {tokenizer.eot_id, getattr(tokenizer, "eos_id", None)} - {None}
        return options.model, source.path if source.kind == "gguf" else None, settings["vocab_size"], sorted(ends)
    from llm_from_scratch.model import GPT, GPTConfig
    from llm_from_scratch.tokenizer import CharTokenizer
    from llm_from_scratch.weights import save_model

    tokenizer = CharTokenizer("abc", byte_fallback=True)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **TINY))
    (folder / "tiny").mkdir()
    save_model(dict(model.named_parameters()), model.config, tokenizer, folder / "tiny", step=0, loss=0.0)
    return str(folder / "tiny"), None, tokenizer.vocab_size, [tokenizer.eot_id]


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    found = common_options(__doc__, repeats=1)
    found.add_argument("--model", help="as `serve` takes it (default: new weights of model=tiny's size)")
    found.add_argument(
        "--clients", type=int, nargs="+", default=[1, 8, 32, 200], help="at a time (default: 1 8 32 200)"
    )
    found.add_argument("--requests", type=int, default=3, help="of each client (default: 3)")
    found.add_argument("--prompt", type=int, default=32, help="tokens of a prompt (default: 32)")
    found.add_argument("--tokens", type=int, default=64, help="new tokens of a request (default: 64)")
    found.add_argument("--slots", type=int, default=16, help="of the server (default: 16)")
    found.add_argument("--context", type=int, default=512, help="positions of a text (default: 512)")
    found.add_argument("--threads", type=int, help="of the server (default: one a core)")
    found.add_argument("--dtype", default="auto", help="of this server, as `serve` takes it (default: auto)")
    found.add_argument("--soak", type=int, metavar="N", help="send N short requests, and tell the memory")
    found.add_argument("--fairness", action="store_true", help="tell the pauses of a stream beside long prompts")
    return found


def main() -> None:
    """Measures each server under each number of clients, and records them."""
    options = parser().parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, gguf, vocabulary, ends = model_of(options, folder)

        def serve(slots: int) -> list[str]:
            dtype = ["--dtype", options.dtype]
            limits = ["--slots", str(slots), "--context", str(options.context), "--queue", "1000"]
            return [
                "-m",
                "llm_from_scratch",
                "serve",
                f"model={model}",
                "--port",
                "0",
                "--device",
                "cpu",
                *limits,
                *dtype,
            ]

        def body() -> dict[str, Any]:
            prompt = [rng.randrange(max(ends) + 1, vocabulary) for _ in range(options.prompt)]
            bias = {str(end): -100 for end in ends}
            asked = {"model": "model", "prompt": prompt, "max_tokens": options.tokens, "stream": True}
            return asked | {"seed": rng.randrange(2**31), "logit_bias": bias}

        if options.soak:
            return soak(options, serve(options.slots), folder, body)
        if options.fairness:
            return fairness(options, serve(options.slots), folder, body)
        servers = {"this server": serve(options.slots), "one at a time": serve(1)}
        if gguf is not None:
            servers["llama.cpp"] = ["-c", LLAMA, str(gguf), str(options.slots), str(options.context)]
        rows = []
        for server, arguments in servers.items():
            for count in options.clients:
                with served(arguments, folder, options.threads) as (port, pid):
                    asyncio.run(clients(port, 1, 1, body))  # warms it up
                    load = asyncio.run(clients(port, count, options.requests * count, body))
                    rows.append(row_of(server, count, load, anonymous_mb(pid)))
                    print(rows[-1], flush=True)
    shared = {"model": options.model or "tiny", "prompt": options.prompt, "tokens": options.tokens}
    record(
        "serving",
        rows,
        options.results,
        shared | {"slots": options.slots, "threads": options.threads, "dtype": options.dtype},
    )


def row_of(server: str, count: int, load: Load, memory: float | None) -> dict[str, Any]:
    """Returns the figures of one load."""
    return {
        "server": server,
        "clients": count,
        "tokens/s": load.tokens / load.seconds,
        "first p50 s": percentile(load.first, 0.5),
        "first p95 s": percentile(load.first, 0.95),
        "whole p50 s": percentile(load.whole, 0.5),
        "whole p95 s": percentile(load.whole, 0.95),
        "refused": load.refused,
        "errors": load.errors,
        "memory MB": memory,
    }


def soak(options: argparse.Namespace, arguments: list[str], folder: Path, body: Callable[[], dict[str, Any]]) -> None:
    """Sends many short requests in ten parts, and records the memory after each part."""
    rows, sent = [], 0
    with served(arguments, folder, options.threads) as (port, pid):
        for part in range(10):
            count = options.soak // 10
            load = asyncio.run(clients(port, 32, count, lambda: body() | {"max_tokens": 4}))
            sent += count
            rows.append({"requests": sent, "memory MB": anonymous_mb(pid), "errors": load.errors, "part": part + 1})
    record("serving_soak", rows, options.results, {"model": options.model or "tiny", "slots": options.slots})


def fairness(
    options: argparse.Namespace, arguments: list[str], folder: Path, body: Callable[[], dict[str, Any]]
) -> None:
    """Records the pauses between the tokens of one stream, alone and beside prompts as long as the context."""
    rng, rows = random.Random(1), []
    context = options.context if options.model else min(options.context, TINY["block_size"])

    async def measure(port: int, long: int) -> tuple[Load, Load]:
        own, others = Load(), Load()
        stream = asyncio.ensure_future(ask(port, body(), own))
        while not own.gaps:  # the others come while it is written
            await asyncio.sleep(0.001)
        ids = body()["prompt"]
        prompts = [[rng.choice(ids) for _ in range(context - 1)] for _ in range(long)]
        await asyncio.gather(stream, *(ask(port, body() | {"prompt": one, "max_tokens": 1}, others) for one in prompts))
        return own, others

    with served(arguments, folder, options.threads) as (port, _):
        asyncio.run(clients(port, 1, 1, body))  # warms it up
        for long in (0, 1, 4):
            own, others = asyncio.run(measure(port, long))
            assert own.errors + others.errors == 0
            rows.append(
                {
                    "long prompts beside": long,
                    "pause p50 s": percentile(own.gaps, 0.5),
                    "pause p95 s": percentile(own.gaps, 0.95),
                    "longest pause s": max(own.gaps),
                    "long prompts answered p50 s": percentile(others.first, 0.5) if long else None,
                }
            )
    shared = {"model": options.model or "tiny", "context": context, "tokens": options.tokens}
    record("serving_fairness", rows, options.results, shared | {"threads": options.threads})


if __name__ == "__main__":
    main()

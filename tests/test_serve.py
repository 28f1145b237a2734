"""The server as OpenAI's official client sees it: a process of its own, on loopback."""

import asyncio
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import Server, two_models

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.generation import generate
from llm_from_scratch.serve.answers import ApiError
from llm_from_scratch.serve.engine import Batch, Engine
from llm_from_scratch.tokenizer.template import CHATML, render_ids
from llm_from_scratch.weights import LoadedModel, load_model

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
PROMPT = "once there was "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_models(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server("base", "chat=talks", "--slots", "8", "--max-tokens", "2000", cwd=folder) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def base(folder: Path) -> LoadedModel:
    return load_model(folder / "base")


def by_generate(loaded: LoadedModel, prompt: str | list[int], **settings: Any) -> str:
    pieces = generate(loaded.model, loaded.tokenizer, prompt, SamplingConfig(**settings), loaded.end_ids)
    return "".join(piece[0] for piece in pieces)


def test_models_are_listed_by_name(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["base", "chat"]
    assert client.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other': there are base, chat"):
        client.models.retrieve("other")


def test_a_completion_is_what_generate_writes(client: Any, base: LoadedModel) -> None:
    found = client.completions.create(model="base", prompt=PROMPT, max_tokens=40, seed=5, temperature=0.9, top_p=0.8)
    expected = by_generate(base, PROMPT, max_new_tokens=40, seed=5, temperature=0.9, top_p=0.8)
    assert found.choices[0].text == expected
    assert len(expected) > 10
    assert found.usage.prompt_tokens == len(PROMPT)
    assert found.usage.total_tokens == len(PROMPT) + found.usage.completion_tokens
    assert found.choices[0].finish_reason == ("length" if found.usage.completion_tokens == 40 else "stop")
    greedy = client.completions.create(model="base", prompt=PROMPT, temperature=0)
    assert greedy.choices[0].text == by_generate(base, PROMPT, max_new_tokens=16, temperature=0)
    own = {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.3}
    found = client.completions.create(model="base", prompt=PROMPT, max_tokens=30, seed=2, extra_body=own)
    assert found.choices[0].text == by_generate(base, PROMPT, max_new_tokens=30, seed=2, temperature=1.0, **own)


def test_a_text_goes_on_past_the_context(client: Any, base: LoadedModel) -> None:
    bias = {"logit_bias": {"0": -100}}  # no end of text
    found = client.completions.create(model="base", prompt="x" * 500, max_tokens=60, temperature=0, **bias)
    assert found.usage.completion_tokens == 60
    plain = by_generate(base, "x" * 500, max_new_tokens=60, temperature=0)
    assert len(plain) > 30  # the context of 512 ends at the twelfth token
    assert found.choices[0].text.startswith(plain)


def test_prompts_as_texts_and_ids_and_n_choices(client: Any, base: LoadedModel) -> None:
    ids = base.tokenizer.encode(PROMPT)
    asked = {"model": "base", "max_tokens": 12, "seed": 3, "temperature": 1.0}
    texts = client.completions.create(prompt=[PROMPT, "she"], n=2, **asked)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    expected = [
        by_generate(base, prompt, max_new_tokens=12, seed=seed, temperature=1.0)
        for prompt in (PROMPT, "she")
        for seed in (3, 4)
    ]
    assert [choice.text for choice in texts.choices] == expected
    assert client.completions.create(prompt=ids, **asked).choices[0].text == expected[0]
    assert client.completions.create(prompt=[ids, [1, 2]], **asked).choices[0].text == expected[0]
    assert texts.usage.prompt_tokens == len(PROMPT) + 3
    again = client.completions.create(prompt=[PROMPT, "she"], n=2, **asked)
    assert again.usage.prompt_tokens_details.cached_tokens == len(PROMPT) + 3


def test_stop_strings_streaming_and_usage(client: Any) -> None:
    asked = {"model": "base", "prompt": PROMPT, "max_tokens": 200, "seed": 1, "logit_bias": {"0": -100}}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[30:32]
    cut = client.completions.create(stop=[stop, "never in it"], **asked)
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    chunks = list(client.completions.create(stream=True, n=2, stream_options={"include_usage": True}, **asked))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1] if chunk.choices[0].index == 0) == whole
    assert sum(bool(chunk.choices and chunk.choices[0].finish_reason) for chunk in chunks) == 2
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (len(PROMPT), 400)
    assert len(chunks) > 100
    assert len({chunk.id for chunk in chunks}) == 1


def test_log_probabilities_and_echo_are_those_of_the_model(client: Any, base: LoadedModel) -> None:
    found = client.completions.create(model="base", prompt="dorothy é", max_tokens=5, logprobs=2, echo=True, seed=1)
    choice, ids = found.choices[0], base.tokenizer.encode("dorothy é")
    assert choice.text.startswith("dorothy é")
    logprobs = choice.logprobs
    assert logprobs.tokens[:2] == ["d", "o"]
    assert logprobs.tokens[8:10] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs.token_logprobs[0] is None
    with torch.no_grad():
        expected = base.model(torch.tensor([ids])).log_softmax(dim=-1)[0]
    for place, token in enumerate(ids[1:]):
        assert logprobs.token_logprobs[place + 1] == pytest.approx(float(expected[place, token]), abs=1e-4)
        assert max(logprobs.top_logprobs[place + 1].values()) == pytest.approx(float(expected[place].max()), abs=1e-4)
    assert [choice.text[i] for i in logprobs.text_offset[:8]] == list("dorothy ")
    scored = client.completions.create(model="base", prompt="dorothy", max_tokens=0, logprobs=0, echo=True)
    assert scored.choices[0].text == "dorothy"
    assert scored.choices[0].logprobs.token_logprobs[1:] == pytest.approx(logprobs.token_logprobs[1:7], abs=1e-4)
    assert scored.usage.completion_tokens == 0


def test_a_conversation_plain_and_streamed(client: Any, folder: Path) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "who "}, {"type": "text", "text": "is toto?"}]},
    ]
    asked = {"model": "chat", "messages": messages, "max_completion_tokens": 30, "seed": 4, "temperature": 0.8}
    found = client.chat.completions.create(logprobs=True, top_logprobs=2, **asked)
    loaded = load_model(folder / "talks")
    plain = [messages[0], {"role": "user", "content": "who is toto?"}]
    ids = render_ids(CHATML, plain, loaded.tokenizer, add_generation_prompt=True)
    expected = by_generate(loaded, ids, max_new_tokens=30, seed=4, temperature=0.8)
    assert found.choices[0].message.content == expected
    assert found.usage.prompt_tokens == len(ids)
    content = found.choices[0].logprobs.content
    assert b"".join(bytes(one.bytes) for one in content).decode("utf-8", "replace") == expected
    assert all(math.exp(one.logprob) <= 1 and len(one.top_logprobs) == 2 for one in content)
    chunks = list(client.chat.completions.create(stream=True, **asked))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == found.choices[0].finish_reason


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"max_tokens": 2001}, "at most 2000 tokens a text"),
        ({"prompt": "x" * 513}, "the prompt has 513 tokens: the context of this model is 512"),
        ({"prompt": [1, 99999]}, "the prompt has the id 99999"),
        ({"prompt": []}, "prompt"),
        ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n: "),
        ({"best_of": 2}, "best_of is not supported: ask for n texts"),
        ({"suffix": "end"}, "suffix is not supported"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens=0 writes nothing"),
        ({"logit_bias": {"99999": 1}}, "logit_bias: '99999' is no id of this model"),
        ({"extra_body": {"typo": 1}}, "typo: Extra inputs are not permitted"),
        ({"extra_body": {"max_tokens": "5"}}, "max_tokens: Input should be a valid integer"),
        ({"prompt": ["a"] * 100, "n": 2}, "at most 128 texts at once"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream=true"),
    ],
)
def test_a_mistake_is_told_in_one_line(client: Any, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError) as found:
        client.completions.create(**{"model": "base", "prompt": "a", **asked})
    assert message in found.value.body["message"]
    assert "\n" not in found.value.body["message"]
    assert set(found.value.body) == {"message", "type", "param", "code"}


def test_a_model_without_a_template_has_no_chat(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="the model base has no chat template"):
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.BadRequestError, match="messages: Input should be 'system'"):
        client.chat.completions.create(model="chat", messages=[{"role": "wizard", "content": "hi"}])  # type: ignore


def test_fifty_tasks_at_once_each_get_their_own_text(server: Server, base: LoadedModel) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="unused") as client:

            async def one(seed: int) -> str:
                asked = {"model": "base", "prompt": PROMPT[: 1 + seed % 9], "max_tokens": 10 + seed % 7, "seed": seed}
                if seed % 2:
                    return (await client.completions.create(**asked)).choices[0].text
                stream = await client.completions.create(stream=True, **asked)
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*map(one, range(50)))

    for seed, text in enumerate(asyncio.run(main())):
        asked = {"max_new_tokens": 10 + seed % 7, "seed": seed, "temperature": 1.0}
        assert text == by_generate(base, PROMPT[: 1 + seed % 9], **asked)


def test_health_and_figures(server: Server, client: Any) -> None:
    client.completions.create(model="base", prompt="figures", max_tokens=3)
    assert httpx.get(f"{server.address}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.address}/ready").json() == {"status": "ready"}
    answer = httpx.get(f"{server.address}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    written = float(values['llm_generated_tokens_total{model="base"}'])
    assert written >= 3
    assert float(values['llm_active_texts{model="base"}']) == 0
    count = values['llm_time_to_first_token_seconds_count{model="base"}']
    assert values['llm_time_to_first_token_seconds_bucket{model="base",le="+Inf"}'] == count
    assert float(values['llm_requests_total{path="/v1/completions",status="200"}']) >= 1


def test_the_log_has_figures_and_no_prompts(server: Server, client: Any) -> None:
    client.completions.create(model="base", prompt="a secret", max_tokens=4, logit_bias={"0": -100})
    deadline = time.monotonic() + 120  # a line is written behind its answer
    while not (found := [one for one in server.lines if one.get("completion_tokens") == 4]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    line = found[-1]
    assert line["status"] == 200
    assert (line["model"], line["prompt_tokens"], line["completion_tokens"]) == ("base", 8, 4)
    assert 0 < line["first_token_seconds"] <= line["seconds"]
    assert "secret" not in json.dumps(server.errors)


def test_a_request_that_takes_too_long_ends(base: LoadedModel) -> None:
    from llm_from_scratch.serve.protocol import CompletionBody, Limits, completion
    from llm_from_scratch.serve.service import Served, Service

    engine = Engine({"base": Batch(base)})  # its thread is not started: nothing is written
    served = Served("base", base, Limits(512, 100), 0, "fp")
    service = Service({"base": served}, engine, seconds=0.05)

    async def ask() -> None:
        ticket = service.submit(served, completion(CompletionBody(model="base", prompt="a"), base, served.limits))
        with pytest.raises(ApiError, match="the answer took longer than 0.05 seconds") as found:
            await ticket.whole()
        ticket.close()
        assert found.value.status == 504
        assert [text.cancelled for text in ticket.texts] == [True]

    asyncio.run(ask())
    assert 'llm_texts_total{model="base",end="timeout"} 1' in service.metrics.text()


def test_a_signal_lets_requests_end(folder: Path) -> None:
    with Server("base", cwd=folder) as server:
        body = {"model": "base", "prompt": "a", "max_tokens": 400, "stream": True, "logit_bias": {"0": -100}}
        with httpx.stream("POST", f"{server.address}/v1/completions", json=body, timeout=120) as answer:
            events = answer.iter_lines()
            next(events)
            server.process.send_signal(signal.SIGTERM)
            assert [line for line in events if line][-1] == "data: [DONE]"
        assert server.process.wait(120) == 128 + signal.SIGTERM
        assert not [line for line in server.errors if "Traceback" in line]

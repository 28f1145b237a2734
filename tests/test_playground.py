"""The playground's routes: the files of its page, and numbers that equal plain recomputations."""

import asyncio
import io
import json
import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import chain_file
from serving import NO_BODIES, Server, two_models

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.decoding_linears import lay_out
from llm_from_scratch.explain.attention import read_layers, weights
from llm_from_scratch.explain.distribution import sampling_distribution
from llm_from_scratch.generation import generate, generate_tokens
from llm_from_scratch.serve import static
from llm_from_scratch.tokenizer.template import CHATML, render_ids
from llm_from_scratch.weights import LoadedModel, load_model

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
TOKEN = b"0123456789abcdef0123"
TEXT = "once there was"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u2028\x1b[31m"


class Client:
    """Sends requests to the application in this process, in an event loop for each call."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        more |= {} if body is None else {"json": body}

        async def send() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_models(tmp_path_factory.mktemp("playground"))


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Any]:
    from llm_from_scratch.serve.engine import Batch, Engine
    from llm_from_scratch.serve.protocol import Limits
    from llm_from_scratch.serve.service import Served, Service

    models = {name: load_model(folder / name) for name in ("base", "talks")}
    engine = Engine({name: Batch(loaded, slots=4) for name, loaded in models.items()})
    served = {name: Served(name, one, Limits(512, 100), 0, "fp") for name, one in models.items()}
    for loaded in models.values():
        lay_out(loaded.model)  # as the command does
    engine.start()
    yield Service(served, engine)
    engine.close()


@pytest.fixture(scope="module")
def ask(service: Any) -> Client:
    from llm_from_scratch.serve.api import create_app
    from llm_from_scratch.serve.limits import Guard, Rules

    return Client(Guard(create_app(service), Rules(), service.metrics, log=io.StringIO()))


# --------------------------------------------------------------------------------------- the page
def test_the_page_loads_nothing_from_elsewhere_and_stands_in_no_frame(ask: Client) -> None:
    answer = ask("GET", "/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.startswith("<!doctype html>")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert {policy[name] for name in ("frame-ancestors", "object-src", "base-uri", "form-action")} == {"'none'"}
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    for path, file in static.FILES.items():
        content = file.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)=["'](https?:)?//""", content), path
        assert ask("GET", path).text == content


def test_a_file_that_has_not_changed_is_not_sent_again(ask: Client) -> None:
    first = ask("GET", "/")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = ask("GET", "/", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert ask("GET", "/", headers={"If-None-Match": '"other"'}).status_code == 200
    assert ask("HEAD", "/").headers["content-length"] == str(len(first.content))
    assert ask("GET", "/icon.svg").headers["cache-control"] == "max-age=3600"


@pytest.mark.parametrize("path", ["/page/index.html", "/index.html", "/..%2fapi.py", "/%2e%2e/api.py", "/main.js%00"])
def test_no_other_path_is_a_file(ask: Client, path: str) -> None:
    answer = ask("GET", path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")


def test_the_files_alone_need_no_token(service: Any) -> None:
    from llm_from_scratch.serve.api import create_app
    from llm_from_scratch.serve.limits import Guard, Rules

    ask = Client(Guard(create_app(service), Rules(token=TOKEN), service.metrics, log=io.StringIO()))
    assert {ask("GET", path).status_code for path in static.FILES} == {200}
    for path in ("/play/models", "/play/next", "/openapi.json", "/index.html"):
        assert ask("GET", path).status_code == 401, path


# --------------------------------------------------------------------------------------- the texts
@pytest.fixture(scope="module")
def base(folder: Path) -> LoadedModel:
    return load_model(folder / "base")


def ids_of(ask: Client, text: str, model: str = "base") -> list[int]:
    return [one["id"] for one in ask("POST", "/play/tokens", {"model": model, "text": text}).json()["tokens"]]


def events(answer: Any) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def test_models_are_described(ask: Client, base: LoadedModel) -> None:
    found = ask("GET", "/play/models").json()
    (first, second) = found["models"]
    example = first.pop("example")
    assert first == {
        "name": "base",
        "parameters": base.model.num_parameters(),
        "layers": 2,
        "heads": 4,
        "context": 512,
        "vocabulary": base.tokenizer.vocab_size,
        "chat": False,
        "step": 1,
        "question": None,
    }
    assert base.tokenizer.decode(base.tokenizer.encode(example)) == example
    assert len(example) > 5
    assert (second["name"], second["chat"]) == ("talks", True)
    assert second["question"].endswith("?")
    assert not second["example"].endswith("?")
    assert found["runs"] == []
    assert re.fullmatch(r"\d+\.\d+\..*", found["version"])


def test_the_example_is_what_the_model_finds_likeliest(ask: Client, base: LoadedModel) -> None:
    from llm_from_scratch.serve.playground import EXAMPLES

    nats = {}
    for text in EXAMPLES:
        ids = [base.tokenizer.eot_id, *base.tokenizer.encode(text)]
        with torch.no_grad():
            logprobs = base.model(torch.tensor([ids]))[0].log_softmax(dim=-1)
        nats[text] = -sum(float(logprobs[place, token]) for place, token in enumerate(ids[1:])) / len(text)
    assert ask("GET", "/play/models").json()["models"][0]["example"] == min(nats, key=lambda text: nats[text])


def test_the_description_of_a_replaced_model_is_forgotten(base: LoadedModel) -> None:
    from llm_from_scratch.serve.engine import Engine
    from llm_from_scratch.serve.playground import Playground
    from llm_from_scratch.serve.protocol import Limits
    from llm_from_scratch.serve.service import Served, Service

    playground = Playground(Service({}, Engine({})))
    for step in (1, 2, 2, 3):
        served = Served("run", replace(base, step=step), Limits(512, 100), 0, f"fp {step}")
        assert asyncio.run(playground._describe(served))["step"] == step
    assert [*playground.described] == ["run"]


def test_tokens_are_those_of_a_prompt_with_their_bytes(ask: Client, base: LoadedModel) -> None:
    answer = ask("POST", "/play/tokens", {"model": "base", "text": "\ufeffa e\u0301\r\n" + HOSTILE})
    tokens = answer.json()["tokens"]
    text = "a é\n" + HOSTILE  # cleaned as the corpus was
    assert [one["id"] for one in tokens] == base.tokenizer.encode(text)
    assert bytes(byte for one in tokens for byte in one["bytes"]).decode() == text
    assert tokens[0] == {"id": base.tokenizer.encode("a")[0], "text": "a", "bytes": [97]}
    assert [(one["text"], one["bytes"]) for one in tokens[2:4]] == [("\ufffd", [0xC3]), ("\ufffd", [0xA9])]
    assert all(ord(character) < 128 for character in answer.text)  # JSON in ASCII
    empty = ask("POST", "/play/tokens", {"model": "base", "text": ""}).json()["tokens"]
    assert empty == [{"id": base.tokenizer.eot_id, "text": "<|endoftext|>", "bytes": []}]
    named = ask("POST", "/play/tokens", {"model": "base", "text": "<|endoftext|>"}).json()["tokens"]
    assert base.tokenizer.eot_id not in {one["id"] for one in named}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_k": 9, "seed": 7, "max_tokens": 30},
        {"top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.3, "seed": -2, "max_tokens": 20},
    ],
)
def test_what_it_writes_is_a_completion_and_what_generate_writes(
    ask: Client, base: LoadedModel, settings: dict[str, Any]
) -> None:
    ids = ids_of(ask, TEXT)
    found = events(ask("POST", "/play/write", {"model": "base", "ids": ids, "settings": settings, "top": 3}))
    tokens = [one["token"] for one in found[:-1]]
    given = {"temperature": 1.0, "seed": 1, "max_tokens": 60} | settings
    body = {"model": "base", "prompt": TEXT, "logprobs": 3, **given}
    (choice,) = ask("POST", "/v1/completions", body).json()["choices"]
    assert found[-1] == {"finish": choice["finish_reason"]}
    assert bytes(byte for one in tokens for byte in one["bytes"]).decode("utf-8", "replace") == choice["text"]
    assert [one["logprob"] for one in tokens] == choice["logprobs"]["token_logprobs"]
    seed, most = given.pop("seed") % 2**63, given.pop("max_tokens")
    config = SamplingConfig(max_new_tokens=most, seed=seed, **given)
    expected = [int(one) for one in generate_tokens(base.model, torch.tensor([ids]), config)]
    written = [one["id"] for one in tokens]
    assert written == expected[: len(written)]
    assert len(written) == most or expected[len(written)] == base.tokenizer.eot_id
    # ln p and the likeliest tokens, by a plain forward pass
    with torch.no_grad():
        logprobs = base.model(torch.tensor([ids + written]))[0, len(ids) - 1 : -1].log_softmax(dim=-1)
    for one, row in zip(tokens, logprobs, strict=True):
        best = row.topk(3)
        assert one["logprob"] == pytest.approx(float(row[one["id"]]), abs=1e-4)
        assert [other["id"] for other in one["top"]] == best.indices.tolist()
        assert [other["logprob"] for other in one["top"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert all(set(other) == {"id", "text", "bytes", "logprob"} for other in one["top"])


def test_a_text_longer_than_the_context_goes_on(ask: Client, base: LoadedModel) -> None:
    ids = ids_of(ask, "x" * 500 + TEXT)
    assert len(ids) > 512
    settings = {"temperature": 0.0, "max_tokens": 3}
    found = events(ask("POST", "/play/write", {"model": "base", "ids": ids, "settings": settings}))
    config = SamplingConfig(max_new_tokens=3, temperature=0.0)
    expected = [int(one) for one in generate_tokens(base.model, torch.tensor([ids]), config)]
    assert [one["token"]["id"] for one in found[:-1]] == expected
    likeliest = ask("POST", "/play/next", {"model": "base", "ids": ids, "top": 1}).json()["tokens"][0]
    assert likeliest["id"] == expected[0]
    assert math.log(likeliest["p"]) == pytest.approx(found[0]["token"]["logprob"], abs=1e-4)


def test_a_conversation_is_rendered_as_a_chat_completion(ask: Client, folder: Path) -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": HOSTILE}]
    settings = {"seed": 4, "temperature": 0.8, "max_tokens": 30}
    found = events(ask("POST", "/play/write", {"model": "talks", "messages": messages, "settings": settings, "top": 0}))
    loaded = load_model(folder / "talks")
    ids = render_ids(CHATML, messages, loaded.tokenizer, add_generation_prompt=True)
    assert [one["id"] for one in found[0]["prompt"]] == ids
    asked = {"model": "talks", "messages": messages, **settings}
    (choice,) = ask("POST", "/v1/chat/completions", asked).json()["choices"]
    data = bytes(byte for one in found[1:-1] for byte in one["token"]["bytes"])
    assert data.decode("utf-8", "replace") == choice["message"]["content"]
    assert found[-1] == {"finish": choice["finish_reason"]}
    config = SamplingConfig(max_new_tokens=30, seed=4, temperature=0.8)
    assert choice["message"]["content"] == "".join(
        piece[0] for piece in generate(loaded.model, loaded.tokenizer, ids, config, loaded.end_ids)
    )


def test_a_reader_who_leaves_frees_the_slot(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    endless = chain_file(tmp_path, {"a": "bc…"})
    with Server(f"endless={endless}", "--max-tokens", "1000000", "--slots", "1", cwd=tmp_path) as server:
        settings = {"temperature": 0.0, "max_tokens": 1_000_000}
        body = {"model": "endless", "ids": [ord("a")], "settings": settings, "top": 1}
        with httpx.stream("POST", f"{server.address}/play/write", json=body, timeout=120) as answer:
            lines = (line for line in answer.iter_lines() if line)
            texts = [json.loads(next(lines).removeprefix("data: "))["token"]["text"] for _ in range(4)]
        assert texts == ["b", "c", "b", "c"]
        # Its slot was the only one.
        again = httpx.post(f"{server.address}/play/next", json={**body, "settings": {}}, timeout=120)
        assert again.json()["tokens"][0]["text"] == "b"
        assert 'llm_texts_total{model="endless",end="cancelled"} 1' in httpx.get(f"{server.address}/metrics").text
        assert httpx.get(f"{server.address}/").headers["content-security-policy"] == static.POLICY


# ------------------------------------------------------------------------------------- the numbers
def test_each_token_of_a_text_is_read(ask: Client, base: LoadedModel) -> None:
    ids = ids_of(ask, "dorothy é")
    tokens = ask("POST", "/play/read", {"model": "base", "ids": ids, "top": 4}).json()["tokens"]
    assert [one["id"] for one in tokens] == ids
    assert (tokens[0]["logprob"], tokens[0]["top"]) == (None, [])
    with torch.no_grad():
        expected = base.model(torch.tensor([ids]))[0].softmax(dim=-1)
    for token, row in zip(tokens[1:], expected[:-1], strict=True):
        assert token["logprob"] == pytest.approx(math.log(float(row[token["id"]])), abs=1e-4)
        best = row.topk(4)
        assert [one["id"] for one in token["top"]] == best.indices.tolist()
        assert [math.exp(one["logprob"]) for one in token["top"]] == pytest.approx(best.values.tolist(), abs=1e-4)
    alone = ask("POST", "/play/read", {"model": "base", "ids": [5]}).json()["tokens"]
    assert [one["logprob"] for one in alone] == [None]


def test_of_a_text_longer_than_the_context_the_first_part_is_read(ask: Client) -> None:
    ids = ids_of(ask, "once upon a time " * 40)
    assert len(ids) == 680
    tokens, first = (
        ask("POST", "/play/read", {"model": "base", "ids": part}).json()["tokens"] for part in (ids, ids[:512])
    )
    assert tokens[:512] == first
    assert [one["id"] for one in tokens] == ids
    assert tokens[512] == {"id": ids[512], "text": "c", "bytes": [99], "logprob": None, "top": []}
    assert all(one["logprob"] is None for one in tokens[512:])


def test_the_next_token_before_and_after_the_settings(ask: Client, base: LoadedModel) -> None:
    ids = ids_of(ask, TEXT)
    settings = {"temperature": 0.6, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.2}
    found = ask("POST", "/play/next", {"model": "base", "ids": ids, "settings": settings, "top": 20}).json()
    with torch.no_grad():
        logits = base.model(torch.tensor([ids]))[0, -1]
    p = logits.softmax(dim=-1)
    q = sampling_distribution(logits, ids, SamplingConfig(**settings))
    assert [one["id"] for one in found["tokens"]] == p.topk(20).indices.tolist()
    assert [one["p"] for one in found["tokens"]] == pytest.approx(p.topk(20).values.tolist(), abs=1e-4)
    assert [one["q"] for one in found["tokens"]] == pytest.approx(q[p.topk(20).indices].tolist(), abs=1e-4)
    assert sum(one["p"] for one in found["tokens"]) + found["rest"]["p"] == pytest.approx(1)
    assert sum(one["q"] for one in found["tokens"]) + found["rest"]["q"] == pytest.approx(1)
    assert found["kept"] == int(q.count_nonzero())
    assert 1 < found["kept"] <= 30
    assert found["entropy"] == pytest.approx(-float((p * p.log2()).sum()), abs=1e-4)
    plain = ask("POST", "/play/next", {"model": "base", "ids": ids}).json()
    assert len(plain["tokens"]) == 20
    assert all(one["q"] == pytest.approx(one["p"], abs=1e-6) for one in plain["tokens"])


def test_moving_a_setting_costs_no_step_of_the_engine(ask: Client, service: Any) -> None:
    body = {"model": "base", "ids": [3, 1, 4, 1, 5]}
    ask("POST", "/play/next", body)
    steps = service.engine.steps
    answers = [ask("POST", "/play/next", {**body, "settings": {"top_k": k}}).json() for k in (1, 2, 3)]
    assert [one["kept"] for one in answers] == [1, 2, 3]
    assert service.engine.steps == steps
    other = ask("POST", "/play/next", {**body, "model": "talks"}).json()
    assert other["tokens"] != answers[0]["tokens"]


@pytest.mark.parametrize("head", [0, 3, None])
def test_attention_of_a_head_and_of_all(ask: Client, base: LoadedModel, head: int | None) -> None:
    ids = ids_of(ask, TEXT)
    body = {"model": "base", "ids": ids, "layer": 1, "head": head}
    rows = ask("POST", "/play/attention", body).json()["weights"]
    assert [len(row) for row in rows] == list(range(1, len(ids) + 1))
    expected = weights(read_layers(base.model, ids)[1], head)
    for t, row in enumerate(rows):
        assert row == pytest.approx(expected[t, : t + 1].tolist(), abs=1e-6)
        assert sum(row) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["base", "talks"])
def test_the_lens_after_a_token_and_the_heads(ask: Client, service: Any, name: str) -> None:
    loaded, ids = service.models[name].loaded, ids_of(ask, TEXT)
    with torch.inference_mode():
        p = loaded.model(torch.tensor([ids]))[0].double().softmax(-1)
    for place in (3, len(ids) - 1):
        found = ask("POST", "/play/inside", {"model": name, "ids": ids, "place": place}).json()
        assert [row["layer"] for row in found["lens"]] == [2, 1, 0]
        last = found["lens"][0]["tokens"]
        assert [one["id"] for one in last] == p[place].topk(3).indices.tolist()
        assert [one["p"] for one in last] == pytest.approx(p[place].topk(3).values.tolist(), rel=1e-4)
    rows = {row["measure"]: row for row in found["heads"]}
    assert list(rows) == ["previous", "first", "itself", "same", "induction"]
    layers = read_layers(loaded.model, ids)
    best = rows["previous"]["strongest"][0]
    plain = weights(layers[best["layer"]], best["head"])
    expected = sum(float(plain[t, t - 1]) for t in range(2, len(ids))) / (len(ids) - 2)
    assert best["weight"] == pytest.approx(expected, abs=1e-5)
    assert all(len(row["strongest"]) == 4 and 0 < row["even"] < 0.5 for row in rows.values())


def test_a_model_of_nan_is_told(service: Any) -> None:
    from llm_from_scratch.serve.answers import ApiError
    from llm_from_scratch.serve.playground import Playground
    from llm_from_scratch.serve.protocol import AttentionBody, InsideBody

    served = service.models["base"]
    broken = torch.nn.Parameter(served.loaded.model.token_embedding.weight * math.nan)
    playground, kept = Playground(service), served.loaded.model.token_embedding.weight
    served.loaded.model.token_embedding.weight = broken
    try:
        with pytest.raises(ApiError, match="the model computes NaN") as found:
            playground._attention(served, AttentionBody(model="base", ids=[1, 2], layer=0))
        with pytest.raises(ApiError, match="the model computes NaN"):
            playground._inside(served, InsideBody(model="base", ids=[1, 2], place=0))
    finally:
        served.loaded.model.token_embedding.weight = kept
    assert found.value.status == 500


# -------------------------------------------------------------------------------------- the errors
IDS = {"model": "base", "ids": [1, 2]}
LAYER = {**IDS, "layer": 0}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("tokens", {"model": "base"}, "text: Field required"),
        ("tokens", {"model": "base", "text": "x" * 20_001}, "text: String should have at most 20000 characters"),
        ("tokens", {"model": "base", "text": "x", "typo": 1}, "typo: Extra inputs are not permitted"),
        ("next", {**IDS, "ids": []}, "ids: List should have at least 1 item"),
        ("next", {**IDS, "ids": [1, 99999]}, "the prompt has the id 99999: the model has"),
        ("next", {**IDS, "ids": [1, -1]}, "ids: Input should be greater than or equal to 0"),
        ("next", {**IDS, "ids": ["1"]}, "ids: Input should be a valid integer"),
        ("next", {**IDS, "ids": [1] * 65_537}, "ids: List should have at most 65536 items"),
        ("next", {**IDS, "top": 201}, "top: Input should be less than or equal to 200"),
        ("next", {**IDS, "settings": {"temperature": -1}}, "temperature: Input should be greater"),
        ("next", {**IDS, "settings": {"top_p": 0}}, "top_p: Input should be greater than 0"),
        ("next", {**IDS, "settings": {"typo": 0}}, "typo: Extra inputs are not permitted"),
        ("next", {**IDS, "settings": {"stop": "x"}}, "stop: Extra inputs are not permitted"),
        ("next", {**IDS, "settings": None}, "settings: Input should be"),
        ("read", {**IDS, "ids": [1] * 600 + [99999]}, "the prompt has the id 99999: the model has"),
        ("read", {**IDS, "top": 21}, "top: Input should be less than or equal to 20"),
        ("attention", IDS, "layer: Field required"),
        ("attention", {**LAYER, "layer": 2}, "layer 2: the model has 2, from 0 to 1"),
        ("attention", {**LAYER, "layer": 10**4000}, "layer: Input should be less than 2147483648"),
        ("attention", {**LAYER, "head": 4}, "head 4: the model has 4, from 0 to 3"),
        ("attention", {**LAYER, "head": -1}, "head: Input should be greater than or equal to 0"),
        ("attention", {**LAYER, "ids": [1] * 513}, "the text has 513 tokens: attention is shown of at most 512"),
        ("attention", {**LAYER, "ids": [99999]}, "the prompt has the id 99999"),
        ("inside", IDS, "place: Field required"),
        ("inside", {**IDS, "place": 2}, "place 2: the text has 2 tokens, from 0"),
        ("inside", {**IDS, "ids": [1] * 513, "place": 0}, "the text has 513 tokens: attention is shown of at most 512"),
        ("inside", {**IDS, "ids": [99999], "place": 0}, "the prompt has the id 99999"),
        ("write", {"model": "base"}, "give either ids or messages"),
        ("write", {**IDS, "messages": [{"role": "user", "content": "hi"}]}, "give either ids or messages"),
        ("write", {"model": "base", "messages": [{"role": "user", "content": "hi"}]}, "has no chat template"),
        ("write", {"model": "talks", "messages": [{"role": "wizard", "content": "hi"}]}, "messages: Input should be"),
        ("write", {**IDS, "settings": {"max_tokens": 101}}, "at most 100 tokens a text: 101 were asked"),
        ("write", {**IDS, "settings": {"max_tokens": 0}}, "max_tokens: Input should be greater"),
        ("write", {**IDS, "settings": {"max_tokens": 10**4000}}, "max_tokens: Input should be less than"),
        ("write", {**IDS, "stream": True}, "stream: Extra inputs are not permitted"),
    ],
)
def test_a_mistake_is_told_in_one_line(ask: Client, path: str, body: dict[str, Any], message: str) -> None:
    answer = ask("POST", f"/play/{path}", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["tokens", "write", "read", "next", "attention", "inside"])
def test_an_unknown_model_and_another_method(ask: Client, path: str) -> None:
    body = {"tokens": {"text": "a"}, "attention": {"ids": [1], "layer": 0}, "inside": {"ids": [1], "place": 0}}.get(
        path, {"ids": [1]}
    )
    answer = ask("POST", f"/play/{path}", {"model": "other", **body})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert ask("GET", f"/play/{path}").status_code == 405


@pytest.mark.parametrize("path", ["tokens", "write", "read", "next", "attention", "inside"])
@pytest.mark.parametrize(
    "body",
    [
        *NO_BODIES,
        b'{"model": "base", "text": "\xc3\x28"}',
        b'{"model": "base", "text": "\\ud800"}',
        b'{"model": "\\ud800", "text": "a"}',
        b'{"model": "base", "text": "a", "\\udfff": 1}',
        b'{"model": "base", "ids": [1], "layer": 0, "top": 1e400}',
        b'{"model": "base", "ids": [1], "layer": NaN}',
        b'{"model": "base", "ids": [1], "settings": {"temperature": NaN}}',
        b'{"model": "base", "ids": [' + b"9" * 5000 + b"]}",
        b'{"model": "base", "ids": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "base", "ids": [' + b"null," * 150_000 + b"null]}",
        b'{"model": "base", "ids": [1], "settings": {' + b",".join(b'"k%d": 1' % i for i in range(60_000)) + b"}}",
        b'{"model": "base", "ids": [1], ' + b",".join(b'"k%d": 1' % i for i in range(60_000)) + b"}",
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_a_hostile_body_is_refused(ask: Client, path: str, body: bytes) -> None:
    answer = ask("POST", f"/play/{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert 0 < len(error["message"]) < 500
    assert "\n" not in error["message"]


def test_a_crowd_waits_in_a_short_line(service: Any) -> None:
    from llm_from_scratch.serve.answers import ApiError
    from llm_from_scratch.serve.playground import WAITING, Playground

    playground = Playground(service)

    async def crowd() -> list[Any]:
        jobs = [playground._alone(time.sleep, 0.01) for _ in range(WAITING + 1)]
        return await asyncio.gather(*jobs, return_exceptions=True)

    found = asyncio.run(crowd())
    assert found[:WAITING] == [None] * WAITING
    assert isinstance(found[WAITING], ApiError)
    assert (found[WAITING].status, found[WAITING].headers) == (429, {"Retry-After": "2"})
    assert playground.waiting == 0


def test_a_thread_that_computes_ends(service: Any) -> None:
    from llm_from_scratch.serve.playground import Playground

    playground = Playground(service)
    first, second = (asyncio.run(playground._alone(threading.current_thread)) for _ in range(2))
    assert first is not second
    assert not first.is_alive()


def test_the_description_of_the_api_leaves_the_page_out(ask: Client) -> None:
    description = ask("GET", "/openapi.json").json()
    assert not [path for path in description["paths"] if path == "/" or path.startswith("/play")]
    assert "WriteBody" not in description["components"]["schemas"]

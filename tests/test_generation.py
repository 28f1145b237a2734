"""Generation against its plain twin, transformers' filters and greedy ids, and text cut into pieces
in every way.
"""

import itertools
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llm_from_scratch.check import check
from llm_from_scratch.config import Config, GenerateConfig, SamplingConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.generation import (
    TextStream,
    generate,
    generate_tokens,
    generate_with_temperature,
    min_p,
    relative,
    repetition_penalty,
    sample,
    temperature,
    to_host,
    top_k,
    top_p,
)
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import CharTokenizer

BLOCK = 8
FAMILIES: dict[str, dict[str, Any]] = {
    "modern": {"n_kv_head": 2},
    "gpt2": {"norm": "layernorm", "position": "learned", "activation": "gelu", "qk_norm": False, "bias": True},
    "article": {"norm": "layernorm", "norm_position": "post", "position": "sinusoidal", "tie_weights": False},
    "imported": {
        "n_kv_head": 2,
        "head_size": 12,
        "qk_norm": False,
        "qkv_bias": True,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
}


def make(family: str = "modern", **changes: Any) -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "block_size": BLOCK, "n_layer": 2, "n_embd": 32, "init_std": 0.5}
    return GPT(GPTConfig(**{**sizes, **FAMILIES[family], **changes})).eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------ filters
@pytest.mark.parametrize(
    ("ours", "name", "value"),
    [
        (temperature, "TemperatureLogitsWarper", 0.7),
        (top_k, "TopKLogitsWarper", 5),
        (top_k, "TopKLogitsWarper", 500),
        (top_p, "TopPLogitsWarper", 0.6),
        (top_p, "TopPLogitsWarper", 0.01),
        (min_p, "MinPLogitsWarper", 0.2),
        (min_p, "MinPLogitsWarper", 1.0),
    ],
)
def test_filters_are_those_of_transformers(ours: Any, name: str, value: float) -> None:
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(6, 50, generator=generator()) * 3
    logits[0, 7] = logits[0].max() + 9  # one token holds nearly all the probability
    logits[1] = 0.25  # and here all tie
    torch.testing.assert_close(
        ours(logits[[0, 2, 3, 4, 5]], value), getattr(transformers, name)(value)(None, logits[[0, 2, 3, 4, 5]])
    )
    if ours is not top_p:  # which of equal tokens a nucleus holds is the sort's choice
        torch.testing.assert_close(ours(logits[1:2], value), getattr(transformers, name)(value)(None, logits[1:2]))


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    transformers = pytest.importorskip("transformers")
    logits, ids = torch.randn(6, 50, generator=generator()), torch.randint(50, (6, 20), generator=generator())
    expected = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    torch.testing.assert_close(repetition_penalty(logits, ids, penalty), expected)


def test_filters_on_numbers_worked_out_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()

    def kept(filtered: Tensor) -> list[int]:
        return filtered[0].isfinite().nonzero().flatten().tolist()

    assert kept(top_k(logits, 2)) == [0, 1]
    assert kept(top_p(logits, 5e-324)) == kept(top_p(logits, 0.5 - 1e-6)) == [0]
    assert kept(top_p(logits, 0.6)) == [0, 1]
    assert kept(top_p(logits, 0.76)) == [0, 1, 2]
    assert kept(min_p(logits, 0.29)) == [0, 1, 2]
    assert kept(min_p(logits, 0.31)) == [0, 1]
    torch.testing.assert_close(
        repetition_penalty(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[0, 1, 0]]), 2.0),
        torch.tensor([[1.0, -4.0, 2.0]]),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, r"temperature=-1.0 must be 0 \(greedy\) or a finite number above it"),
        ({"temperature": math.nan}, r"temperature=nan must be .*"),
        ({"temperature": math.inf}, r"temperature=inf must be .*"),
        ({"top_k": 0}, r"top_k=0 must be 1 or more, or null to keep all tokens"),
        ({"top_p": 0.0}, r"top_p=0.0 must be above 0 and at most 1, or null .*"),
        ({"top_p": 1.1}, r"top_p=1.1 must be .*"),
        ({"top_p": math.nan}, r"top_p=nan must be .*"),
        ({"min_p": -0.1}, r"min_p=-0.1 must be .*"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty=0.0 must be .*"),
        ({"repetition_penalty": math.nan}, r"repetition_penalty=nan must be .*"),
        ({"max_new_tokens": 0}, r"max_new_tokens=0 must be 1 or more"),
        ({"num_samples": 0}, r"num_samples=0 must be 1 or more"),
        ({"compile": "maybe"}, r"compile=maybe must be true, false or auto"),
        ({"seed": -1}, r"seed=-1 must be .*"),
        ({"stop": ["."  , ""]}, r"stop=\['.', ''\] must be a list of strings that are not empty"),
        ({"stop": ["\ufeff"]}, r"stop=\[''\] must be a list of strings that are not empty"),
        ({"stop": ["a\udcff"]}, r"stop=\['a\\udcff'\] must be of whole characters: a half one never comes"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        SamplingConfig(**values)


# Logits as models give them, ties and impossible tokens among them; the last row is what an
# overflow gives.
ROWS = [
    [1.5, -2.0, 1.5, 0.3, -math.inf, 1.499],
    [-3.0, -1.0, -1e4, -1.0 - 1e-6, -math.inf, -7.0],
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [3e38, -3e38, 1.0, 0.0, -math.inf, 2.9e38],
    [1e-5, 1.1e-5, -1e-5, 0.0, 1.05e-5, -math.inf],
    [math.inf, 2.0, -math.inf, 1.0, 0.0, 5.0],
]


@settings(deadline=None)
@given(
    st.sampled_from(ROWS),
    st.floats(5e-324, 1.7e308) | st.sampled_from([5e-324, 1e-45, 1e-40, 1e-38, 1e-30, 1e30, 1e38, 1e39, 1e308]),
    st.integers(0, 100),
    st.sampled_from(
        [{}, {"top_p": 5e-324}, {"top_p": 1e-9}, {"top_p": 0.9}, {"min_p": 5e-324}, {"min_p": 1e-9}, {"top_k": 2}]
    ),
)
def test_any_temperature_samples_as_its_limit_does(
    row: list[float], value: float, seed: int, filters: dict[str, Any]
) -> None:
    logits = torch.tensor([row])
    config = SamplingConfig(temperature=value, **filters)
    noise = torch.empty_like(logits).exponential_(generator=generator(seed))
    chosen = int(sample(logits, torch.zeros(1, 1, dtype=torch.int64), config, noise))
    exact = logits.double()[0]
    top = exact.max()
    likeliest = [i for i, logit in enumerate(row) if exact[i] == top]
    # float64 holds them, down to the smallest temperature
    gaps = torch.where(exact == top, 0.0, exact - top) / value
    # e^-104 is float32's smallest number
    assert chosen in (gaps > -110).nonzero().flatten().tolist()
    if value <= 1e-30 or filters.get("top_p", 1) <= 1e-9:
        assert chosen in likeliest
    probabilities = temperature(relative(logits), value).softmax(dim=-1)[0].double()
    if (
        value <= 1e30 or exact[exact.isfinite()].abs().max() < 1e30
    ):  # beyond, only logits that nearly overflow tell the limit apart
        torch.testing.assert_close(probabilities, gaps.softmax(dim=-1), atol=1e-4, rtol=1e-3)
    assert probabilities.isfinite().all()


@pytest.mark.parametrize("value", [1e-45, 1e-40, 1e-38, 1e-20])
def test_a_temperature_near_0_writes_what_0_writes(value: float) -> None:
    model, prompt = make(), torch.randint(40, (3, 2), generator=generator())
    greedy = torch.stack(list(generate_tokens(model, prompt, SamplingConfig(max_new_tokens=20, temperature=0))), dim=1)
    config = SamplingConfig(max_new_tokens=20, temperature=value)
    near = torch.stack(list(generate_tokens(model, prompt, config)), dim=1)
    assert torch.equal(greedy, near)
    assert torch.equal(greedy, generate_with_temperature(model, prompt, 20, value, generator())[:, 2:])


@pytest.mark.parametrize("penalty", [5e-324, 1e-40, 1e38, 1e300])
def test_any_repetition_penalty_orders_as_its_limit_does(penalty: float) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, -math.inf]])
    found = repetition_penalty(logits, torch.tensor([[0, 1, 2, 3, 4, 5]]), penalty)
    assert not found.isnan().any()
    # Positive logits that grow stay in their order; those that shrink to 0 are told apart as long
    # as float32 can.
    assert found.argsort(descending=True, stable=True)[0].tolist() == [0, 1, 2, 3, 4, 5]
    config = SamplingConfig(temperature=0.8, repetition_penalty=penalty)
    assert int(sample(logits, torch.tensor([[2, 1, 0]]), config, torch.ones_like(logits))) == 0


def test_a_model_that_answers_with_nan_is_refused() -> None:
    model = make()
    with torch.no_grad():
        model.token_embedding.weight[3] = math.nan
    with pytest.raises(UserError, match="answers with NaN"):
        next(generate_tokens(model, torch.tensor([[1, 2]]), SamplingConfig()))


# ------------------------------------------------------------------------------------------- tokens
@pytest.mark.parametrize("prompt_length", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_generation_equals_its_plain_twin_far_past_the_context(family: str, prompt_length: int) -> None:
    model, prompt = make(family), torch.randint(40, (3, prompt_length), generator=generator())
    for block_size in (BLOCK, 5, 1):  # halves of even and odd contexts, and of one token
        model = make(family, block_size=block_size)
        for value in (1.3, 0.0):
            config = SamplingConfig(max_new_tokens=5 * BLOCK, temperature=value)
            plain = generate_with_temperature(model, prompt, config.max_new_tokens, value, generator(3))
            fast = torch.stack(list(generate_tokens(model, prompt, config, generator(3))), dim=1)
            assert torch.equal(plain[:, prompt_length:], fast)
            assert len(fast.unique()) > 3


def test_the_compiled_step_writes_what_its_plain_twin_writes() -> None:
    model, prompt = make("modern", n_kv_head=2), torch.randint(40, (3, 2), generator=generator())
    settings = {"max_new_tokens": 3 * BLOCK, "temperature": 1.2, "top_k": 30, "top_p": 0.95, "min_p": 0.001}
    settings["repetition_penalty"] = 1.3
    plain, fast = (
        torch.stack(list(generate_tokens(model, prompt, SamplingConfig(**settings, compile=compiled))), dim=1)
        for compiled in (False, True)
    )
    assert torch.equal(plain, fast)
    assert len(plain.unique()) > 10


@pytest.mark.slow
def test_the_compiled_step_near_temperature_0_is_greedy() -> None:
    model, prompt = make(), torch.randint(40, (3, 2), generator=generator())
    configs = SamplingConfig(temperature=1e-40, compile=True), SamplingConfig(temperature=0)
    near, greedy = (
        [ids.tolist() for ids in itertools.islice(generate_tokens(model, prompt, config), 12)] for config in configs
    )
    assert near == greedy


def test_tokens_of_a_gpu_are_fetched_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [torch.tensor([i, -i]) for i in range(11)]
    assert list(to_host(iter(steps))) == [[i, -i] for i in range(11)]
    taken: list[int] = []
    fetches: list[int] = []

    class Copy:  # stands in for a copy from a GPU
        def __init__(self, held: list[Tensor]) -> None:
            fetches.append(len(held))
            self.held = held

        def wait(self) -> list[list[int]]:
            return [[*step.shape] for step in self.held]

    monkeypatch.setattr("llm_from_scratch.generation._Copy", Copy)
    fetching = to_host((taken.append(i) or torch.empty(i, device="meta") for i in range(30)), at_a_time=8)
    assert next(fetching) == [0]
    assert taken == [0]  # the first token does not wait for others
    assert [[0], *fetching] == [[i] for i in range(30)]
    assert fetches == [1, 2, 4, 8, 8, 7]


def test_each_token_is_chosen_from_the_window_that_the_rule_gives() -> None:
    model, prompt = make(), torch.randint(40, (1, 3), generator=generator())
    ids = generate_with_temperature(model, prompt, 20, 0.0, generator())[0]
    # A context of 8: it fills up at 8 tokens; the next one leaves the newer half of 4, which fills
    # up again, and so on.
    starts = [0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 10, 10, 10, 10, 10, 15, 15, 15, 15]
    for end, start in enumerate(starts, start=3):
        assert ids[end] == model(ids[None, start:end])[0, -1].argmax()


def test_greedy_ids_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    model = make("gpt2", block_size=64, norm_eps=1e-5, init_std=0.3)
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=None
    )
    twin = transformers.GPT2LMHeadModel(config).eval()
    names = {"token_embedding": "wte", "position_embedding": "wpe", "norm": "ln_f", "attention_norm": "ln_1"}
    names |= {"feed_forward_norm": "ln_2", "qkv": "attn.c_attn", "up": "mlp.c_fc"}
    weights = {}
    for key, tensor in model.state_dict().items():
        *path, leaf = key.split(".")
        layer = f"h.{path[1]}." if path[0] == "blocks" else ""
        part = (
            {"attention": "attn.c_proj", "feed_forward": "mlp.c_proj"}[path[-2]]
            if path[-1] == "out"
            else names[path[-1]]
        )
        weights[f"{layer}{part}.{leaf}"] = tensor.T if layer and tensor.dim() == 2 else tensor
    twin.transformer.load_state_dict(weights)
    prompt = torch.randint(40, (2, 5), generator=generator())
    theirs = twin.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=50, do_sample=False, pad_token_id=0
    )
    mine = torch.stack(list(generate_tokens(model, prompt, SamplingConfig(max_new_tokens=50, temperature=0))), dim=1)
    assert torch.equal(theirs[:, 5:], mine)
    assert len(mine.unique()) > 5


def test_a_penalty_counts_the_prompt_and_what_was_written() -> None:
    model, ids = make(block_size=64), torch.tensor([[1, 2, 3]])
    plain, config = ids, SamplingConfig(max_new_tokens=30, temperature=0, repetition_penalty=1.8)
    for _ in range(config.max_new_tokens):
        logits = repetition_penalty(model(plain)[:, -1], plain, config.repetition_penalty)
        plain = torch.cat((plain, logits.argmax(dim=-1, keepdim=True)), dim=1)
    assert plain[0, 3:].tolist() == torch.cat(list(generate_tokens(model, ids, config))).tolist()
    assert len(plain.unique()) > 20


def test_generation_leaves_the_mode_of_the_model_and_of_torch_as_it_was() -> None:
    model = make(dropout=0.5).train()
    tokens = generate_tokens(model, torch.tensor([[1]]), SamplingConfig(max_new_tokens=9))
    next(tokens)
    assert not torch.is_inference_mode_enabled()
    tokens.close()  # type: ignore[attr-defined]
    assert model.training
    model.loss(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()


# --------------------------------------------------------------------------------------------- text
def split_by_hand(text: str, stop: list[str]) -> str:
    """What a stop string leaves of a text that comes character by character."""
    for end in range(1, len(text) + 1):
        for s in sorted(stop, key=len, reverse=True):
            if text[:end].endswith(s):
                return text[: end - len(s)]
    return text


def chunks(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(at)]


@given(
    st.text("abé€😀", max_size=30),
    st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 200)),
)
def test_streamed_text_does_not_depend_on_how_it_was_cut(text: str, stop: list[str], cuts: list[int]) -> None:
    stream = TextStream(stop)
    parts = chunks(text.encode(), cuts)
    pieces = [stream.push(part, final=i == len(parts) - 1) for i, part in enumerate(parts)]
    assert "".join(pieces) == split_by_hand(text, stop)
    assert stream.ended


@given(st.binary(max_size=40), st.lists(st.integers(0, 200)))
def test_bytes_that_are_no_utf8_become_replacement_characters(data: bytes, cuts: list[int]) -> None:
    stream = TextStream()
    assert "".join(stream.push(part) for part in chunks(data, cuts)) + stream.push(b"", final=True) == data.decode(
        "utf-8", "replace"
    )


def test_text_comes_as_soon_as_it_is_certain() -> None:
    stream = TextStream(["END", "Nothing"])
    euro = "€".encode()
    parts = [b"a", euro[:2], euro[2:], b"E", b"N", b"T", b"E", b"N", b"D rest", b"x"]
    assert [stream.push(part) for part in parts] == ["a", "", "€", "", "", "ENT", "", "", "", ""]
    assert stream.ended


class FakeTokenizer:
    """Ids 0 to 38 are byte strings, two of them the halves of é; 39 ends a text."""

    kind, vocab_size, eot_id, fingerprint = "char", 40, 39, ""
    pieces = [bytes([97 + i % 26]) * (1 + i // 26) for i in range(37)] + ["é".encode()[:1], "é".encode()[1:], b""]

    def encode(self, text: str) -> list[int]:
        for place, character in enumerate(text):
            if not "a" <= character <= "z":
                raise ValueError(f"unknown character {character!r} at {place}")
        return [ord(character) - 97 for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self.pieces[i] for i in ids)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


TOKENIZER = FakeTokenizer()


def texts(model: nn.Module, prompt: str, config: SamplingConfig) -> list[str]:
    return ["".join(pieces) for pieces in zip(*generate(model, TOKENIZER, prompt, config), strict=True)]  # type: ignore[arg-type]


def test_text_is_what_the_tokens_of_each_sample_say_up_to_its_end() -> None:
    model, config = make(), SamplingConfig(max_new_tokens=60, temperature=1.5, num_samples=4)
    ids = torch.stack(list(generate_tokens(model, torch.tensor([[7, 8]] * 4), config)), dim=1).tolist()
    expected = [TOKENIZER.decode(row[: row.index(39)] if 39 in row else row) for row in ids]
    assert any(39 in row for row in ids)
    assert texts(model, "hi", config) == expected == texts(model, "hi", config)
    assert len(set(expected)) == 4
    assert texts(model, "hi", SamplingConfig(max_new_tokens=60, temperature=1.5, num_samples=4, seed=1)) != expected
    stop = expected[0][5:7]
    stopped = texts(model, "hi", SamplingConfig(max_new_tokens=60, temperature=1.5, num_samples=4, stop=[stop]))
    assert stopped == [text.split(stop)[0] for text in expected]


def test_generation_ends_when_every_sample_has_ended() -> None:
    model, config = make(), SamplingConfig(max_new_tokens=500, temperature=0, stop=[])
    (text,) = texts(model, "a", SamplingConfig(max_new_tokens=20, temperature=0))
    config.stop = [text[3:5]]
    assert len(list(generate(model, TOKENIZER, "a", config))) < 20


def test_an_empty_prompt_starts_from_the_end_of_text_piece() -> None:
    model, config = make(), SamplingConfig(max_new_tokens=12, temperature=0)
    ids = torch.cat(list(generate_tokens(model, torch.tensor([[39]]), config))).tolist()
    assert texts(model, "", config) == [TOKENIZER.decode(ids[: ids.index(39)] if 39 in ids else ids)]


def test_an_unknown_character_is_named_before_anything_is_written() -> None:
    with pytest.raises(ValueError, match="unknown character '!' at 2"):
        generate(make(), TOKENIZER, "oh!", SamplingConfig())


CHARACTERS = CharTokenizer("\nabcdefghijklmnopqrstuvwxyz\u00e9\ud55c")


@pytest.mark.parametrize(
    ("typed", "read"),
    [("e\u0301t", "\u00e9t"), ("a\r\nb\rc", "a\nb\nc"), ("\ufeffab", "ab"), ("\u1112\u1161\u11ab", "\ud55c")],
)
def test_what_is_typed_is_read_as_the_corpus_was(typed: str, read: str) -> None:
    model = make(vocab_size=CHARACTERS.vocab_size)
    sampling = SamplingConfig(max_new_tokens=20, temperature=1.5)
    assert list(generate(model, CHARACTERS, typed, sampling)) == list(generate(model, CHARACTERS, read, sampling))
    config = check({"prompt": typed, "stop": [typed, "x" + typed]}, GenerateConfig)
    assert (config.prompt, config.stop[0]) == (read, read)
    assert check({"sample": {"prompt": typed}}, Config).sample.prompt == read


def test_a_stop_in_another_normal_form_ends_the_text() -> None:
    model = make(vocab_size=CHARACTERS.vocab_size)

    def written(*stop: str) -> str:
        config = SamplingConfig(max_new_tokens=400, temperature=1.5, stop=list(stop))
        return "".join(piece for (piece,) in generate(model, CHARACTERS, "a", config))

    assert "\u00e9" in written()
    assert written("e\u0301") == written().partition("\u00e9")[0]


def test_a_prompt_longer_than_the_context_keeps_its_end_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, config = make(), SamplingConfig(max_new_tokens=5, temperature=0)
    with caplog.at_level(logging.WARNING):
        assert texts(model, "abcdefghijkl", config) == texts(model, "efghijkl", config)
    assert [r.getMessage() for r in caplog.records] == [
        "the prompt has 12 tokens, the context 8: only the last 8 are read"
    ]

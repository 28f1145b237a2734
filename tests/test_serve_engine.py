"""The engine against `generate`: a text is the same alone and among others that join and leave."""

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.generation import generate, generate_tokens, repetition_penalty
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.serve import engine as engines
from llm_from_scratch.serve.engine import Batch, Engine, QueueFullError
from llm_from_scratch.serve.prefixes import Prefixes
from llm_from_scratch.serve.requests import Part, Request, Text
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import LoadedModel

BLOCK = 16
FAMILIES: dict[str, dict[str, Any]] = {
    "modern": {"n_kv_head": 2},
    "gpt2": {"norm": "layernorm", "position": "learned", "activation": "gelu", "qk_norm": False, "bias": True},
    "article": {"norm": "layernorm", "norm_position": "post", "position": "sinusoidal", "tie_weights": False},
}
LETTERS = "abcdefghijklmnopqrstuvwxyz é"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PIECE", 3)


def make(family: str = "modern", block_size: int = BLOCK) -> LoadedModel:
    tokenizer = CharTokenizer.train([LETTERS])
    torch.manual_seed(0)
    sizes = {"vocab_size": tokenizer.vocab_size, "block_size": block_size, "n_layer": 2, "n_embd": 32, "init_std": 0.5}
    model = GPT(GPTConfig(**{**sizes, **FAMILIES[family]})).eval()
    return LoadedModel(model, tokenizer, None, None)


class Served:
    """Texts of a batch that is stepped by hand, and their parts."""

    def __init__(self, loaded: LoadedModel, **settings: Any) -> None:
        self.batch = Batch(loaded, **settings)
        self.parts: list[list[Part]] = []

    def add(self, prompt: list[int], **asked: Any) -> Text:
        own = {key: asked.pop(key) for key in list(asked) if key in Request.__dataclass_fields__}
        parts: list[Part] = []
        self.parts.append(parts)
        request = Request(prompt=prompt, sampling=SamplingConfig(**asked), **own)
        return self.batch.add([request], lambda place, part: parts.append(part))[0]

    def finish(self) -> None:
        while self.batch.busy:
            self.batch.step()

    def text(self, place: int) -> str:
        return "".join(part.text for part in self.parts[place])


def alone(loaded: LoadedModel, text: Text) -> list[int]:
    """The ids that `generate_tokens` chooses, up to an end of text."""
    steps = generate_tokens(loaded.model, torch.tensor([text.request.prompt]), text.request.sampling)
    found: list[int] = []
    for ids in steps:
        found.append(int(ids))
        if found[-1] == loaded.tokenizer.eot_id:
            break
    return found


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.5, "top_p": 0.8},
    {"temperature": 1.2, "min_p": 0.05, "repetition_penalty": 1.4},
    {"temperature": 0.0, "repetition_penalty": 1.7},
]


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_join_and_leave_at_random_steps_are_those_of_generate(family: str) -> None:
    loaded, rng = make(family), random.Random(1)
    served = Served(loaded, slots=5, queue=100)
    pool = [[rng.randrange(1, 20) for _ in range(40)] for _ in range(3)]  # prompts share their beginnings
    texts, cancelled = [], []
    for seed in range(40):
        prompt = pool[seed % 3][: rng.randrange(1, 40)]  # also longer than the context
        texts.append(served.add(prompt, max_new_tokens=rng.randrange(1, 40), seed=seed, **rng.choice(SETTINGS)))
        for _ in range(rng.randrange(5)):
            served.batch.step()
        if seed % 7 == 3:
            cancelled.append(texts[-1])
            texts[-1].cancel()
    served.finish()
    assert served.batch.active == 0
    kept = [text for text in texts if text not in cancelled]
    for text in kept:
        assert text.finished
        assert text.ids[len(text.request.prompt) :] == alone(loaded, text)
    assert sum(text.reused for text in kept) > 30
    assert len({tuple(text.ids[-4:]) for text in kept}) > 20


def test_a_text_is_equal_alone_and_among_31_others() -> None:
    loaded = make(block_size=64)
    asked: dict[str, Any] = {
        "max_new_tokens": 50,
        "temperature": 1.0,
        "seed": 7,
        "logprobs": 2,
        "logit_bias": {0: -100.0},
    }
    single = Served(loaded)
    single.add([1, 2, 3, 4, 5], **asked)
    single.finish()
    crowd = Served(loaded, slots=32)
    crowd.add([1, 2, 3, 4, 5], **asked)
    for seed in range(31):
        crowd.add([seed % 9 + 1] * (seed + 1), max_new_tokens=10 + seed, temperature=0.9, seed=seed)
    crowd.finish()
    mine, theirs = ([one for part in served.parts[0] for one in part.tokens] for served in (single, crowd))
    assert [one.id for one in mine] == [one.id for one in theirs]
    torch.testing.assert_close(
        torch.tensor([one.logprob for one in mine]), torch.tensor([one.logprob for one in theirs])
    )
    assert len(mine) >= 40


@pytest.mark.parametrize("stop", [[], ["e"], ["ab", "b c", "é"]])
def test_text_stop_strings_and_ends_are_those_of_generate(stop: list[str]) -> None:
    loaded = make(block_size=64)
    loaded.end_ids = (5,)
    served = Served(loaded, slots=4)
    for seed in range(12):
        served.add(loaded.tokenizer.encode("hello"), max_new_tokens=25, temperature=1.5, seed=seed, stop=stop)
    served.finish()
    for seed, parts in enumerate(served.parts):
        config = SamplingConfig(max_new_tokens=25, temperature=1.5, seed=seed, stop=stop)
        pieces = generate(loaded.model, loaded.tokenizer, "hello", config, loaded.end_ids)
        assert served.text(seed) == "".join(piece[0] for piece in pieces)
        assert all(part.finish is None for part in parts[:-1])
        assert parts[-1].finish == ("length" if parts[-1].count == 25 else "stop")


def test_a_long_prompt_is_read_in_pieces_between_the_steps_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(block_size=64)
    reads: list[int] = []
    plain: Callable[..., Tensor] = loaded.model.hidden_states

    def counted(ids: Tensor, cache: Any = None, **others: Any) -> Tensor:
        if cache.position is None:
            reads.append(ids.shape[1])
        return plain(ids, cache, **others)

    monkeypatch.setattr(loaded.model, "hidden_states", counted)
    served = Served(loaded, slots=4)
    stream = served.add([1], max_new_tokens=60, temperature=1.0)
    served.batch.step()
    long = served.add([2] * 60, max_new_tokens=1)
    short = served.add([3, 4], max_new_tokens=1)
    for _ in range(20):
        before, reads[:] = stream.written, []
        served.batch.step()
        assert sum(reads) <= 3
        assert stream.written == before + 1 or stream.finished
        if short.finished:
            break
    assert short.finished
    assert not long.finished  # the short prompt did not wait for the long one
    served.finish()
    assert long.finished


def test_a_shared_prefix_is_read_once_and_changes_no_bit() -> None:
    loaded = make(block_size=64)
    served = Served(loaded, slots=2)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    first = served.add(prompt, max_new_tokens=5, temperature=1.0, logprobs=1)
    served.finish()
    again = served.add(prompt, max_new_tokens=5, temperature=1.0, logprobs=1)
    longer = served.add([*prompt, 11], max_new_tokens=5, temperature=0.0, logprobs=1)
    other = served.add([9, *prompt[1:]], max_new_tokens=5)
    served.finish()
    assert (first.reused, again.reused, longer.reused, other.reused) == (0, 10, 9, 0)
    assert first.ids == again.ids
    assert served.parts[0][0].tokens == served.parts[1][0].tokens
    fresh = Served(loaded, slots=2)
    fresh.add([*prompt, 11], max_new_tokens=5, temperature=0.0, logprobs=1)
    fresh.finish()
    assert fresh.parts[0][0].tokens == served.parts[2][0].tokens


def test_prefixes_are_bounded_and_the_oldest_go() -> None:
    loaded = make(block_size=64)
    one = 2 * 2 * 2 * 3 * 8 * 4  # keys and values, layers, heads, positions, size, bytes
    served = Served(loaded, slots=1, prefixes=Prefixes(4 * one))
    kept = served.batch.prefixes
    for start in range(6):
        served.add([start + 1] * 9, max_new_tokens=1)
        served.finish()
        assert kept.used <= kept.size
        assert kept.used == sum(piece.size for piece in kept.pieces.values())
    assert len(kept.pieces) >= 3


def test_a_cancelled_text_frees_its_slot_at_the_next_step() -> None:
    served = Served(make(block_size=64), slots=2)
    texts = [served.add([i + 1, 2], max_new_tokens=50, logit_bias={0: -100.0}) for i in range(3)]
    for _ in range(3):
        served.batch.step()
    assert (served.batch.active, len(served.batch.waiting)) == (2, 1)
    count = len(served.parts[0])
    texts[0].cancel()
    served.batch.step()
    assert texts[2].admitted is not None
    assert len(served.parts[0]) == count
    assert len(served.batch.waiting) == 0
    served.finish()
    assert [text.finished for text in texts] == [False, True, True]


def test_a_full_queue_refuses_all_texts_of_a_request() -> None:
    batch = Batch(make(), slots=1, queue=3)
    request = Request(prompt=[1], sampling=SamplingConfig())
    batch.add([request] * 2, lambda place, part: None)
    with pytest.raises(QueueFullError, match="queue of 3"):
        batch.add([request] * 2, lambda place, part: None)
    assert len(batch.waiting) == 2


def test_penalties_and_biases_on_numbers_worked_out_by_hand() -> None:
    loaded = make(block_size=64)
    served = Served(loaded)
    text = served.add([1], presence_penalty=0.5, frequency_penalty=0.25, logit_bias={2: -100.0, 3: 1.5})
    text.counts.update([4, 4, 5])
    logits = torch.zeros(1, 8)
    assert text.adjust(logits).tolist() == [[0, 0, -100, 1.5, -1.0, -0.75, 0, 0]]
    assert logits.abs().sum() == 0
    forced = served.add([1], max_new_tokens=4, logit_bias={6: 100.0}, temperature=1.0)
    served.batch.waiting.remove(text)
    served.finish()
    assert forced.ids == [1, 6, 6, 6, 6]
    varied = served.add([1], max_new_tokens=10, temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0)
    served.finish()
    ids, plain = [1], loaded.model
    for _ in range(varied.written):
        logits = plain(torch.tensor([ids]))[0, -1]
        for token in set(ids[1:]):
            logits[token] -= 2.0 + 2.0 * ids[1:].count(token)
        ids.append(int(logits.argmax()))
    assert varied.ids == ids


def test_log_probabilities_of_prompt_and_text_are_those_of_a_plain_pass() -> None:
    loaded = make(block_size=64)
    served = Served(loaded)
    asked: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.3, "logit_bias": {0: -100.0}}
    text = served.add([1, 2, 3, 4, 5, 6, 7], logprobs=3, prompt_logprobs=True, **asked)
    scored = served.add([1, 2, 3, 4], logprobs=0, prompt_logprobs=True, writes=False)
    served.finish()
    expected = loaded.model(torch.tensor([text.ids])).log_softmax(dim=-1)[0].detach()
    prompt = [one for part in served.parts[0] for one in part.prompt]
    tokens = [one for part in served.parts[0] for one in part.tokens]
    assert [one.id for one in prompt + tokens] == text.ids
    assert prompt[0].logprob is None
    for place, one in enumerate((prompt + tokens)[1:]):
        assert one.logprob == pytest.approx(float(expected[place, one.id]), abs=1e-5)
        assert [i for i, _ in one.top] == expected[place].topk(3).indices.tolist()
    assert [one.id for one in served.parts[1][0].prompt] == [1, 2, 3, 4]
    assert (served.parts[1][0].finish, scored.written) == ("length", 0)


def test_tokens_come_with_the_characters_that_they_begin() -> None:
    loaded = make(block_size=64)
    served = Served(loaded)
    stop = ["zz"]
    text = served.add([1], max_new_tokens=40, temperature=2.0, logprobs=0, stop=stop, seed=3)
    served.finish()
    whole = served.text(0)
    shown = [one for part in served.parts[0] for one in part.tokens]
    decoded = loaded.tokenizer.decode([one.id for one in shown])
    assert decoded.startswith(whole)
    for one in shown:
        assert whole[one.start :].startswith(loaded.tokenizer.decode([one.id])[:1])
    assert text.finished


def test_a_model_that_answers_with_nan_fails_its_texts_alone() -> None:
    loaded = make("article")  # whose head has weights of its own
    with torch.no_grad():
        loaded.model.token_embedding.weight[3] = float("nan")
    served = Served(loaded)
    served.add([3], max_new_tokens=3)
    served.add([3], writes=False, prompt_logprobs=True)
    # The next one writes the token itself, and reads NaN a step later.
    served.add([1], max_new_tokens=3, logit_bias={3: 100.0})
    other = served.add([2], max_new_tokens=3, logit_bias={3: -100.0, 0: -100.0})
    served.finish()
    for parts in served.parts[:3]:
        assert "NaN" in str(parts[-1].error)
    assert (other.written, served.batch.active) == (3, 0)


@pytest.mark.parametrize("place", ["_open", "_read_piece", "_begin", "_choose"])
def test_an_error_at_any_place_ends_every_text(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(make(), slots=3)
    for start in range(3):
        served.add([1 + start] * (4 + 5 * start), max_new_tokens=30, logit_bias={0: -100.0})
        if start < 2:
            served.batch.step()
    monkeypatch.setattr(served.batch, place, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        served.finish()
    served.batch.fail(ZeroDivisionError())
    assert [type(parts[-1].error) for parts in served.parts] == [ZeroDivisionError] * 3
    assert not served.batch.busy


def test_a_batch_goes_on_after_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(make(block_size=1024), slots=3)
    served.add([1] * 200, max_new_tokens=3)

    def no_memory(*_: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(Tensor, "new_zeros", no_memory)
    with pytest.raises(MemoryError):
        served.finish()
    monkeypatch.undo()
    served.batch.fail(MemoryError())
    text = served.add([1] * 3, max_new_tokens=3, logit_bias={0: -100.0})
    served.finish()
    assert text.written == 3


def test_the_thread_serves_many_threads_and_survives_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(block_size=64)
    engine = Engine({"one": Batch(loaded, slots=4), "two": Batch(make("gpt2", 64), slots=2)})
    engine.start()
    results: dict[int, list[Part]] = {}

    def ask(seed: int) -> None:
        done, parts = threading.Event(), results.setdefault(seed, [])
        config = SamplingConfig(max_new_tokens=20, seed=seed, temperature=1.0)

        def on_part(place: int, part: Part) -> None:
            parts.append(part)
            if part.finish or part.error:
                done.set()

        engine.submit("one" if seed % 3 else "two", [Request(prompt=[1, 2, 3], sampling=config)], on_part)
        assert done.wait(120)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2, 4):
        config = SamplingConfig(max_new_tokens=20, seed=seed, temperature=1.0)
        expected = "".join(piece[0] for piece in generate(loaded.model, loaded.tokenizer, [1, 2, 3], config))
        assert "".join(part.text for part in results[seed]) == expected
    broken = engine.batches["one"]
    monkeypatch.setattr(broken.slots, "decode", lambda *_: 1 / 0)
    ask(100)
    assert isinstance(results[100][-1].error, ZeroDivisionError)
    monkeypatch.undo()
    ask(101)
    assert results[101][-1].finish
    engine.close()
    assert not engine.alive


def test_a_model_that_is_replaced_ends_the_texts_that_it_began() -> None:
    before, after = make(block_size=64), make("gpt2", 64)
    prompts = ([3, 4, 5], [6, 7], [3, 4, 5])  # is written, waits, comes later
    texts: list[list[Part]] = [[], [], []]
    begun, go, done = threading.Event(), threading.Event(), threading.Semaphore(0)

    def asked(prompt: list[int]) -> Request:
        sampling = SamplingConfig(max_new_tokens=30, temperature=0.0)
        return Request(prompt=prompt, sampling=sampling, logit_bias={0: -100.0})

    def ask(engine: Engine, number: int) -> None:
        def on_part(place: int, part: Part) -> None:
            begun.set()
            assert go.wait(60)
            texts[number].append(part)
            if part.finish:
                done.release()

        engine.submit("a", [asked(prompts[number])], on_part)

    engine = Engine({"a": Batch(before, slots=1)})
    engine.start()
    ask(engine, 0)
    ask(engine, 1)
    assert begun.wait(60)
    first = engine.batches["a"]
    engine.replace("a", Batch(after, slots=1))
    ask(engine, 2)
    go.set()
    for _ in prompts:
        assert done.acquire(timeout=60)
    for prompt, parts, loaded in zip(prompts, texts, (before, before, after), strict=True):
        alone = Served(loaded)
        alone.batch.add([asked(prompt)], lambda place, part, alone=alone: alone.parts.append([part]))
        alone.finish()
        assert "".join(part.text for part in parts) == "".join(part.text for (part,) in alone.parts)
    assert "".join(part.text for part in texts[0]) != "".join(part.text for part in texts[2])
    engine.close()
    assert not first.busy
    assert engine.batches["a"].loaded is after


def test_a_repetition_penalty_sees_the_prompt() -> None:
    loaded = make(block_size=64)
    served = Served(loaded)
    text = served.add([1, 2, 3], max_new_tokens=12, temperature=0.0, repetition_penalty=1.9)
    served.finish()
    ids = torch.tensor([[1, 2, 3]])
    for _ in range(text.written):
        logits = repetition_penalty(loaded.model(ids)[:, -1], ids, 1.9)
        ids = torch.cat((ids, logits.argmax(dim=-1, keepdim=True)), dim=1)
    assert ids[0].tolist() == text.ids


def test_the_memory_of_slots_follows_the_longest_text() -> None:
    served = Served(make(block_size=1024), slots=4)
    slots = served.batch.slots
    assert slots.bytes_a_text() == 2 * 2 * 2 * 1024 * 8 * 4  # both, layers, heads, positions, size, bytes
    served.add([1] * 300, max_new_tokens=8, logit_bias={0: -100.0})
    served.add([2] * 3, max_new_tokens=2, logit_bias={0: -100.0})
    sizes = []
    while served.batch.busy:
        served.batch.step()
        sizes.append(slots.capacity)
    assert (max(sizes), sizes[-1]) == (512, 1)
    assert all(len(served.text(place)) for place in range(2))
    short = served.add([3] * 5, max_new_tokens=3, logit_bias={0: -100.0})
    served.finish()
    assert (short.written, slots.capacity) == (3, 128)  # kept: the smallest size

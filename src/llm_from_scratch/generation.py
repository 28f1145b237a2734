"""Generation: prompt -> ids -> (logits -> filters -> one sampled id) repeated -> streamed text.

`prefill` reads the prompt into the key/value cache, `decode` reads one more token;
`generate_tokens` loops over them, and `generate` turns ids into text. `generate_with_temperature`
is the article's loop without a cache: the plain twin, which chooses the same ids.

Shapes: B batch (samples), T time (positions), V vocabulary.
"""

import codecs
import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.errors import UserError
from llm_from_scratch.model import GPT, KVCache
from llm_from_scratch.static_step import Sampler, StaticStep, attention_kernels, bucket
from llm_from_scratch.tokenizer import Tokenizer, begin_ids

log = logging.getLogger(__name__)

WORTH_CAPTURE = 32  # fewest new tokens for a CUDA graph: its capture costs tens of plain steps


# ---------------------------------------------------------- filters: logits (B, V) -> logits (B, V)
# Divisors and top_p are clamped to [1 / EXTREME, EXTREME]: beyond, float32 overflows or has 0. A
# setting reaches its limit long before.
EXTREME = 1e30


def relative(logits: Tensor) -> Tensor:
    """Subtracts each row's largest logit: an overflow in a filter then means probability 0."""
    top = logits.amax(dim=-1, keepdim=True)
    return torch.where(logits == top, 0.0, logits - top)


def temperature(logits: Tensor, value: float) -> Tensor:
    """Divides logits by a temperature above 0 (Ackley, Hinton & Sejnowski 1985)."""
    return logits / _bounded(value)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps the k likeliest tokens, and ties with the k-th (Fan, Lewis & Dauphin 2018)."""
    kth = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the fewest likeliest tokens whose probabilities sum to p (Holtzman et al. 2020)."""
    ordered, index = logits.sort(descending=True)
    probabilities = ordered.softmax(dim=-1)
    above = probabilities.cumsum(dim=-1) - probabilities  # the probability of all likelier tokens
    outside = torch.zeros_like(logits, dtype=torch.bool).scatter(1, index, above >= _bounded(p))
    return logits.masked_fill(outside, -math.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keeps tokens with at least p times the largest probability (Nguyen et al. 2024)."""
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


def repetition_penalty(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Penalizes tokens of the prompt and the text so far, ids (B, T) (Keskar et al. 2019).

    Their positive logits are divided by the penalty, the other ones multiplied by it.
    """
    seen, penalty = logits.gather(1, ids), _bounded(penalty)
    return logits.scatter(1, ids, torch.where(seen > 0, seen / penalty, seen * penalty))


def _bounded(value: float) -> float:
    return min(max(value, 1 / EXTREME), EXTREME)


def penalized(logits: Tensor, ids: Tensor, config: SamplingConfig) -> Tensor:
    """Applies the repetition penalty to logits (B, V) after ids (B, T); returns float32."""
    logits = logits.float()
    return logits if config.repetition_penalty == 1 else repetition_penalty(logits, ids, config.repetition_penalty)


def filtered(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Applies a temperature above 0, then top_k, top_p and min_p to logits (B, V)."""
    logits = temperature(relative(logits), config.temperature)
    if config.top_k is not None:
        logits = top_k(logits, config.top_k)
    if config.top_p is not None and config.top_p < 1:
        logits = top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = min_p(logits, config.min_p)
    return logits


def sample(logits: Tensor, ids: Tensor, config: SamplingConfig, noise: Tensor | None) -> Tensor:
    """Chooses the next ids (B,) from logits (B, V) after ids (B, T).

    `noise` (B, V) comes from `draw_noise`; None is greedy decoding.
    """
    logits = penalized(logits, ids, config)
    if noise is None:
        return logits.argmax(dim=-1)
    # Exponential race: argmax(p / Exp(1)) is i with probability p_i, as in `torch.multinomial`.
    return (filtered(logits, config).softmax(dim=-1) / noise).argmax(dim=-1)


def draw_noise(logits: Tensor, config: SamplingConfig, generator: torch.Generator) -> Tensor | None:
    """Draws exponential noise (B, V) for `sample`, or returns None for greedy decoding."""
    return (
        torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator) if config.temperature else None
    )


# ------------------------------------------------------------------------------------------- tokens
def window_start(start: int, length: int, block_size: int) -> int:
    """Returns the 0-based start of the context in a text of `length` tokens.

    `start` is the previous one. The context grows to block_size tokens; then its older half is
    dropped. Dropping one token at a time would shift all positions and recompute the cache at
    every token; dropping halves recomputes it once in block_size / 2 tokens.
    """
    return start if length - start <= block_size else length - (block_size + 1) // 2


def prefill(model: GPT, ids: Tensor, cache: KVCache) -> Tensor:
    """Empties the cache, reads ids (B, T) into it and returns logits (B, V) of the next token.

    A single text (1, T) is read once, and its keys and values are copied to all B samples of the
    cache.
    """
    cache.reset()
    rows = len(cache.keys[0])
    if len(ids) == rows:
        with attention_kernels(ids.device):
            return model.logits(model.hidden_states(ids, cache)[:, -1])
    device, dtype = cache.keys[0].device, cache.keys[0].dtype
    one = KVCache(model.config, 1, ids.shape[1], device, dtype)
    logits = prefill(model, ids, one)
    for of_all, of_one in zip(cache.keys + cache.values, one.keys + one.values, strict=True):
        of_all[:, :, : one.length] = of_one
    cache.length = one.length
    return logits.expand(rows, -1)


def decode(model: GPT, ids: Tensor, cache: KVCache) -> Tensor:
    """Reads one token (B,) after those in the cache and returns logits (B, V) of the next one."""
    with attention_kernels(ids.device):
        return model(ids[:, None], cache)[:, 0]


@torch.inference_mode()
def generate_tokens(
    model: GPT, ids: Tensor, config: SamplingConfig, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Continues ids (B, T), T >= 1, by `max_new_tokens` tokens; (1, T) gives `num_samples` samples.

    A prompt longer than the context keeps its last block_size tokens, with a warning. `generator`
    is on the device of ids; None: one with the seed of the config. The model runs in evaluation
    mode and gets its earlier mode back.

    Yields:
        the next ids (B,), or (num_samples,), of each step.

    Raises:
        UserError: when the logits after the prompt hold NaN.
    """
    block_size, was_training = model.config.block_size, model.training
    length = ids.shape[1]
    start = max(0, length - block_size)
    if start:
        log.warning(
            "the prompt has %d tokens, the context %d: only the last %d are read", length, block_size, block_size
        )
    generator = generator or torch.Generator(ids.device).manual_seed(config.seed)
    prompt, rows = ids[:, start:], config.num_samples if len(ids) == 1 else len(ids)
    capacity = bucket(length - start + config.max_new_tokens - 1, block_size)
    cache = KVCache(model.config, rows, capacity, ids.device, model.token_embedding.weight.dtype)
    room = ids.new_zeros(rows, config.max_new_tokens)
    ids = torch.cat((ids.expand(rows, -1), room), dim=1)
    model.eval()

    def choose(logits: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
        return sample(logits, text, config, draw_noise(logits, config, generator))

    step = static_step(model, cache, ids, choose, generator, config) if static(config, ids.device) else None
    try:
        logits = prefill(model, prompt, cache)
        if logits.isnan().any():
            raise UserError(
                "the model answers with NaN: its training diverged, or its weights are damaged; use another one"
            )
        ids[:, length] = choose(logits, ids[:, :length], generator)
        while True:
            yield ids[:, length]
            length += 1
            if length == ids.shape[1]:
                return
            if cache.length == block_size:
                start = window_start(start, length, block_size)
                logits = prefill(model, ids[:, start:length], cache)
            elif step:
                step(length)
                continue
            else:
                logits = decode(model, ids[:, length - 1], cache)
            ids[:, length] = choose(logits, ids[:, :length], generator)
    finally:
        model.train(was_training)


def static(config: SamplingConfig, device: torch.device) -> bool:
    """Returns whether a `StaticStep` decodes; `auto`: on CUDA, for 32 or more new tokens."""
    if config.compile == "auto":
        return device.type == "cuda" and config.max_new_tokens >= WORTH_CAPTURE
    return bool(config.compile)


def static_step(
    model: GPT, cache: KVCache, ids: Tensor, choose: Sampler, generator: torch.Generator, config: SamplingConfig
) -> StaticStep:
    """Builds the step with fixed shapes; without filters, its fused kernels also choose the ids."""
    penalised = config.repetition_penalty != 1
    filtered = penalised or not (config.top_k is None and config.top_p in (None, 1) and config.min_p is None)
    temperature = None if filtered else config.temperature and _bounded(config.temperature)
    return StaticStep(
        model,
        cache,
        ids,
        choose,
        generator,
        compiled=config.compile is True,
        reads_text=penalised,
        temperature=temperature,
    )


@torch.no_grad()
def generate_with_temperature(
    model: GPT, ids: Tensor, max_new_tokens: int, temperature: float, generator: torch.Generator
) -> Tensor:
    """Continues ids (B, T) -> (B, T + max_new_tokens), as the article does.

    The plain twin of `generate_tokens`: without a cache, each token recomputes the whole context.
    Call `model.eval()` first. Temperature 0 is greedy decoding.
    """
    start = max(0, ids.shape[1] - model.config.block_size)
    for _ in range(max_new_tokens):
        start = window_start(start, ids.shape[1], model.config.block_size)
        logits = model(ids[:, start:])[:, -1]  # (B, V)
        if temperature == 0:
            next_ids = logits.argmax(dim=-1, keepdim=True)
        else:
            scaled = relative(logits) / _bounded(temperature)
            next_ids = scaled.softmax(dim=-1).multinomial(1, generator=generator)
        ids = torch.cat((ids, next_ids), dim=1)
    return ids


def to_host(tokens: Iterator[Tensor], at_a_time: int = 16) -> Iterator[list[int]]:
    """Yields the ids (B,) of each step as a list on the host.

    A GPU would wait for each copy. So the first step is copied at once, later ones 2, 4, …
    `at_a_time` steps together while the following steps run. On a CPU each is copied at once.
    """
    held: list[Tensor] = []
    copies: deque[_Copy] = deque()
    size = 1
    for ids in tokens:
        held.append(ids)
        if len(held) < size and ids.device.type != "cpu":
            continue
        copies.append(_Copy(held))
        if size == 1 or len(copies) == 2:
            yield from copies.popleft().wait()
        if ids.device.type != "cpu":
            size = min(2 * size, at_a_time)
        held = []
    if held:
        copies.append(_Copy(held))
    for copy in copies:
        yield from copy.wait()


class _Copy:
    """Asynchronous copy of the ids (B,) of several steps to the host."""

    def __init__(self, steps: list[Tensor]) -> None:
        on_gpu = steps[0].device.type == "cuda"
        self.ids = torch.stack(steps).to("cpu", non_blocking=on_gpu)  # into pinned memory
        self.event = torch.cuda.Event() if on_gpu else None
        if self.event:
            self.event.record()

    def wait(self) -> list[list[int]]:
        """Waits for the copy and returns the B ids of each step."""
        if self.event:
            self.event.synchronize()
        return self.ids.tolist()


# --------------------------------------------------------------------------------------------- text
class TextStream:
    """Incremental UTF-8 decoder of one sample, which ends at a stop string.

    The stream holds back incomplete characters and text that may begin a stop string. Its output
    does not depend on how the bytes were cut into pushes. Invalid UTF-8 becomes U+FFFD.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.ended = False
        self.stopped = False  # at a stop string
        self._stop = stop
        self._held = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes, final: bool = False) -> str:
        """Adds bytes and returns the text that no later byte can change, before any stop string.

        The stream ends after the final bytes or a stop string; it then returns "".
        """
        if self.ended:
            return ""
        text = self._held + self._decoder.decode(data, final)
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stop if stop in text]
        if found:  # the stop string that ends first
            self.ended = self.stopped = True
            return text[: min(found)[1]]
        self.ended = final
        certain = len(text) if final else len(text) - self._possible_stop(text)
        self._held = text[certain:]
        return text[:certain]

    @property
    def held(self) -> int:
        """The number of characters that are held back."""
        return len(self._held)

    def _possible_stop(self, text: str) -> int:
        """Returns the length of the longest suffix of the text that begins a stop string, or 0."""
        longest = max(map(len, self._stop), default=1) - 1
        return next((n for n in range(min(longest, len(text)), 0, -1) if self._begins(text[-n:])), 0)

    def _begins(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stop)


def generate(
    model: GPT, tokenizer: Tokenizer, prompt: str | Sequence[int], config: SamplingConfig, end_ids: Sequence[int] = ()
) -> Iterator[list[str]]:
    """Continues the prompt on the model's device and streams the new text.

    A sample ends at an end-of-text token, at one of `end_ids`, which have no text either, before a
    stop string, or after max_new_tokens. An empty prompt starts a document, with an end-of-text
    token. The prompt is cleaned as the corpus was (`clean_typed`), unless its ids are given, such
    as those of a conversation. The same seed gives the same text on a CPU.

    Yields:
        for each token the new text of every sample, "" where the sample has ended or its bytes may
        still change; a sample's parts, joined, are its text.

    Raises:
        UserError: at the call, when the tokenizer does not know a character of the prompt.
    """
    given = [*begin_ids(tokenizer), *tokenizer.encode(clean_typed(prompt))] if isinstance(prompt, str) else [*prompt]
    prompt_ids = given or [tokenizer.eot_id]
    ids = torch.tensor(prompt_ids, device=model.token_embedding.weight.device)[None]
    ends = {tokenizer.eot_id, *end_ids}

    def pieces() -> Iterator[list[str]]:
        streams = [TextStream(config.stop) for _ in range(config.num_samples)]
        for step, tokens in enumerate(to_host(generate_tokens(model, ids, config)), start=1):
            last = step == config.max_new_tokens
            yield [
                stream.push(b"" if token in ends else tokenizer.decode_bytes([token]), final=last or token in ends)
                for stream, token in zip(streams, tokens, strict=True)
            ]
            if all(stream.ended for stream in streams):
                return

    return pieces()

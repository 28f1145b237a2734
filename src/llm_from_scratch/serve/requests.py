"""One text of a request: its settings, its own generator, its stop strings, what was written.

A text is a function of (prompt, settings, seed): nothing here depends on the texts beside it.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.generation import TextStream
from llm_from_scratch.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for one text. The penalties and biases are those of OpenAI's interface.

    Attributes:
        prompt: ids, at least one.
        sampling: as generate.py takes it; one sample.
        presence_penalty: is subtracted from the logit of every token written so far.
        frequency_penalty: the same, as many times as the token was written.
        logit_bias: is added to the logits of these ids.
        logprobs: how many likeliest tokens are told beside each one; None: no log-probabilities.
        prompt_logprobs: whether they are told for the tokens of the prompt, too.
        writes: False only reads the prompt.
        next_logits: whether the last part has the logits behind a prompt that is only read.
    """

    prompt: Sequence[int]
    sampling: SamplingConfig
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    prompt_logprobs: bool = False
    writes: bool = True
    next_logits: bool = False


@dataclass(frozen=True)
class TokenInfo:
    """A token, ln of its probability under the model, the likeliest tokens there.

    `start` is the place of its first character in the text; `logprob` is None for the first token
    of a prompt, which follows nothing.
    """

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    start: int


@dataclass(frozen=True)
class Part:
    """The next part of a text. The last one has a reason to finish, or the error that ended it.

    `count` is the number of tokens written so far, `reused` that of the prompt's tokens that were
    not read again. `logits` (V,) are float32 on the CPU.
    """

    text: str = ""
    tokens: tuple[TokenInfo, ...] = ()
    prompt: tuple[TokenInfo, ...] = ()
    finish: str | None = None  # stop | length
    error: Exception | None = None
    count: int = 0
    reused: int = 0
    logits: Tensor | None = None


def joined(parts: Sequence[Part]) -> Part:
    """Returns the parts of one text as one."""
    last = parts[-1]
    return Part(
        "".join(part.text for part in parts),
        tuple(one for part in parts for one in part.tokens),
        tuple(one for part in parts for one in part.prompt),
        last.finish,
        last.error,
        last.count,
        last.reused,
        last.logits,
    )


class Text:
    """A text while it is written.

    `on_part` is called in the engine's thread for each part. `cancel` may be called in any thread;
    no part follows once the engine has seen it.
    """

    def __init__(
        self, request: Request, tokenizer: Tokenizer, ends: frozenset[int], on_part: Callable[[Part], None]
    ) -> None:
        self.request, self.tokenizer, self.ends, self.on_part = request, tokenizer, ends, on_part
        self.ids = [*request.prompt]
        self.start = 0  # of the context within ids
        self.length = 0  # positions of the context that a slot holds
        self.stream = TextStream(request.sampling.stop)
        self.generator: torch.Generator | None = None
        self.counts: Counter[int] = Counter()
        self.cancelled = self.finished = False
        self.reused = 0
        self.submitted = time.monotonic()
        self.admitted: float | None = None
        self.first: float | None = None  # when its first token was chosen
        self._shown = 0  # characters that were given out
        self._held: list[TokenInfo] = []  # tokens whose characters are held back
        self._prompt: list[TokenInfo] = []

    @property
    def written(self) -> int:
        """The number of tokens written so far."""
        return len(self.ids) - len(self.request.prompt)

    def cancel(self) -> None:
        """Asks the engine to drop the text before its next step."""
        self.cancelled = True

    def adjust(self, logits: Tensor) -> Tensor:
        """Applies biases and penalties to logits (1, V)."""
        asked = self.request
        if asked.logit_bias:
            logits = logits.float().clone()
            for token, bias in asked.logit_bias.items():
                logits[0, token] += bias
        if self.counts and (asked.presence_penalty or asked.frequency_penalty):
            places = torch.tensor([*self.counts], device=logits.device)
            times = torch.tensor([*self.counts.values()], device=logits.device)
            logits = logits.float().clone()
            logits[0, places] -= asked.presence_penalty + asked.frequency_penalty * times
        return logits

    def describe(self, token: int, logits: Tensor, start: int) -> TokenInfo:
        """Returns a token's log-probability and the likeliest ones under logits (V,)."""
        logprobs = logits.float().log_softmax(dim=-1)
        best = logprobs.topk(min(self.request.logprobs or 0, len(logprobs)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return TokenInfo(token, float(logprobs[token]), top, start)

    def read(self, start: int, logits: Tensor) -> None:
        """Records log-probabilities of the prompt: logits (T, V) behind the tokens from `start`."""
        prompt, tokens = self.request.prompt, self._prompt
        if not tokens:
            tokens.append(TokenInfo(prompt[0], None, (), 0))
        for place, row in enumerate(logits, start=start + 1):
            if place < len(prompt):
                tokens.append(self.describe(prompt[place], row, 0))

    def skip(self, logits: Tensor) -> None:
        """Ends a text of which the prompt alone was asked for; logits (V,) follow it."""
        found = logits.float().cpu() if self.request.next_logits else None
        self._give(Part(prompt=tuple(self._prompt), finish="length", reused=self.reused, logits=found))

    def write(self, token: int, logits: Tensor) -> None:
        """Appends a token that was chosen from logits (V,), and gives out what is certain."""
        if self.first is None:
            self.first = time.monotonic()
        self.ids.append(token)
        self.counts[token] += 1
        start = self._shown + self.stream.held
        if self.request.logprobs is not None and token not in self.ends:
            self._held.append(self.describe(token, logits, start))
        ended = token in self.ends
        final = ended or self.written == self.request.sampling.max_new_tokens
        text = self.stream.push(b"" if ended else self.tokenizer.decode_bytes([token]), final=final)
        self._shown += len(text)
        finish = None
        if self.stream.ended:
            finish = "stop" if ended or self.stream.stopped else "length"
        ready = [
            one for one in self._held if one.start < self._shown or (self.stream.ended and not self.stream.stopped)
        ]
        self._held = self._held[len(ready) :]
        prompt, self._prompt = tuple(self._prompt), []
        self._give(Part(text, tuple(ready), prompt, finish, count=self.written, reused=self.reused))

    def fail(self, error: Exception) -> None:
        """Ends the text with an error."""
        self._give(Part(error=error, count=self.written, reused=self.reused))

    def _give(self, part: Part) -> None:
        self.finished = part.finish is not None or part.error is not None
        if part.text or part.tokens or part.prompt or self.finished:
            self.on_part(part)

"""The shapes of OpenAI's answers: completions, chat completions, their parts, models, errors."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # see responses
    from llm_from_scratch.serve.requests import Part, TokenInfo
    from llm_from_scratch.tokenizer import Tokenizer

Json = dict[str, Any]


class ApiError(Exception):
    """An error that a client is told, with its HTTP status.

    `param` names the setting that is wrong, `code` the kind of mistake.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})
        self.kind, self.param, self.code = kind, param, code

    def body(self) -> Json:
        """Returns the error in OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def encoded(value: object) -> bytes:
    """Returns JSON in ASCII: half a character of a hostile request is an escape in it."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def event(value: object) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + encoded(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Returns a token's text; a part of a character is written as `bytes:\\xe2`."""
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def starts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Returns the place of each token's first character in the text of ids."""
    decoder, length, found = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0, []
    for token in ids:
        found.append(length)
        length += len(decoder.decode(tokenizer.decode_bytes([token])))
    return found


def usage(prompt: int, written: int, reused: int) -> Json:
    """Returns the count of tokens of a request."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": reused},
    }


def completion_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenInfo], offsets: Sequence[int], top: int) -> Json:
    """Returns log-probabilities as completions have them."""
    alternatives: list[dict[str, float] | None] = []
    for one in tokens:
        found: dict[str, float] = {}
        for token, logprob in one.top:
            found.setdefault(token_text(tokenizer, token), finite(logprob))
        if one.logprob is not None:
            found.setdefault(token_text(tokenizer, one.id), finite(one.logprob))
        alternatives.append(None if one.logprob is None else found)
    return {
        "tokens": [token_text(tokenizer, one.id) for one in tokens],
        "token_logprobs": [None if one.logprob is None else finite(one.logprob) for one in tokens],
        "top_logprobs": alternatives if top else None,
        "text_offset": list(offsets),
    }


def finite(logprob: float) -> float:
    """Returns a log-probability as JSON can hold it; OpenAI's interface has -9999 for ln 0."""
    return max(logprob, -9999.0)


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenInfo]) -> Json:
    """Returns log-probabilities as chat completions have them."""

    def one_of(token: int, logprob: float) -> Json:
        data = tokenizer.decode_bytes([token])
        return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": [*data]}

    return {
        "content": [
            one_of(one.id, one.logprob or 0.0) | {"top_logprobs": [one_of(*pair) for pair in one.top]} for one in tokens
        ],
        "refusal": None,
    }


class Answer:
    """The answer to one request, part by part or as a whole.

    Args:
        head: what all parts share: id, created, model, …
        tokenizer: the model's.
        chat: whether it is a chat completion.
        logprobs: the number of likeliest tokens told; None: no log-probabilities.
        echoes: for each choice the ids of the prompt that are repeated before it; None: not asked.
    """

    def __init__(
        self,
        head: Json,
        tokenizer: Tokenizer,
        *,
        chat: bool,
        logprobs: int | None,
        echoes: Sequence[tuple[str, Sequence[int]]] | None = None,
    ) -> None:
        self.head, self.tokenizer, self.chat, self.logprobs, self.echoes = head, tokenizer, chat, logprobs, echoes
        self.begun: set[int] = set()

    @property
    def kind(self) -> str:
        """The name of the whole answer's shape."""
        return "chat.completion" if self.chat else "text_completion"

    def _logprobs(self, index: int, part: Part) -> Json | None:
        if self.logprobs is None:
            return None
        if self.chat:
            return chat_logprobs(self.tokenizer, part.tokens)
        text, ids = self.echoes[index] if self.echoes is not None else ("", [])
        offsets = starts(self.tokenizer, ids)[: len(part.prompt)] + [len(text) + one.start for one in part.tokens]
        return completion_logprobs(self.tokenizer, [*part.prompt, *part.tokens], offsets, self.logprobs)

    def whole(self, parts: Sequence[Part], counted: Json) -> Json:
        """Returns the whole answer of the joined parts of each choice."""
        choices: list[Json] = []
        for index, part in enumerate(parts):
            choice: Json = {"index": index, "logprobs": self._logprobs(index, part), "finish_reason": part.finish}
            if self.chat:
                choice["message"] = {"role": "assistant", "content": part.text, "refusal": None}
            else:
                choice["text"] = (self.echoes[index][0] if self.echoes is not None else "") + part.text
            choices.append(choice)
        return self.head | {"object": self.kind, "choices": choices, "usage": counted}

    def chunks(self, index: int, part: Part, more: Json) -> list[Json]:
        """Returns the chunks that stream a part; `more` is added to each."""
        head = self.head | {"object": "chat.completion.chunk" if self.chat else self.kind} | more
        first = index not in self.begun
        self.begun.add(index)
        choices: list[Json] = []
        if not self.chat:
            text = self.echoes[index][0] if first and self.echoes is not None else ""
            logprobs = self._logprobs(index, part)
            choices.append(
                {"index": index, "text": text + part.text, "logprobs": logprobs, "finish_reason": part.finish}
            )
        else:
            if first:
                delta: Json = {"role": "assistant", "content": ""}
                choices.append({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
            if part.text or part.tokens:
                logprobs = self._logprobs(index, part)
                delta = {"content": part.text}
                choices.append({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None})
            if part.finish:
                choices.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": part.finish})
        return [head | {"choices": [choice]} for choice in choices]

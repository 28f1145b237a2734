"""What a client sends, checked -> the requests of the engine.

The fields are OpenAI's; `top_k`, `min_p` and `repetition_penalty` are this project's own (in the
official client: `extra_body`). A field that has no effect here is refused.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.errors import UserError, missing_extra
from llm_from_scratch.serve.answers import ApiError
from llm_from_scratch.serve.requests import Request
from llm_from_scratch.tokenizer import Tokenizer, begin_ids
from llm_from_scratch.weights import LoadedModel

try:
    from pydantic import BaseModel, ConfigDict, Field, model_validator
except ImportError as error:
    raise missing_extra("serve needs pydantic", "serve", str(error)) from None

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_BIASES = 1024
MAX_FIELDS = 100
MAX_IDS = 2**16  # of a text of the playground
PLAY_DEFAULTS: dict[str, Any] = {"seed": 1, "max_tokens": 60}
UNSUPPORTED = {
    "best_of": "is not supported: ask for n texts",
    "suffix": "is not supported: the models write forward alone",
    "tools": "is not supported",
    "functions": "is not supported",
    "tool_choice": "is not supported",
    "function_call": "is not supported",
    "modalities": "is not supported: there is text alone",
    "audio": "is not supported: there is text alone",
    "reasoning_effort": "is not supported",
}
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
IdName = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
Id = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Id], Field(fail_fast=True, min_length=1)]  # the first wrong one is an error
PlayIds = Annotated[list[Id], Field(fail_fast=True, min_length=1, max_length=MAX_IDS)]


class Body(BaseModel):
    """A body, or a part of one, whose fields are all known."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def refuse_many(cls, given: Any) -> Any:
        """Refuses a flood of names, each of which would be an error of its own."""
        if isinstance(given, dict) and len(given) > MAX_FIELDS:
            raise ValueError(f"more than {MAX_FIELDS} settings")
        return given


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Sampling(Body):
    """The settings of sampling that every request has, the playground's too."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: int | None = None  # modulo 2^63


class Settings(Sampling):
    """The settings that both kinds of request have."""

    model: str = Field(max_length=200)
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[IdName, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=MAX_BIASES
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=1000)] | None = None  # a client's own note

    @model_validator(mode="before")
    @classmethod
    def refuse_unsupported(cls, given: Any) -> Any:
        """Refuses what OpenAI's interface has and this server has not, unless it is null."""
        if not isinstance(given, dict):
            return given
        # Every wrong bias would be an error of its own.
        if isinstance(bias := given.get("logit_bias"), dict) and len(bias) > MAX_BIASES:
            raise ValueError(f"more than {MAX_BIASES} biases")
        for name, reason in UNSUPPORTED.items():
            if given.get(name) is not None:
                raise ValueError(f"{name} {reason}")
        return {name: value for name, value in given.items() if name not in UNSUPPORTED}


class CompletionBody(Settings):
    """The body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)]
        | Ids
        | Annotated[list[Ids], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)]
    ) = ""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None


class ResponseFormat(BaseModel):
    """The form of an answer: text alone."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class TextPart(BaseModel):
    """A part of a message: text alone."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message, with whatever else the model's template reads."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "user", "assistant", "tool", "developer", "function", "ipython"]
    content: str | list[TextPart] | None = None


Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=10_000)]


class ChatBody(Settings):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


class PlaySettings(Sampling):
    """The settings of the playground."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None


class PlayBody(Body):
    """What every body of the playground has."""

    model: str = Field(max_length=200)


class TokensBody(PlayBody):
    """The body of POST /play/tokens."""

    text: str = Field(max_length=20_000)


class NextBody(PlayBody):
    """The body of POST /play/next."""

    ids: PlayIds
    settings: PlaySettings = PlaySettings()
    top: int = Field(default=20, ge=1, le=200)


class ReadBody(PlayBody):
    """The body of POST /play/read."""

    ids: PlayIds
    top: int = Field(default=10, ge=0, le=20)


class AttentionBody(PlayBody):
    """The body of POST /play/attention."""

    ids: PlayIds
    layer: int = Field(ge=0, lt=2**31)
    head: Annotated[int, Field(ge=0, lt=2**31)] | None = None


class InsideBody(PlayBody):
    """The body of POST /play/inside."""

    ids: PlayIds
    place: int = Field(ge=0, lt=2**31)


class WriteBody(PlayBody):
    """The body of POST /play/write."""

    ids: PlayIds | None = None
    messages: Messages | None = None
    settings: PlaySettings = PlaySettings()
    top: int = Field(default=10, ge=0, le=20)

    @model_validator(mode="after")
    def refuse_both(self) -> WriteBody:
        """Refuses a body with both a text and a conversation, or with neither."""
        if (self.ids is None) == (self.messages is None):
            raise ValueError("give either ids or messages")
        return self


@dataclass(frozen=True)
class Limits:
    """What one request may ask of a model."""

    context: int  # tokens of a prompt, at most
    max_tokens: int  # tokens of a text, at most


@dataclass(frozen=True)
class Asked:
    """The requests of one body: a text for each choice, in the order of the answer."""

    requests: list[Request]
    echoes: list[tuple[str, Sequence[int]]] | None
    prompt_tokens: int
    choices: int  # texts of each prompt


def completion(body: CompletionBody, loaded: LoadedModel, limits: Limits) -> Asked:
    """Returns the requests of a completion.

    Raises:
        ApiError: when a setting is out of the model's bounds.
    """
    given = body.prompt
    single = isinstance(given, str) or isinstance(given[0], int)
    prompts: list[Any] = [given] if single else [*given]
    count = 16 if body.max_tokens is None else body.max_tokens
    if count == 0 and not body.echo:
        raise ApiError(400, "max_tokens=0 writes nothing: it is for echo=true", param="max_tokens")
    if len(prompts) * (body.n or 1) > MAX_CHOICES:
        raise ApiError(400, f"{len(prompts)} prompts of n={body.n}: at most {MAX_CHOICES} texts at once", param="n")
    found = [_prompt_ids(one, loaded.tokenizer, limits) for one in prompts]
    options: dict[str, Any] = {
        "logprobs": body.logprobs,
        "prompt_logprobs": bool(body.echo) and body.logprobs is not None,
        "writes": count > 0,
    }
    requests: list[Request] = []
    echoes: list[tuple[str, Sequence[int]]] = []
    for text, ids in found:
        requests += _requests(body, ids, max(count, 1), loaded, limits, options)
        echoes += [(text, ids)] * (body.n or 1)
    return Asked(requests, echoes if body.echo else None, sum(len(ids) for _, ids in found), body.n or 1)


def chat(body: ChatBody, loaded: LoadedModel, limits: Limits) -> Asked:
    """Returns the requests of a chat completion.

    Raises:
        ApiError: when the model has no template, or a setting is out of the model's bounds.
    """
    from llm_from_scratch.tokenizer.template import render_ids

    if loaded.chat_template is None:
        message = f"the model {body.model} has no chat template: use /v1/completions"
        raise ApiError(400, message, param="model", code="model_not_supported")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true", param="top_logprobs")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens are the same: give one", param="max_tokens")
    messages = [_message(one) for one in body.messages]
    try:
        ids = render_ids(loaded.chat_template, messages, loaded.tokenizer, add_generation_prompt=True)
    except UserError as error:
        raise ApiError(400, str(error), param="messages") from None
    _check_length(len(ids), limits)
    count = body.max_completion_tokens or body.max_tokens
    if count is None:  # what is left of the context
        count = max(1, min(limits.context - len(ids), limits.max_tokens))
    options = {"logprobs": (body.top_logprobs or 0) if body.logprobs else None}
    requests = _requests(body, ids or [loaded.tokenizer.eot_id], count, loaded, limits, options)
    return Asked(requests, None, len(ids), body.n or 1)


def play_writing(body: WriteBody, loaded: LoadedModel, limits: Limits) -> Asked:
    """Returns the request of POST /play/write: that of /v1 with the same settings.

    Of a text longer than the context, the last part is read.

    Raises:
        ApiError: as `completion` and `chat`.
    """
    settings = PLAY_DEFAULTS | body.settings.model_dump(exclude_none=True)
    if body.messages is not None:
        settings |= {"logprobs": True, "top_logprobs": body.top}
        return chat(ChatBody(model=body.model, messages=body.messages, **settings), loaded, limits)
    asked = CompletionBody(model=body.model, prompt=body.ids or "", logprobs=body.top, **settings)
    return completion(asked, loaded, replace(limits, context=MAX_IDS))


def play_next(body: NextBody, loaded: LoadedModel, limits: Limits) -> Asked:
    """Returns the request of POST /play/next: the first token of `play_writing`, not chosen yet.

    Raises:
        ApiError: as `completion`.
    """
    settings = PLAY_DEFAULTS | body.settings.model_dump(exclude_none=True) | {"max_tokens": 1}
    body_of_text = CompletionBody(model=body.model, prompt=body.ids, **settings)
    asked = completion(body_of_text, loaded, replace(limits, context=MAX_IDS))
    return replace(asked, requests=[replace(asked.requests[0], writes=False, next_logits=True)])


def play_reading(body: ReadBody, loaded: LoadedModel, limits: Limits) -> Asked:
    """Returns the request of POST /play/read, which reads up to the context and writes nothing.

    Raises:
        ApiError: as `completion`.
    """
    check_ids(body.ids, loaded.tokenizer)
    ids = body.ids[: limits.context]
    asked = CompletionBody(model=body.model, prompt=ids, max_tokens=0, echo=True, logprobs=body.top)
    return completion(asked, loaded, limits)


def play_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Returns the ids of a text as a prompt has them.

    Raises:
        ApiError: when it has a character without an id.
    """
    return _prompt_ids(text, tokenizer, Limits(context=sys.maxsize, max_tokens=1))[1]


def _message(given: Message) -> Mapping[str, Any]:
    """Returns a message as templates expect it: a content of parts is joined."""
    found = given.model_dump(exclude_unset=True)
    if isinstance(given.content, list):
        found["content"] = "".join(part.text for part in given.content)
    return found


def _prompt_ids(prompt: str | list[int], tokenizer: Tokenizer, limits: Limits) -> tuple[str, list[int]]:
    """Returns a prompt's text and ids; a text is cleaned as the corpus was."""
    if isinstance(prompt, str):
        text = clean_typed(prompt)
        try:
            ids = [*begin_ids(tokenizer), *tokenizer.encode(text)] or [tokenizer.eot_id]
        except UserError as error:
            raise ApiError(400, str(error), param="prompt") from None
    else:
        ids = prompt
        check_ids(ids, tokenizer)
        text = tokenizer.decode(ids)
    _check_length(len(ids), limits)
    return text, ids


def check_ids(ids: Sequence[int], tokenizer: Tokenizer) -> None:
    """Refuses ids that are no tokens of the model.

    Raises:
        ApiError: when there is one.
    """
    if max(ids) >= tokenizer.vocab_size:
        message = f"the prompt has the id {max(ids)}: the model has {tokenizer.vocab_size} tokens"
        raise ApiError(400, message, param="prompt")


def _check_length(length: int, limits: Limits) -> None:
    if length > limits.context:
        message = f"the prompt has {length} tokens: the context of this model is {limits.context}"
        raise ApiError(400, message, param="prompt", code="context_length_exceeded")


def _requests(
    body: Settings, ids: list[int], count: int, loaded: LoadedModel, limits: Limits, options: Mapping[str, Any]
) -> list[Request]:
    """Returns n requests with one prompt; choice i has the seed of the first one plus i."""
    if count > limits.max_tokens:
        raise ApiError(400, f"at most {limits.max_tokens} tokens a text: {count} were asked", param="max_tokens")
    bias = _bias(body.logit_bias or {}, loaded.tokenizer.vocab_size)
    seed = secrets.randbits(62) if body.seed is None else body.seed
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    requests = []
    for choice in range(body.n or 1):
        try:
            sampling = SamplingConfig(
                max_new_tokens=count,
                temperature=1.0 if body.temperature is None else body.temperature,
                top_k=body.top_k,
                top_p=body.top_p,
                min_p=body.min_p,
                repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
                seed=(seed + choice) % 2**63,
                stop=stop,
            )
        except UserError as error:
            raise ApiError(400, str(error), param=str(error).partition("=")[0]) from None
        requests.append(
            Request(
                prompt=ids,
                sampling=sampling,
                presence_penalty=body.presence_penalty or 0.0,
                frequency_penalty=body.frequency_penalty or 0.0,
                logit_bias=bias,
                **options,
            )
        )
    return requests


def _bias(given: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    found = {}
    for name, bias in given.items():
        if int(name) >= vocab_size:
            raise ApiError(400, f"logit_bias: {name!r} is no id of this model", param="logit_bias")
        found[int(name)] = bias
    return found

"""Conversations: the rows of a table -> the ids of documents, and which of them are learned.

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}
    {"prompt": …, "completion": …}                   texts, or lists of messages
    {"prompt": …, "chosen": …, "rejected": …}        of format=preferences

Messages are rendered by a chat template. Texts have none: begin ids, prompt, completion, end of
text. The answers are learned, each with the token that ends it: those of all assistant messages, or
of the completion alone. The text of a row never becomes a special token (`tokenizer/template.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.places import user_path
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.tokenizer.base import begin_ids, read_file
from llm_from_scratch.tokenizer.template import CHATML, ROLES, answer_ids, render_ids

CHAT, PREFERENCES = "chat", "preferences"
COLUMNS = {
    CHAT: frozenset({"messages", "prompt", "completion"}),
    PREFERENCES: frozenset({"prompt", "chosen", "rejected"}),
}
ROLE = "assistant"  # whose messages are learned
MARKERS = ("<|im_start|>", "<|im_end|>")  # special tokens of ChatML
Messages = list[dict[str, Any]]


class MissingTemplateError(UserError):
    """There is no template but ChatML, whose tokens the tokenizer lacks: no fault of a row."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as a document: its ids, and for each whether it is learned."""

    ids: list[int]
    learned: list[bool]


class ChatStyle:
    """How conversations become ids: a chat template, and the tokenizer.

    Args:
        template: the template in Jinja; None: ChatML, for whose tokens the tokenizer is asked once
            there are messages.
        tokenizer: the tokenizer of the model.
    """

    def __init__(self, template: str | None, tokenizer: Tokenizer) -> None:
        self._given, self.tokenizer = template, tokenizer
        self.special = frozenset(tokenizer.special.values())  # one of them ends an answer
        self.used: str | None = None  # the template, once messages were rendered

    @cached_property
    def template(self) -> str:
        """Returns the template.

        Raises:
            MissingTemplateError: when there is none, and the tokenizer lacks the tokens of ChatML.
        """
        lacking = [name for name in MARKERS if name not in self.tokenizer.special]
        if self._given is None and lacking:
            raise MissingTemplateError(
                f"tokenizer={self.tokenizer.kind} has no token {lacking[0]} for ChatML: use one that is learned from"
                " conversations (tokenizer=bpe) or comes with a chat model (init_from), or a template that ends answers by"
                " <|endoftext|> (data.template=FILE)"
            )
        return CHATML if self._given is None else self._given

    def documents(self, row: Mapping[str, Any], form: str) -> list[Rendered]:
        """Returns the documents of a row, of format `form`.

        They are the chosen and the rejected one of a preference. A conversation is one document,
        unless its template writes an earlier answer otherwise than it wrote that as the last one
        (Qwen3 leaves thoughts out): then each answer ends a document of its own.

        Raises:
            UserError: when the row is none of `form`, or a message is refused; without its name.
        """
        if form == PREFERENCES:
            prompt, *answers = (_value(row, key) for key in ("prompt", "chosen", "rejected"))
            return [self._answered(prompt, answer)[-1] for answer in answers]
        if row.get("messages") is not None:
            return self.conversation(_messages(row["messages"], "messages"))
        if row.get("prompt") is not None or row.get("completion") is not None:
            return self._answered(_value(row, "prompt"), _value(row, "completion"))
        raise UserError(f'a row needs "messages", or "prompt" and "completion", and has {_keys(row)}')

    def _answered(self, prompt: str | Messages, answer: str | Messages) -> list[Rendered]:
        if isinstance(prompt, str) and isinstance(answer, str):
            return [self.plain(prompt, answer)]
        return self.conversation(_joined(prompt, answer), learned_from=len(prompt))

    def prompt_ids(self, prompt: str | Messages) -> list[int]:
        """Returns the ids that a model answers: of a text as it is, of messages by the template.

        Raises:
            UserError: when the tokenizer lacks a character, or the tokens of ChatML.
        """
        if isinstance(prompt, str):
            return self._begun(self.tokenizer.encode(prompt))
        return render_ids(self.template, prompt, self.tokenizer, add_generation_prompt=True)

    def _begun(self, ids: list[int]) -> list[int]:
        """Returns the ids of a text with what stands before it; of an empty one end-of-text."""
        return begin_ids(self.tokenizer) + ids or [self.tokenizer.eot_id]

    def plain(self, prompt: str, answer: str) -> Rendered:
        """Returns a text with its continuation, which is learned, and an end-of-text token.

        The prompt has the ids that it has alone, as where a model continues it.

        Raises:
            UserError: when the answer is empty, or a character has no id.
        """
        if not answer:
            raise UserError("its answer is empty: there is nothing to learn")
        tokenizer = self.tokenizer
        before, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + answer)
        continued = whole[len(before) :] if whole[: len(before)] == before else tokenizer.encode(answer)
        begin = self._begun(before)
        ids = [*begin, *continued, tokenizer.eot_id]
        return Rendered(ids, [False] * len(begin) + [True] * (len(continued) + 1))

    def conversation(self, messages: Messages, learned_from: int = 0) -> list[Rendered]:
        """Returns a conversation as a document, or as several where the template asks for it.

        Args:
            messages: the messages in order. Those behind the last answer are left out.
            learned_from: the first message (0-based) whose answer is learned.

        Raises:
            UserError: when there is no answer, or an answer ends without a special token.
        """
        found: list[Rendered] = []
        ids: list[int] = []
        learned: list[bool] = []
        places = [i for i, message in enumerate(messages) if message["role"] == ROLE and i >= learned_from]
        if not places:
            raise UserError(f"it has no message of the role {ROLE}: there is nothing to learn")
        self.used = self.template
        for place in places:
            before, answer = answer_ids(self.template, messages[: place + 1], self.tokenizer)
            end = max((i for i, token in enumerate(answer, 1) if token in self.special), default=0)
            if not end:
                raise UserError(
                    "the chat template ends an answer without a special token, so that a model would never stop:"
                    " name another (data.template=FILE)"
                )
            if before[: len(ids)] != ids:
                found.append(_trimmed(ids, learned))
                ids, learned = [], []
            learned += [False] * (len(before) - len(ids)) + [True] * end + [False] * (len(answer) - end)
            ids = before + answer
        return [*found, _trimmed(ids, learned)]

    def end_ids(self) -> tuple[int, ...]:
        """Returns the ids that end an answer by the template, other than end-of-text."""
        messages = [{"role": "user", "content": "a"}, {"role": ROLE, "content": "b"}]
        (*_, document) = self.conversation(messages)
        last = document.ids[-1]
        return () if last == self.tokenizer.eot_id else (last,)

    def text_bytes(self, document: Rendered) -> int:
        """Returns the bytes of the learned text of a document, special tokens left out."""
        pairs = zip(document.ids, document.learned, strict=True)
        return len(self.tokenizer.decode_bytes([i for i, learned in pairs if learned and i not in self.special]))


def question(row: Mapping[str, Any]) -> tuple[str | Messages, str]:
    """Returns the prompt of a row's last answer and that answer, as a text to compare with.

    Raises:
        UserError: when the row has no answer.
    """
    if row.get("messages") is not None:
        messages = _messages(row["messages"], "messages")
    else:
        prompt, answer = _value(row, "prompt"), _value(row, "completion")
        if isinstance(prompt, str) and isinstance(answer, str):
            return prompt, answer
        messages = _joined(prompt, answer)
    places = [i for i, message in enumerate(messages) if message["role"] == ROLE]
    if not places:
        raise UserError(f"it has no message of the role {ROLE}: there is no answer")
    return messages[: places[-1]], str(messages[places[-1]].get("content", ""))


def _joined(prompt: str | Messages, answer: str | Messages) -> Messages:
    """Returns the messages of a prompt with those of its answer.

    Raises:
        UserError: when one of them is a text.
    """
    if isinstance(prompt, str) or isinstance(answer, str):
        raise UserError("its prompt and its answer are a text and a list of messages: write both alike")
    return [*prompt, *answer]


def _trimmed(ids: list[int], learned: list[bool]) -> Rendered:
    """Returns a document that ends with its last learned token."""
    end = len(learned) - learned[::-1].index(True)
    return Rendered(ids[:end], learned[:end])


def _value(row: Mapping[str, Any], key: str) -> str | Messages:
    """Returns a text or the messages of a row.

    Raises:
        UserError: when there is neither.
    """
    value = row.get(key)
    if value is None:
        raise UserError(f'it has no "{key}", but {_keys(row)}')
    return value if isinstance(value, str) else _messages(value, key)


def _keys(row: Mapping[str, Any]) -> str:
    """Returns the keys of a row that have a value, for a message."""
    return ascii([key for key, value in row.items() if value is not None])[:200]


def _messages(value: Any, key: str) -> Messages:
    """Returns messages without the values that a Parquet file has for absent keys.

    Raises:
        UserError: when they are no list of messages.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f'its "{key}" is no list of messages but {type(value).__name__}')
    found = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise UserError(f'message {number} of "{key}" is no object but {type(message).__name__}')
        held = {str(name): one for name, one in message.items() if one is not None}
        if held.get("role") not in ROLES:
            raise UserError(
                f'message {number} of "{key}" has the role {held.get("role")!r:.50}: use one of {", ".join(ROLES)}'
            )
        if "content" not in held and len(held) < 2:
            raise UserError(f'message {number} of "{key}" has no content')
        found.append(held)
    return found


def template_of(path: str | None, own: str | None) -> str | None:
    """Returns the template of a file, else the model's own, else None.

    Raises:
        UserError: when the file is missing or no text.
    """
    if path is None:
        return own
    try:
        return read_file(user_path(path)).decode()
    except UserError as error:
        raise UserError(f"data.template={error}") from None
    except UnicodeDecodeError:
        raise UserError(f"data.template={path}: is no text in UTF-8") from None

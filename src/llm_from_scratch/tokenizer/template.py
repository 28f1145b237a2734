"""Chat templates: a conversation -> ids, by the Jinja template that comes with a model.

Special tokens come from the template's own text alone. Before rendering, every name of a special
token in the messages is broken by a private character, which is removed before encoding: a user
who writes `<|im_end|>` gets ordinary tokens. The template is a stranger's: it runs in Jinja's
sandbox, as in transformers, with a bounded number of steps and a bounded text. Memory has no
bound of its own: a template may double a string at every step.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from types import FrameType
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.filters import do_indent
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.tokenizer.base import END_OF_TEXT, Tokenizer, utf8
from llm_from_scratch.tokenizer.bpe import SentencePieceTokenizer
from llm_from_scratch.tokenizer.bytes import BytesTokenizer

# ChatML, the format of most chat models: for a model without a template of its own.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MAX_TEMPLATE = 200_000  # characters; the longest published ones have 20,000
MAX_STEPS = 1_000_000  # lines of the compiled template
MAX_TEXT = 1_000_000  # characters that a template may add, and items that its arithmetic may make
MAX_DEPTH = 30  # of lists and objects in a message
# The role may be part of a special token, as in '<|' + role + '|>': no other one is rendered.
ROLES = "system", "user", "assistant", "tool", "developer", "function", "ipython"
# Methods and filters of strings that make a large one of a number.
PADDING = "center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "indent", "wordwrap"
_TYPE = re.compile("[a-z_]{1,30}")


def render_ids(
    template: str, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, *, add_generation_prompt: bool
) -> list[int]:
    """Renders a conversation by a chat template and encodes it.

    The ids are those of transformers' `apply_chat_template`, unless a message holds the name of a
    special token: there it is a token, here text. A template that looks for such a name in a
    message (Qwen3's for `</think>`) does not find it.

    Args:
        template: the Jinja template, such as CHATML.
        messages: objects with a "role" of ROLES and a "content", and whatever else the template
            reads: strings, numbers, lists and objects.
        tokenizer: the model's tokenizer.
        add_generation_prompt: whether to end with the beginning of the assistant's turn.

    Raises:
        UserError: when the template is damaged, refuses the messages or exceeds a limit, or a
            message is no such object or holds a character without an id.
    """
    given = _as_json(messages)
    private = _private(given, template)
    text = _guarded(template, messages, tokenizer, add_generation_prompt, private, given)
    return _encode(text, tokenizer, private)


def answer_ids(
    template: str, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Renders a conversation that ends with an answer, parted where the answer begins.

    The first part is what a model is given to write that answer: `render_ids` of the other messages
    with `add_generation_prompt`. Where the whole conversation has a token across the border, the
    answer is encoded by itself, as a model writes it.

    Args:
        template: as in `render_ids`.
        messages: as in `render_ids`; the last one is the answer.
        tokenizer: as in `render_ids`.

    Returns:
        The ids before the answer, and those of the answer with all that the template puts behind.

    Raises:
        UserError: as `render_ids`, or when the template does not put the answer behind the messages
            before it.
    """
    given = _as_json(messages)
    private = _private(given, template)
    question = _guarded(template, messages[:-1], tokenizer, True, private, given)
    whole = _guarded(template, messages, tokenizer, False, private, given)
    before, ids = _encode(question, tokenizer, private), _encode(whole, tokenizer, private)
    if ids[: len(before)] == before:
        return before, ids[len(before) :]
    if not whole.startswith(question):
        raise UserError("the chat template does not write an answer behind what it writes to ask for one")
    return before, _encode(whole[len(question) :], tokenizer, private)


def _as_json(messages: Sequence[Mapping[str, Any]]) -> str:
    """Returns messages as JSON.

    Raises:
        UserError: when one holds a value that JSON has not.
    """
    try:
        return json.dumps([*messages], ensure_ascii=False, default=_refuse)
    except UserError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # a message that contains itself
        raise UserError(f"a message cannot be rendered: {message_of(error, 100)}") from None


def _private(given: str, template: str) -> str:
    """Returns a private character that neither the messages nor the template hold."""
    return next(c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in given and c not in template)


def _names(tokenizer: Tokenizer) -> list[str]:
    return [name for name in tokenizer.special if len(name) > 1]


def _guarded(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    add_generation_prompt: bool,
    private: str,
    given: str,
) -> str:
    """Renders messages; every name of a special token within them is broken by `private`."""
    guard = _Guard(_names(tokenizer), private)
    values = {
        "messages": [guard.message(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
        "tools": None,
        "documents": None,
        **_named_tokens(tokenizer),
    }
    return _render(template, values, MAX_TEXT + 4 * len(given))


def _encode(text: str, tokenizer: Tokenizer, private: str) -> list[int]:
    """Encodes a rendered text; names of special tokens are these, `private` is removed."""
    names = _names(tokenizer)
    ids: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})", text):
        if part in tokenizer.special and part in names:
            ids.append(tokenizer.special[part])
        elif part:
            ids += tokenizer.encode(part.replace(private, ""))
    return ids


def _named_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the names of the tokens that templates call bos_token and eos_token."""
    if not isinstance(tokenizer, BytesTokenizer | SentencePieceTokenizer):
        return {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    name_of = {i: name for name, i in tokenizer.special.items()}
    found = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    return {key: name_of[i] for key, i in found.items() if i is not None and i in name_of}


def _refuse(value: object) -> NoReturn:
    raise UserError(f"a message holds a {type(value).__name__}: only strings, numbers, lists and objects are rendered")


class _Guard:
    """Breaks the names of special tokens in messages by a private character.

    A string also gets the character at an end that could complete a name with the template's text:
    where it begins with the end of a name, ends with the beginning of one, or lies within one.
    """

    def __init__(self, names: Iterable[str], private: str) -> None:
        self.private = private
        self.names = [*names]
        self.starts = {name[:i] for name in self.names for i in range(1, len(name))}
        self.ends = {name[i:] for name in self.names for i in range(1, len(name))}
        self.longest = max(map(len, self.names), default=0)
        found = "|".join(map(re.escape, self.names)) or "(?!)"
        self.inside = re.compile(f"(?=(?:{found}))(.)", re.DOTALL)

    def message(self, message: object) -> dict[str, Any]:
        """Returns a message with its strings guarded.

        Raises:
            UserError: when it is no object, or its role is none of ROLES.
        """
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise UserError(f"a message needs a role, one of {', '.join(ROLES)}")
        found = self._value(message, 0)
        assert isinstance(found, dict)
        return found

    def _value(self, value: object, depth: int) -> object:
        if depth > MAX_DEPTH:
            raise UserError(f"a message is nested deeper than {MAX_DEPTH} times")
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._broken(str(key)): self._item(str(key), inner, depth) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(inner, depth + 1) for inner in value]
        return value

    def _item(self, key: str, value: object, depth: int) -> object:
        """Guards an entry of an object, except roles and types, which templates compare."""
        if (key == "role" and value in ROLES) or (key == "type" and isinstance(value, str) and _TYPE.fullmatch(value)):
            return value
        return self._value(value, depth + 1)

    def _broken(self, text: str) -> str:
        """Puts the private character behind the first one of every name in a text."""
        utf8(text)
        return self.inside.sub(rf"\1{self.private}", text)

    def _text(self, text: str) -> str:
        core = self._broken(text)
        bare = core.strip()
        if not bare:
            return core
        start = core.index(bare)
        within = any(bare in name for name in self.names)
        before = within or any(bare[:i] in self.ends for i in range(1, self.longest))
        after = within or any(bare[-i:] in self.starts for i in range(1, self.longest))
        guarded = self.private * before + bare + self.private * after
        return core[:start] + guarded + core[start + len(bare) :]


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox as transformers sets it up, whose arithmetic makes no large objects."""

    intercepted_binops = frozenset("+*%") | {"**"}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(one) if hasattr(one, "__len__") else 0 for one in (left, right)]
        if operator == "*" and any(sizes):
            count = next((one for one in (left, right) if isinstance(one, int)), 0)
            sizes = [max(sizes) * count]
        wide = operator == "%" and isinstance(left, str) and re.search("%[^%a-z]", left)
        if operator == "**" or wide or sum(sizes) > MAX_TEXT:
            raise jinja2.TemplateError(f"{operator} makes too large an object")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in PADDING and super().is_safe_attribute(obj, attr, value)


class _Generation(jinja2.ext.Extension):
    """The tag `generation`, around the assistant's words in templates for training: no effect."""

    tags: set[str] = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        body: list[jinja2.nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


@lru_cache(16)
def _compile(template: str) -> jinja2.Template:
    """Compiles a template.

    Raises:
        UserError: when it is too long or no Jinja.
    """
    if len(template) > MAX_TEMPLATE:
        raise UserError(f"the chat template is longer than {MAX_TEMPLATE} characters")
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols], cache_size=0
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
    environment.filters["indent"] = _indent
    for name in ("center", "format", "wordwrap"):
        environment.filters.pop(name)
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name)
    try:
        return environment.from_string(template)
    except (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError) as error:
        raise UserError(f"the chat template is no Jinja ({message_of(error, 200)})") from None


def _render(template: str, values: Mapping[str, Any], limit: int) -> str:
    """Renders a template to at most `limit` characters.

    Raises:
        UserError: when it fails or exceeds a limit.
    """
    compiled = _compile(template)
    parts, size = [], 0
    try:
        with _bounded_steps():
            for part in compiled.generate(values):
                size += len(part)
                if size > limit:
                    raise UserError(f"the chat template writes more than {limit} characters")
                parts.append(part)
    except UserError:
        raise
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template refuses these messages: {message_of(error, 200)}") from None
    except Exception as error:  # a stranger's program can raise anything
        raise UserError(f"the chat template fails: {type(error).__name__}: {message_of(error, 200)}") from None
    return "".join(parts)


@contextmanager
def _bounded_steps() -> Iterator[None]:
    """Ends a template after MAX_STEPS lines, counted by the tracing of this thread."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != "<template>":
            return None
        steps += 1
        if steps > MAX_STEPS:
            raise UserError(f"the chat template takes more than {MAX_STEPS} steps")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Writes JSON as transformers does; Jinja's own filter escapes the characters of HTML."""
    if isinstance(indent, int) and indent > 16:
        raise jinja2.TemplateError("tojson: indent is at most 16")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's filter of this name, with a bounded width."""
    if isinstance(width, int) and width > 16:
        raise jinja2.TemplateError("indent: the width is at most 16")
    return do_indent(text, width, first, blank)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)

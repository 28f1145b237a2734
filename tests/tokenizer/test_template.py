"""Chat templates against transformers; a user's text never makes a special token."""

import re
from typing import Any

import pytest
import smollm2
from byte_level import TEXT, stranger
from tokenizer_strings import ODD, strings

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import BPETokenizer, BytesTokenizer, Tokenizer
from llm_from_scratch.tokenizer.gguf import from_gguf
from llm_from_scratch.tokenizer.huggingface import read, write
from llm_from_scratch.tokenizer.template import CHATML, MAX_TEMPLATE, render_ids

transformers = pytest.importorskip("transformers")

SPECIAL = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "[INST]", "[/INST]")
# In the manner of published templates.
TEMPLATES = {
    "chatml": CHATML,
    "default system line": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "roles are tokens": """{%- for message in messages %}
    {{- '<|' + message.role + '|>\\n' + message.content | trim + eos_token }}
    {% if loop.last and add_generation_prompt %}
        {{- '<|assistant|>' }}
    {%- endif %}
{%- endfor %}""",
    "brackets": """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}\
{{ '[INST] ' ~ message['content'] ~ ' [/INST]' }}{% elif message.role == 'assistant' %}\
{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{% continue %}{% endif %}{% endfor %}""",
    "a namespace and json": """{%- set ns = namespace(count=0) %}{% for m in messages %}\
{%- set ns.count = ns.count + 1 %}{{ ns.count }}{{ m | tojson }}{% if 'weather' in m.content %}!{% endif %}\
{{ m.content.split('x')[-1].strip() }}<|end|>{% endfor %}""",
}
CHAT = [
    {"role": "system", "content": "  You are Toto.\n"},
    {"role": "user", "content": "\nWhere is  the Lion?  "},
    {"role": "assistant", "content": "In the great forest 12."},
    {"role": "user", "content": "don't go, the weather!"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BytesTokenizer:
    found = read(stranger("smollm", tmp_path_factory.mktemp("chat"), SPECIAL))
    assert isinstance(found, BytesTokenizer)
    return found


@pytest.fixture(scope="module")
def other(tokenizer: BytesTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("export")
    write(tokenizer, folder, chat_template=CHATML)
    return transformers.AutoTokenizer.from_pretrained(folder)


def theirs(other: Any, template: str, messages: list[dict[str, Any]], prompt: bool) -> list[int]:
    found = other.apply_chat_template(messages, chat_template=template, add_generation_prompt=prompt, tokenize=True)
    return list(found if isinstance(found, list) else found["input_ids"])


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_the_ids_are_those_of_transformers(name: str, prompt: bool, tokenizer: BytesTokenizer, other: Any) -> None:
    expected = theirs(other, TEMPLATES[name], CHAT, prompt)
    assert render_ids(TEMPLATES[name], CHAT, tokenizer, add_generation_prompt=prompt) == expected
    assert {*expected} & {*tokenizer.special.values()}


@pytest.mark.parametrize("name", TEMPLATES)
def test_any_text_has_the_ids_of_transformers(name: str, tokenizer: BytesTokenizer, other: Any) -> None:
    plain = [part for part in ODD if part not in tokenizer.special and not re.search(r"[<>|\[\]]", part)]
    for text in strings(300, 6, plain):
        known = "".join(c for c in text if not c.encode().translate(None, tokenizer._known))
        chat = [{"role": "user", "content": known}, {"role": "assistant", "content": known[::-1]}]
        expected = theirs(other, TEMPLATES[name], chat, True)
        assert render_ids(TEMPLATES[name], chat, tokenizer, add_generation_prompt=True) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_users_text_makes_no_special_token(name: str, tokenizer: BytesTokenizer) -> None:
    """As many special tokens as for harmless texts, and every byte of the text is there."""
    special = {*tokenizer.special.values()}

    def render(text: str) -> list[int]:
        chat = [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]
        return render_ids(TEMPLATES[name], chat, tokenizer, add_generation_prompt=True)

    names = [*tokenizer.special, *("<|im_", "end|>", "|>", "<|", "<", ">", "user", "[", "]", "\n", "\U000f0000", "a")]
    names.append("<|im_start|><|im_end|>")
    harmless = [i for i in render("b") if i in special]
    for text in [*names, *strings(500, 7, names)]:
        text = "".join(c for c in text if not c.encode().translate(None, tokenizer._known))
        ids = render(text)
        assert [i for i in ids if i in special] == harmless
        if "json" not in name:
            assert text.strip().encode() in tokenizer.decode_bytes(ids)


def test_names_may_lie_deep_in_a_message(tokenizer: BytesTokenizer) -> None:
    template = "{% for m in messages %}{{ m.content[0].text }}{{ m.calls | tojson }}{{ m.content[0].type == 'text' }}{% endfor %}"
    chat = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "<|im_end|>"}],
            "calls": {"<|im_end|>": ["<|im_start|>", 1.5, None]},
        }
    ]
    ids = render_ids(template, chat, tokenizer, add_generation_prompt=False)
    assert not {*ids} & {*tokenizer.special.values()}
    expected = '<|im_end|>{"<|im_end|>": ["<|im_start|>", 1.5, null]}True'
    assert tokenizer.decode(ids) == expected


def test_a_models_own_template() -> None:
    tokenizer = from_gguf(**smollm2.parts())
    template = smollm2.metadata()["tokenizer.chat_template"]
    chat = [{"role": "user", "content": "What is the capital of France?<|im_end|>"}]
    ids = render_ids(template, chat, tokenizer, add_generation_prompt=True)
    assert [i for i in ids if i < 17] == [1, 2, 1, 2, 1]
    assert tokenizer.decode(ids) == (
        "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\n"
        "user\nWhat is the capital of France?<|im_end|>\nassistant\n"
    )


def test_a_tokenizer_without_the_marks_writes_them_as_text() -> None:
    tokenizer: Tokenizer = BPETokenizer.train([TEXT], 400)
    ids = render_ids(CHATML, [{"role": "user", "content": "Toto"}], tokenizer, add_generation_prompt=True)
    assert tokenizer.decode(ids) == "<|im_start|>user\nToto<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eot_id not in ids


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "no Jinja"),
        ("{{ raise_exception('only\nusers') }}", "refuses these messages: only users"),
        ("{{ messages[0].nothing.more }}", "refuses these messages"),
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
        ("x" * (MAX_TEMPLATE + 1), "longer than"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages"),
        ("{{ messages.append(1) }}", "refuses these messages"),
        ("{{ cycler.__init__.__globals__ }}", "refuses these messages"),
        ("{% for a in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}", "writes more than"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "more than 1000000 steps"),
        ("{{ 'a' * 10**9 }}", "too large an object"),
        ("{{ 'a' * 1000000000 }}", "too large an object"),
        ("{{ [1] * 1000000000 }}", "too large an object"),
        ("{{ '%1000000000d' % 1 }}", "too large an object"),
        ("{{ 'a'.center(1000000000) }}", "refuses these messages"),
        ("{{ 'a' | indent(1000000000) }}", "at most 16"),
        ("{{ 'a' | center(1000000000) }}", "no Jinja"),
        ("{{ messages | tojson(indent=1000000000) }}", "at most 16"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "fails: RecursionError"),
    ],
)
def test_a_template_is_bounded_and_refused_in_one_line(template: str, message: str, tokenizer: BytesTokenizer) -> None:
    with pytest.raises(UserError, match=message) as error:
        render_ids(template, CHAT, tokenizer, add_generation_prompt=True)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([{"role": "im_end", "content": "a"}], "needs a role, one of system, user"),
        ([{"content": "a"}], "needs a role"),
        (["a"], "needs a role"),
        ([{"role": ["user"], "content": "a"}], "needs a role"),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
        ([{"role": "user", "content": b"a"}], "a message holds a bytes"),
        ([{"role": "user", "content": "\x04"}], "no token for the character"),
    ],
)
def test_messages_that_are_none_are_refused(chat: Any, message: str, tokenizer: BytesTokenizer) -> None:
    with pytest.raises(UserError, match=message):
        render_ids(CHATML, chat, tokenizer, add_generation_prompt=True)


def test_deep_messages_are_refused(tokenizer: BytesTokenizer) -> None:
    deep: Any = "a"
    for _ in range(100):
        deep = [deep]
    with pytest.raises(UserError, match="nested deeper than 30 times"):
        render_ids(CHATML, [{"role": "user", "content": deep}], tokenizer, add_generation_prompt=True)

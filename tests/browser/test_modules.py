"""Pure functions of the page's modules, against values worked out by hand."""

import base64

import pytest

from browser.playground import Playground

# Two versions of the prompt "ab": "cd", of which a branch replaces "d" by "x", and "y".
GROWN = """
async () => {
  const { EMPTY, plant, branch, extend, annotate, tokensOf, promptOf, show, undo, redo, forks } = await import('/tree.js');
  const text = (tree, id) => tokensOf(tree, id).join('');
  let tree = plant(EMPTY, ['a', 'b']);
  tree = extend(branch(tree, 2, ['c']), 1, ['d']);
  tree = branch(tree, 3, ['x']);
  tree = branch(tree, 2, ['y']);
  const at = show(tree, 1);
  const back = undo(undo(tree));
  return {
    texts: tree.nodes.map((node) => text(tree, node.id)),
    parents: tree.nodes.map((node) => node.parent),
    shown: text(tree),
    prompt: promptOf(tree).id,
    forks: forks(tree),
    forksOfFirst: forks(at),
    forksOfSecond: forks(show(tree, 2)),
    forksOfPrompt: forks(show(tree, 0)),
    undone: text(back),
    redone: text(redo(redo(back))),
    afterTheEnd: [undo(EMPTY) === EMPTY, redo(tree) === tree, show(tree, tree.shown) === tree],
    forgotten: redo(plant(back, ['n'])).shown,
    renamed: text(annotate(tree, 0, ['A', 'B'])),
    unchanged: EMPTY.nodes.length,
  };
}
"""


def test_versions_form_a_tree(play: Playground) -> None:
    found = play.page.evaluate(GROWN)
    assert found["texts"] == ["ab", "abcd", "abcx", "aby"]
    # "y" stands where "c" stands: both are children of the prompt
    assert found["parents"] == [None, 0, 1, 0]
    assert (found["shown"], found["prompt"]) == ("aby", 0)
    assert (found["undone"], found["redone"]) == ("abcd", "aby")
    assert found["afterTheEnd"] == [True, True, True]
    assert found["forgotten"] == 4  # a new version ends what could be redone
    assert (found["renamed"], found["unchanged"]) == ("ABy", 0)


def test_the_places_where_versions_part(play: Playground) -> None:
    found = play.page.evaluate(GROWN)
    at_two = {"at": 2, "versions": [1, 3]}
    at_three = {"at": 3, "versions": [1, 2]}
    assert found["forks"] == [at_two | {"here": 1}]
    assert found["forksOfFirst"] == [at_two | {"here": 0}, at_three | {"here": 0}]
    assert found["forksOfSecond"] == [at_two | {"here": 0}, at_three | {"here": 1}]
    assert found["forksOfPrompt"] == [at_two | {"here": -1}]


def test_a_selected_token_that_is_drawn_again_stays_selected(play: Playground) -> None:
    found = play.page.evaluate(
        """async () => {
          const { tokenView } = await import('/view.js');
          const app = { colour: 'probability', selected: 1, on() {}, set() {} };
          const view = tokenView(app, { label: 'text', choose() {} });
          document.body.append(view.element);
          const tokens = [0x41, 0xe2, 0x82, 0xac].map((byte) => ({ id: byte, text: '', bytes: [byte], logprob: -1 }));
          const all = () => [...view.element.querySelectorAll('.token')];
          return [2, 3, 4].map((count) => {
            view.update(tokens.slice(0, count));
            return all().map((one) => [one.textContent, one.classList.contains('selected')]);
          });
        }"""
    )
    # The first byte of a character is drawn as one, then again as a part, when the others come.
    assert found[0] == [["A", False], ["\ufffd", True]]
    assert found[1] == [["A", False], ["E2", True], ["\ufffd", False]]
    assert found[2] == [["A", False], ["E2", True], ["82", False], ["\u20ac", False]]


def test_where_two_texts_part(play: Playground) -> None:
    call = (
        "async (pairs) => { const { parting } = await import('/compare.js'); return pairs.map((p) => parting(...p)); }"
    )

    def tokens(*texts: str) -> list[dict[str, list[int]]]:
        return [{"bytes": [*text.encode()]} for text in texts]

    whole = tokens("on", "ce")
    others = [whole, tokens("o", "nce"), tokens("o", "nc"), tokens("onc", "x"), tokens("x"), []]
    found = play.page.evaluate(call, [[whole, other] for other in others])
    assert found == [None, None, None, [1, 1], [0, 0], None]


def test_text_of_tokens_that_divide_characters(play: Playground) -> None:
    euro = [{"bytes": [0xE2, 0x82]}, {"bytes": [0xAC, 0x41]}]
    half = [{"bytes": [0x41]}, {"bytes": [0xE2]}]
    mark = [{"bytes": [0xEF, 0xBB, 0xBF]}]  # a byte order mark is a character as others are
    call = "async (all) => { const { pieces, decode } = await import('/token.js'); return all.map(NAME); }"
    assert play.page.evaluate(call.replace("NAME", "pieces"), [euro, half, mark, []]) == [
        ["", "€A"],
        ["A", "\ufffd"],
        ["\ufeff"],
        [],
    ]
    assert play.page.evaluate(call.replace("NAME", "decode"), [euro, half, mark, []]) == ["€A", "A\ufffd", "\ufeff", ""]


def test_tokens_and_numbers_as_text(play: Playground) -> None:
    found = play.page.evaluate(
        """async () => {
          const { visible, spoken, percent, bits, heat, sign } = await import('/token.js');
          const token = (text) => ({ id: 7, text, bytes: [...new TextEncoder().encode(text)] });
          return {
            visible: [' the', '\\n', '\\u202ea', '\\0', '<b>'].map((text) => visible(token(text))),
            part: [visible, spoken].map((read) => read({ id: 7, text: '\\ufffd', bytes: [0xE2, 0x96] })),
            special: [visible, spoken].map((read) => read({ id: 7, text: '', bytes: [] })),
            spoken: [' the', ' ', '\\n\\n'].map((text) => spoken(token(text))),
            percent: [1, 0.1234, 0.0001, 0.00009, 0].map(percent),
            bits: [0, -Math.LN2, -3 * Math.LN2].map(bits),
            heat: [
              heat({ logprob: Math.log(0.25) }, 'probability'),
              heat({ logprob: -6 * Math.LN2 }, 'surprise'),
              heat({ logprob: -99 }, 'surprise'),
              heat({ logprob: null }, 'surprise'),
            ],
            sign: ['a', ' ', '\\u200f', '\\t'].map(sign),
          };
        }"""
    )
    assert found["visible"] == ["␣the", "↵", "U+202Ea", "U+0000", "<b>"]
    assert found["part"] == ["E2 96", "part of a character, bytes E2 96"]
    assert found["special"] == ["id 7", "special token 7"]
    assert found["spoken"] == ["the", "space", "2 new lines"]
    assert found["percent"] == ["100.00 %", "12.34 %", "0.01 %", "< 0.01 %", "0 %"]
    assert found["bits"] == pytest.approx([0, 1, 3])
    assert found["heat"] == pytest.approx([0.25, 0.5, 1, 0])
    assert found["sign"] == [None, None, "U+200F", "⇥"]


def test_ids_in_a_link(play: Playground) -> None:
    read = "async (all) => { const { packed, unpacked } = await import('/link.js'); return all.map(FUNCTION); }"
    ids = [[0], [127], [128], [300, 5], [2**31 - 1, 0]]
    # 7 bits a byte, the lowest first, 128 added to all but the last: 300 = 44 + 2 * 128
    bytes_of = [[0], [127], [128, 1], [172, 2, 5], [255, 255, 255, 255, 7, 0]]
    texts = [base64.urlsafe_b64encode(bytes(one)).decode().rstrip("=") for one in bytes_of]
    assert play.page.evaluate(read.replace("FUNCTION", "packed"), ids) == texts
    assert play.page.evaluate(read.replace("FUNCTION", "unpacked"), texts) == ids


BROKEN = [
    "",
    "v=2",
    "v=1&v=1",
    "v=1&evil=1",
    "v=1&temperature=x",
    "v=1&temperature=1e999",
    "v=1&top_p=-1",
    "v=1&seed=1.5",
    "v=1&seed=",
    "v=1&tab=../secret",
    "v=1&colour=red",
    "v=1&mode=__proto__",
    "v=1&ids=AQ",
    "v=1&ids=AQ&given=2",
    "v=1&ids=AQ&given=0",
    "v=1&ids=AQ&given=1e0",
    "v=1&given=1&ids=<script>",
    "v=1&given=1&ids=gA",
    "v=1&given=1&ids=_____w",
    "v=1&given=1&ids=",
    "v=1&prompt=" + "a" * 200_000,
]


def test_a_broken_link_is_told_in_one_line(play: Playground) -> None:
    messages = play.page.evaluate(
        """async (all) => {
          const { decode } = await import('/link.js');
          return all.map((hash) => {
            try {
              return { state: decode(hash) };
            } catch (error) {
              return error.constructor === Error && error.message;
            }
          });
        }""",
        BROKEN,
    )
    for hash, message in zip(BROKEN, messages, strict=True):
        assert isinstance(message, str), hash[:50]
        assert message.endswith(".")
        assert "\n" not in message


def test_a_link_says_what_was_said(play: Playground) -> None:
    state = {
        "model": "a&b=c #%",
        "settings": {
            "temperature": 0.1,
            "top_k": 5,
            "top_p": None,
            "min_p": 0.05,
            "repetition_penalty": 1,
            "seed": 9007199254740991,
            "max_tokens": 7,
        },
        "prompt": "a\n\u202e&=#%\U0001f981 +",
        "given": 2,
        "ids": [1, 2, 300],
        "tab": "attention",
        "colour": "surprise",
        "mode": "text",
        "parts": {"attention": "1.2"},
    }
    call = "async (state) => { const { encode, decode } = await import('/link.js'); return decode(encode(state)); }"
    assert play.page.evaluate(call, state) == state
    assert play.page.evaluate(call, state | {"given": None, "ids": None}) == state | {"given": None, "ids": None}

"""Strings at which tokenizers part company."""

import random
from collections.abc import Iterator

ODD = [
    *(
        "▁",
        "▅",
        "\0",
        "\r",
        "\r\n",
        "\n",
        "\n\n",
        "\t",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2028",
        "\u3000",
        " ",
        "  ",
        " " * 17,
    ),
    *(
        "🦁",
        "👩‍👩‍👧",
        "e\u0301",
        "\u0323\u0301",
        "é",
        "ﬁ",
        "Å",
        "ſ",
        "'ſ",
        "İ",
        "猫",
        "，",
        "日本語",
        "\ufeff",
        "\ufffd",
        "\U0010ffff",
    ),
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<0x41>", "<s>", "</s>", "<|", "|>", "[PAD3]"),
    *(
        "a",
        "the",
        "Dorothy",
        " the",
        "don't",
        "WE'LL",
        "’s",
        "'s",
        "123",
        "4567",
        "٣",
        "½",
        "x=1;",
        "====",
        "----",
        "...",
        "_",
    ),
]


def strings(count: int, seed: int, alphabet: list[str] = ODD) -> Iterator[str]:
    """`count` strings, made of the odd ones and of any character."""
    chance = random.Random(seed)
    for _ in range(count):
        parts = chance.choices(alphabet, k=chance.randrange(1, 12))
        if chance.random() < 0.3:
            parts[0] = chr(chance.choice([chance.randrange(0xD800), chance.randrange(0xE000, 0x110000)]))
        yield "".join(parts)

"""Figure of chapter 1: how often the characters and the words of two corpora occur."""

import re
from collections import Counter
from itertools import count

from book import prepared_book
from style import BLACK, BLUE, ORANGE, new, save

from llm_from_scratch import tales

SHOWN = {" ": "space", "\n": "newline"}


def told_stories(size: int) -> str:
    """Returns stories of level 4, `size` characters in all."""
    text = ""
    for number in count():
        if len(text) >= size:
            return text[:size]
        text += tales.tell(seed=0, number=number, level=4) + "\n"
    raise AssertionError


def ranked_words(text: str) -> list[tuple[str, int]]:
    """Returns the words of a text with their counts, the most frequent first."""
    return Counter(re.findall(r"[^\W\d_]+", text.lower())).most_common()


book = prepared_book("tokenizer=char")
oz = "".join(text for split in ("train", "val") for text in book.documents(split))

figure, (letters, words) = new(1, 2, width=8.2, height=3.6, width_ratios=(1, 1.35))
common = Counter(oz).most_common(15)
letters.barh([SHOWN.get(char, char) for char, _ in common], [100 * n / len(oz) for _, n in common], color=BLUE)
letters.invert_yaxis()
letters.grid(axis="y", visible=False)
letters.set(xlabel="share of all characters (%)", title="Oz: the most frequent characters")

for name, text, colour, line in (("Oz", oz, BLUE, "-"), ("told stories", told_stories(len(oz)), ORANGE, "--")):
    found = ranked_words(text)
    words.loglog(
        range(1, len(found) + 1), [n for _, n in found], line, color=colour, label=f"{name}: {len(found):,} words"
    )
    once = sum(n == 1 for _, n in found)
    print(f"{name}: {len(found):,} different words, {once:,} of them once; {found[:3]}")
    if name == "Oz":
        for rank in (1, 10, 100, 1000):
            word, n = found[rank - 1]
            words.plot(rank, n, "o", color=colour)
            words.annotate(word, (rank, n), (6, 4), textcoords="offset points", color=BLACK)
words.set(xlabel="rank of the word", ylabel="how often it occurs", title="Words: few frequent ones, many rare ones")
for axis in (words.xaxis, words.yaxis):
    axis.set_major_formatter("{x:,.0f}")
words.legend(loc="lower left")
save(figure, "01_words")

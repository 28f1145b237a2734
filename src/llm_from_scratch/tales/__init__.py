"""Tales: small stories whose every choice has a known probability, so that their entropy is known.

`tell(seed, number, level)` tells a story, `log2_probability(text)` is exact, `entropy(level)` is
the least that a model can reach on fresh stories, `check(text)` names what is wrong with one.

The process is one program (process.py) that asks a driver for each choice. The driver that tells
draws it; the driver that reads finds it in the text. docs/tales.md describes the world and the
levels. The nearest relatives are TinyStories (Eldan and Li 2023), written by a language model, and
the synthetic grammars of "Physics of Language Models" (Allen-Zhu and Li 2023).

The modules, each of which may import those above it:
    choices      tables, sentences and forks: options with their probabilities
    people       names, characters, fears, riddles, promises
    things       things to wish for, tools, obstacles, food
    places       homes, places, ways, and what is seen there
    phrases      the sentences, in groups of one event each
    world        what is true at a moment of a story
    process      the program that tells a story, and its four levels
    telling      the driver that draws; stories by (seed, number)
    reading      the driver that recognizes; exact probabilities
    expectation  the entropy, exact and estimated
    lexicon      all words; the values of the slots of a sentence
    repairs      a text with a fault, mended at its first one
    judge        the faults of a text, by kind

"""

from llm_from_scratch.tales.choices import KINDS
from llm_from_scratch.tales.expectation import Entropy, entropy
from llm_from_scratch.tales.judge import FAULTS, Fault, Verdict, check
from llm_from_scratch.tales.process import LEVELS
from llm_from_scratch.tales.reading import Choice, Options, alternatives, choices, log2_probability, options
from llm_from_scratch.tales.telling import split_of, stories, tell

__all__ = [
    "FAULTS",
    "KINDS",
    "LEVELS",
    "Choice",
    "Entropy",
    "Fault",
    "Options",
    "Verdict",
    "alternatives",
    "check",
    "choices",
    "entropy",
    "log2_probability",
    "options",
    "split_of",
    "stories",
    "tell",
]

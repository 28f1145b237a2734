"""The project's own rubric, training items with their feedback, and the sentences of attention
checks.

All examples are written for this project. A text is judged question by question: each training item
is good in one respect and bad in another, so that a rater learns to keep them apart.
"""

from dataclasses import dataclass, field
from typing import Any

GIVEN = "The old lighthouse keeper heard a knock at the door."  # what the anchored examples continue


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a text, answered from 1 to 5.

    Attributes:
        name: a word of small letters, digits and "_".
        text: the question, as raters read it.
        levels: what each of 1 to 5 means.
        anchors: level -> an example of it.
        given: what the examples continue; "" for nothing.
    """

    name: str
    text: str
    levels: dict[int, str]
    anchors: dict[int, str] = field(default_factory=dict)
    given: str = ""


FLUENCY = Question(
    name="fluency",
    text=(
        "How well is the text written, sentence by sentence? Judge grammar, spelling and the choice of words alone;"
        " whether it makes sense is the next question. All texts are cut: that the last sentence breaks off is no fault."
    ),
    levels={
        1: "Hardly a sentence is English: broken words, or words in no order.",
        2: "Most sentences have a serious fault; some must be read twice.",
        3: "About half of the sentences are right. The faults disturb, but one sees what is meant.",
        4: "Good English with a few small faults, such as a wrong word.",
        5: "Good English from beginning to end, as in a printed book.",
    },
    anchors={
        1: "The keeper keeper of door had and wind which. She lamp knocking to was the stairs it a.",
        3: (
            "The keeper go down the stairs and opened the door. There was a girl, she was wet of the rain. “Please, may"
            " I came in?” said her. He gave her a chair by the fire."
        ),
        5: (
            "The keeper put down his cup and listened. Nobody had climbed the path for weeks, and yet there it was"
            " again: three slow knocks. He took the lamp from its hook and went to see."
        ),
    },
    given=GIVEN,
)
COHERENCE = Question(
    name="coherence",
    text=(
        "Does the text hang together? Judge whether each sentence follows from those before it, and whether people,"
        " places and facts stay what they were. A plain text can be perfectly coherent."
    ),
    levels={
        1: "The sentences have nothing to do with each other.",
        2: "Now and then two sentences belong together; there is no thread to follow.",
        3: "There is a thread with clear breaks: somebody comes from nowhere, or a fact changes.",
        4: "One thread from beginning to end, with a small slip.",
        5: "Everything follows from what was said before, and nothing contradicts it.",
    },
    anchors={
        1: (
            "The door was blue on Tuesdays. Seven bakers sold the moon. He has never had a sister, said the train, and"
            " the soup was signed by the king."
        ),
        3: (
            "The keeper opened the door, and a girl came in out of the rain. She asked for bread. The captain said that"
            " he had been waiting since noon. The girl ate her soup, and the keeper's sons went back to sea."
        ),
        5: (
            "The keeper opened the door, and a girl came in out of the rain. Her boat had struck the rocks, she said,"
            " and her father was still out there. He wrapped her in his coat and ran down to the boathouse."
        ),
    },
    given=GIVEN,
)
RELEVANCE = Question(
    name="relevance",
    text=(
        "Does the text go on from what is given? Judge whether it takes up the people, the place, the situation and the"
        " tone of the given text. How well it is written does not count here."
    ),
    levels={
        1: "It has nothing to do with the given text.",
        2: "A name or a word comes back; the rest could follow anything.",
        3: "The same people or place, but the situation is dropped or the tone is another.",
        4: "It goes on from the given text and loses sight of a part of it.",
        5: "It takes up people, place, situation and tone, as if one author had written both.",
    },
    anchors={
        1: (
            "The price of wheat rose by four pence in the spring, and the committee met on Thursday to speak about the"
            " new bridge."
        ),
        3: (
            "The lighthouse keeper liked fish. In summer he caught them from the pier, and in winter he ate them"
            " smoked. Best of all he liked mackerel."
        ),
        5: (
            "He expected nobody; no boat could have landed in such a sea. “Who is there?” he called, and held the lamp"
            " up to the little window."
        ),
    },
    given=GIVEN,
)
QUESTIONS = (FLUENCY, COHERENCE, RELEVANCE)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A training item: the texts, the right answers (as `records.Item.expected`), the feedback."""

    given: str
    texts: tuple[str, ...]
    expected: dict[str, Any]
    feedback: str


SCALES = (
    Example(
        given="Once upon a time there was a miller who had three sons.",
        texts=(
            "The museum opens at nine on weekdays and at ten on Sundays. Tickets are sold at the entrance. Children"
            " under six pay nothing, and dogs must wait outside.",
        ),
        expected={"fluency": [4, 5], "coherence": [4, 5], "relevance": [1, 1]},
        feedback=(
            "The English is clean and the sentences belong together: fluency and coherence are 4 or 5. But nothing is"
            " left of the miller and his sons, so relevance is 1. Judge each question by itself."
        ),
    ),
    Example(
        given="The train stopped in the middle of the forest.",
        texts=(
            "Nobody known why. The driver climb down and look under the wheels, but he find nothing what was broken. “We"
            " must to wait,” he say to the passengers. After a hour it begun to snow, and the train still stand there.",
        ),
        expected={"fluency": [1, 3], "coherence": [4, 5], "relevance": [4, 5]},
        feedback=(
            "Nearly every sentence has a fault, so fluency is 3 at the most. What happens is clear, and it is about the"
            " train in the forest: coherence and relevance are 4 or 5. Bad grammar does not lower the other two."
        ),
    ),
    Example(
        given="Anna found a key in the garden.",
        texts=(
            "She put it into her pocket. It was too large for any pocket, so her uncle, who had died the year before,"
            " carried it home. The key was made of gold. Anna wondered who had written the letter, and poured the iron"
            " key back into the lake.",
        ),
        expected={"fluency": [4, 5], "coherence": [1, 3], "relevance": [3, 5]},
        feedback=(
            "Each sentence by itself is good English, so fluency is 4 or 5. But a dead uncle carries the key, gold"
            " becomes iron, and a letter comes from nowhere: coherence is 3 at the most. Anna and her key are there all"
            " the time, so relevance is 3 or more."
        ),
    ),
    Example(
        given="The king could not sleep.",
        texts=(
            "At midnight he rose, put on his oldest coat and slipped out by the kitchen door. In the yard a stable boy"
            " sat on a bucket. “Can't you sleep either?” asked the king. “I could, sir,” said the boy, “but the horse is"
            " ill, and somebody has to be awake.”",
        ),
        expected={"fluency": [4, 5], "coherence": [4, 5], "relevance": [4, 5]},
        feedback=(
            "Nothing is wrong here. Use the whole scale: a good text gets a 5, whoever may have written it, and a bad"
            " one a 1."
        ),
    ),
)
PAIRS = (
    Example(
        given="Once upon a time there was a miller who had three sons.",
        texts=(
            "The eldest was strong, the second was clever, and of the youngest nobody expected anything. So when the"
            " mill burned down, it was the youngest who thought of saving the cat.",
            "Sons sons the miller three had was upon, and the time of of wheel. Once the flour that he water them not"
            " was of it.",
        ),
        expected={"preference": "first"},
        feedback=(
            "One of the texts is no English. You would rather go on reading the one about the three brothers. Where the"
            " difference is as clear as here, say so."
        ),
    ),
    Example(
        given="The train stopped in the middle of the forest.",
        texts=(
            "The museum opens at nine on weekdays and at ten on Sundays. Tickets are sold at the entrance, and dogs must"
            " wait outside.",
            "The driver climbed down and looked under the wheels, but nothing was broken. “We must wait,” he told the"
            " passengers. After an hour it began to snow.",
        ),
        expected={"preference": "second"},
        feedback=(
            "Both are good English, but one of them has forgotten the train: it does not continue what is given. The"
            " other one does."
        ),
    ),
    Example(
        given="Anna found a key in the garden.",
        texts=(
            "She looked at the key. She looked at the key. She looked at the key and she looked at the key. She looked"
            " at the key in the garden. She looked at the key.",
            "It was rusty and as long as her hand, and it fitted no door of the house. “Then there is another door,”"
            " said her grandmother, and put down her knitting.",
        ),
        expected={"preference": "second"},
        feedback="One of the texts says the same thing again and again. The other one goes somewhere.",
    ),
)
# What stands in the middle of a text that checks whether it is read; {answer} is from 1 to 5.
CHECK_SCALES = "If you are reading this, please answer every question about this text with {answer}."
CHECK_PAIRS = "If you are reading this, please choose this text, whatever you think of the two."
CONSENT = (
    "You will read short texts and judge them. Some were written by people and some by computer programs; you are not"
    " told which. Your answers, the time that each took and, if you give them, your comments and answers to the questions"
    " about yourself are kept and analysed, and may be published. Your name is not asked for and not kept. You may stop"
    " at any time, and pass over what you cannot judge."
)

"""Rating in a terminal, or from a pipe: a line for each answer.

What the rater reads goes to standard output; a stranger's text is shown with its control characters
as visible escapes.
"""

import textwrap
import time
from collections.abc import Callable
from typing import Any

from llm_from_scratch.errors import UserError
from llm_from_scratch.rating.records import Feedback, Rater, Task
from llm_from_scratch.rating.store import Study
from llm_from_scratch.rating.study import Background, StudyPlan
from llm_from_scratch.terminal import printable

WIDTH = 88  # columns
HELP = "-: cannot judge   c TEXT: a comment   b: back   ?: the rubric   q: stop; what was answered is kept"
SIDES = {"a": "left", "b": "right", "t": "tie", "-": None}


class _LeftError(Exception):
    """The rater leaves a task without an answer, for the one before or for good."""

    def __init__(self, back: bool) -> None:
        self.back = back


def rater_of(study: Study, code: str | None) -> Rater:
    """Returns the rater of a code; without one the first person who has not begun.

    Raises:
        UserError: when there is no such code, or everybody has begun.
    """
    if code is not None:
        found = study.rater(code)
        if found is None:
            raise UserError("--code: there is no such code in this study; `rate invite STUDY 0 --list` lists them")
        return found
    for rater in study.raters():
        if rater.kind == "person" and rater.consented is None:
            return rater
    raise UserError("every code is in use: give yours (--code CODE), or make another one with `rate invite STUDY`")


class Terminal:
    """One rater in front of a study.

    Args:
        study: the study.
        rater: whose tasks are shown.
        read: reads a line, with a prompt before it; raises EOFError at the end.
        show: prints a line.
    """

    def __init__(
        self,
        study: Study,
        rater: Rater,
        read: Callable[[str], str],
        show: Callable[[str], None],
    ) -> None:
        self.study, self.plan, self.rater = study, study.plan, rater
        self.read, self.show = read, lambda line: show(printable(line))

    def rate(self) -> None:
        """Shows task after task until all are answered, or the rater stops.

        Raises:
            UserError: when the study is closed.
        """
        try:
            if self._agreed():
                self._tasks()
        except (EOFError, KeyboardInterrupt):
            self.show("")
        self.show(f"Go on at any time with --code {self.rater.code}")

    def _agreed(self) -> bool:
        """Returns whether the rater consents, now or before."""
        if self.rater.consented is None:
            self._heading(self.plan.title)
            self._paragraphs(self.plan.consent)
            while (answer := self._line("Do you agree? yes or no: ").lower()) not in ("yes", "y"):
                if answer in ("no", "n"):
                    self.show("Then nothing is kept. Thank you for coming.")
                    return False
            background = {one.name: answer for one in self.plan.background if (answer := self._background(one))}
            self.rater = self.study.consent(self.rater, background)
        return True

    def _background(self, question: Background) -> str:
        self.show(f"\n{question.text}")
        for number, option in enumerate(question.options, 1):
            self.show(f"  {number}  {option}")
        while True:
            answer = self._line("A number, or Enter to pass over: ")
            if not answer:
                return ""
            if answer.isdecimal() and 1 <= int(answer) <= len(question.options):
                return question.options[int(answer) - 1]

    def _tasks(self) -> None:
        tasks = self.study.tasks(self.rater)
        if not tasks:
            return self.show("Every text has its ratings already: there is nothing left for you. Thank you!")
        place = next((task.position for task in tasks if task.answer is None), len(tasks))
        while True:
            if place == len(tasks):
                self.show("\nAll is answered. Thank you!")
                if self._line("b: back to the last one, Enter: end ").lower() != "b":
                    return
                place -= 1
            try:
                self._task(tasks[place], len(tasks))
                place += 1
            except _LeftError as left:
                if not left.back:
                    return
                place = max(place - 1, 0)
            tasks = self.study.tasks(self.rater)

    def _task(self, task: Task, count: int) -> None:
        """Shows one task and keeps the answer."""
        begun, self._comment = time.monotonic(), task.comment
        training = "   (for practice)" if task.kind == "training" else ""
        self._heading(f"{task.position + 1} of {count}{training}")
        self._paragraphs(task.given)
        for name, text in zip(("A", "B") if len(task.texts) > 1 else ("",), task.texts, strict=True):
            self.show(f"\n--- {name}" if name else "\n---")
            self._paragraphs(text)
        self.show(f"\n{HELP}")
        before = task.answer or {}
        if self.plan.design == "pairs":
            value: dict[str, Any] = {"preference": self._side(before)}
        else:
            value = {name: self._scale(name, before) for name in self.plan.answers}
        feedback = self.study.answer(self.rater, task.id, value, self._comment, time.monotonic() - begun)
        if feedback is not None:
            self._feedback(feedback)

    def _scale(self, name: str, before: dict[str, Any]) -> int | None:
        return self._choice(f"{name}, 1 to 5", {**{str(i): i for i in range(1, 6)}, "-": None}, name, before)

    def _side(self, before: dict[str, Any]) -> str | None:
        self.show(self.plan.pair_question)
        sides = {key: side for key, side in SIDES.items() if self.plan.ties or key != "t"}
        tie = ", t: a tie" if self.plan.ties else ""
        # "b" is the text B here; "back" goes back.
        return self._choice(f"a or b{tie}", sides, "preference", before)

    def _choice(self, prompt: str, choices: dict[str, Any], name: str, before: dict[str, Any]) -> Any:
        """Returns one answer; Enter keeps the one from before."""
        now = f" [{_key(choices, before[name])}]" if name in before else ""
        while True:
            answer = self._line(f"{prompt}{now}: ")
            word, _, rest = answer.partition(" ")
            if answer.lower() in choices:
                return choices[answer.lower()]
            if not answer and name in before:
                return before[name]
            if answer.lower() in ("b", "back"):
                raise _LeftError(back=True)
            if answer.lower() == "q":
                raise _LeftError(back=False)
            if word == "c" and rest:
                self._comment = rest
            elif answer == "?":
                self._rubric()
            else:
                self.show(f"{', '.join(choices)}; {HELP}")

    def _feedback(self, feedback: Feedback) -> None:
        self.show(f"\n{'Right.' if feedback.agrees else 'We would have said it otherwise.'}")
        self._paragraphs(feedback.text)
        self._line("Enter goes on ")

    def _rubric(self) -> None:
        for line in rubric_lines(self.plan):
            self._paragraphs(line)

    def _heading(self, text: str) -> None:
        self.show(f"\n=== {text} ===\n")

    def _paragraphs(self, text: str) -> None:
        for line in text.split("\n"):
            self.show(textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False))

    def _line(self, prompt: str) -> str:
        return self.read(printable(prompt)).strip()


def _key(choices: dict[str, Any], value: Any) -> str:
    return next(key for key, one in choices.items() if one == value)


def rubric_lines(plan: StudyPlan) -> list[str]:
    """Returns the rubric of a study as lines."""
    if plan.design == "pairs":
        return [plan.pair_question]
    lines = []
    for question in plan.questions:
        lines += [f"\n{question.name.upper()}: {question.text}"]
        lines += [f"  {level}  {text}" for level, text in question.levels.items()]
        if question.given and question.anchors:
            lines.append(f"Examples, of what could follow “{question.given}”")
        lines += [f"  {level}  “{text}”" for level, text in question.anchors.items()]
    return lines

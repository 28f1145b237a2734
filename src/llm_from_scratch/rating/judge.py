"""A model as rater, behind any endpoint of OpenAI's shape: it is marked as one, and never counted
among people.

It reads what people read: the texts as a rater sees them, without a name. A question is a request
of its own, answered by one number; a pair is asked about twice, sides swapped, and the mean counts
(`Study.preferences`), as models prefer a side (Zheng et al. 2023, arXiv:2306.05685). An attention
check is an instruction inside a text: a model that follows such instructions passes it, and could
be told by any text what to answer.
"""

import contextlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import IO, Any

from llm_from_scratch.errors import MachineError, UserError, message_of
from llm_from_scratch.rating.records import Rater, Task
from llm_from_scratch.rating.rubric import Question
from llm_from_scratch.rating.store import Study

MAX_ANSWER = 2**22  # bytes
ATTEMPTS = 4
LONGEST_WAIT = 30.0  # seconds, between two attempts
BUSY = (408, 425, 429, 500, 502, 503, 504)
SYSTEM = "You judge short texts. Judge what stands there alone, and answer exactly in the form that is asked for."
SCALE = """Here is the beginning of a text:

<beginning>
{given}
</beginning>

Here is a continuation:

<continuation>
{text}
</continuation>

{question}
{levels}
{anchors}
Answer with one number from 1 to 5 and nothing else. If you cannot judge, answer with 0."""
PAIR = """Here is the beginning of a text:

<beginning>
{given}
</beginning>

Here are two continuations:

<continuation A>
{left}
</continuation A>

<continuation B>
{right}
</continuation B>

{question}
Answer with {choices} and nothing else. If you cannot judge, answer with 0."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would take the token to another host."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str) -> None:
        return None


@dataclass
class Endpoint:
    """A model behind an interface of OpenAI's shape.

    Attributes:
        url: as clients have it for base_url, such as http://127.0.0.1:8000/v1.
        model: the model's name there.
        token: sent as `Authorization: Bearer`; None: none.
        max_tokens: of an answer; models that think first need many.
        seconds: to wait for an answer.
        wait: waits for a number of seconds.
    """

    url: str
    model: str
    token: str | None = field(default=None, repr=False)
    max_tokens: int = 512
    seconds: float = 120.0
    wait: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/\s]+", self.url):
            raise UserError(f"--url {self.url}: must be http://HOST:PORT/v1 or https://…")

    def ask(self, prompt: str) -> str:
        """Returns the model's answer, without what it thought before.

        Raises:
            UserError: when the endpoint refuses the request or is none.
            MachineError: when it cannot be reached, or stays busy.
        """
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}
        content = self._post(json.dumps(body).encode())
        try:
            text = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise UserError(
                f"--url {self.url}: its answer has no choices[0].message.content: is it base_url?"
            ) from None
        return re.sub(r"(?s).*</think>", "", str(text or "")).strip()

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "llm-from-scratch"}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        opener = urllib.request.build_opener(_NoRedirect)
        fault = ""
        for attempt in range(ATTEMPTS):
            request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
            after = None
            try:
                with opener.open(request, timeout=self.seconds) as answer:
                    return bytes(answer.read(MAX_ANSWER))
            except urllib.error.HTTPError as error:
                fault = f"{error.code} {_said(error)}"
                after = error.headers.get("Retry-After", "")
                if error.code not in BUSY:
                    raise UserError(f"--url {self.url}: refused: {fault}") from None
            except (OSError, ValueError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
                fault = message_of(error, 200)
            if attempt < ATTEMPTS - 1:
                self.wait(min(float(after) if after and after.isdecimal() else 2.0**attempt, LONGEST_WAIT))
        raise MachineError(f"--url {self.url}: no answer after {ATTEMPTS} attempts: {fault}; the same command goes on")


def _said(error: urllib.error.HTTPError) -> str:
    """Returns what an endpoint says about a refusal, in one line."""
    text = error.read(MAX_ANSWER).decode(errors="replace")
    with contextlib.suppress(ValueError, LookupError, TypeError):
        text = json.loads(text)["error"]["message"]
    return " ".join(str(text).split())[:300] or str(error.reason)


@dataclass
class Judged:
    """What a model has done: tasks answered now, requests, and answers that were no answer."""

    rater: Rater
    tasks: int = 0
    requests: int = 0
    unclear: int = 0


def judge(
    study: Study, endpoint: Endpoint, name: str | None = None, on_progress: Callable[[str], None] | None = None
) -> Judged:
    """Lets a model answer all tasks; one that was interrupted goes on.

    Args:
        study: the study.
        endpoint: the model.
        name: of the rater; None: the model's.
        on_progress: is told a line now and then.

    Raises:
        UserError: when the study is closed, or this model has judged already.
        MachineError: when the endpoint gives no answer. What it answered is kept.
    """
    name = name or endpoint.model
    known = next((rater for rater in study.raters() if rater.kind == "model" and rater.name == name), None)
    if known is not None and known.finished:
        raise UserError(f"{name}: has judged this study already: give it another name (--name) to judge once more")
    if study.closed:
        raise UserError("this study is closed: it takes no more answers")
    endpoint.ask("Answer with the number 1 and nothing else.")  # a wrong address leaves no rater behind
    judged = Judged(known or study.model_rater(name))
    tasks = [task for task in study.tasks(judged.rater) if task.answer is None]
    for number, task in enumerate(tasks):
        if on_progress is not None and number % 10 == 0:
            on_progress(f"{name}: {number} of {len(tasks)}")
        begun = time.monotonic()
        value = {key: _answer(judged, endpoint, prompt, read) for key, prompt, read in _requests(study, task)}
        study.answer(judged.rater, task.id, value, seconds=time.monotonic() - begun)
        judged.tasks += 1
    return judged


def _requests(study: Study, task: Task) -> list[tuple[str, str, Callable[[str], Any]]]:
    """Returns (key of the answer, prompt, how the answer is read) of each question about a task."""
    plan = study.plan
    if plan.design == "pairs":
        left, right = task.texts
        choices = "A, B or tie" if plan.ties else "A or B"
        prompt = PAIR.format(given=task.given, left=left, right=right, question=plan.pair_question, choices=choices)
        return [("preference", prompt, lambda text: read_side(text, plan.ties))]
    return [(one.name, scale_prompt(one, task.given, task.texts[0]), read_number) for one in plan.questions]


def scale_prompt(question: Question, given: str, text: str) -> str:
    """Returns the request to answer one question about a text."""
    levels = "\n".join(f"{level}: {meaning}" for level, meaning in question.levels.items())
    anchors = "\n".join(f"An example of {level}: {example}" for level, example in question.anchors.items())
    if anchors and question.given:
        anchors = f"\nExamples that could follow “{question.given}”:\n{anchors}\n"
    return SCALE.format(given=given, text=text, question=question.text, levels=levels, anchors=anchors)


def _answer(judged: Judged, endpoint: Endpoint, prompt: str, read: Callable[[str], Any]) -> Any:
    """Returns an answer; None, counted, where the model gives none."""
    judged.requests += 1
    try:
        return read(endpoint.ask(prompt))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        judged.unclear += 1
        return None


def read_number(text: str) -> int | None:
    """Returns the first number from 1 to 5 of an answer; None for 0.

    Raises:
        ValueError: when there is none.
    """
    found = re.search(r"(?<![\d.])[0-5](?![\d]|\.\d)", text)
    if found is None:
        raise ValueError("no number from 0 to 5")
    return int(found[0]) or None


def read_side(text: str, ties: bool) -> str | None:
    """Returns left, right or tie of an answer; None for 0.

    Raises:
        ValueError: when it names none.
    """
    found = re.search(r"\b(A|B|0|[Tt]ie|TIE)\b", text)
    if found is None or (found[0].lower() == "tie" and not ties):
        raise ValueError("neither A nor B")
    return {"A": "left", "B": "right", "0": None}.get(found[0], "tie")

"""Adapter of a run to EleutherAI's lm-eval.

Gao et al. 2021, “A framework for few-shot language model evaluation”.

The harness requests the log-likelihood of a continuation after a context or of a whole text, and
generated text; this module answers with the model of a run folder. It alone imports lm_eval.
Shapes: B windows, T tokens a window (`model.block_size`), V vocabulary.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.errors import UserError, first_line, missing_extra
from llm_from_scratch.evaluation.scoring import scorer, token_nats_and_greedy, windows_at_once
from llm_from_scratch.generation import generate
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.tokenizer import first_id
from llm_from_scratch.weights import LoadedModel

try:
    from lm_eval import simple_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise missing_extra("lm-eval needs", "harness", str(error)) from None

BOOTSTRAP = 1000  # bootstrap samples of standard errors that have no formula
NEW_TOKENS = 256  # of a generated answer at most, where the task sets no limit


class HarnessModel(TemplateLM):
    """A run as the model class that lm-eval calls.

    A text without a context is scored after an end-of-text token. A context that is too long keeps
    its last tokens.

    The log-likelihood is of the exact string of the request, since lm-eval divides it by that
    string's bytes: it is not cleaned. Prompts to continue, and the stop strings of the answer, are
    cleaned as the corpus was (`generate`, `SamplingConfig`).
    """

    def __init__(self, run: LoadedModel, batch_size: int) -> None:
        super().__init__()
        self.run, self.scorer = run, scorer(run.model, first_id(run.tokenizer))
        self.block_size = run.model.config.block_size
        self.batch_size = windows_at_once(batch_size, self.block_size, self.scorer.width)
        self.asked = False  # an error before the first request is the task's

    @property
    def eot_token_id(self) -> int:
        return first_id(self.run.tokenizer)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.run.tokenizer.encode(string)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Returns ln p of each whole text, in windows of T tokens; context fills the last one."""
        self.asked = True
        return [sum(value for value, _ in self._rolling(self.tok_encode(request.args[0]))) for request in requests]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        self.asked = True
        return [self._written(*request.args) for request in requests]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Returns (ln p, whether greedy decoding gives it) of each request's continuation."""
        self.asked = True
        short = [len(after) <= self.block_size for _, _, after in requests]
        fitting = iter(
            self._scores([(before, after) for (_, before, after), fits in zip(requests, short, strict=True) if fits])
        )
        found = []
        for (_, before, after), fits in zip(requests, short, strict=True):
            parts = [next(fitting)] if fits else self._rolling(after, before[-1])
            found.append((sum(value for value, _ in parts), all(greedy for _, greedy in parts)))
        return found

    def _rolling(self, ids: list[int], before: int | None = None) -> list[tuple[float, bool]]:
        prefix = self.eot_token_id if before is None else before
        windows = get_rolling_token_windows(ids, prefix_token=prefix, max_seq_len=self.block_size, context_len=1)
        return self._scores([make_disjoint_window(window) for window in windows])

    def _scores(self, asked: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Returns (ln p, is greedy) of each pair's second ids, at most T, after the first ids."""
        found = [(0.0, True)] * len(asked)
        order = sorted(range(len(asked)), key=lambda i: -sum(map(len, asked[i])))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            windows = [(asked[i][0] + asked[i][1])[-self.block_size - 1 :] for i in rows]
            # Padding is on the right, where the causal mask hides it from the scored tokens.
            x = torch.full((len(rows), max(map(len, windows)) - 1), self.eot_token_id)  # (B, T)
            y = torch.full_like(x, IGNORE)
            for row, (i, ids) in enumerate(zip(rows, windows, strict=True)):
                x[row, : len(ids) - 1] = torch.tensor(ids[:-1])
                counted = len(asked[i][1])
                y[row, len(ids) - 1 - counted : len(ids) - 1] = torch.tensor(ids[len(ids) - counted :])
            nats, greedy = token_nats_and_greedy(self.scorer, x.to(self.scorer.device), y.to(self.scorer.device))
            right = greedy.all(1).tolist()
            for i, value, all_greedy in zip(rows, nats.cpu().double().sum(1).tolist(), right, strict=True):
                found[i] = (-value, all_greedy)
        return found

    def _written(self, prompt: str, asked: dict[str, Any]) -> str:
        until, sampled = asked.get("until") or [], asked.get("do_sample", False)
        config = SamplingConfig(
            max_new_tokens=int(asked.get("max_gen_toks") or asked.get("max_new_tokens") or NEW_TOKENS),
            temperature=float(asked.get("temperature", 1.0)) if sampled else 0.0,
            top_k=(asked.get("top_k") or None) if sampled else None,
            top_p=(asked.get("top_p") or None) if sampled else None,
            stop=[until] if isinstance(until, str) else [stop for stop in until if stop],
        )
        pieces = generate(self.run.model, self.run.tokenizer, prompt, config, self.run.end_ids)
        return "".join(piece for (piece,) in pieces)


def harness(
    run: LoadedModel,
    tasks: Sequence[str],
    include: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Returns lm-eval's results of the tasks.

    Their keys are "results" (task -> {"metric,filter": value}), "versions", "n-shot", "n-samples".

    Args:
        tasks: names of tasks and groups, which fetch their data from the hub, or YAML files.
        include: a folder of further tasks. limit: examples of a task, the first ones; None: all.
        num_fewshot: solved examples in a prompt; None: as the task says.
        batch_size: windows at a time at most.

    Raises:
        UserError: when there is no such task, its data cannot be loaded, or the tokenizer does not
            know a character.
    """
    model = HarnessModel(run, batch_size)
    with contextlib.redirect_stdout(sys.stderr):  # lm-eval prints to stdout
        manager = TaskManager(include_path=str(include) if include else None)
        unknown = [task for task in tasks if task not in manager.all_tasks and not Path(task).is_file()]
        if unknown or not tasks:
            raise UserError(
                f"--tasks {','.join(unknown)}: lm-eval has no such task; name one of its own, a YAML file, or --include a folder"
            )
        try:
            found = simple_evaluate(
                model=model,
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                num_fewshot=num_fewshot,
                bootstrap_iters=BOOTSTRAP,
                log_samples=False,
            )
        except Exception as error:
            # A UserError: for example for a character that the tokenizer does not know.
            if model.asked or isinstance(error, UserError):
                raise
            line = first_line(error, 200)
            raise UserError(
                f"--tasks {','.join(tasks)}: lm-eval cannot make the task, its data may need the network ({line})"
            ) from None
    return {key: found[key] for key in ("results", "versions", "n-shot", "n-samples")}

"""callbacks=explain: figures of what happens inside the model, as images in TensorBoard.

A fixed text is read at some validations, the last one among them, so that a slider shows how heads
and layers come about. Nothing else of the run changes: figures draw no random number that training
draws.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from llm_from_scratch.errors import MachineError, UserError
from llm_from_scratch.explain.explanation import LONGEST, explain
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.training.loggers import TensorBoard
from llm_from_scratch.training.module import LanguageModel
from llm_from_scratch.training.sharded import whole_model

log = logging.getLogger(__name__)
DPI = 90


class Explain(Callback):
    """Images of the flow, the surprise, the logit lens, attention and heads of one text.

    Args:
        text: what the model reads; None: the prompt of the run's samples.
        times: validations at which it is drawn, at most, at equal distances; each takes seconds.
        tokens: of the text, at most.

    Raises:
        UserError: when a value is out of range.
    """

    def __init__(self, text: str | None = None, times: int = 8, tokens: int = 32) -> None:
        if text is not None and (not isinstance(text, str) or not text):
            raise UserError("text: must be a text, or null for the prompt of the samples")
        for name, value, least, most in (("times", times, 1, 1000), ("tokens", tokens, 2, LONGEST)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise UserError(f"{name}={value}: must be a whole number from {least} to {most}")
        self.text, self.times, self.tokens = text, times, tokens
        self.tokenizer: Tokenizer | None = None

    def read_with(self, tokenizer: Tokenizer, prompt: str) -> None:
        """Takes the tokenizer of a run, and the prompt of its samples.

        Raises:
            UserError: when the tokenizer lacks a character of the text.
        """
        self.tokenizer, self.text = tokenizer, self.text or prompt
        tokenizer.encode(self.text)

    def is_due(self, step: int, interval: int, last: int) -> bool:
        """Returns whether the validation after `step` is one of those that are drawn.

        It is a function of the step, the steps between validations and the last step, so that a
        resumed run draws what an undisturbed one does.
        """
        return step >= last or self.times * step // last > self.times * max(0, step - interval) // last

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: LanguageModel) -> None:
        """Draws the figures and logs them; rank 0 alone."""
        interval = int(trainer.val_check_interval) // trainer.accumulate_grad_batches
        if not self.is_due(trainer.global_step, interval, trainer.max_steps):
            return
        with pl_module.averaged():
            model = whole_model(trainer.strategy, pl_module.model)  # of a sharded model every rank must call it
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]
        if not trainer.is_global_zero or not boards:
            return
        assert self.tokenizer is not None
        assert self.text is not None
        from llm_from_scratch.explain.figures import DRAWINGS, picture  # matplotlib takes a second

        was = model.training
        try:
            with pl_module.averaged(), torch.compiler.set_stance("force_eager"):
                found = explain(model.eval(), self.tokenizer, self.text, longest=self.tokens, texts=1)
        except (MachineError, UserError) as error:  # a model of NaN, a text of no token
            log.warning("callbacks.explain: nothing is drawn at step %d: %s", trainer.global_step, error)
            return
        finally:
            model.train(was)
        for name, drawing in DRAWINGS.items():
            image = picture(found, drawing, dpi=DPI)
            for board in boards:
                if image is not None:
                    board.log_image(f"explain/{name}", np.asarray(image), trainer.global_step)


def check_explain(name: str, settings: Mapping[str, Any], loggers: Mapping[str, Any]) -> None:
    """Checks the settings of `Explain`, under its name in `callbacks`, before a run starts.

    Raises:
        UserError: when there is no TensorBoard to draw for, or as `Explain`.
    """
    if "tensorboard" not in loggers:
        chosen = ",".join(loggers) or "none"
        raise UserError(f"callbacks.{name}: draws for TensorBoard, and logger={chosen}: add tensorboard to it")
    given = {key: value for key, value in settings.items() if key != "_target_"}
    for key in given:
        if key not in ("text", "times", "tokens"):
            raise UserError(f"callbacks.{name}.{key}: there is no such setting; it has text, times, tokens")
    try:
        Explain(**given)
    except UserError as error:
        raise UserError(f"callbacks.{name}.{error}") from None

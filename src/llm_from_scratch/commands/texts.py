"""The text of a resumed run and the tokenizer of `init_from`, for prepare, inspect and plan."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_from_scratch.config import Config
    from llm_from_scratch.data.prepared import Prepared
    from llm_from_scratch.tokenizer import Tokenizer


def text_of_run(config: "Config") -> "Prepared | None":
    """Returns the text of the run that `resume` names; None without `resume`.

    Raises:
        UserError: when the text has changed since the run, or is gone.
    """
    if not config.resume:
        return None
    from llm_from_scratch.evaluation.measure import run_text
    from llm_from_scratch.weights import load_model

    folder = Path(config.resume)
    return run_text(folder, config, load_model(folder))


def tokenizer_of_origin(config: "Config") -> "Tokenizer | None":
    """Returns the tokenizer of the run that `init_from` names; None if it names no run.

    It is None on `resume`, too, and for a file of weights alone (.pt, .ckpt).
    """
    from llm_from_scratch.tokenizer import load_tokenizer
    from llm_from_scratch.weights import PICKLES, model_folder

    if config.resume or not config.init_from or Path(config.init_from).suffix in PICKLES:
        return None
    return load_tokenizer(model_folder(Path(config.init_from)))

"""The Wizard of Oz for the figures, prepared as `python train.py data=oz` prepares it."""

from llm_from_scratch.commands.prepare import prepared_text
from llm_from_scratch.data.prepared import Prepared
from llm_from_scratch.front.program import checked
from llm_from_scratch.places import config_dir


def prepared_book(*overrides: str) -> Prepared:
    """Returns the book's splits and its tokenizer, with the settings of train.py."""
    return prepared_text(checked(config_dir(), ["data=oz", *overrides]))

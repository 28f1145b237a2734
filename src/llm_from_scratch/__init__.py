"""A GPT from scratch: tokenizer -> data -> model -> training -> generation and evaluation.

The names below are the public Python API (docs/api.md). Each is imported when it is first used, so
that `import llm_from_scratch` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_from_scratch.api import generate, load_run, score
    from llm_from_scratch.config import SamplingConfig
    from llm_from_scratch.data.sampler import RandomChunkSampler, get_random_chunk
    from llm_from_scratch.generation import generate_with_temperature
    from llm_from_scratch.model import GPT, GPTConfig, self_attention
    from llm_from_scratch.tokenizer import load_tokenizer, train_tokenizer

__version__ = "0.1.0"
__all__ = [
    "GPT",
    "GPTConfig",
    "RandomChunkSampler",
    "SamplingConfig",
    "generate",
    "generate_with_temperature",
    "get_random_chunk",
    "load_run",
    "load_tokenizer",
    "score",
    "self_attention",
    "train_tokenizer",
]
# The module of each public name.
_MODULES = {
    "GPT": "model",
    "GPTConfig": "model",
    "RandomChunkSampler": "data.sampler",
    "SamplingConfig": "config",
    "generate": "api",
    "generate_with_temperature": "generation",
    "get_random_chunk": "data.sampler",
    "load_run": "api",
    "load_tokenizer": "tokenizer",
    "score": "api",
    "self_attention": "model",
    "train_tokenizer": "tokenizer",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from its module when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

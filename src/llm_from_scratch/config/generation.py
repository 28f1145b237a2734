"""Settings of generate.py: the model, the prompt, the sampling."""

import math
import re
from dataclasses import dataclass, field

from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import DTYPES


@dataclass(kw_only=True)
class SamplingConfig:
    """Sampling of the next tokens, the length and number of the samples; raises UserError."""

    max_new_tokens: int = 256  # tokens a sample, at most
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int | None = None  # tokens kept; null: all
    top_p: float | None = None  # probability kept; null: all
    min_p: float | None = None  # share of the likeliest token's probability that a token needs; null: none
    repetition_penalty: float = 1.0  # above 1, tokens written before become less likely; 1: none
    num_samples: int = 1  # texts, written side by side in one batch
    # true | false | auto: on a CUDA GPU each token's step as one captured graph, else plain
    compile: bool | str = "auto"
    seed: int = 1337  # from 0 to 2^63 - 1; the same seed writes the same text (on a CPU)
    stop: list[str] = field(default_factory=list)  # a sample ends before the first of these strings

    def __post_init__(self) -> None:
        self.stop = [clean_typed(stop) for stop in self.stop]  # the model writes text as the cleaned corpus has it
        # Written as `not (right)`, so that NaN, which compares as false, is refused too.
        for key, right, need in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or a finite number above it"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more, or null to keep all tokens"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or null to keep all tokens"),
            ("min_p", self.min_p is None or 0 < self.min_p <= 1, "above 0 and at most 1, or null to keep all tokens"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "a finite number above 0 (1: no penalty)"),
            ("num_samples", self.num_samples >= 1, "1 or more"),
            ("compile", self.compile in (True, False, "auto"), "true, false or auto"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1"),
            ("stop", "" not in self.stop, "a list of strings that are not empty"),
            (
                "stop",
                not re.search("[\ud800-\udfff]", "".join(self.stop)),
                "of whole characters: a half one never comes",
            ),
        ):
            if not right:
                raise UserError(f"{key}={getattr(self, key)} must be {need}")


@dataclass(kw_only=True)
class GenerateConfig(SamplingConfig):
    """The config of generate.py: the model, the prompt and the sampling."""

    run: str = "last"  # a run folder or last, the newest below outputs/; a .gguf file, a folder of transformers, hub:OWNER/NAME, smollm2
    prompt: str = ""  # what the text continues; empty: the start of a document; -: standard input
    prompt_file: str | None = None  # a UTF-8 file that holds the prompt, in place of prompt; -: standard input
    device: str = "auto"  # auto | cpu | cuda | mps; auto: the best one of this machine
    # auto | float32 | bfloat16 | int8 (on a CPU); auto: bfloat16 on GPUs that have it, else float32
    dtype: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in DTYPES:
            raise UserError(f"dtype={self.dtype} must be one of {', '.join(DTYPES)}")
        if self.prompt and self.prompt_file:
            raise UserError(f"prompt_file={self.prompt_file}: the prompt is given as well: leave one of them out")
        self.prompt = clean_typed(self.prompt)  # it is printed as the model reads it

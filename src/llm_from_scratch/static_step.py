"""A decoding step with fixed shapes for `generate_tokens`, replayed as a CUDA graph.

Launching a step kernel by kernel takes the host longer than the GPU needs to compute it.
`StaticStep` keeps the position of the next token on the device, so that all steps are alike: on
CUDA one step, with sampling and its noise, is captured as a CUDA graph and replayed. The plain
twin: `decode` and `sample` in `generation.py`.

Shapes: B batch (samples), T positions of the text, V vocabulary.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from llm_from_scratch import decoding_kernels
from llm_from_scratch.errors import first_line
from llm_from_scratch.model import GPT, KVCache

log = logging.getLogger(__name__)

SMALLEST = 128  # positions: the smallest bucket
Sampler = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def bucket(length: int, most: int) -> int:
    """Rounds a length in positions up to a power of two, at least 128 and at most `most`."""
    return min(most, max(SMALLEST, 1 << (length - 1).bit_length()))


def attention_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Returns a context that on CUDA excludes cuDNN's attention: it plans each length for 30 ms."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


class StaticStep:
    """Decoding step of fixed shapes: reads the last token of each text and appends the next one.

    Args:
        model: reads the tokens.
        cache: at each call holds the context without its last token.
        ids: the prompt and room for the new tokens (B, T); each call fills one column.
        choose: logits (B, V), text (B, T) and the generator -> the next ids (B,).
        generator: draws the noise. A graph advances it as the plain step does: the ids are equal.
        compiled: compiles the forward pass with torch.compile; a graph then has fewer kernels.
        reads_text: `choose` reads the text; it then sees the first token in columns not yet filled.
        temperature: of sampling without filters, 0 for greedy decoding; the fused kernels, where
            the model has them, then choose, too. None: `choose` chooses.
    """

    def __init__(
        self,
        model: GPT,
        cache: KVCache,
        ids: Tensor,
        choose: Sampler,
        generator: torch.Generator,
        *,
        compiled: bool = False,
        reads_text: bool = True,
        temperature: float | None = None,
    ) -> None:
        self.model, self.cache, self.ids, self.choose, self.generator = model, cache, ids, choose, generator
        self.on_gpu = ids.device.type == "cuda"
        self.place = torch.zeros(2, dtype=torch.int64, device=ids.device)
        # 0-based places of the token to read: in the cache, and in the text
        self.position, self.column = self.place.split(1)
        self.columns = torch.arange(ids.shape[1], device=ids.device) if reads_text else None
        self.temperature = temperature
        self.building: Future[None] | None = None
        self.head: Tensor | None = None  # where set, the fused kernels compute the logits
        if self.on_gpu and not compiled and decoding_kernels.supports(model):
            self.head = decoding_kernels.head_of(model, len(ids))
            cache.position = self.position
            self.building = decoding_kernels.build(model, cache, temperature or 0.0)
            cache.position = None
        self.compiled = compiled
        self.forward = torch.compile(_next_logits, fullgraph=True, dynamic=False) if compiled else _next_logits
        # Cache length and text length that the state on the device stands for
        self.expected: tuple[int, int] | None = None
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, length: int) -> None:
        """Fills column `length` (0-based) of the text, whose columns before it are filled.

        The cache holds the context without its last token, which this step reads.
        """
        cache = self.cache
        if self.expected != (cache.length, length):
            self._move_to(cache.length, length - 1)
        self._finish_building()
        # A compiled step attends to the whole capacity, the plain forward pass to the bucket of the
        # current length; fused kernels read only the filled positions of the capacity.
        whole = self.compiled or self.head is not None
        attended = cache.capacity if whole else bucket(cache.length + 1, cache.capacity)
        if not self.on_gpu:
            self._run(attended, self.generator)
        else:
            if attended not in self.graphs:
                self.graphs[attended] = self._capture(attended, length - 1)
            self.graphs[attended].replay()
        cache.length += 1
        self.expected = (cache.length, length + 1)

    def _finish_building(self) -> None:
        """Waits for the compilation; where it failed, warns and falls back to `GPT.forward`."""
        if self.building is None:
            return
        try:
            self.building.result()
        except Exception as error:  # no compiler, an old GPU, …: each raises its own type
            reason = first_line(error, 150)
            log.warning("Triton: %s: %s: decoding goes on without its kernels", type(error).__name__, reason)
            self.head = None
        self.building = None

    def _move_to(self, position: int, column: int) -> None:
        self.position.fill_(position)
        self.column.fill_(column)

    def _run(self, attended: int, generator: torch.Generator) -> None:
        cache = self.cache
        length, cache.length = cache.length, 0  # a constant: a changed number would recompile
        cache.position, cache.attended = self.position, attended
        try:
            ids = self.ids.index_select(1, self.column)[:, 0]
            if self.head is not None:
                logits = decoding_kernels.next_logits(self.model, ids, cache, self.head)
            else:
                logits = self.forward(self.model, ids, cache)
            if self.head is not None and self.temperature is not None:
                noise = None
                if self.temperature:  # as `generation.draw_noise` draws it
                    noise = torch.empty(logits.shape, device=logits.device).exponential_(generator=generator)
                chosen = decoding_kernels.choose(logits, noise, self.temperature or 1.0)
            else:
                text = self.ids
                if self.columns is not None:
                    text = torch.where(self.columns <= self.column, text, text[:, :1])
                chosen = self.choose(logits, text, generator)
            self.place += 1
            self.ids.index_copy_(1, self.column, chosen[:, None])
        finally:
            cache.length, cache.position = length, None

    def _capture(self, attended: int, column: int) -> torch.cuda.CUDAGraph:
        """Captures the step as a CUDA graph, after a warm-up step whose effects are undone."""
        stream = torch.cuda.Stream(self.ids.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # The warm-up step draws from a generator of its own.
            self._run(attended, torch.Generator(self.ids.device).manual_seed(0))
            self._move_to(self.cache.length, column)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            self._run(attended, self.generator)
        return graph


def _next_logits(model: GPT, ids: Tensor, cache: KVCache) -> Tensor:
    """Computes logits with `GPT.forward`: ids (B,) -> (B, V)."""
    return model(ids[:, None], cache)[:, 0]

"""The step of `generate_tokens` with fixed shapes, which a GPU repeats without the host.

Launching a step kernel by kernel takes the host longer than the GPU computes. `StaticStep` keeps
the place of the next token on the device, so that all steps are alike: on CUDA one step, with
sampling and its noise, is captured as a CUDA graph and replayed. The plain twin: `decode` and
`sample` in `generation.py`.

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
    """The smallest power of two of 128 or more that holds `length` positions, at most `most`."""
    return min(most, max(SMALLEST, 1 << (length - 1).bit_length()))


def attention_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Excludes cuDNN's attention on CUDA: it plans every new length anew, 30 ms and more each."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


class StaticStep:
    """Reads the last token of a text, appends the next one.

    Args:
        ids: the whole text (B, T) with room for the tokens to come; its columns are filled one by
            one.
        choose: logits (B, V), text (B, T) and the generator -> the next ids (B,).
        generator: of the noise. A graph advances it as the plain step does: the ids are the same.
        compiled: compiles the arithmetic with torch.compile; a graph then has fewer kernels.
        reads_text: the choice depends on the text; empty columns then hold the first token.
        temperature: of a choice without filters, 0 for greedy; the fused kernels then choose, too.
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
        # Of the token to read: in the cache, in the text
        self.position, self.column = self.place.split(1)
        self.columns = torch.arange(ids.shape[1], device=ids.device) if reads_text else None
        self.temperature = temperature
        self.building: Future[None] | None = None
        self.head: Tensor | None = None  # where it is set, the fused kernels read the token
        if self.on_gpu and not compiled and decoding_kernels.supports(model):
            self.head = decoding_kernels.head_of(model, len(ids))
            cache.position = self.position
            self.building = decoding_kernels.build(model, cache, temperature or 0.0)
            cache.position = None
        self.compiled = compiled
        self.forward = torch.compile(_next_logits, fullgraph=True, dynamic=False) if compiled else _next_logits
        # Position and length of the text, as the host counts them
        self.expected: tuple[int, int] | None = None
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, length: int) -> None:
        """Fills column `length` of a text of `length` tokens; the cache holds all but the last."""
        cache = self.cache
        if self.expected != (cache.length, length):
            self._move_to(cache.length, length - 1)
        self._finish_building()
        # Fused kernels read the filled positions, a compiled step all, any other whole buckets.
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
        """Waits for the kernels; where they cannot be built, the model itself reads the token."""
        if self.building is None:
            return
        try:
            self.building.result()
        except Exception as error:  # no compiler, an old GPU, …: each raises another
            reason = first_line(error, 150)
            log.warning("Triton: %s: %s: decoding goes on without its kernels", type(error).__name__, reason)
            self.head = None
        self.building = None

    def _move_to(self, position: int, column: int) -> None:
        self.position.fill_(position)
        self.column.fill_(column)

    def _run(self, attended: int, generator: torch.Generator) -> None:
        cache = self.cache
        length, cache.length = cache.length, 0  # a count that grew would be compiled again
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
        """The step as a graph, after one run that builds kernels and plans and is undone."""
        stream = torch.cuda.Stream(self.ids.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # The noise of a step that does not count comes from another generator.
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
    """ids (B,) -> logits (B, V), by the model itself."""
    return model(ids[:, None], cache)[:, 0]

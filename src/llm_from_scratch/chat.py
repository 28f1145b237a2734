"""A conversation with a model: messages -> ids by the chat template -> a streamed answer.

The history stays within the context: the oldest turns are left out first, the system prompt never.
The key/value cache is kept between turns, so that a new message alone is read, not the history.
"""

from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.errors import UserError
from llm_from_scratch.generation import TextStream, decode, draw_noise, sample
from llm_from_scratch.model import GPT, KVCache
from llm_from_scratch.static_step import attention_kernels, bucket
from llm_from_scratch.tokenizer.template import render_ids
from llm_from_scratch.weights import LoadedModel


class Reader:
    """Reads ids into a key/value cache, except those at the start that it holds already.

    The cache grows with the text: positions cost memory.
    """

    def __init__(self, model: GPT) -> None:
        self.model, weight = model, model.token_embedding.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.cache = KVCache(model.config, 1, 0, self.device, self.dtype)
        self.ids: list[int] = []  # in the cache

    def read(self, ids: list[int], room: int) -> Tensor:
        """Reads ids (T) and returns the logits (1, V) of the next one.

        `room` is the number of tokens that `read_one` may add; T + room is at most block_size.
        """
        pairs = zip(self.ids, ids[:-1], strict=False)  # the last one is read, for its logits
        known = next((n for n, (old, new) in enumerate(pairs) if old != new), min(len(self.ids), len(ids) - 1))
        self._reserve(len(ids) + room, known)
        self.cache.length, self.ids = known, ids[:known]
        new = torch.tensor([ids[known:]], device=self.device)
        with attention_kernels(self.device):
            logits = self.model.logits(self.model.hidden_states(new, self.cache)[:, -1])
        self.ids = [*ids]
        return logits

    def read_one(self, token: int) -> Tensor:
        """Reads one more id and returns the logits (1, V) of the next one."""
        held, self.ids = self.ids, []  # an interrupted step leaves nothing that counts as read
        logits = decode(self.model, torch.tensor([token], device=self.device), self.cache)
        self.ids = held
        self.ids.append(token)
        return logits

    def _reserve(self, positions: int, known: int) -> None:
        """Makes room for `positions`; the first `known` ones are kept."""
        if positions <= self.cache.capacity:
            return
        capacity = bucket(positions, self.model.config.block_size)
        grown = KVCache(self.model.config, 1, capacity, self.device, self.dtype)
        for new, old in zip(grown.keys + grown.values, self.cache.keys + self.cache.values, strict=True):
            new[:, :, :known] = old[:, :, :known]
        self.cache = grown


class Chat:
    """A conversation with one model.

    Args:
        loaded: the model, its tokenizer and its template.
        sampling: of the answers; `max_new_tokens` is the most of each.
        system: the system prompt; None: the template's own, where it has one.

    Raises:
        UserError: when the model has no chat template.
    """

    def __init__(self, loaded: LoadedModel, sampling: SamplingConfig, system: str | None = None) -> None:
        if loaded.chat_template is None:
            raise UserError(
                "this model has no chat template, so it continues texts and answers none: train one on conversations"
                " (data=chat), or use generate"
            )
        self.model, self.tokenizer, self.template = loaded.model, loaded.tokenizer, loaded.chat_template
        self.ends = {loaded.tokenizer.eot_id, *loaded.end_ids}
        self.sampling, self.system = sampling, system
        self.generator = torch.Generator(self.model.token_embedding.weight.device).manual_seed(sampling.seed)
        self.reader = Reader(self.model)
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation; the system prompt stays."""
        self.messages: list[dict[str, str]] = []  # of the user and the assistant, in turn
        self.start = 0  # the first message that the model still reads

    def set_temperature(self, value: float) -> None:
        """Sets the temperature of later answers.

        Raises:
            UserError: when it is negative or not finite.
        """
        self.sampling = replace(self.sampling, temperature=value)

    def transcript(self) -> list[dict[str, str]]:
        """Returns all messages, those that the model no longer reads included."""
        return [*self._system(), *self.messages]

    def answer(self, text: str) -> Generator[str, None, None]:
        """Answers a message; the parts that it yields, joined, are the answer.

        Closing the iterator stops the answer. The message and what was said of the answer are then
        part of the conversation; of an answer without a word neither is.

        Raises:
            UserError: at the call, when the message does not fit into the context.
        """
        message = {"role": "user", "content": clean_typed(text)}
        ids, start = self._fitting(message)
        self.start = start
        return self._answer(message, ids)

    @torch.inference_mode()
    def _answer(self, message: dict[str, str], ids: list[int]) -> Generator[str, None, None]:
        self.complete = False  # whether the model ended its answer itself
        said: list[str] = []
        stream = TextStream(self.sampling.stop)
        # The last token is not read
        most = min(self.sampling.max_new_tokens, self.model.config.block_size - len(ids) + 1)
        try:
            logits = self.reader.read(ids, most - 1)
            for count in range(1, most + 1):
                past = torch.tensor([self.reader.ids], device=logits.device)
                noise = draw_noise(logits, self.sampling, self.generator)
                token = int(sample(logits, past, self.sampling, noise).item())
                self.complete = token in self.ends
                data = b"" if self.complete else self.tokenizer.decode_bytes([token])
                said.append(stream.push(data, final=self.complete or count == most))
                self.complete |= stream.ended and count < most
                yield said[-1]
                if stream.ended:
                    return
                logits = self.reader.read_one(token)
        finally:
            if "".join(said) or self.complete:
                self.messages += [message, {"role": "assistant", "content": "".join(said)}]

    def _fitting(self, message: dict[str, str]) -> tuple[list[int], int]:
        """Returns the ids of the conversation with a new message, and its first message.

        The oldest turns are left out until a part of the context is free for the answer: its
        `max_new_tokens`, at most a quarter.
        """
        block_size = self.model.config.block_size
        limit = block_size - min(self.sampling.max_new_tokens, block_size // 4)
        for start in range(self.start, len(self.messages) + 1, 2):
            shown = [*self._system(), *self.messages[start:], message]
            ids = render_ids(self.template, shown, self.tokenizer, add_generation_prompt=True)
            if len(ids) <= limit:
                return ids, start
        raise UserError(
            f"the message has {len(ids)} tokens with the template and the system prompt, and the context of {block_size}"
            f" leaves {limit} beside an answer: shorten it"
        )

    def _system(self) -> list[dict[str, str]]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

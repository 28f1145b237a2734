"""Fine-tuning: which weights of a model are trained, and how fast each layer learns."""

from fnmatch import fnmatchcase

import torch

from llm_from_scratch.config import Config, FinetuneConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.lora import adapt
from llm_from_scratch.model import GPT, GPTConfig


def choose_trained(model: GPT, config: FinetuneConfig) -> None:
    """Freezes the weights that are not trained; for `lora` adds adapters, which alone are.

    Raises:
        UserError: when a setting names no module, or no weight would be trained.
    """
    if config.method == "lora":
        adapt(model, config.targets, rank=config.rank, alpha=config.alpha, p=config.dropout)
    elif config.method == "head":
        model.requires_grad_(False)
        # A tied head is the token embedding.
        (model.token_embedding if model.head is None else model.head).requires_grad_(True)
    for pattern in config.freeze:
        found = [module for name, module in model.named_modules() if name and fnmatchcase(name, pattern)]
        if not found:
            names = ", ".join(name for name, _ in model.named_children())
            raise UserError(f"finetune.freeze: {pattern} names no module: use {names}, blocks.0, blocks.0.attention, …")
        for module in found:
            module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("finetune.freeze: no weight is left to train")


def planned_model(config: Config, vocab_size: int) -> GPT:
    """Builds the model of a run on the meta device, with its adapters and its frozen weights.

    Raises:
        UserError: when a setting of `finetune` names no module.
    """
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=vocab_size, **vars(config.model)))
    choose_trained(model, config.finetune)
    return model


def layer_numbers(model: GPT) -> dict[str, int]:
    """Returns the number of each trained parameter's layer, by name, 0 for the last trained layer.

    The head and the final norm are one layer, each block is one, and the embeddings are the first;
    a tied head counts as an embedding.
    """
    depth = len(model.blocks)
    numbers = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("blocks."):
            numbers[name] = depth - int(name.split(".")[1])
        else:
            numbers[name] = depth + 1 if "embedding" in name else 0
    last = min(numbers.values())
    return {name: number - last for name, number in numbers.items()}

"""Estimates of a training's memory from the model's shape, and the micro-batch size that fits.

Letters: T tokens of a sequence, C channels, H query heads, G key/value heads, D head size, I inner
width, V vocabulary.
"""

import math

from torch import nn

from llm_from_scratch.config import Config, OptimConfig, TrainerConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.lora import LoRALinear
from llm_from_scratch.machine import gpu_bytes, has_cuda, memory_bytes
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.training.finetuning import planned_model

VALUE = 4  # bytes of a float32
# Inner activations of the feed-forward kept for the backward pass, in units of I values a token,
# without the input of its second matrix.
INNER = {"relu": 1, "gelu": 1, "gelu_erf": 1, "relu2": 1, "swiglu": 3}


def activation_bytes(model: GPT, *, recompute: bool, cpu: bool) -> int:
    """Returns the bytes per token of the activations kept for the backward pass, in float32.

    bfloat16 takes less. Source: Korthikanti et al. 2022, who count in this way for GPT-2.

    Args:
        model: the model, with its frozen weights.
        recompute: `trainer.activation_checkpointing`: only the input of each layer is kept, and all
            activations of one layer.
        cpu: whether a CPU trains; with dropout it keeps attention weights, 3 T values per token
            and head.
    """
    config, blocks = model.config, model.blocks
    first = config.n_layer - layers_with_gradient(model)
    layers = [_layer_values(blocks[n % len(blocks)], config, cpu) for n in range(first, config.n_layer)]
    kept = len(layers) * config.n_embd + max(layers, default=0) if recompute else sum(layers)
    # The final norm, and the loss, which computes its gradient in the forward pass
    return VALUE * (kept + 3 * config.n_embd)


def _layer_values(block: nn.Module, config: GPTConfig, cpu: bool) -> int:
    """Returns the values per token that a layer keeps for the backward pass."""
    C, D, heads = config.n_embd, config.head_dim, config.n_head + config.kv_heads
    # Inputs of the two norms; queries, keys, values and the output of attention; the inner
    # activations of the feed-forward
    values = 2 * C + 2 * heads * D + INNER[config.activation] * config.inner_size
    values += (config.qk_norm or config.position == "rotary") * heads * D
    if config.dropout:
        values += 2 * C + 3 * config.n_head * config.block_size * cpu
    # A weight that is trained needs its input. That of attention.out and the result of ReLU are
    # kept anyway.
    held = ["attention.out", *(["feed_forward.out"] if config.activation == "relu" else [])]
    for name, module in block.named_modules():
        if not any(weight.requires_grad for weight in module.parameters(recurse=False)):
            continue
        if isinstance(module, LoRALinear):
            # The r values between the two matrices; with dropout its mask, and the input with zeros
            values += module.lora_A.shape[0] + (module.p > 0) * module.in_features
            values += (module.p > 0 or name not in held) * module.in_features
        elif isinstance(module, nn.Linear):
            values += (name not in held) * module.in_features
        elif isinstance(module, nn.RMSNorm):  # its input, scaled
            number = {"attention.q_norm": config.n_head, "attention.k_norm": config.kv_heads}.get(name, 1)
            values += number * module.weight.numel()
    return values


def layers_with_gradient(model: GPT) -> int:
    """Counts the layers through which a gradient flows: the first trained one, and all above it."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if any(module.weight.requires_grad for module in embeddings):
        return model.config.n_layer
    for layer in range(model.config.n_layer):
        block = model.blocks[layer % model.config.unique_layers]
        if any(weight.requires_grad for weight in block.parameters()):
            return model.config.n_layer - layer
    return 0


def logits_bytes(vocab_size: int, *, cpu: bool) -> int:
    """Returns the bytes of logits, probabilities and logit gradients of a chunk of `GPT.loss`."""
    return 3 * VALUE * vocab_size * max(256, 2 ** (18 if cpu else 28) // vocab_size)


def state_bytes(model: GPT, optim: OptimConfig) -> dict[str, int]:
    """Returns the bytes of weights, gradients and the optimizer's moments, in float32.

    Frozen weights have neither gradients nor moments. AdamW keeps two moments per parameter, Muon
    one for those of the matrices within blocks. An average of the weights (`optim.ema_decay`)
    counts as optimizer state.
    """
    parameters, trained = model.num_parameters(), trained_parameters(model)
    blocks = model.blocks.parameters() if optim.name == "muon" else ()
    matrices = sum(one.numel() for one in blocks if one.requires_grad and one.dim() == 2)
    moments = 2 * trained - matrices + (optim.ema_decay is not None) * trained
    return {"weights": VALUE * parameters, "gradients": VALUE * trained, "optimizer": VALUE * moments}


def trained_parameters(model: GPT) -> int:
    """Counts the parameters that are trained, as `num_parameters` counts all."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def on_gpu(settings: TrainerConfig) -> bool:
    """Returns whether the training runs on a CUDA GPU."""
    return settings.accelerator in ("auto", "gpu") and has_cuda()


def device_bytes(settings: TrainerConfig) -> int:
    """Returns the total memory in bytes of the smallest visible GPU, or of this machine.

    On a CPU all processes share that memory. It is total, not free memory, so that the same command
    always gets the same micro-batches.
    """
    if on_gpu(settings):
        return min(gpu_bytes())
    return memory_bytes()


def activation_room(settings: TrainerConfig, processes: int) -> int:
    """Returns the bytes that one process may use for activations.

    They are 80 % of its GPU's memory; on a CPU, a quarter of the machine's divided by the
    processes.
    """
    if on_gpu(settings):
        return int(device_bytes(settings) * 0.8)
    return device_bytes(settings) // 4 // processes


def micro_batch_size(config: Config, devices: int, recorded: int | None = None) -> int:
    """Returns the sequences (loss=dpo: the pairs of two) of one device in a micro-batch.

    They are `data.micro_batch_size`, or where that is null the most that fit into memory.

    Args:
        config: the whole configuration.
        devices: the number of devices over all machines.
        recorded: the size that was chosen for the same run before, kept where it fits; None: there
            is none.

    Raises:
        UserError: when a batch cannot be divided evenly.
    """
    asked, batches = config.data.micro_batch_size, [("data.batch_size", config.data.batch_size)]
    batches += [("data.batch_schedule", size) for _, size in config.data.batch_schedule or []]
    for name, total in batches:
        if total % devices:
            raise UserError(f"{name}={total} cannot be shared by {devices} devices: use a multiple of {devices}")
        if asked is not None and total // devices % asked:
            raise UserError(
                f"data.micro_batch_size={asked} does not divide the {total // devices} sequences that each device has of a step"
            )
    sequences = math.gcd(*(total // devices for _, total in batches))
    gpu, recompute = on_gpu(config.trainer), config.trainer.activation_checkpointing
    model = planned_model(config, 1)  # the vocabulary does not matter
    a_sequence = activation_bytes(model, recompute=recompute, cpu=not gpu) * config.model.block_size
    a_sequence *= 2 if config.loss.name == "dpo" else 1
    fitting = activation_room(config.trainer, max(1, devices // config.trainer.num_nodes)) // a_sequence
    sizes = [n for n in range(1, sequences + 1) if sequences % n == 0 and n <= fitting] or [1]
    return asked or (recorded if recorded in sizes else max(sizes))

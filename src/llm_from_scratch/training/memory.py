"""Estimates of a training's memory from the model's shape, and the micro-batch size that fits.

Letters: T tokens of a sequence, C channels, H query heads, G key/value heads, D head size, I inner
width, V vocabulary.
"""

import math

from llm_from_scratch.config import Config, ModelConfig, OptimConfig, TrainerConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import gpu_bytes, has_cuda, memory_bytes

VALUE = 4  # bytes of a float32
# Inner activations of the feed-forward kept for the backward pass, in units of I values a token.
INNER = {"relu": 1, "gelu": 2, "gelu_erf": 2, "relu2": 2, "swiglu": 4}


def activation_bytes(model: ModelConfig, *, recompute: bool, cpu: bool) -> int:
    """Returns the bytes per token of the activations kept for the backward pass, in float32.

    bfloat16 takes less. Source: Korthikanti et al. 2022, who count in this way for GPT-2.

    Args:
        model: the shape.
        recompute: `trainer.activation_checkpointing`: only the input of each layer is kept, and all
            activations of one layer.
        cpu: whether a CPU trains; with dropout it keeps attention weights, 3 T values per token
            and head.
    """
    C, D, rms = model.n_embd, model.head_dim, model.norm == "rmsnorm"
    # Inputs of the two norms and the four matrix products; queries, keys, values; the inner
    # activations of the feed-forward.
    layer = 4 * C + 2 * (model.n_head + model.kv_heads) * D + INNER[model.activation] * model.inner_size
    layer += 2 * C * rms  # torch's RMSNorm keeps what it has scaled as well
    turned = (model.qk_norm or model.position == "rotary") + (model.qk_norm and rms)
    layer += turned * (model.n_head + model.kv_heads) * D
    if model.dropout:
        layer += 2 * C + 3 * model.n_head * model.block_size * cpu
    layers = model.n_layer * C + layer if recompute else model.n_layer * layer
    # The final norm, and the loss, which computes its gradient in the forward pass
    return VALUE * (layers + 3 * C)


def logits_bytes(vocab_size: int, *, cpu: bool) -> int:
    """Returns the bytes of logits, probabilities and logit gradients of a chunk of `GPT.loss`."""
    return 3 * VALUE * vocab_size * max(256, 2 ** (18 if cpu else 28) // vocab_size)


def state_bytes(parameters: int, optim: OptimConfig, matrices: int) -> dict[str, int]:
    """Returns the bytes of weights, gradients and the optimizer's moments, in float32.

    AdamW keeps two moments per parameter. Muon keeps one for each of the `matrices` parameters,
    those of the matrices within blocks. An average of the weights (`optim.ema_decay`) counts as
    optimizer state.
    """
    moments = 2 * parameters - (optim.name == "muon") * matrices + (optim.ema_decay is not None) * parameters
    return {"weights": VALUE * parameters, "gradients": VALUE * parameters, "optimizer": VALUE * moments}


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
    a_sequence = activation_bytes(config.model, recompute=recompute, cpu=not gpu) * config.model.block_size
    a_sequence *= 2 if config.loss.name == "dpo" else 1
    fitting = activation_room(config.trainer, max(1, devices // config.trainer.num_nodes)) // a_sequence
    sizes = [n for n in range(1, sequences + 1) if sequences % n == 0 and n <= fitting] or [1]
    return asked or (recorded if recorded in sizes else max(sizes))

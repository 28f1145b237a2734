"""The bytes that a training takes, from its shape alone, and the micro-batches that fit.

Letters: T tokens of a sequence, C channels, H query heads, G key/value heads, D head size, I inner
width, V vocabulary.
"""

import math

from llm_from_scratch.config import Config, ModelConfig, OptimConfig, TrainerConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import gpu_bytes, has_cuda, memory_bytes

VALUE = 4  # bytes of a float32
# Of the feed-forward's inside, how many times I values wait for the backward pass.
INNER = {"relu": 1, "gelu": 2, "gelu_erf": 2, "relu2": 2, "swiglu": 4}


def activation_bytes(model: ModelConfig, *, recompute: bool, cpu: bool) -> int:
    """Activations kept for the backward pass, bytes a token, in float32; bfloat16 takes less.

    Source: Korthikanti et al. 2022 count so for GPT-2.

    Args:
        model: the shape.
        recompute: `trainer.activation_checkpointing`: the stream before each layer stays, and the
            inside of one layer.
        cpu: dropout keeps attention weights there, T for each head.
    """
    C, D, rms = model.n_embd, model.head_dim, model.norm == "rmsnorm"
    # Inputs of the two norms, of the four products; queries, keys, values; the feed-forward's
    # inside.
    layer = 4 * C + 2 * (model.n_head + model.kv_heads) * D + INNER[model.activation] * model.inner_size
    layer += 2 * C * rms  # torch's RMSNorm keeps what it has scaled as well
    turned = (model.qk_norm or model.position == "rotary") + (model.qk_norm and rms)
    layer += turned * (model.n_head + model.kv_heads) * D
    if model.dropout:
        layer += 2 * C + 3 * model.n_head * model.block_size * cpu
    layers = model.n_layer * C + layer if recompute else model.n_layer * layer
    # The final norm, and the loss, which makes its gradient on the way
    return VALUE * (layers + 3 * C)


def logits_bytes(vocab_size: int, *, cpu: bool) -> int:
    """Bytes of logits, probabilities and errors of the chunk that `GPT.loss` computes at a time."""
    return 3 * VALUE * vocab_size * max(256, 2 ** (18 if cpu else 28) // vocab_size)


def state_bytes(parameters: int, optim: OptimConfig, matrices: int) -> dict[str, int]:
    """Bytes of weights, gradients and AdamW's two moments, in float32.

    Muon keeps one moment of the `matrices` numbers within blocks.

    An average of the weights is as large as they are, and counted with the optimizer's numbers.
    """
    moments = 2 * parameters - (optim.name == "muon") * matrices + (optim.ema_decay is not None) * parameters
    return {"weights": VALUE * parameters, "gradients": VALUE * parameters, "optimizer": VALUE * moments}


def on_gpu(settings: TrainerConfig) -> bool:
    """Whether a CUDA GPU will train."""
    return settings.accelerator in ("auto", "gpu") and has_cuda()


def device_bytes(settings: TrainerConfig) -> int:
    """Bytes of the smallest visible GPU, or of this machine, which all its processes share.

    The size counts, and never what is free at the moment: the same command must cut its batches
    alike.
    """
    if on_gpu(settings):
        return min(gpu_bytes())
    return memory_bytes()


def activation_room(settings: TrainerConfig, processes: int) -> int:
    """Bytes for a process's activations: 80 % of its GPU, or its part of a quarter of the
    machine.
    """
    if on_gpu(settings):
        return int(device_bytes(settings) * 0.8)
    return device_bytes(settings) // 4 // processes


def micro_batch_size(config: Config, devices: int, recorded: int | None = None) -> int:
    """Sequences of a device at a time: `data.micro_batch_size`, else as many as fit into memory.

    Args:
        config: the whole configuration.
        devices: over all machines.
        recorded: an earlier choice for the same run, which stays where it is possible here.

    Raises:
        UserError: where a batch cannot be shared out evenly.
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
    fitting = activation_room(config.trainer, max(1, devices // config.trainer.num_nodes)) // a_sequence
    sizes = [n for n in range(1, sequences + 1) if sequences % n == 0 and n <= fitting] or [1]
    return asked or (recorded if recorded in sizes else max(sizes))

"""Triton kernels that decode one token on a CUDA GPU: the fast twin of `GPT.forward`.

With few rows, reading weights and launching kernels take most of a step. So one kernel fuses norm,
matrix product, bias, activation and residual; another fuses query and key norms, rotation, the
write to the cache and attention (online softmax: Dao et al. 2022). Sums are in float32.

Triton comes with torch's builds for CUDA; without it `supports` returns False for every model.

Shapes: R rows (samples), I inputs, O outputs, C channels, H query heads, G key/value heads, D head
size, S positions.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_from_scratch.model import GPT, Attention, KVCache

try:
    import triton
    import triton.language as tl
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # torch's builds for CPUs
    triton = None

FEW_ROWS = 4  # at most, for the fused product; with more, the matrix library is faster
TILE = 8192  # weights that a program of the product kernel holds at once
WARPS = 4  # of 32 threads, in a program of the product kernel
PROGRAMS = 128  # fewest of a product kernel: about the number of multiprocessors of a GPU
# Elements of keys, and of values, that a program of the attention kernel holds at once: for at most
# FEW_ROWS rows, whose programs do not fill the GPU, and for more.
ATTENTION_TILES = (16384, 8192)
ATTENTION_WARPS = 8
CHOICE_TILE = 4096  # logits that a program of `choose` reads
Launch = Callable[..., None]


def _jit(function):  # type: ignore[no-untyped-def]
    return function if triton is None else triton.jit(function)


def run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **settings: Any) -> None:
    """Launches a Triton kernel with its compile-time and launch settings."""
    kernel[grid](*arguments, **settings)


def overlap(device: torch.device) -> dict[str, bool]:
    """Returns launch settings: programmatic dependent launch where the GPU has it (Hopper on).

    A kernel then loads its weights before the previous kernel has ended. It waits for that kernel
    before it reads another kernel's output; older cached keys and `position` are of earlier steps.
    """
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"OVERLAP": True, "launch_pdl": True} if able else {"OVERLAP": False}


@_jit
def _norm_scale(x, mean, inside, width, eps):  # type: ignore[no-untyped-def]
    centred = tl.where(inside, x - mean, 0.0)
    return 1.0 / tl.sqrt(tl.sum(centred * centred) / width + eps)


@_jit
def _activate(x, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACTIVATION == "gelu":  # x (1 + tanh u) / 2 = x sigmoid(2u)
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == "gelu_erf":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "relu":
        return tl.maximum(x, 0.0)
    elif ACTIVATION == "relu2":
        x = tl.maximum(x, 0.0)
        return x * x
    else:
        return x


@_jit
def _linear_kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, gain, shift, residual, y, outputs, eps,
    INPUTS: tl.constexpr, O_TILE: tl.constexpr, I_TILE: tl.constexpr, I_POWER: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, SHIFT: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Computes O_TILE outputs of one row: y = activation(norm(x) W^T + bias) + residual."""
    row = tl.program_id(1)
    o = tl.program_id(0) * O_TILE + tl.arange(0, O_TILE)
    i = tl.arange(0, I_TILE)
    x += row * INPUTS
    there = o < outputs
    weight += o[:, None].to(tl.int64) * INPUTS
    # The first weights load before the previous kernel has ended, and before the norm.
    w = tl.load(weight + i[None, :], mask=there[:, None] & (i < INPUTS)[None, :], other=0.0)
    if ACTIVATION == "swiglu":
        half = outputs.to(tl.int64) * INPUTS
        u = tl.load(weight + half + i[None, :], mask=there[:, None] & (i < INPUTS)[None, :], other=0.0)
        up = tl.zeros((O_TILE, I_TILE), tl.float32)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    mean = 0.0
    scale = 1.0
    if NORM != "none":
        whole = tl.arange(0, I_POWER)
        inside = whole < INPUTS
        held = tl.load(x + whole, mask=inside, other=0.0).to(tl.float32)
        if NORM == "layernorm":
            mean = tl.sum(held) / INPUTS
        scale = _norm_scale(held, mean, inside, INPUTS, eps)
    total = tl.zeros((O_TILE, I_TILE), tl.float32)
    for start in tl.static_range(0, INPUTS, I_TILE):
        at = start + i
        value = tl.load(x + at, mask=at < INPUTS, other=0.0).to(tl.float32)
        if NORM != "none":
            value = (value - mean) * scale * tl.load(gain + at, mask=at < INPUTS, other=0.0).to(tl.float32)
            if SHIFT:
                value += tl.load(shift + at, mask=at < INPUTS, other=0.0).to(tl.float32)
        if start > 0:
            w = tl.load(weight + at[None, :], mask=there[:, None] & (at < INPUTS)[None, :], other=0.0)
            if ACTIVATION == "swiglu":
                u = tl.load(weight + half + at[None, :], mask=there[:, None] & (at < INPUTS)[None, :], other=0.0)
        total += w.to(tl.float32) * value[None, :]
        if ACTIVATION == "swiglu":
            up += u.to(tl.float32) * value[None, :]
    result = tl.sum(total, axis=1)
    if BIAS:
        result += tl.load(bias + o, mask=there, other=0.0).to(tl.float32)
    if ACTIVATION == "swiglu":
        value_of_gate = tl.sum(up, axis=1)
        if BIAS:
            value_of_gate += tl.load(bias + outputs + o, mask=there, other=0.0).to(tl.float32)
        result = result * tl.sigmoid(result) * value_of_gate
    else:
        result = _activate(result, ACTIVATION)
    if RESIDUAL:
        result += tl.load(residual + row * outputs + o, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row * outputs + o, result.to(y.dtype.element_ty), mask=there)


@_jit
def _head_vector(  # type: ignore[no-untyped-def]
    x, gain, shift, cos, sin, eps,
    SIZE: tl.constexpr, SIZE_POWER: tl.constexpr, NORM: tl.constexpr, SHIFT: tl.constexpr, ROTARY: tl.constexpr,
):  # fmt: skip
    """Loads one head's query or key in float32, normalizes it and rotates it by cos and sin."""
    d = tl.arange(0, SIZE_POWER)
    inside = d < SIZE
    value = tl.load(x + d, mask=inside, other=0.0).to(tl.float32)
    partner = (d + SIZE // 2) % SIZE  # channels i and i + D/2 are rotated as a pair
    mean = 0.0
    scale = 1.0
    if NORM == "layernorm":
        mean = tl.sum(value) / SIZE
    if NORM != "none":
        scale = _norm_scale(value, mean, inside, SIZE, eps)
        value = (value - mean) * scale * tl.load(gain + d, mask=inside, other=0.0).to(tl.float32)
        if SHIFT:
            value += tl.load(shift + d, mask=inside, other=0.0).to(tl.float32)
    if ROTARY:
        other = tl.load(x + partner, mask=inside, other=0.0).to(tl.float32)
        if NORM != "none":
            other = (other - mean) * scale * tl.load(gain + partner, mask=inside, other=0.0).to(tl.float32)
            if SHIFT:
                other += tl.load(shift + partner, mask=inside, other=0.0).to(tl.float32)
        value = value * tl.load(cos + d, mask=inside, other=0.0).to(tl.float32)
        value += other * tl.load(sin + d, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, value, 0.0)


@_jit
def _attention_kernel(  # type: ignore[no-untyped-def]
    qkv, keys, values, position, cos, sin, q_gain, q_shift, k_gain, k_shift, y, capacity, eps, temperature,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr, SIZE_POWER: tl.constexpr, S_TILE: tl.constexpr,
    NORM: tl.constexpr, SHIFT: tl.constexpr, ROTARY: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Attends with one head of one sample up to `position`; caches the new key and value there."""
    sample = tl.program_id(0)
    head = tl.program_id(1)
    group = head // (HEADS // GROUPS)
    now = tl.load(position).to(tl.int32)
    d = tl.arange(0, SIZE_POWER)
    inside = d < SIZE
    start_of_head = (sample * GROUPS + group).to(tl.int64) * capacity * SIZE
    keys += start_of_head
    values += start_of_head
    # Each tile of cached keys and values loads while the previous one is used, the first with q.
    slot = tl.arange(0, S_TILE)
    place = slot[:, None] * SIZE + d[None, :]
    next_keys = tl.load(keys + place, mask=(slot < now)[:, None] & inside[None, :], other=0.0)
    next_values = tl.load(values + place, mask=(slot < now)[:, None] & inside[None, :], other=0.0)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    qkv += sample * (HEADS + 2 * GROUPS) * SIZE
    cos += now * SIZE
    sin += now * SIZE
    q = _head_vector(qkv + head * SIZE, q_gain, q_shift, cos, sin, eps, SIZE, SIZE_POWER, NORM, SHIFT, ROTARY)
    k = _head_vector(
        qkv + (HEADS + group) * SIZE, k_gain, k_shift, cos, sin, eps, SIZE, SIZE_POWER, NORM, SHIFT, ROTARY
    ).to(keys.dtype.element_ty)
    v = tl.load(qkv + (HEADS + GROUPS + group) * SIZE + d, mask=inside, other=0.0)
    # No race: the group's other heads compute the new key and value too, and read only older ones.
    writes = inside & (head % (HEADS // GROUPS) == 0)
    tl.store(keys + now * SIZE + d, k, mask=writes)
    tl.store(values + now * SIZE + d, v, mask=writes)
    # Each slot of the tile keeps its own online softmax; merging synchronizes, so it happens once.
    largest = tl.full((S_TILE,), float("-inf"), tl.float32)
    weights = tl.zeros((S_TILE,), tl.float32)
    mixed = tl.zeros((S_TILE, SIZE_POWER), tl.float32)
    for start in range(0, now, S_TILE):
        old_keys = next_keys.to(tl.float32)
        old_values = next_values.to(tl.float32)
        following = start + S_TILE + slot < now
        next_place = (start + S_TILE) * SIZE + place
        next_keys = tl.load(keys + next_place, mask=following[:, None] & inside[None, :], other=0.0)
        next_values = tl.load(values + next_place, mask=following[:, None] & inside[None, :], other=0.0)
        scores = tl.where(start + slot < now, tl.sum(q[None, :] * old_keys, axis=1) * temperature, float("-inf"))
        larger = tl.maximum(largest, scores)
        base = tl.where(larger == float("-inf"), 0.0, larger)  # of a slot that holds nothing yet
        p = tl.exp(scores - base)
        shrink = tl.exp(largest - base)
        weights = weights * shrink + p
        mixed = mixed * shrink[:, None] + p[:, None] * old_values
        largest = larger
    own = tl.sum(q * k.to(tl.float32)) * temperature
    top = tl.maximum(tl.max(largest), own)
    share = tl.exp(largest - top)
    own = tl.exp(own - top)
    result = (tl.sum(mixed * share[:, None], axis=0) + own * v.to(tl.float32)) / (tl.sum(weights * share) + own)
    tl.store(y + (sample * HEADS + head) * SIZE + d, result.to(y.dtype.element_ty), mask=inside)


@_jit
def _best_of_tile_kernel(  # type: ignore[no-untyped-def]
    logits, noise, scores, indices, stride, vocabulary, temperature,
    TILE: tl.constexpr, NOISE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Stores the largest score among TILE logits of one row, and its index."""
    tile = tl.program_id(0)
    row = tl.program_id(1)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    v = tile * TILE + tl.arange(0, TILE)
    there = v < vocabulary
    score = tl.load(logits + row.to(tl.int64) * stride + v, mask=there, other=float("-inf")).to(tl.float32)
    if NOISE:
        drawn = tl.load(noise + row.to(tl.int64) * vocabulary + v, mask=there, other=1.0)
        score = score / temperature - tl.log(drawn)
    best, index = tl.max(score, axis=0, return_indices=True)
    tiles = tl.num_programs(0)
    tl.store(scores + row * tiles + tile, best)
    tl.store(indices + row * tiles + tile, tile * TILE + index)


@_jit
def _best_of_row_kernel(  # type: ignore[no-untyped-def]
    scores, indices, chosen, tiles, POWER: tl.constexpr, OVERLAP: tl.constexpr
):
    """Stores the token index of the largest score among a row's tiles."""
    row = tl.program_id(0)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    tile = tl.arange(0, POWER)
    score = tl.load(scores + row * tiles + tile, mask=tile < tiles, other=float("-inf"))
    _, index = tl.max(score, axis=0, return_indices=True)
    tl.store(chosen + row, tl.load(indices + row * tiles + index).to(tl.int64))


def _norm_name(norm: nn.Module | None) -> str:
    if norm is None or isinstance(norm, nn.Identity):
        return "none"
    return "layernorm" if isinstance(norm, nn.LayerNorm) else "rmsnorm"


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: nn.Module | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
    launch: Launch = run,
) -> Tensor:
    """Computes activation(norm(x) W^T + bias) + residual: x (R, I), weight (O, I) -> (R, O).

    SwiGLU gives (R, O/2). None: no bias, no norm, no residual, x's dtype.
    """
    rows, inputs = x.shape
    outputs = len(weight) // (2 if activation == "swiglu" else 1)
    y = torch.empty(rows, outputs, device=x.device, dtype=dtype or x.dtype)
    power = triton.next_power_of_2(inputs)
    tile = min(power, TILE // 2)
    outputs_tile = max(1, TILE // tile)
    while outputs_tile > 1 and triton.cdiv(outputs, outputs_tile) * rows < PROGRAMS:
        outputs_tile //= 2
    gain, shift = (None, None) if norm is None else (norm.weight, getattr(norm, "bias", None))
    launch(
        _linear_kernel, (triton.cdiv(outputs, outputs_tile), rows),
        x, weight, bias, gain, shift, residual, y, outputs, getattr(norm, "eps", 0.0),
        INPUTS=inputs, O_TILE=outputs_tile, I_TILE=tile, I_POWER=power,
        NORM=_norm_name(norm), BIAS=bias is not None, SHIFT=shift is not None, RESIDUAL=residual is not None,
        ACTIVATION=activation, num_warps=WARPS, **overlap(x.device),
    )  # fmt: skip
    return y


def attention(
    qkv: Tensor,
    module: Attention,
    cache: KVCache,
    layer: int,
    rotary: tuple[Tensor, Tensor] | None,
    launch: Launch = run,
) -> Tensor:
    """Caches the keys and values of qkv (R, (H + 2G) D) at `cache.position`, attends -> (R, H D).

    `rotary` holds the model's cosines and sines, a row a position; None: no rotation.
    """
    heads, groups, size = module.heads[0], module.heads[1], module.head_size
    keys, values, position = cache.keys[layer], cache.values[layer], cache.position
    y = torch.empty(len(qkv), heads * size, device=qkv.device, dtype=qkv.dtype)
    cos, sin = rotary or (qkv, qkv)  # without rotary, the kernel gets pointers that it never reads
    q, k = module.q_norm, module.k_norm
    parameters = [getattr(norm, name, None) for norm in (q, k) for name in ("weight", "bias")]
    power = triton.next_power_of_2(size)
    tile = ATTENTION_TILES[len(qkv) > FEW_ROWS]
    launch(
        _attention_kernel, (len(qkv), heads),
        qkv, keys, values, position, cos, sin, *parameters, y, keys.shape[2], getattr(q, "eps", 0.0), size**-0.5,
        HEADS=heads, GROUPS=groups, SIZE=size, SIZE_POWER=power, S_TILE=max(16, tile // power),
        NORM=_norm_name(q), SHIFT=parameters[1] is not None, ROTARY=rotary is not None,
        num_warps=ATTENTION_WARPS, **overlap(qkv.device),
    )  # fmt: skip
    return y


def supports(model: GPT) -> bool:
    """Returns whether `next_logits` can compute the model.

    It must be pre-norm, of plain `nn.Linear`s with contiguous weights, and Triton installed.
    """
    if triton is None or model.config.norm_position != "pre":
        return False
    blocks: Any = model.blocks
    linears: list[Any] = [
        module
        for block in blocks
        for module in (block.attention.qkv, block.attention.out, block.feed_forward.up, block.feed_forward.out)
    ]
    if model.head is not None:
        linears.append(model.head)
    weights = [model.token_embedding.weight, *(getattr(module, "weight", None) for module in linears)]
    return all(type(module) is nn.Linear for module in linears) and all(
        type(weight) is nn.Parameter and weight.is_contiguous() for weight in weights
    )


def head_of(model: GPT, rows: int) -> Tensor:
    """Returns the head's matrix (V, C); above FEW_ROWS rows, V is padded to a multiple of 64."""
    weight = model.token_embedding.weight if model.head is None else model.head.weight
    return weight if rows <= FEW_ROWS else F.pad(weight, (0, 0, 0, -len(weight) % 64))


def next_logits(model: GPT, ids: Tensor, cache: KVCache, head: Tensor, launch: Launch = run) -> Tensor:
    """Computes the logits of the next tokens: ids (R,) -> (R, V).

    Reads the ids at `cache.position` and writes their keys and values there. `head` comes from
    `head_of`.
    """
    config, position = model.config, cache.position
    assert position is not None
    few = len(ids) <= FEW_ROWS
    x = F.embedding(ids, model.token_embedding.weight)  # (R, C)
    rotary = None
    if config.position == "rotary":
        rotary = model.rotary_cos, model.rotary_sin
    else:
        table = model.position_embedding.weight if config.position == "learned" else model.sinusoids
        x = x + F.embedding(position, table)
    for layer in range(config.n_layer):
        block: Any = model.blocks[layer % len(model.blocks)]
        attend, feed = block.attention, block.feed_forward
        if few:
            qkv = linear(x, attend.qkv.weight, attend.qkv.bias, block.attention_norm, launch=launch)
            y = attention(qkv, attend, cache, layer, rotary, launch)
            x = linear(y, attend.out.weight, attend.out.bias, residual=x, launch=launch)
            y = linear(x, feed.up.weight, feed.up.bias, block.feed_forward_norm, config.activation, launch=launch)
            x = linear(y, feed.out.weight, feed.out.bias, residual=x, launch=launch)
        else:
            qkv = attend.qkv(block.attention_norm(x))
            x = x + attend.out(attention(qkv, attend, cache, layer, rotary, launch))
            x = x + feed(block.feed_forward_norm(x))
    if few:
        return linear(x, head, None, model.norm, dtype=torch.float32, launch=launch)
    return F.linear(model.norm(x), head)[:, : config.vocab_size]


def choose(logits: Tensor, noise: Tensor | None, temperature: float, launch: Launch = run) -> Tensor:
    """Chooses the next ids: logits (R, V), noise (R, V) -> (R,); twin of `generation.sample`.

    No filters apply. noise None is greedy decoding. Else softmax(logits / t) / noise is largest
    where logits / t - log(noise) is.
    """
    rows, vocabulary = logits.shape
    tiles = triton.cdiv(vocabulary, CHOICE_TILE)
    scores = torch.empty(rows, tiles, device=logits.device)
    indices = torch.empty(rows, tiles, device=logits.device, dtype=torch.int32)
    chosen = torch.empty(rows, device=logits.device, dtype=torch.int64)
    settings = overlap(logits.device)
    launch(
        _best_of_tile_kernel, (tiles, rows), logits, noise, scores, indices, logits.stride(0), vocabulary, temperature,
        TILE=CHOICE_TILE, NOISE=noise is not None, **settings,
    )  # fmt: skip
    power = triton.next_power_of_2(tiles)
    launch(_best_of_row_kernel, (rows,), scores, indices, chosen, tiles, POWER=power, **settings)
    return chosen


def build(model: GPT, cache: KVCache, temperature: float) -> Future[None]:
    """Compiles every kernel of `next_logits` and `choose`, each in a thread of its own.

    The shapes of the cache, whose `position` must be set, decide what is compiled. No kernel is
    launched and the cache stays unchanged.

    Returns:
        A future that completes when all are compiled, or holds the error of a failed compilation.
    """
    found: dict[Any, tuple] = {}

    def remember(kernel: Any, grid: tuple[int, ...], *arguments: Any, **settings: Any) -> None:
        kinds = tuple(one.dtype if isinstance(one, Tensor) else one for one in arguments)
        found[kernel.__name__, kinds, tuple(settings.items())] = kernel, grid, arguments, settings

    weight, rows = model.token_embedding.weight, len(cache.keys[0])
    ids = torch.zeros(rows, dtype=torch.int64, device=weight.device)
    logits = next_logits(model, ids, cache, head_of(model, rows), remember)
    noise = torch.ones(logits.shape, device=weight.device) if temperature else None
    choose(logits, noise, temperature or 1.0, remember)

    def compiled(work: tuple) -> None:
        kernel, grid, arguments, settings = work
        torch.cuda.set_device(weight.device)
        # Reading `run` loads the kernel and builds its C launcher: slower than the compilation.
        _ = kernel.warmup(*arguments, grid=grid, **settings).run

    def all_compiled() -> None:
        # Builds the driver's module once here, before every thread would.
        triton.runtime.driver.active.get_current_device()
        with ThreadPoolExecutor(len(found)) as threads:
            list(threads.map(compiled, found.values()))

    thread = ThreadPoolExecutor(1)
    future = thread.submit(all_compiled)
    thread.shutdown(wait=False)
    return future

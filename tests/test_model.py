"""The model against its twins: the plain attention, Hugging Face's models, numbers worked out by
hand.
"""

import math
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from small_models import IMPORTED, KINDS, LLAMA3, V, make, twin_of
from torch import Tensor, nn

from llm_from_scratch.config import ModelConfig
from llm_from_scratch.kernels import IGNORE, ChunkedCrossEntropy, document_mask, documents_of
from llm_from_scratch.model import (
    GPT,
    Attention,
    GPTConfig,
    KVCache,
    rotary_tables,
    rotate,
    self_attention,
    sinusoids,
    uninitialised,
)

CONFIGS = Path(__file__).parents[1] / "configs"


def preset(name: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base=None):
        return OmegaConf.to_container(hydra.compose(f"model/{name}").model)  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------ presets
@pytest.mark.parametrize(
    ("name", "vocab_size", "parameters"),
    [
        ("article", 1024, 460_416),
        ("tiny", 1024, 984_448),
        ("small", 1024, 11_015_808),
        ("medium", 1024, 76_304_640),
        ("llama", 1024, 9_835_392),
        ("qwen3", 1024, 13_670_784),
        ("gpt2", 50_257, 124_439_808),
        ("gpt2-medium", 50_257, 354_823_168),
        ("gpt2-large", 50_257, 774_030_080),
        ("gpt2-xl", 50_257, 1_557_611_200),
    ],
)
def test_presets_have_the_number_of_parameters_that_their_header_states(
    name: str, vocab_size: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=vocab_size, **preset(name)))
    assert model.num_parameters() == parameters
    header = (CONFIGS / "model" / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    assert f"{parameters:,}" in header


def test_the_defaults_are_the_tiny_preset_and_every_preset_states_every_key() -> None:
    assert ModelConfig(**preset("tiny")) == ModelConfig()
    for path in (CONFIGS / "model").glob("*.yaml"):
        assert list(preset(path.stem)) == list(ModelConfig.__dataclass_fields__), path.name


def test_shared_layers_and_a_tied_head_count_once() -> None:
    # C=8, V=10: embedding 80; block: qkv 3*64, out 64, gate and up 2*8*64, down 64*8, two norms 8,
    # q and k norm 2*4.
    block = 192 + 64 + 1024 + 512 + 16 + 8
    config = {"vocab_size": 10, "n_embd": 8, "n_head": 2, "n_layer": 6}
    assert GPT(GPTConfig(**config)).num_parameters() == 80 + 6 * block + 8
    assert GPT(GPTConfig(**config, n_unique_layer=2)).num_parameters() == 80 + 2 * block + 8
    assert GPT(GPTConfig(**config, tie_weights=False)).num_parameters() == 2 * 80 + 6 * block + 8


@pytest.mark.parametrize("kind", ["gpt2", "article"])
def test_initialisation(kind: str) -> None:
    torch.manual_seed(0)
    config = GPTConfig(**{"vocab_size": 512, **KINDS[kind], "n_embd": 256, "n_layer": 8, "n_unique_layer": 2})
    model = GPT(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            std = 1 / 16
            if name.endswith(("attention.out.weight", "feed_forward.out.weight")):
                std /= 4  # 1/sqrt(2 * 8 layers)
            elif name == "token_embedding.weight" and kind == "article":
                std = 1.0
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm.weight" in name))), name


# -------------------------------------------------------------------------------------------- parts
def test_one_head_equals_the_articles_attention() -> None:
    torch.manual_seed(0)
    config = ModelConfig(n_head=1, n_embd=24, qk_norm=False, position="learned")
    attention, x = Attention(config), torch.randn(2, 9, 24)
    w_q, w_k, w_v = (w.T for w in attention.qkv.weight.split(24))
    expected = self_attention(x, w_q, w_k, w_v) @ attention.out.weight.T
    torch.testing.assert_close(attention(x, None, None, None, 0), expected)


def test_the_articles_attention_on_numbers_worked_out_by_hand() -> None:
    # Q = K = V = x with D = 1. Position 0 sees itself alone; position 1 weighs 0 and ln 3 by e^0 :
    # e^(ln 3 * ln 3).
    x = torch.tensor([[[0.0], [math.log(3)]]])
    one = torch.ones(1, 1)
    weight = math.exp(math.log(3) ** 2) / (1 + math.exp(math.log(3) ** 2))
    torch.testing.assert_close(self_attention(x, one, one, one), torch.tensor([[[0.0], [weight * math.log(3)]]]))


def test_a_models_own_head_size_makes_the_shapes_of_qwen3() -> None:
    """Qwen3-0.6B: 16 heads of 128 channels at width 1,024, 8 of keys and values."""
    shape = {"n_embd": 1024, "n_head": 16, "n_kv_head": 8, "head_size": 128, "n_inner": 3072, "n_layer": 28}
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=151_936, block_size=40_960, **shape))
        cache = KVCache(model.config, batch_size=1, capacity=1000)
    assert model.blocks[0].attention.qkv.weight.shape == (4096, 1024)  # type: ignore[union-attr]
    assert model.blocks[0].attention.out.weight.shape == (1024, 2048)  # type: ignore[union-attr]
    assert model.num_parameters() == 596_049_920  # as transformers counts it
    assert cache.keys[0].shape == (1, 8, 1000, 128)


def test_no_position_sees_the_future() -> None:
    for kind in KINDS:
        model, ids = make(kind), torch.arange(12)[None] % V
        other = torch.cat((ids[:, :8], (ids[:, 8:] + 7) % V), dim=1)
        before, after = model(ids), model(other)
        torch.testing.assert_close(before[:, :8], after[:, :8])
        assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    cos, sin = rotary_tables(32, 8, 100.0)
    q, k = torch.randn(8), torch.randn(8)

    def score(t: int, s: int) -> Tensor:
        return (
            rotate(q[None, None, None], cos[t : t + 1], sin[t : t + 1]).flatten()
            @ rotate(k[None, None, None], cos[s : s + 1], sin[s : s + 1]).flatten()
        )

    torch.testing.assert_close(score(7, 3), score(29, 25))
    torch.testing.assert_close(score(5, 5), q @ k)


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoids(50, 6)
    for position, i in ((0, 0), (1, 0), (49, 1), (17, 2)):
        angle = position / 10_000 ** (2 * i / 6)
        assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


# ------------------------------------------------------------------------------- Hugging Face twins
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["article", "gpt2", "modern", *IMPORTED])
def test_logits_are_those_of_the_hugging_face_twin(kind: str, tied: bool) -> None:
    model = make(kind, tie_weights=tied)
    twin = twin_of(model)
    ids = torch.randint(V, (3, 16))
    torch.testing.assert_close(model(ids), twin(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_exact_gelu_is_that_of_hugging_face() -> None:
    model = make("gpt2", activation="gelu_erf")
    twin = twin_of(model)
    ids = torch.randint(V, (3, 16))
    torch.testing.assert_close(model(ids), twin(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["article", "gpt2", "modern"])
def test_loss_and_gradients_are_those_of_the_hugging_face_twin(kind: str) -> None:
    model = make(kind)
    twin = twin_of(model)
    ids = torch.randint(V, (3, 16))
    mine, theirs = model.loss(ids[:, :-1], ids[:, 1:]), twin(ids, labels=ids).loss
    torch.testing.assert_close(mine, theirs)
    mine.backward()
    theirs.backward()
    table = next(
        p for n, p in twin.named_parameters() if n.endswith(("embed_tokens.weight", "wte.weight", "s_embed.weight"))
    )
    torch.testing.assert_close(model.token_embedding.weight.grad, table.grad, rtol=1e-3, atol=1e-5)


# ----------------------------------------------------------------------------------------- KV cache
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_cached_and_uncached_logits_agree(kind: str) -> None:
    model, ids = make(kind), torch.randint(V, (2, 16))
    expected = model(ids)
    cache = KVCache(model.config, batch_size=2, capacity=16)
    for _ in range(2):  # a cache that is reset is as good as new
        cache.reset()
        # A prefill, several tokens after it, then one at a time, up to the last place.
        steps = [model(ids[:, a:b], cache) for a, b in ((0, 5), (5, 9), *((t, t + 1) for t in range(9, 16)))]
        torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-4, atol=1e-4)
    assert cache.length == 16
    assert len(cache.keys) == model.config.n_layer
    assert cache.keys[0].shape == (2, model.config.kv_heads, 16, model.config.head_dim)


def test_a_sequence_longer_than_the_context_is_refused_in_one_line() -> None:
    model = make("modern")
    cache = KVCache(model.config, batch_size=1, capacity=17)
    model(torch.zeros(1, 16, dtype=torch.long), cache)
    for arguments in ((torch.zeros(1, 17, dtype=torch.long),), (torch.zeros(1, 1, dtype=torch.long), cache)):
        with pytest.raises(ValueError, match=r"^a sequence of 17 tokens exceeds model.block_size=16: .*$"):
            model(*arguments)


# --------------------------------------------------------------------------------------------- loss
def test_dropout_is_for_training_alone() -> None:
    model = GPT(GPTConfig(vocab_size=V, block_size=16, n_layer=1, n_embd=16, n_head=2, dropout=0.5))
    ids = torch.randint(V, (1, 16))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_a_long_batch_takes_the_chunked_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=2000, block_size=64, n_layer=1, n_embd=16, n_head=2))
    ids = torch.randint(2000, (16, 65))  # 1,024 tokens, of which 256 make a chunk
    x, y = ids[:, :-1], ids[:, 1:].clone()
    y[0, :9] = IGNORE
    plain = model.loss(x, y, reduction="none")
    (plain.sum() / (y != IGNORE).sum()).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    calls = []
    apply = ChunkedCrossEntropy.apply
    monkeypatch.setattr(ChunkedCrossEntropy, "apply", lambda *arguments: calls.append(1) or apply(*arguments))
    loss = model.loss(x, y)
    loss.backward()
    torch.testing.assert_close(loss, plain.sum() / (y != IGNORE).sum())
    torch.testing.assert_close({name: parameter.grad for name, parameter in model.named_parameters()}, expected)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(x, y, reduction="sum"), plain.sum())
    assert len(calls) == 2


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_filled_up_to_64_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch, tied: bool) -> None:
    model = GPT(GPTConfig(vocab_size=V, block_size=16, n_layer=1, n_embd=16, n_head=2, tie_weights=tied))
    ids, targets = torch.randint(V, (2, 16)), torch.randint(V, (2, 16))

    def results() -> list[Any]:
        model.zero_grad()
        loss = model.loss(ids, targets)
        loss.backward()
        return [model(ids), loss, [parameter.grad for parameter in model.parameters()]]

    plain, head = results(), GPT._head
    monkeypatch.setattr(GPT, "_head", lambda self: nn.functional.pad(head(self), (0, 0, 0, 3)))
    assert model._head().shape == (64, 16)
    torch.testing.assert_close(results(), plain)


def test_loss_reductions_and_ignored_targets() -> None:
    model, ids = make("modern"), torch.randint(V, (2, 8))
    targets = torch.randint(V, (2, 8))
    targets[0, :3] = IGNORE
    each = -model(ids).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets != IGNORE)
    torch.testing.assert_close(model.loss(ids, targets, reduction="none"), each)
    torch.testing.assert_close(model.loss(ids, targets, reduction="sum"), each.sum())
    torch.testing.assert_close(model.loss(ids, targets), each.sum() / 13)


def test_dropout_acts_in_training_alone() -> None:
    model, ids = make("gpt2", dropout=0.5), torch.randint(V, (2, 8))
    torch.testing.assert_close(model(ids), model(ids))
    model.train()
    assert not torch.allclose(model(ids), model(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str) -> None:
    model = make(kind)
    model.loss(torch.randint(V, (2, 8)), torch.randint(V, (2, 8))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


# -------------------------------------------------------------------------------- impossible values
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_head": 5, "n_embd": 192}, r"model.n_head=5 does not divide model.n_embd=192: use one of 1, 2, 3, 4, 6, 8, 12.*"),
        ({"n_head": 6, "n_kv_head": 4, "n_embd": 192}, r"model.n_kv_head=4 does not divide model.n_head=6: use one of 1, 2, 3, 6"),
        ({"n_embd": 12, "n_head": 4}, r"model.n_embd=12 / model.n_head=4 makes heads of odd size 3: .*even.*"),
        ({"n_embd": 9, "n_head": 3, "position": "sinusoidal"}, r"model.n_embd=9 is odd: sinusoidal positions need .*"),
        ({"dropout": 1.0}, r"model.dropout=1.0 must be .*below 1"),
        ({"dropout": -0.1}, r"model.dropout=-0.1 must be .*"),
        ({"dropout": math.nan}, r"model.dropout=nan must be .*"),
        ({"norm_eps": 0.0}, r"model.norm_eps=0.0 must be .*"),
        ({"init_std": math.nan}, r"model.init_std=nan must be .*"),
        ({"rope_base": math.inf}, r"model.rope_base=inf must be .*"),
        ({"n_layer": 0}, r"model.n_layer=0 must be a whole number of 1 or more"),
        ({"n_layer": None}, r"model.n_layer=None must be a whole number of 1 or more"),
        ({"n_kv_head": 0}, r"model.n_kv_head=0 must be a whole number of 1 or more or null"),
        ({"n_inner": -1}, r"model.n_inner=-1 must be a whole number of 1 or more or null"),
        ({"n_unique_layer": 5}, r"model.n_unique_layer=5 exceeds model.n_layer=4: .*"),
        ({"vocab_size": 0}, r"vocab_size=0 must be .*"),
        ({"norm": "rmsnrom"}, r"model.norm=rmsnrom is unknown: use rmsnorm \(one of layernorm, rmsnorm\)"),
        ({"activation": "SwiGLU"}, r"model.activation=SwiGLU is unknown: use swiglu \(.*"),
        ({"head_size": 0}, r"model.head_size=0 must be a whole number of 1 or more or null"),
        ({"head_size": 7}, r"model.head_size=7 is odd: rotary positions need an even one, .*"),
        ({"bias": True, "qkv_bias": True}, r"model.qkv_bias=true changes nothing beside model.bias=true.*"),
        ({"rope_scaling": LLAMA3, "position": "learned"}, r"model.rope_scaling=.* needs model.position=rotary.*"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, r"model.rope_scaling=.*: rope_type must be one of linear, llama3"),
        ({"rope_scaling": {"factor": 2}}, r"model.rope_scaling=.*: rope_type must be one of linear, llama3"),
        ({"rope_scaling": {"rope_type": "linear"}}, r"model.rope_scaling=.*: linear takes rope_type, factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, r"model.rope_scaling.factor=0.5 must be a finite number of 1 .*"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, r"model.rope_scaling.factor=2 must be a finite number of 1 .*"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 0}}, r"model.rope_scaling.low_freq_factor=0 must be .* above 0"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, r"model.rope_scaling.low_freq_factor=4.0 must be below .*"),
        ({"position": "rope"}, r"model.position=rope is unknown: use rotary \(.*"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        GPTConfig(**{"vocab_size": 10, **values})


# ----------------------------------------------------------------------- attention inside documents
EOT = 0
DOCUMENTS = [[5, 6, 7], [EOT, 3, 4, 5, 6, 7, 8], [EOT], [EOT, 9, 9, 2]]
TOGETHER = [[piece for document in DOCUMENTS for piece in document]]


def masked(**settings: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=11, n_layer=2, n_embd=32, n_head=4, block_size=16, **settings))
    model.eot_id = EOT
    return model


@pytest.mark.parametrize("settings", [{}, {"n_kv_head": 2}])
def test_documents_together_compute_what_each_does_alone(settings: dict[str, Any]) -> None:
    # Rotary positions are relative: it does not matter where in the block a document begins.
    model = masked(**settings).eval()
    together = model(torch.tensor(TOGETHER))[0]
    model.eot_id = None
    alone = torch.cat([model(torch.tensor([document]))[0] for document in DOCUMENTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


# The second takes the path of dropout, and drops nothing
@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_masked_attention_is_the_articles_within_each_document(dropout: float) -> None:
    config = GPTConfig(vocab_size=11, n_embd=8, n_head=1, block_size=16, position="learned", qk_norm=False)
    attention = Attention(replace(config, dropout=dropout)).train()
    x = torch.randn(1, 15, 8)
    w_q, w_k, w_v = attention.qkv.weight.view(3, 8, 8).transpose(1, 2)
    pieces = x.split([len(document) for document in DOCUMENTS], dim=1)
    plain = torch.cat([self_attention(piece, w_q, w_k, w_v) for piece in pieces], dim=1)
    mask = document_mask(documents_of(torch.tensor(TOGETHER), EOT))
    fast = attention(x, None, mask, None, 0, torch.tensor([1]) if dropout else None)
    torch.testing.assert_close(fast, attention.out(plain), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"position": "learned"}, {"dropout": 0.2}])
@pytest.mark.parametrize("recompute", [False, True])
def test_another_documents_tokens_change_nothing(settings: dict[str, Any], recompute: bool) -> None:
    model = masked(**settings).train()
    model.recompute = recompute
    first, other = (
        torch.tensor(TOGETHER),
        torch.tensor([[1, 1, 1, *TOGETHER[0][3:11], EOT, 8, 7, 6]]),
    )
    logits, gradients = [], []
    for ids in (first, other):
        torch.manual_seed(1)  # of dropout
        logits.append(model(ids)[0, 3:11])
        model.zero_grad()
        logits[-1].square().sum().backward()
        gradients.append(model.blocks[0].attention.qkv.weight.grad.clone())
    assert torch.equal(*logits)
    torch.testing.assert_close(*gradients)
    model.eot_id = None
    torch.manual_seed(1)
    assert not torch.allclose(model(other)[0, 3:11], logits[0])  # without the mask they do


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal"])
@pytest.mark.parametrize("recompute", [False, True])
def test_packed_documents_have_the_losses_that_each_has_alone(position: str, recompute: bool) -> None:
    torch.manual_seed(3)
    config = GPTConfig(vocab_size=13, n_embd=16, n_head=2, block_size=12, n_layer=2, position=position)
    model = GPT(config, recompute=recompute)
    packed, targets = torch.randint(13, (2, 1, 12))
    lengths = [5, 1, 6]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    together = model.loss(packed, targets, reduction="none", documents=documents)
    alone = [
        model.loss(x, y, reduction="none")
        for x, y in zip(packed.split(lengths, dim=1), targets.split(lengths, dim=1), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone, dim=1))
    assert not torch.allclose(model.loss(packed, targets, reduction="none"), together)


@pytest.mark.slow  # the kernel is compiled
@pytest.mark.parametrize("settings", [{}, {"n_kv_head": 2}, {"position": "learned"}])
def test_a_mask_by_blocks_is_the_mask(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU computes in training: on a CPU torch has the kernel without its backward pass."""
    torch.manual_seed(4)
    model = GPT(GPTConfig(vocab_size=13, n_embd=64, n_head=4, block_size=300, n_layer=2, **settings)).train()
    ids = torch.randint(13, (2, 300))
    documents = torch.randint(40, (2, 300)).sort().values
    with torch.no_grad():
        expected = model.hidden_states(ids, documents=documents)
        monkeypatch.setattr("llm_from_scratch.model.blocks_fit", lambda *_: True)
        found = model.hidden_states(ids, documents=documents)
        plain = model.hidden_states(ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, expected, atol=0.1)


def test_norms_keep_to_the_fused_kernel_in_mixed_precision(request: pytest.FixtureRequest) -> None:
    """torch falls back to many small kernels, and says so, where an input in bfloat16 meets a gain
    in float32.
    """
    request.addfinalizer(partial(torch.set_warn_always, torch.is_warn_always_enabled()))
    torch.set_warn_always(True)  # not once a process, which another test may have been
    model = GPT(GPTConfig(vocab_size=16, block_size=8, n_layer=1, n_head=2, n_embd=16))
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        model.loss(*torch.zeros(2, 1, 8, dtype=torch.int64)).backward()


@pytest.mark.parametrize("position", ["rotary", "sinusoidal", "learned"])
def test_a_model_to_be_filled(position: str) -> None:
    """Filled, it computes what another one does, and no random numbers were drawn for it."""
    config = GPTConfig(vocab_size=11, n_layer=1, n_embd=16, n_head=2, block_size=8, position=position)
    full, state = GPT(config).eval(), torch.get_rng_state()
    empty = uninitialised(config, eot_id=3)
    assert torch.equal(torch.get_rng_state(), state)
    empty.load_state_dict(full.state_dict())
    ids = torch.tensor([[1, 2, 5]])
    assert torch.equal(empty(ids), full(ids))
    assert (empty.eot_id, empty.training) == (3, False)

"""The model's fast parts against torch's own operations, and numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from llm_from_scratch import kernels
from llm_from_scratch.kernels import (
    IGNORE,
    ChunkedCrossEntropy,
    attention_with_dropout,
    document_mask,
    document_positions,
    documents_of,
    dropout_bound,
    dropout_mask,
    random_bits,
    splitmix,
)

V, EOT = 61, 0


def test_random_bits_are_splitmix64() -> None:
    # Vigna's splitmix64.c from 1234567, whose first number is the one after the first step of its
    # state.
    first = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    start = 1234567 * pow(0x9E3779B97F4A7C15, -1, 2**64) % 2**64  # splitmix multiplies its keys
    found = splitmix(start - 2**64, torch.arange(1, 6))
    assert [value % 2**64 for value in found.tolist()] == first
    assert random_bits(torch.tensor([1234567, 5]), 7).shape == (2, 7)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.999])
def test_a_dropout_mask_drops_its_share_and_keeps_the_mean(p: float) -> None:
    keys = splitmix(3, torch.arange(999))
    mask = dropout_mask(torch.empty(999, 1001), p, keys)
    values = mask.unique()
    assert values[0] == 0
    assert values[1] == pytest.approx(1 / (1 - p), rel=2e-2 if p == 0.999 else 1e-4)
    assert len(values) == 2
    n = mask.numel()
    for share in (
        (mask == 0).double().mean().item(),
        (mask[:, ::4] == 0).double().mean().item(),
    ):  # all, one lane of four
        assert share == pytest.approx(p, abs=6 * math.sqrt(p * (1 - p) / (n / 4)))
    # Neighbours, which may come from one 64-bit number, and the same places of two sequences are
    # independent: both are dropped in p^2 of the pairs.
    dropped = mask == 0
    for one, other in (
        (dropped[:, 1:], dropped[:, :-1]),
        (dropped[1:], dropped[:-1]),
        (dropped[:, 4:], dropped[:, :-4]),
    ):
        assert (one & other).double().mean().item() == pytest.approx(p * p, abs=0.005)
    # A sequence keeps its mask in whatever company.
    assert torch.equal(dropout_mask(torch.empty(7, 1001), p, keys[30:37]), mask[30:37])
    plain = (random_bits(keys, 1001) >= dropout_bound(p)).float() * values[1]
    assert torch.equal(plain, mask)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_with_dropout_is_torchs_under_the_same_mask(monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 4, 9, 8, requires_grad=True)
    k, v = (torch.randn(3, groups, 9, 8, requires_grad=True) for _ in "kv")
    keys = torch.arange(3)
    mask = dropout_mask(torch.empty(12, 9, 9), 0.3, keys)
    found = attention_with_dropout(q, k, v, 0.3, keys)
    wide = [x.repeat_interleave(4 // groups, dim=1) for x in (k, v)]
    scores = (q @ wide[0].transpose(-2, -1) / math.sqrt(8)).masked_fill(
        torch.ones(9, 9, dtype=torch.bool).triu(1), -math.inf
    )
    wanted = (scores.softmax(-1) * mask.view(3, 4, 9, 9)) @ wide[1]
    torch.testing.assert_close(found, wanted)
    weight = torch.randn_like(found)
    got, expected = (torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (found, wanted))
    torch.testing.assert_close(got, expected)
    monkeypatch.setattr(kernels, "dropout_mask", lambda x, p, keys: torch.ones_like(x))
    plain = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attention_with_dropout(q, k, v, 0.3, keys), plain)


@pytest.mark.parametrize("extra_rows", [0, 3])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_the_chunked_loss_is_torchs_own(rows: int, extra_rows: int) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(40, 16, requires_grad=True), torch.randn(V, 16, requires_grad=True)
    targets = torch.randint(V, (40,))
    targets[::5] = IGNORE
    wanted = nn.functional.cross_entropy(hidden @ head.T, targets, ignore_index=IGNORE, reduction="sum") * 0.3
    wanted.backward()
    expected = hidden.grad, head.grad
    hidden.grad = head.grad = None
    # Rows beyond the vocabulary, whatever stands in them, neither count nor learn.
    filled = torch.cat((head, torch.full((extra_rows, 16), 100.0)))
    loss = ChunkedCrossEntropy.apply(hidden, filled, targets, V, rows) * 0.3
    loss.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close((hidden.grad, head.grad), expected)


@pytest.mark.parametrize("trained", ["hidden", "head"])
def test_the_chunked_loss_with_one_gradient_alone(trained: str) -> None:
    torch.manual_seed(0)
    given = {"hidden": torch.randn(40, 16), "head": torch.randn(V, 16)}
    targets, one = torch.randint(V, (40,)), given[trained].requires_grad_()
    nn.functional.cross_entropy(given["hidden"] @ given["head"].T, targets, reduction="sum").backward()
    expected, one.grad = one.grad, None
    ChunkedCrossEntropy.apply(given["hidden"], given["head"], targets, V, 7).backward()
    torch.testing.assert_close(one.grad, expected)


def test_the_mask_by_hand() -> None:
    mask = document_mask(documents_of(torch.tensor([[7, EOT, 7, 7], [7, 7, 7, EOT]]), EOT))
    assert mask.shape == (2, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert mask[1, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_positions_within_documents_by_hand() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [5, 3, 3, 3, 3, 3, 3, 9]])
    expected = [[0, 1, 2, 0, 1, 0, 1, 2], [0, 0, 1, 2, 3, 4, 5, 0]]
    assert document_positions(documents).tolist() == expected

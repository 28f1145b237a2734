"""What heads attend to: by hand, and in a model that has induction heads or has none."""

import pytest
import torch
from induction_model import T, V, induction_model
from small_models import make

from llm_from_scratch.explain.attention import read_layers
from llm_from_scratch.explain.heads import evenly, induction, mean_weight, random_texts, summary, targets
from llm_from_scratch.model import GPT

TEXT = [5, 7, 9, 7, 5]


def places(name: str) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in targets(TEXT)[name].nonzero()]


def test_the_places_of_each_measure() -> None:
    assert places("previous") == [(2, 1), (3, 2), (4, 3)]
    assert places("first") == [(2, 0), (3, 0), (4, 0)]
    assert places("itself") == [(2, 2), (3, 3), (4, 4)]
    assert places("same") == [(3, 1), (4, 0)]
    assert places("induction") == [(3, 2), (4, 1)]


def test_a_repeated_neighbour_is_no_place_after_itself() -> None:
    # The token after the first 3 is the second 3 itself, at its own row
    assert targets([3, 3, 3])["induction"].nonzero().tolist() == [[2, 1]]


def test_mean_weights_by_hand() -> None:
    weights = torch.tensor([[[1.0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.2, 0.3, 0.5, 0, 0]]])
    weights = torch.cat((weights, torch.tensor([[[0.1, 0.2, 0.3, 0.4, 0], [0.1, 0.1, 0.2, 0.5, 0.1]]])), dim=1)
    expected = {
        "previous": (0.3 + 0.3 + 0.5) / 3,
        "first": (0.2 + 0.1 + 0.1) / 3,
        "itself": (0.5 + 0.4 + 0.1) / 3,
        "same": (0.2 + 0.1) / 2,
        "induction": (0.3 + 0.1) / 2,
    }
    for name, value in expected.items():
        found = mean_weight(weights, targets(TEXT)[name])
        assert found is not None
        assert found.tolist() == pytest.approx([value])
    even = mean_weight(evenly(5), targets(TEXT)["same"])
    assert even is not None
    assert even.tolist() == pytest.approx([(1 / 4 + 1 / 5) / 2])
    assert mean_weight(weights, torch.zeros(5, 5, dtype=torch.bool)) is None


def test_a_summary_is_of_the_plain_weights() -> None:
    model, ids = make("modern"), [1, 2, 3, 2, 1, 4, 2]
    found = summary(read_layers(model, ids), ids)
    assert set(found.heads) == {"previous", "first", "itself", "same"}
    for layer, one in enumerate(read_layers(model, ids)):
        group = len(one.queries) // len(one.keys)
        for head, queries in enumerate(one.queries):
            scores = queries @ one.keys[head // group].T / queries.shape[-1] ** 0.5
            plain = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf).softmax(-1)
            same = [plain[3, 1], plain[4, 0], plain[6, 1] + plain[6, 3]]
            assert float(found.heads["same"][layer, head]) == pytest.approx(float(sum(same)) / 3, abs=1e-6)
            before = sum(float(plain[t, t - 1]) for t in range(2, 7)) / 5
            assert float(found.heads["previous"][layer, head]) == pytest.approx(before, abs=1e-6)


def test_a_text_without_places_has_no_such_measure() -> None:
    model = make("gpt2")
    assert set(summary(read_layers(model, [1, 2, 3]), [1, 2, 3]).heads) == {"previous", "first", "itself"}
    assert summary(read_layers(model, [1, 2]), [1, 2]).heads == {}


def test_random_texts_repeat_and_are_the_same_each_time() -> None:
    texts = list(random_texts(range(10, 60), 3, 25, 4, 2))
    assert texts == list(random_texts(range(10, 60), 3, 25, 4, 2))
    assert texts[0] != texts[1]
    for text in texts:
        assert text[0] == 3
        assert text[1:26] * 4 == text[1:]
        assert len(set(text)) == 26


def scores(model: GPT) -> tuple[list[float], float, float]:
    found = induction(model, range(1, V), 0)
    assert found is not None
    assert (found.length, found.repeats, found.texts) == (25, 4, 4)
    # By definition: a head that reads all alike gives each target 1 / (t + 1)
    rows = [(1 + (t - 1) // 25 - 1, t) for t in range(26, 101)]
    assert found.even == pytest.approx(sum(earlier / (t + 1) for earlier, t in rows) / len(rows))
    return [float(one) for one in found.scores[:, 0]], found.first, found.again


def test_induction_heads_are_found_where_they_are() -> None:
    model = induction_model()
    (first, second), bits, again = scores(model)
    assert second > 0.99
    assert first < 0.1
    assert bits > 5  # log2(40) = 5.3: nothing foretells a random token
    assert again < 0.1
    text = next(random_texts(range(1, V), 0, 25, 4, 1))
    assert float(summary(read_layers(model, text), text).heads["previous"][0, 0]) > 0.99


def test_induction_heads_are_not_found_where_there_are_none() -> None:
    for model in (
        induction_model(previous=False),
        GPT(induction_model().config).eval(),
        make("modern", vocab_size=V, block_size=T),
    ):
        found = induction(model, range(1, V), 0)
        assert found is not None
        assert float(found.scores.max()) < 0.15
        assert found.again > 0.7 * found.first


def test_a_short_context_repeats_less() -> None:
    found = induction(make("gpt2"), range(1, 61), 0)  # 16 positions: one, then 7 tokens twice
    assert found is not None
    assert (found.length, found.repeats) == (7, 2)
    assert induction(make("gpt2", block_size=4), range(1, 61), 0) is None
    assert induction(make("gpt2"), [1], 0) is None

"""`explain`: its numbers are those of a plain recomputation, its page is whole, mistakes are one line."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import smollm2
import torch
from PIL import Image
from serving import model_run

from llm_from_scratch import cli
from llm_from_scratch.api import score
from llm_from_scratch.pretrained import open_model
from llm_from_scratch.tokenizer import first_id
from llm_from_scratch.weights import LoadedModel, load_model, save_model

TEXT = "once there was a cat. the cat was once there."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("explain") / "base")


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """`ask(*words)` runs `explain` in this process: its status, standard output and error."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main(["explain", *map(str, words)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    return run


def described(ask: Any, *words: str | Path) -> dict[str, Any]:
    status, out, _ = ask(*words, "--json")
    assert status == 0
    return json.loads(out)


def recomputed(found: dict[str, Any], loaded: LoadedModel, text: str) -> None:
    """Holds the numbers of `--json` against plain formulas on the plain model."""
    tokenizer, model = loaded.tokenizer, loaded.model
    ids = [first_id(tokenizer), *tokenizer.encode(text)]
    assert [one["id"] for one in found["tokens"]] == ids
    streams: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda _, __, out: streams.append(out[0])) for block in model.blocks]
    with torch.no_grad():
        p = model(torch.tensor([ids]))[0].double().softmax(-1)
        for handle in handles:
            handle.remove()
        for layer, stream in enumerate(streams, 1):
            early = model.logits(model.norm(stream)).double().softmax(-1)
            bits = [-math.log2(float(early[place, after])) for place, after in enumerate(ids[1:])]
            assert found["lens"][layer]["surprise"] == pytest.approx(bits, rel=1e-3)
    for place, one in enumerate(found["tokens"]):
        bits_here = None if place == 0 else -math.log2(float(p[place - 1, ids[place]]))
        assert one["surprise"] == (None if bits_here is None else pytest.approx(bits_here, rel=1e-3, abs=1e-5))
        assert one["entropy"] == pytest.approx(-float(p[place].xlogy(p[place]).sum()) / math.log(2), rel=1e-3)
        assert [other["p"] for other in one["next"]] == pytest.approx(p[place].topk(5).values.tolist(), rel=1e-3)
    # All bits of the text are those that `score` counts
    total = sum(one["surprise"] or 0.0 for one in found["tokens"])
    assert total == pytest.approx(score(loaded, text).nats / math.log(2), rel=1e-4)
    assert sum(stage["parameters"] for stage in found["stages"]) == found["parameters"] == model.num_parameters()
    weights = found["attention"]["weights"]
    assert [sum(row) for row in weights] == pytest.approx([1.0] * len(ids), abs=1e-5)
    place = (found["attention"]["layer"], found["attention"]["head"])
    row = next(one for one in found["heads"]["rows"] if (one["layer"], one["head"]) == place)
    assert row["previous"] == pytest.approx(sum(weights[t][t - 1] for t in range(2, len(ids))) / (len(ids) - 2))
    vectors = model.token_embedding.weight.detach().double()
    for one in found["neighbours"][:3]:
        near = one["nearest"][0]
        cosines = torch.cosine_similarity(vectors[one["id"]], vectors, dim=-1)
        assert near["cosine"] == pytest.approx(float(cosines.topk(2).values[1]), abs=1e-4)


def test_numbers_are_those_of_the_plain_model(ask: Any, base: Path) -> None:
    found = described(ask, base, TEXT, "--layer", "2", "--head", "3")
    recomputed(found, load_model(base), TEXT)
    assert [len(found["lens"]), len(found["heads"]["rows"])] == [3, 8]
    assert (found["attention"]["layer"], found["attention"]["head"]) == (2, 3)
    assert set(found["how"]) == {"flow", "surprise", "next", "lens", "layers", "attention", "heads", "neighbours"}


def test_numbers_of_a_trained_run(ask: Any, finished: Path) -> None:
    text = (finished / "story.txt").read_text(encoding="utf-8")[:60]
    recomputed(described(ask, finished / "run", text), load_model(finished / "run"), text)


@pytest.mark.slow
def test_numbers_of_smollm2(ask: Any) -> None:
    smollm2.path()  # skips the test where it is not installed
    text = "The cat sat on the mat. The cat"
    found = described(ask, "smollm2", text)
    recomputed(found, open_model("smollm2"), text)
    scores = [row["induction"] for row in found["heads"]["rows"]]
    assert max(scores) > 0.8
    assert found["induction"]["again"] < found["induction"]["first"] / 2


def test_the_shown_head_reads_the_previous_token_most(ask: Any, base: Path) -> None:
    found = described(ask, base, TEXT)
    best = max(found["heads"]["rows"], key=lambda row: row["previous"])
    assert (found["attention"]["layer"], found["attention"]["head"]) == (best["layer"], best["head"])
    mean = described(ask, base, TEXT, "--layer", "1")["attention"]
    assert mean["head"] is None
    heads = [described(ask, base, TEXT, "--layer", "1", "--head", str(n))["attention"]["weights"] for n in (1, 2, 3, 4)]
    assert mean["weights"][5] == pytest.approx([sum(one[5][s] for one in heads) / 4 for s in range(6)], abs=1e-6)


def test_the_terminal_and_the_files(ask: Any, base: Path, tmp_path: Path) -> None:
    status, out, _ = ask(base, TEXT, "--html", tmp_path / "page.html", "--png", tmp_path / "png")
    assert status == 0
    assert max(map(len, out.splitlines()[:-2])) <= 80
    assert "too narrow" not in out
    for part in (
        "The way of the text",
        "q, k, v",
        "Surprise",
        "Layer by layer",
        "Attention",
        "induction",
        "Neighbours",
    ):
        assert part in out
    assert out.splitlines()[-2:] == [f"figures: {tmp_path / 'png'}", f"page: {tmp_path / 'page.html'}"]
    names = {"flow", "surprise", "next", "lens", "layers", "attention", "heads", "layer_01", "layer_02"}
    files = {path.name for path in (tmp_path / "png").iterdir()}
    assert files == {f"{name}{theme}.png" for name in names for theme in ("", "_dark")}
    for name in names:
        light, dark = (Image.open(tmp_path / "png" / f"{name}{theme}.png").convert("RGB") for theme in ("", "_dark"))
        assert light.size == dark.size
        assert (light.getpixel((0, 0)), dark.getpixel((0, 0))) == ((255, 255, 255), (22, 24, 28))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2 * len(names)
    assert not re.findall(r"(?:src|href|srcset)=\"(?!data:)", page)
    assert len(re.findall("<figcaption>[^<]{40,}", page)) == len(names)


def test_a_long_text_is_cut_with_a_sentence(ask: Any, base: Path, tmp_path: Path) -> None:
    status, out, err = ask(base, "a" * 600, "--json")
    assert status == 0
    found = json.loads(out)
    assert len(found["tokens"]) == 256
    assert found["left_out"] == 345
    assert err.splitlines()[-1] == "the text has 600 tokens: its first 255 are explained"
    short = model_run(tmp_path / "short", block_size=8)
    assert len(described(ask, short, TEXT)["tokens"]) == 8


def test_the_smallest_texts(ask: Any, base: Path, tmp_path: Path) -> None:
    for text in ("a", "ab", " ", "\n"):
        assert ask(base, text)[0] == 0
    two = model_run(tmp_path / "two", block_size=2)
    status, out, _ = ask(two, TEXT, "--html", tmp_path / "two.html")
    assert status == 0
    assert "Not measured" not in out  # no head is measured at all
    assert described(ask, two, TEXT)["induction"] is None
    one = model_run(tmp_path / "one", block_size=1)
    assert ask(one, TEXT)[::2] == (2, "error: the model reads 1 token at a time: there is nothing to explain\n")


def test_a_text_of_a_stranger_is_text(ask: Any, base: Path, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> $x_1$ \x1b[31m \u202e é 東京 🙂 [red]bold[/red]"
    status, out, _ = ask(base, hostile, "--html", tmp_path / "page.html")
    assert status == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "<script" not in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{base}", ""], "the text is empty: there is nothing to explain"),
        (["{base}", "\ufeff"], "the text is empty: there is nothing to explain"),
        (["{base}", "a", "--layer", "3"], "--layer 3: there is none: the model has 2, from 1 to 2"),
        (["{base}", "a", "--layer", "0"], "--layer 0: there is none: the model has 2, from 1 to 2"),
        (["{base}", "a", "--layer", "1", "--head", "5"], "--head 5: there is none: the model has 4, from 1 to 4"),
        (["{base}", "a", "--head", "1"], "--head 1: of which layer? add --layer, from 1 to 2"),
        (["{base}", "a", "--layer", "x"], "argument --layer: invalid int value: 'x'"),
        (["nowhere", "a"], "nowhere"),
        (["{base}", "a", "--html", "nowhere/page.html"], "there is no folder nowhere: make it first"),
        (["{base}", "a", "--html", "."], "--html"),
        (["{base}", "a", "--png", "file"], "--png file cannot be written"),
        (["{base}", "a", "--device", "tpu"], "tpu"),
        (["{base}"], "the following arguments are required: TEXT"),
    ],
)
def test_mistakes_are_one_line(
    ask: Any, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept", encoding="utf-8")
    status, out, err = ask(*(word.format(base=base) for word in words))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert Path("file").read_text(encoding="utf-8") == "kept"
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_a_diverged_model_is_one_line(ask: Any, base: Path, tmp_path: Path) -> None:
    loaded: LoadedModel = load_model(base)
    with torch.no_grad():
        loaded.model.get_parameter("blocks.0.attention.out.weight").fill_(torch.nan)
    broken = tmp_path / "broken"
    broken.mkdir()
    weights = dict(loaded.model.named_parameters())
    save_model(weights, loaded.model.config, loaded.tokenizer, broken, step=1, loss=1.0)
    status, out, err = ask(broken, TEXT)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "computes NaN" in err

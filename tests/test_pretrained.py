"""Models by their names: runs, GGUF files, published ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from byte_level import stranger
from conftest import Process
from gguf_models import random_model
from llamacpp import LlamaCpp
from small_models import small_model

from llm_from_scratch import pretrained, registry
from llm_from_scratch.api import generate, load_run, score
from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.generation import generate as generate_pieces
from llm_from_scratch.generation import generate_tokens
from llm_from_scratch.gguf.write import export
from llm_from_scratch.huggingface.write import export as export_folder
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.pretrained import Source, find_model, open_model
from llm_from_scratch.tokenizer import CharTokenizer, begin_ids, first_id, huggingface
from llm_from_scratch.tokenizer.template import render_ids
from llm_from_scratch.weights import LoadedModel

ABC = CharTokenizer("abc")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export(random_model("llama", 4), ABC, tmp_path / "model.gguf", dtype="f32")


def test_the_forms_of_a_name(tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find", lambda name: tmp_path / name)
    assert find_model("smollm2") == Source("gguf", tmp_path / "smollm2")
    assert find_model(str(exported)) == Source("gguf", exported)
    assert find_model(str(tmp_path / "run")) == Source("run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no run"):
        find_model("last")
    with pytest.raises(UserError, match="run is no run folder"):
        open_model("run")


def test_a_run_and_a_file_of_the_same_model(tmp_path: Path) -> None:
    model = small_model(tmp_path / "run", step=5, qk_norm=False, n_embd=32)
    path = export(model, ABC, tmp_path / "model.gguf", dtype="f32")
    run, file = open_model(str(tmp_path / "run")), open_model(str(path), block_size=4)
    assert (run.step, run.loss, file.step, file.loss) == (5, 1.5, None, None)
    ids = torch.tensor([[1, 2, 3, 0]])
    assert torch.equal(run.model(ids), file.model(ids))
    assert (run.model.config.block_size, file.model.config.block_size) == (8, 4)
    masked = open_model(str(path), doc_mask=True)
    assert masked.model.eot_id == 0
    # A run reads fewer tokens, too, with the same logits.
    short = open_model(str(tmp_path / "run"), block_size=4)
    assert torch.equal(short.model(ids), file.model(ids))
    for opened in (short, file):
        with pytest.raises(UserError, match="a sequence of 5 tokens exceeds model.block_size=4"):
            opened.model(torch.tensor([[1, 2, 3, 0, 1]]))
    for name in ("run", "model.gguf"):
        with pytest.raises(UserError, match=r"block_size=9.* 8"):
            open_model(str(tmp_path / name), block_size=9)


def test_a_folder_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids above the tokenizer's are cut off; the template is that of the tokenizer's settings."""
    model = random_model("qwen3", 9)
    export_folder(LoadedModel(model, CharTokenizer("abcdefgh"), None, None), tmp_path / "model")
    huggingface.write(ABC, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_bytes())
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ x }}"}))
    assert find_model(str(tmp_path / "model")).kind == "huggingface"
    found = open_model(str(tmp_path / "model"), block_size=8)
    assert (found.model.config.vocab_size, found.model.config.block_size, found.tokenizer.fingerprint) == (
        4,
        8,
        ABC.fingerprint,
    )
    assert (found.chat_template, found.end_ids, found.step) == ("{{ x }}", (0,), None)
    ids = torch.tensor([[1, 2, 3, 0]])
    assert torch.equal(found.model(ids), model(ids)[..., :4])
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ y }}")
    monkeypatch.setattr(pretrained.hub, "download", lambda name, fetch: tmp_path / "model")
    assert open_model("hub:owner/name@main").chat_template == "{{ y }}"


def test_the_library_takes_a_file(exported: Path) -> None:
    model = load_run(str(exported), "cpu")
    assert score(model, "abc").tokens == 3
    assert generate(model, "a", max_new_tokens=5, seed=1) == generate(model, "a", max_new_tokens=5, seed=1)


def test_a_text_ends_at_each_end_id() -> None:
    """The second of the ids that are drawn without an end, as an end: the first alone is text."""
    model = random_model("llama", 4)
    config = SamplingConfig(max_new_tokens=20, temperature=3, seed=2)
    ids = ABC.encode("".join(piece for (piece,) in generate_pieces(model, ABC, "a", config)))
    end = next(i for i in ids if i != ids[0])
    pieces = [piece for (piece,) in generate_pieces(model, ABC, "a", config, (end,))]
    assert "".join(pieces) == ABC.decode(ids[: ids.index(end)])
    assert len(pieces) == ids.index(end) + 1
    run = LoadedModel(model, ABC, None, None, end_ids=(end,))
    assert generate(run, "a", max_new_tokens=20, temperature=3, seed=2) == ["".join(pieces)]


def test_generate_py_writes_with_a_file(exported: Path, write: Process) -> None:
    done = write(f"run={exported}", "prompt=ab", "max_new_tokens=6", "device=cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ab")
    assert len(done.stdout) > 3
    done = write("run=none.gguf", "prompt=ab")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: none.gguf: cannot be read (No such file or directory): name a .gguf file\n"


@pytest.fixture(scope="module")
def smollm2() -> Path:
    try:
        return registry.find("smollm2")
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_smollm2_knows_oz_as_llama_cpp_does(smollm2: Path, corpora: Path) -> None:
    """Bits per byte of the first 20 KB, in windows of 512 tokens."""
    oz = (corpora / "oz" / "wizard_of_oz.txt").read_bytes()[:20_000].decode("utf-8", errors="ignore")
    run = open_model("smollm2", block_size=512)
    own = score(run, oz)
    ids = [run.tokenizer.eot_id, *run.tokenizer.encode(oz)]
    with LlamaCpp(smollm2, 600, slots=4) as peer:
        assert peer.tokens([oz])[0] == ids[1:]
        windows = [ids[start : start + 513] for start in range(0, len(ids) - 1, 512)]
        nats = -sum(map(sum, peer.logprobs(windows)))
    assert own.bits_per_byte == pytest.approx(nats / math.log(2) / own.text_bytes, abs=0.01)
    assert own.bits_per_byte < 1.3  # 1.9 where the rows of q and k are in the wrong order


@pytest.mark.slow
def test_smollm2_at_float32_is_llama_cpps(smollm2: Path, corpora: Path, tmp_path: Path) -> None:
    """llama.cpp multiplies Q4_1 in 8 bits: the same weights as F32 are the sharper test."""
    run = open_model("smollm2", block_size=512)
    path = export(run.model, run.tokenizer, tmp_path / "model.gguf", dtype="f32", end_ids=run.end_ids)
    oz = (corpora / "oz" / "wizard_of_oz.txt").read_text(encoding="utf-8")[5000:7000]
    ids = [run.tokenizer.eot_id, *run.tokenizer.encode(oz)[:200]]
    with torch.no_grad():
        logprobs = run.model(torch.tensor([ids])).log_softmax(-1)[0, :-1]
    own = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    with LlamaCpp(path, 512) as peer:
        assert np.abs(np.array(peer.logprobs([ids])[0]) - own.numpy()).max() < 0.03


@pytest.mark.slow
def test_smollm2_exported_is_the_same_in_transformers(smollm2: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = open_model(str(smollm2), block_size=256)
    export_folder(run, tmp_path / "out")
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "The Emerald City is 12 miles away,\n\nsaid the Scarecrow — naïve as he was. 日本"
    ids = run.tokenizer.encode(text)
    assert theirs(text)["input_ids"] == ids
    with torch.inference_mode():
        expected = run.model(torch.tensor([ids]))
        torch.testing.assert_close(twin(torch.tensor([ids])).logits, expected, rtol=1e-4, atol=1e-4)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    assert run.chat_template is not None
    rendered = theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert rendered == render_ids(run.chat_template, asked, run.tokenizer, add_generation_prompt=True)


@pytest.mark.slow
def test_smollm2_answers_a_question(smollm2: Path) -> None:
    run = open_model(str(smollm2), block_size=256)
    assert run.chat_template is not None
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = render_ids(run.chat_template, asked, run.tokenizer, add_generation_prompt=True)
    config = SamplingConfig(max_new_tokens=20, temperature=0)
    answer = [int(token) for (token,) in generate_tokens(run.model, torch.tensor([ids]), config)]
    end = next(i for i, token in enumerate(answer) if token in run.end_ids)
    assert run.tokenizer.decode(answer[:end]) == "The capital of France is Paris."


def test_a_model_that_expects_a_begin_of_text_reads_one_before_every_text(tmp_path: Path) -> None:
    """Llama's way: what the text costs, and how it goes on, is computed behind that token."""
    stranger("llama3", tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_bytes()) | {"add_bos_token": True}), encoding="utf-8")
    tokenizer = huggingface.read(tmp_path)
    bos_id = tokenizer.special["<|im_start|>"]
    torch.manual_seed(0)
    shape = {"block_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 32}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape)).eval()
    loaded = LoadedModel(model, tokenizer, None, None)
    ids = tokenizer.encode("Dorothy went")
    assert bos_id not in ids
    with torch.inference_mode():
        found = score(loaded, "Dorothy went")
        expected = model.loss(torch.tensor([[bos_id, *ids[:-1]]]), torch.tensor([ids]), "sum")
        assert found.nats == pytest.approx(float(expected), rel=1e-5)
        best = int(model(torch.tensor([[bos_id, *ids]]))[0, -1].argmax())
        assert generate(loaded, "Dorothy went", temperature=0.0, max_new_tokens=1) == [tokenizer.decode([best])]
    assert (first_id(tokenizer), begin_ids(ABC), first_id(ABC)) == (bos_id, [], ABC.eot_id)

"""Folders of transformers: what it writes is read with equal logits; what is hostile is refused."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import LLAMA3, V, make

from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface.read import load, load_weights
from llm_from_scratch.huggingface.settings import to_settings
from llm_from_scratch.huggingface.tensors import to_weights
from llm_from_scratch.huggingface.write import export
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import LoadedModel

GPT = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
LLAMA = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
LLAMA3_ROPE = {**LLAMA3, "rope_theta": 500.0, "original_max_position_embeddings": 8}
# model_type, arguments of the class of transformers
THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("openai-gpt", {**GPT, "afn": "gelu"}),
    ("gpt2", {**GPT, "n_inner": 40}),
    ("gpt2", {**GPT, "activation_function": "gelu", "tie_word_embeddings": False}),
    ("llama", {**LLAMA, "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE}),
    ("llama", {**LLAMA, "head_dim": 12, "attention_bias": True, "mlp_bias": True}),
    ("llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}}),
    ("qwen2", {**LLAMA, "tie_word_embeddings": True}),
    ("qwen2", {**LLAMA, "num_key_value_heads": 4, "rms_norm_eps": 1e-3}),
    ("qwen3", {**LLAMA, "head_dim": 12, "tie_word_embeddings": True}),
    ("qwen3", {**LLAMA, "head_dim": 8, "num_key_value_heads": 1}),
]


def theirs(model_type: str, arguments: dict[str, Any]) -> Any:
    """A model of transformers whose every parameter is random."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": None}
    config = transformers.AutoConfig.for_model(model_type, **{**ends, **arguments})
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.2)
    return model.eval()


@pytest.mark.parametrize(("model_type", "arguments"), THEIRS)
def test_what_transformers_saves_is_read_with_equal_logits(
    model_type: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    twin = theirs(model_type, arguments)
    twin.save_pretrained(tmp_path)
    found = load_weights(tmp_path)
    ids = torch.randint(V, (3, 16))
    with torch.inference_mode():
        torch.testing.assert_close(found.model(ids), twin(ids).logits, rtol=1e-5, atol=1e-5)
    assert found.end_ids == (2, 5)
    assert not found.model.training


def test_shards_are_read_as_one_file_is(tmp_path: Path) -> None:
    twin = theirs("qwen3", LLAMA)
    twin.save_pretrained(tmp_path / "one")
    twin.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    shards = sorted((tmp_path / "many").glob("model-*-of-*.safetensors"))
    assert len(shards) > 3
    one, many = (dict(load_weights(tmp_path / name).model.named_parameters()) for name in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)
    shards[2].unlink()
    with pytest.raises(UserError, match=f"^{shards[2]} is missing$"):
        load_weights(tmp_path / "many")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    twin = theirs("llama", LLAMA).to(dtype)
    twin.save_pretrained(tmp_path)
    weight = load_weights(tmp_path).model.token_embedding.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, twin.model.embed_tokens.weight.float())


# ------------------------------------------------------------------------------ folders made by hand
def folder_of(path: Path, kind: str = "modern", **changes: Any) -> Path:
    """The folder of a model of this project."""
    model = make(kind, **changes)
    path.mkdir(exist_ok=True)
    settings = to_settings(model.config, bos_id=0, end_ids=[0])
    (path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_file(to_weights(state, model.config), path / "model.safetensors")
    return path


def change(path: Path, **values: Any) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | values), encoding="utf-8")


@pytest.mark.parametrize("kind", ["gpt2", "article", "llama3"])
def test_a_shorter_context_reads_the_same_beginning(kind: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, kind)
    whole, short = load_weights(folder).model, load_weights(folder, block_size=5).model
    assert (whole.config.block_size, short.config.block_size) == (16, 5)
    ids = torch.randint(V, (2, 5))
    assert torch.equal(whole(ids), short(ids))
    for wrong in (0, 17):
        with pytest.raises(UserError, match=f"block_size={wrong} must be from 1 to the model's own 16$"):
            load_weights(folder, block_size=wrong)


def test_the_rows_that_pad_a_vocabulary_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, tie_weights=False)
    whole, cut = load_weights(folder).model, load_weights(folder, vocab_size=V - 7).model
    assert cut.config.vocab_size == cut.token_embedding.num_embeddings == V - 7
    ids = torch.randint(V - 7, (2, 9))
    torch.testing.assert_close(cut(ids), whole(ids)[..., : V - 7])
    with pytest.raises(UserError, match=r"config.json: the tokenizer has 62 tokens and the model 61$"):
        load_weights(folder, vocab_size=V + 1)


def test_sinusoids_in_a_table_of_positions_are_recognized(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "article")
    assert load_weights(folder).model.config.position == "sinusoidal"
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.positions_embed.weight"][3, 3] += 0.01
    save_file(tensors, folder / "model.safetensors")
    assert load_weights(folder).model.config.position == "learned"


def test_a_stored_head_may_repeat_the_embedding_it_is_tied_to(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert load_weights(folder).model.head is None
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"lm_head.weight is not model.embed_tokens.weight, and tie_word_embeddings says"
    ):
        load_weights(folder)


def test_ends_come_from_the_generation_config_first(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    change(folder / "config.json", eos_token_id=7)
    assert load_weights(folder).end_ids == (7,)
    # One is stated twice, and one is beyond the vocabulary
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7, 5, 999]}', encoding="utf-8")
    assert load_weights(folder).end_ids == (5, 7)
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"generation_config.json: eos_token_id=\['</s>'\] must be an id or a list"):
        load_weights(folder)


def test_a_snapshot_in_the_cache_of_the_hub_is_links_to_blobs(tmp_path: Path) -> None:
    blobs = folder_of(tmp_path / "models--owner--name").rename(tmp_path / "blobs")
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    blobs = blobs.rename(tmp_path / "models--owner--name" / "blobs")
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(Path("..", "..", "blobs", name))
    assert load_weights(snapshot).model.config.n_layer == 2
    elsewhere = snapshot.rename(tmp_path / "models--owner--name" / "copied")
    with pytest.raises(UserError, match="config.json is a link that leads out of|config.json is missing"):
        load_weights(elsewhere)


def test_a_model_with_its_tokenizer_and_template(tmp_path: Path) -> None:
    """Rows beyond the tokenizer's tokens are left out, here ten."""
    tokenizer = CharTokenizer("".join(map(chr, range(ord("0"), ord("0") + V - 1))))
    folder = export(LoadedModel(make("modern"), tokenizer, None, None), tmp_path / "model")
    model, found, end_ids, template = load(folder, block_size=8)
    assert (model.config.block_size, model.config.vocab_size, end_ids, template) == (8, V, (0,), None)
    assert found.encode("0:k") == tokenizer.encode("0:k")
    for content, expected in (("{{ a }}", "{{ a }}"), ([{"name": "default", "template": "b"}], "b"), ([], None)):
        change(folder / "tokenizer_config.json", chat_template=content)
        assert load(folder)[3] == expected
    change(folder / "tokenizer_config.json", chat_template=7)
    with pytest.raises(UserError, match=r"tokenizer_config.json: chat_template must be a text, or a list of texts"):
        load(folder)
    change(folder / "tokenizer_config.json", chat_template="\ud800")
    with pytest.raises(UserError, match=r"tokenizer_config.json: the text holds a lone surrogate"):
        load(folder)
    (folder / "chat_template.jinja").write_text("{{ é }}", encoding="utf-8")
    assert load(folder)[3] == "{{ é }}"
    padded = load_file(folder / "model.safetensors")
    padded["model.embed_tokens.weight"] = torch.cat((padded["model.embed_tokens.weight"], torch.ones(10, 32)))
    save_file(padded, folder / "model.safetensors")
    change(folder / "config.json", vocab_size=V + 10)
    assert load(folder)[0].config.vocab_size == V
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(folder.parent / "elsewhere.json")
    with pytest.raises(UserError, match=r"tokenizer.json is a link that leads out of"):
        load(folder)


# ------------------------------------------------------------------------------------------- refused
def sharded(path: Path) -> tuple[Path, dict[str, Any]]:
    """A folder of two shards, and its index."""
    folder = folder_of(path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert load_weights(folder).model.config.n_layer == 2
    return folder, index


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/etc/passwd", "a\\b.safetensors", "x.bin", "\n.safetensors"]
)
def test_an_index_names_safetensors_files_of_its_folder_alone(name: str, tmp_path: Path) -> None:
    folder, index = sharded(tmp_path / "model")
    folder_of(tmp_path / "other")
    index["weight_map"]["model.norm.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=r"index.json: .* is no .safetensors file of this folder$") as caught:
        load_weights(folder)
    assert "\n" not in str(caught.value)


def test_links_out_and_pipes_are_refused(tmp_path: Path) -> None:
    other = folder_of(tmp_path / "other")
    for name in ("config.json", "model.safetensors"):
        folder = folder_of(tmp_path / name)
        (folder / name).unlink()
        (folder / name).symlink_to(other / name)
        with pytest.raises(UserError, match=f"{name} is a link that leads out of {folder}"):
            load_weights(folder)
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(UserError, match=f"^{folder / name}: "):
            load_weights(folder)


def test_a_tensor_in_two_shards_or_a_name_twice_is_refused(tmp_path: Path) -> None:
    folder, index = sharded(tmp_path)
    first, second = sorted(set(index["weight_map"].values()))
    tensors = load_file(folder / first)
    whole = load_file(folder / second)
    save_file(whole | {"model.norm.weight": torch.ones(32)}, folder / second)
    save_file(tensors | {"model.norm.weight": torch.ones(32)}, folder / first)
    with pytest.raises(UserError, match=f"^{folder / second}: the tensor 'model.norm.weight' is in another file too$"):
        load_weights(folder)
    (folder / "config.json").write_text('{"model_type": "llama", "model_type": "qwen3"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"config.json: a name stands in it twice$"):
        load_weights(folder)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"pytorch_model.bin: a pickle can run code, so it is not read: convert it"
    ) as caught:
        load_weights(folder)
    assert "\n" not in str(caught.value)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"model.safetensors is missing, and model.safetensors.index.json too$"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 3}, "the tensor model.layers.2.input_layernorm.weight is missing|larger matrices than"),
        ({"num_hidden_layers": 1000}, "more layers or positions than"),
        ({"num_hidden_layers": 1}, r"the tensor 'model.layers.1.input_layernorm.weight' and 10 more are none of"),
        ({"vocab_size": 2**30}, "larger matrices than the [0-9]+ numbers in"),
        ({"hidden_size": 2**30}, "larger matrices than|more layers"),
        ({"num_attention_heads": 2**20}, "more layers|larger matrices|model.n_kv_head"),
        ({"intermediate_size": 2**31 - 1}, "larger matrices than"),
        ({"max_position_embeddings": 2**31 - 1}, "more layers or positions than"),
        ({"rms_norm_eps": 0}, "rms_norm_eps=0 must be"),
    ],
)
def test_sizes_are_compared_with_the_files_before_anything_is_allocated(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    load_weights(folder)
    change(folder / "config.json", **values)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as caught:
            load_weights(folder)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


def test_a_context_too_long_for_the_file_may_be_shortened(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    change(folder / "config.json", max_position_embeddings=2**31 - 1)
    assert load_weights(folder, block_size=16).model.config.block_size == 16


def test_tensors_of_other_types_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"the tensor 'model.norm.weight' is of F64: F32, F16, BF16 are read$"):
        load_weights(folder)


def test_a_file_cut_short_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"^{folder / 'model.safetensors'}: damaged \\(SafetensorError: "):
        load_weights(folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=f"^{folder}: there is no such folder"):
        load_weights(folder)

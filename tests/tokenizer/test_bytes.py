"""`tokenizer=gpt2` against transformers and the tokenizers library, on a byte-level BPE that the
latter trains here.
"""

import json
import pickle
import random
import shutil
import sys
from pathlib import Path

import pytest
from byte_level import EOT, TEXT, learn, stranger
from conftest import SMALL, Process, story
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_corpora import mix

from llm_from_scratch.check import check
from llm_from_scratch.config import Config, DataConfig, TokenizerConfig
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.errors import UserError
from llm_from_scratch.plan.sizes import assumed_text
from llm_from_scratch.tokenizer import BytesTokenizer, GPT2Tokenizer, load_tokenizer, open_gpt2
from llm_from_scratch.tokenizer import bytes as bytes_module
from llm_from_scratch.tokenizer.huggingface import read
from llm_from_scratch.tokenizer.patterns import PATTERNS

tiktoken = pytest.importorskip("tiktoken")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learn(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def gpt2(files: Path) -> GPT2Tokenizer:
    return open_gpt2(str(files))


@pytest.fixture(scope="module")
def other(files: Path) -> "transformers.GPT2Tokenizer":
    vocab = json.loads((files / "vocab.json").read_text(encoding="utf-8"))
    lines = (files / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    return transformers.GPT2Tokenizer(vocab=vocab, merges=[tuple(line.split(" ")) for line in lines])


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("<|endoftext|> <|endoftext|>")
@example("don't WE'LL ’s  two   spaces \n\n\n  x\t\r\n\u2028\x85\xa0\x1c\x1f ")
@example("▅ \x00 \ufeff \U0010ffff e\u0301 ﬁ")
def test_every_text_comes_back(gpt2: GPT2Tokenizer, text: str) -> None:
    ids = gpt2.encode(text)
    assert gpt2.decode(ids) == text
    assert gpt2.decode_bytes(ids) == text.encode()
    assert gpt2.eot_id not in ids
    assert gpt2.encode_array(text).tolist() == ids


@settings(deadline=None, max_examples=100)
@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab \n'st1=日"))))
@example("don't  we'll\n\n    indent 123 ==== ")
def test_the_ids_are_those_of_transformers(gpt2: GPT2Tokenizer, other: "transformers.GPT2Tokenizer", text: str) -> None:
    if EOT in text:
        return  # transformers reads it as the mark
    assert gpt2.encode(text) == other(text)["input_ids"]


def test_ids_of_a_long_text_and_its_marks(gpt2: GPT2Tokenizer, other: "transformers.GPT2Tokenizer") -> None:
    assert gpt2.vocab_size == len(other) > 300
    assert gpt2.eot_id == other.eos_token_id == gpt2.vocab_size - 1
    assert gpt2.decode([gpt2.eot_id]) == ""
    assert gpt2.encode(TEXT) == other(TEXT)["input_ids"]
    for text in (
        " " * 3000 + "x",
        "a\n" + "\n \t" * 2000 + "b c",
        "\n" * 5000,
        "x" + " " * 1000 + "\xa0" * 1000 + "’s",
    ):
        assert gpt2.encode(text) == other(text)["input_ids"]


@pytest.mark.parametrize("around", ["", "x", " x", "\n", "'s", "\x1c"])
def test_long_white_space_is_cut_by_the_same_rule(
    gpt2: GPT2Tokenizer, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    rng = random.Random(1)
    texts = [around + "".join(rng.choices(" \n\t\xa0", k=rng.randrange(8))) + around for _ in range(300)]
    expected = [gpt2.encode(text) for text in texts]
    monkeypatch.setattr(bytes_module, "LONG_SPACE", bytes_module.re.compile(r"[^\S\x1c-\x1f]{2,}"))
    assert [[i for ids in gpt2._around_space(text) for i in ids] for text in texts] == expected


def test_a_megabyte_without_a_break(gpt2: GPT2Tokenizer) -> None:
    letters = "".join(random.Random(0).choices("etaoinshrdlu", k=10**6))
    for text in (letters, "a" * 10**6, " " * 10**6 + "x", (" \n" * 10**6)[: 10**6] + "y"):
        assert gpt2.decode(gpt2.encode(text)) == text  # 1 s measured; quadratic would be hours


def test_a_lone_surrogate_is_refused(gpt2: GPT2Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D800 at index 1"):
        gpt2.encode("a\ud800")


def test_saved_and_loaded_it_is_the_same(gpt2: GPT2Tokenizer, tmp_path: Path) -> None:
    gpt2.save(tmp_path)
    for again in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(gpt2)), open_gpt2(str(tmp_path))):
        assert again.encode(TEXT) == gpt2.encode(TEXT)
        assert (again.fingerprint, again.vocab_size, again.eot_id) == (gpt2.fingerprint, gpt2.vocab_size, gpt2.eot_id)
    (tmp_path / "encoder.json").write_bytes(json.dumps(json.loads((tmp_path / "vocab.json").read_bytes())).encode())
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    (tmp_path / "vocab.json").unlink()
    # OpenAI's names
    assert open_gpt2(None, [tmp_path / "nothing", tmp_path]).fingerprint == gpt2.fingerprint


def test_the_end_of_text_may_be_the_first_id(tmp_path: Path) -> None:
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT], vocab_size=500, special_tokens=[EOT], show_progress=False)
    bpe.save_model(str(tmp_path))
    tokenizer = open_gpt2(str(tmp_path))
    assert tokenizer.eot_id == 0
    assert tokenizer.encode(TEXT) == bpe.encode(TEXT).ids


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("vocab.json", EOT, "<|end|>", r"vocab\.json: no vocabulary of GPT-2's kind: it lacks <\|endoftext\|>"),
        ("vocab.json", '"!": 0', '"!": 1', r"vocab\.json: damaged: no object of tokens with the ids 0, 1, 2"),
        ("vocab.json", '"!": 0', '"! ": 0', r"vocab\.json: damaged: '! ' are not the bytes"),
        ("vocab.json", '"!": 0', '"!": 0.0', "vocab.json: damaged"),
        ("vocab.json", "}", "", r"vocab\.json: damaged: "),
        ("merges.txt", "o r", "r o", r"merges\.txt: its merge \d+ is not the one that the ids of vocab\.json give"),
        ("merges.txt", "o r", "o r r", r"merges\.txt: its merge"),
        ("merges.txt", "o r", "o  r", r"merges\.txt: damaged: ''"),
        ("merges.txt", "\n", "\na b\n", r"merges\.txt: its merge 0 is not"),
    ],
)
def test_files_that_do_not_hold_are_named(
    files: Path, tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    shutil.copytree(files, tmp_path / "bad")
    change(tmp_path / "bad" / name, old, new)
    with pytest.raises(ValueError, match=message) as error:
        open_gpt2(str(tmp_path / "bad"))
    assert "\n" not in str(error.value)


def test_pieces_that_are_not_merged_from_two_are_refused(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files, tmp_path / "bad")
    vocab = json.loads((files / "vocab.json").read_text(encoding="utf-8"))
    last = next(piece for piece, i in vocab.items() if i == len(vocab) - 2)
    vocab["qzqz"] = vocab.pop(last)
    (tmp_path / "bad/vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    with pytest.raises(ValueError, match="'qzqz' is not merged from two others"):
        open_gpt2(str(tmp_path / "bad"))


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_damaged_copy_in_a_run_folder_is_named(gpt2: GPT2Tokenizer, tmp_path: Path, name: str) -> None:
    gpt2.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"vocab\.json: damaged: its sha256, with merges\.txt"):
        load_tokenizer(tmp_path)


def test_nothing_to_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(name: str) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(
        ValueError, match=r"\(no network\): put vocab\.json and merges\.txt into .*, or name .* tokenizer\.path$"
    ):
        open_gpt2(None, [tmp_path])
    with pytest.raises(ValueError, match=r"^tokenizer\.path=.*: there is no vocab\.json with merges\.txt: put"):
        open_gpt2(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[openwebtext\]'"):
        open_gpt2(None, [tmp_path])


def test_tiktokens_own_ranks_give_the_same_tokenizer(gpt2: GPT2Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: gpt2._encoding)
    assert open_gpt2(None).fingerprint == gpt2.fingerprint


def test_settings_that_make_no_sense_are_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(story(500), encoding="utf-8")
    data = DataConfig(name="text", path=str(tmp_path / "a.txt"), dir=str(tmp_path / "data"))
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size=9: with tokenizer=gpt2 .* leave it null"):
        prepare(data, TokenizerConfig(kind="gpt2", vocab_size=9, path=str(files)))
    with pytest.raises(ValueError, match=r"tokenizer\.path=x: tokenizer=bpe is learned"):
        prepare(data, TokenizerConfig(path="x"))


def test_the_ids_of_a_corpus_are_what_nanogpts_method_gives(files: Path, tmp_path: Path) -> None:
    texts = [story(600, seed=i) + "  \n\n end " * (i % 3) for i in range(60)] + [EOT]
    for i, text in enumerate(texts):
        path = tmp_path / "texts" / f"{i:03}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    data = DataConfig(name="text", path=str(tmp_path / "texts"), dir=str(tmp_path / "data"), keep_text=False)
    prepared = prepare(data, TokenizerConfig(kind="gpt2", vocab_size=None, path=str(files)))
    # encode_ordinary of each document, then its end-of-text, one behind the other as uint16.
    bpe = tokenizers.ByteLevelBPETokenizer(str(files / "vocab.json"), str(files / "merges.txt"))
    for split in ("train", "val"):
        (shard,) = prepared.shards(split)
        kept = list(prepared.documents(split))
        assert set(kept) <= set(texts)
        assert shard.tokens.tolist() == [i for text in kept for i in [*bpe.encode(text).ids, prepared.tokenizer.eot_id]]
    facts = prepared.manifest["splits"]
    assert facts["train"]["documents"] + facts["val"]["documents"] == len(texts)


def test_a_mixture_has_it_too(files: Path, tmp_path: Path) -> None:
    config = TokenizerConfig(kind="gpt2", vocab_size=None, path=str(files))
    prepared = prepare(mix(tmp_path), config)
    assert prepared.tokenizer.fingerprint == open_gpt2(str(files)).fingerprint
    for split in ("train", "val"):
        texts = [prepared.tokenizer.decode(shard.tokens.tolist()) for shard in prepared.shards(split)]
        assert "".join(texts) == "".join(prepared.documents(split))
    assert prepare(mix(tmp_path), config).folder == prepared.folder
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size=9: with tokenizer=gpt2 .* leave it null"):
        prepare(mix(tmp_path), TokenizerConfig(kind="gpt2", vocab_size=9, path=str(files)))


@pytest.mark.slow
def test_a_run_needs_no_files_but_its_own(
    files: Path, train: Process, write: Process, command: Process, tmp_path: Path
) -> None:
    (tmp_path / "story.txt").write_text(story(20_000), encoding="utf-8")
    shutil.copytree(files, tmp_path / "files")
    small = [setting for setting in SMALL if not setting.startswith("tokenizer")]
    done = train(
        *small,
        "tokenizer=gpt2",
        "tokenizer.path=files",
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "run_dir=run",
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "files")
    done = train("resume=run", "trainer.max_steps=8")
    assert done.returncode == 0, done.stderr
    assert {"tokenizer.json", "vocab.json", "merges.txt"} <= {path.name for path in (tmp_path / "run/model").iterdir()}
    done = write("run=run", "prompt=Dorothy", "max_new_tokens=5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Dorothy")
    done = command("evaluate", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bits_per_byte"] > 0
    done = command("doctor", "run")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_plan_takes_the_vocabulary_of_the_files(files: Path, gpt2: GPT2Tokenizer) -> None:
    config = check({"tokenizer": {"kind": "gpt2", "vocab_size": None, "path": str(files)}}, Config)
    assert assumed_text(config, 10**6).vocab_size == gpt2.vocab_size


# ----------------------------------------------------------------------------------- other byte-level
@pytest.fixture(scope="module", params=PATTERNS)
def other_bytes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BytesTokenizer:
    found = read(stranger(request.param, tmp_path_factory.mktemp("bytes")))
    assert isinstance(found, BytesTokenizer)
    return found


def test_another_ones_bytes_are_saved_and_loaded(other_bytes: BytesTokenizer, tmp_path: Path) -> None:
    other_bytes.save(tmp_path)
    for again in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(other_bytes))):
        assert again.encode(TEXT) == other_bytes.encode(TEXT)
        assert isinstance(again, BytesTokenizer)
        assert again.parts() == other_bytes.parts()
        assert again.fingerprint == other_bytes.fingerprint
    assert other_bytes.decode(other_bytes.encode(TEXT)) == TEXT
    changed = other_bytes.parts() | {"eos_id": 0}
    assert BytesTokenizer(**changed).fingerprint != other_bytes.fingerprint


@pytest.mark.parametrize("around", ["", "x", "1", "!", "'s"])
def test_endless_white_space_has_the_same_rule(
    other_bytes: BytesTokenizer, around: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(2)
    texts = [around + "".join(rng.choices(" \n\r\xa0", k=rng.randrange(8))) + around for _ in range(300)]
    expected = [other_bytes.encode(text) for text in texts]
    monkeypatch.setattr(bytes_module, "ENDLESS_SPACE", bytes_module.re.compile(".", bytes_module.re.DOTALL))
    assert [other_bytes.encode(text) for text in texts] == expected


def test_a_million_spaces_are_encoded(other_bytes: BytesTokenizer) -> None:
    for text in (" " * 1_500_000 + "x", (" \n" * 600_000) + "1", "a" * 10**6):
        assert other_bytes.decode(other_bytes.encode(text)) == text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pattern", "(a+)+$", "is none of gpt2, smollm, qwen2, llama3"),
        ("pattern", ["gpt2"], "is none of gpt2"),
        ("tokens", "abc", "do not fit together"),
        ("tokens", [1], "do not fit together"),
        ("tokens", [EOT, "<|im_start|>", "<|im_end|>", "a", "a"], "two ids"),
        ("tokens", [EOT, "<|im_start|>", "<|im_end|>", "é" * 2], "merge 0 joins"),
        ("tokens", [EOT, "<|im_start|>", "<|im_end|>"], "merge 0 joins"),
        ("merges", {}, "do not fit together"),
        ("merges", [3], "no merge of two tokens"),
        ("merges", ["a  b"], "no merge of two tokens"),
        ("special", [], "do not fit together"),
        ("special", {"<|im_end|>": 1}, "do not fit together"),
        ("special", {"<|im_end|>": True}, "do not fit together"),
        ("visible", ["<|other|>"], "do not fit together"),
        ("eot_id", -1, "do not fit together"),
        ("bos_id", 10**9, "do not fit together"),
        ("eos_id", 1.0, "do not fit together"),
        ("extra", 1, None),
    ],
)
def test_a_damaged_description_is_one_line(
    other_bytes: BytesTokenizer, key: str, value: object, message: str | None, tmp_path: Path
) -> None:
    other_bytes.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {key: value}), encoding="utf-8")
    if message is None:
        assert load_tokenizer(tmp_path).fingerprint == other_bytes.fingerprint
        return
    with pytest.raises(UserError, match=rf"tokenizer\.json: .*{message}") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    path.write_text('{"kind": "bytes"}', encoding="utf-8")
    with pytest.raises(UserError, match="it lacks add_bos"):
        load_tokenizer(tmp_path)


def test_tokens_that_show_decode_as_their_names(tmp_path: Path) -> None:
    content = json.loads((stranger("qwen2", tmp_path) / "tokenizer.json").read_bytes())
    content["added_tokens"].append(content["added_tokens"][0] | {"content": "<think>", "special": False, "id": 600})
    content["model"]["vocab"]["<think>"] = len(content["model"]["vocab"])
    content["added_tokens"][-1]["id"] = content["model"]["vocab"]["<think>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = read(tmp_path)
    assert tokenizer.decode([tokenizer.special["<think>"], 1, *tokenizer.encode("a")]) == "<think>a"
    assert tokenizer.special["<think>"] not in tokenizer.encode("<think>")

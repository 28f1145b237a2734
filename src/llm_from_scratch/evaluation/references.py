"""Reference models of Hugging Face's transformers: baselines, BERTScore, and entailment.

They are loaded from local folders, without a download and without running a folder's code.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_from_scratch.data.long_texts import in_memory
from llm_from_scratch.errors import UserError, first_line, missing_extra
from llm_from_scratch.evaluation.results import Baseline
from llm_from_scratch.evaluation.scoring import Scorer, score, windows
from llm_from_scratch.evaluation.texts import Text, UnitNats, character_bytes

log = logging.getLogger(__name__)
MAX_WINDOW = 1024  # tokens at most, as in GPT-2


def causal_models(
    folders: Sequence[Path], text: Text, overlap: float, batch_size: int, device: torch.device, left_out: list[str]
) -> list[Baseline]:
    """Scores the models of several folders; one that cannot be scored adds a line to `left_out`."""
    rows = []
    for folder in folders:
        log.info("measuring %s", folder)
        try:
            rows.append(causal_model(folder, text, overlap, batch_size, device))
        except UserError as error:
            left_out.append(str(error))
    return rows


def causal_model(folder: Path, text: Text, overlap: float, batch_size: int, device: torch.device) -> Baseline:
    """Scores a causal language model as a baseline: every byte once, end-of-text tokens as in ours.

    Raises:
        UserError: when transformers or the model is missing, or the tokenizer does not decode to
            the same text, so that bits per byte would be those of another text.
    """
    transformers = _transformers(f"--gpt2 {folder}")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a stranger's folder makes the library raise anything
        raise UserError(f"--gpt2 {folder}: cannot be read as a model ({first_line(error, 200)})") from None
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise UserError(f"--gpt2 {folder}: its tokenizer needs an end-of-text piece and a tokenizer.json")
    parts, starts, before = [], [], 0
    for document in map(in_memory, text.documents):
        encoded = tokenizer(document, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if tokenizer.decode(encoded["input_ids"], clean_up_tokenization_spaces=False) != document:
            raise UserError(
                f"--gpt2 {folder}: its tokenizer does not give the text back, so that bytes cannot be compared"
            )
        sizes = character_bytes(document)
        begins = np.cumsum(sizes) - sizes + before
        before += int(sizes.sum())
        characters = np.array([start for start, _ in encoded["offset_mapping"]], dtype=np.int64)
        end = [tokenizer.eos_token_id] if text.whole else []
        parts.append(np.array([*encoded["input_ids"], *end], dtype=np.int64))
        starts.append(np.append(begins[characters], [max(before - 1, 0)] * len(end)).astype(np.int64))
    ids, places = np.concatenate(parts), np.concatenate(starts)
    block_size = min(getattr(model.config, "max_position_embeddings", MAX_WINDOW), MAX_WINDOW, len(ids))
    model = model.to(device).float().eval()

    def hidden_states(batch: torch.Tensor) -> torch.Tensor:
        try:
            return model(input_ids=batch).logits
        except Exception as error:  # a stranger's model makes the library raise anything
            raise UserError(f"--gpt2 {folder}: cannot be used ({first_line(error, 200)})") from None

    scorer = Scorer(
        hidden_states=hidden_states,
        # Some models scale or cap their logits, so their own forward pass computes them.
        head=lambda logits: logits,
        block_size=block_size,
        width=model.config.vocab_size,
        vocab_size=model.config.vocab_size,
        eot_id=tokenizer.eos_token_id,
        device=device,
    )
    units, first = UnitNats(text), 0
    for nats, _ in score(scorer, windows([ids], scorer, overlap, batch_size)):
        units.add_at(nats, places[first : first + len(nats)])
        first += len(nats)
    note = f"{len(tokenizer):,} pieces, context {block_size}; what it was trained on may hold this text"
    return Baseline(name=f"{folder.name} (transformers)", kind="gpt2", note=note, **units.figures())


def bertscore(generated: Sequence[str], references: Sequence[str], folder: Path) -> float:
    """Returns the mean F1 of BERTScore (Zhang et al. 2020) in the last layer, not rescaled."""
    _transformers("BERTScore")
    from torchmetrics.functional.text.bert import bert_score

    try:
        scores = bert_score(
            list(generated), list(references), model_name_or_path=str(folder), truncation=True, max_length=512
        )
    except Exception as error:
        raise UserError(f"--bertscore {folder}: cannot be used ({first_line(error, 200)})") from None
    return float(torch.as_tensor(scores["f1"]).mean())


@torch.inference_mode()
def entailment(prompts: Sequence[str], texts: Sequence[Sequence[str]], folder: Path) -> dict[str, float]:
    """Classifies sentences by whether their prompt entails or contradicts them.

    Args:
        prompts: the premises, one a text. texts: the sentences of each text, the hypotheses.
        folder: a sequence classifier of natural-language inference; its likeliest label is taken.

    Returns:
        The shares of the sentences, under "entailed" and "contradicted".

    Raises:
        UserError: when transformers or the model is missing, it has other labels, or there is no
            sentence.
    """
    transformers = _transformers("entailment")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    except Exception as error:  # a stranger's folder makes the library raise anything
        raise UserError(f"--entailment {folder}: cannot be read as a model ({first_line(error, 200)})") from None
    labels = [str(model.config.id2label[i]).lower() for i in range(model.config.num_labels)]
    kinds = [next((i for i, label in enumerate(labels) if label.startswith(name)), -1) for name in ("entail", "contra")]
    if -1 in kinds:
        raise UserError(
            f"--entailment {folder}: its labels are {', '.join(labels)}: name a model that tells entailment from contradiction"
        )
    pairs = [(prompt, sentence) for prompt, own in zip(prompts, texts, strict=True) for sentence in own]
    if not pairs:
        raise UserError("entailment is told of sentences, and the texts hold none")
    longest = min(getattr(model.config, "max_position_embeddings", MAX_WINDOW), MAX_WINDOW)
    try:
        found = [
            int(model(**tokenizer(*pair, truncation=True, max_length=longest, return_tensors="pt")).logits.argmax())
            for pair in pairs
        ]
    except Exception as error:  # a stranger's model makes the library raise anything
        raise UserError(f"--entailment {folder}: cannot be used ({first_line(error, 200)})") from None
    entailed, contradicted = (found.count(kind) / len(found) for kind in kinds)
    return {"entailed": entailed, "contradicted": contradicted}


def _transformers(what: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise missing_extra(f"{what} needs", "metrics") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return transformers

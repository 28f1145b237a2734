"""TRL's numbers for DPO: rewards, losses and gradients of its `DPOTrainer` on a model of two layers.

`python tests/trl_dpo.py` writes them to tests/fixtures/trl_dpo.json, where trl is installed.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from llm_from_scratch.huggingface.tensors import from_weights
from llm_from_scratch.huggingface.write import export
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import LoadedModel

RECORDED = Path(__file__).parent / "fixtures" / "trl_dpo.json"
BETA, SMOOTHING = 0.1, 0.1
TOKENIZER = CharTokenizer(" .?abcdefghijklmnopqrstuvwxyz")
CONFIG = GPTConfig(vocab_size=TOKENIZER.vocab_size, block_size=64, n_layer=2, n_embd=8, n_head=2, n_inner=8)
# Short answers: TRL sums log-probabilities in float32, which rounds 100 nats by 4e-6.
PAIRS = [
    ("who are you? ", "oz.", "a man."),
    ("where is toto? ", "here.", "at sea."),
    ("is it far? ", "very.", "no."),
]
# Their names for the forms of the loss. Of the forms that are sorted over a batch (aot), one pair alone is the conservative
# form with label smoothing.
FORMS: dict[str, dict[str, Any]] = {
    "sigmoid": {"loss_type": ["sigmoid"]},
    "label_smoothing": {"loss_type": ["aot"], "label_smoothing": SMOOTHING},
    "length_normalised": {"loss_type": ["sigmoid_norm"]},
}


def model(seed: int) -> GPT:
    """A model whose weights depend on the seed alone, in every version of the libraries."""
    gpt = GPT(CONFIG)
    with torch.no_grad():
        for number, parameter in enumerate(gpt.parameters()):
            raw = np.random.Philox(key=seed, counter=[0, 0, 0, number]).random_raw(parameter.numel())
            drawn = torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53 - 0.5).float().view_as(parameter)
            parameter.copy_(drawn + (parameter.dim() == 1))
    return gpt.eval()


def trl_numbers() -> dict[str, Any]:
    """Form -> the means over PAIRS of loss and rewards, and the gradient of the mean loss."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    found: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        for name, seed in (("policy", 1), ("reference", 2)):
            export(LoadedModel(model(seed), TOKENIZER, None, None), Path(folder) / name)
        rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in PAIRS]
        tokenizer = AutoTokenizer.from_pretrained(f"{folder}/policy")
        tokenizer.split_special_tokens = False  # TRL writes the end of an answer as text
        for form, settings in FORMS.items():
            policy, reference = (
                AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", dtype=torch.float32)
                for name in ("policy", "reference")
            )
            trainer = DPOTrainer(
                model=policy,
                ref_model=reference,
                args=DPOConfig(
                    output_dir=f"{folder}/out", beta=BETA, use_cpu=True, bf16=False, report_to="none",
                    gradient_checkpointing=False, disable_tqdm=True, **settings,
                ),
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
            )  # fmt: skip
            examples = list(trainer.train_dataset)
            ids = [[one["prompt_ids"], one["chosen_ids"], one["rejected_ids"]] for one in examples]
            policy.train()
            losses = []
            for batch in batches(examples, together=form != "label_smoothing"):
                loss = trainer.compute_loss(policy, trainer.data_collator(batch))
                (loss * len(batch) / len(examples)).backward()
                losses += [loss.item()] * len(batch)
            logged = trainer._metrics["train"]
            gradients = {name: one.grad for name, one in policy.named_parameters()}
            found[form] = {
                "ids": ids,  # of each pair: prompt, chosen, rejected
                "loss": float(np.mean(losses)),
                **{
                    key: float(np.mean(logged[f"rewards/{key}"]))
                    for key in ("chosen", "rejected", "accuracies", "margins")
                },
                "gradients": {name: digits(one) for name, one in from_weights(gradients, CONFIG).items()},
            }
    return found


def digits(gradient: torch.Tensor) -> list[float]:
    return [float(f"{number:.9g}") for number in gradient.flatten().tolist()]


def batches(examples: list[Any], together: bool) -> Iterator[list[Any]]:
    yield from [examples] if together else [[one] for one in examples]


if __name__ == "__main__":
    numbers = {"trl": version("trl"), "torch": torch.__version__, "forms": trl_numbers()}
    RECORDED.write_text(json.dumps(numbers) + "\n", encoding="utf-8")

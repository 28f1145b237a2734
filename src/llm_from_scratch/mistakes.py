"""Settings of other programs -> the equivalent here: answers to a wrong key or value.

The tables hold names of Lightning, nanoGPT, Hugging Face's Trainer and litgpt. `check.unknown`
compares every other name with the schema by its spelling.
"""

from collections.abc import Mapping

# Arguments of lightning.Trainer that trainer.extra may pass on: they work with this training loop.
TRAINER_EXTRA = ("benchmark", "detect_anomaly", "deterministic", "max_time", "min_steps")
# The last part of a key, in any group -> the equivalent setting of train.py.
TRAIN_NAMES: Mapping[str, str] = {
    **dict.fromkeys(
        ("learning_rate", "max_lr", "peak_lr", "base_lr"),
        "optim.lr=X sets the peak learning rate",
    ),
    **dict.fromkeys(
        ("min_lr", "final_lr", "lr_min"), "optim.min_lr_ratio=X sets the last learning rate, as a share of optim.lr"
    ),
    **dict.fromkeys(
        ("lr_scheduler", "scheduler", "lr_schedule", "lr_scheduler_type", "decay_lr"),
        "optim.schedule=cosine|linear|wsd|constant|plateau",
    ),
    **dict.fromkeys(
        ("warmup", "warmup_iters", "num_warmup_steps", "lr_warmup_steps"), "optim.warmup_steps=N, in optimizer steps"
    ),
    **dict.fromkeys(("wd", "decay"), "optim.weight_decay=X"),
    **dict.fromkeys(("betas", "adam_betas", "adam_beta1", "adam_beta2"), "optim.beta1=X optim.beta2=X"),
    **dict.fromkeys(("optimizer", "optim_name"), "optim=adamw|muon"),
    **dict.fromkeys(
        ("epochs", "num_epochs", "n_epochs", "num_train_epochs", "max_epochs", "min_epochs", "epoch"),
        "training is counted in optimizer steps: trainer.max_steps=N (plan says how many passes over the text they are)",
    ),
    **dict.fromkeys(
        (
            "max_iters",
            "max_iter",
            "iters",
            "iterations",
            "num_iterations",
            "num_steps",
            "steps",
            "n_steps",
            "train_steps",
            "total_steps",
        ),
        "trainer.max_steps=N, in optimizer steps",
    ),
    **dict.fromkeys(
        (
            "eval_interval",
            "eval_steps",
            "eval_every",
            "val_interval",
            "save_steps",
            "save_interval",
            "checkpoint_interval",
            "every_n_train_steps",
            "check_val_every_n_epoch",
        ),
        "trainer.val_check_interval=N: a validation and a checkpoint every N optimizer steps",
    ),
    **dict.fromkeys(
        (
            "eval_iters",
            "limit_val_batches",
            "val_batches",
            "eval_batches",
            "limit_test_batches",
            "limit_predict_batches",
        ),
        "a validation reads every token of the split once; data.val_fraction=X makes the split smaller",
    ),
    "limit_train_batches": "trainer.max_steps=N ends the training; data.max_docs=N or data.fraction=X takes a part of the text",
    "num_sanity_val_steps": "there is no sanity check: debug=fast tries a whole run in seconds",
    **dict.fromkeys(("log_interval", "logging_steps", "log_every"), "trainer.log_every_n_steps=N, in optimizer steps"),
    **dict.fromkeys(
        ("batch", "bs", "train_batch_size", "per_device_train_batch_size", "global_batch_size"),
        "data.batch_size=N: sequences an optimizer step, over all devices (data.micro_batch_size=N a device at a time)",
    ),
    **dict.fromkeys(
        (
            "accumulate_grad_batches",
            "gradient_accumulation_steps",
            "grad_accum",
            "grad_accumulation",
            "gradient_accumulation",
        ),
        "data.batch_size=N is the batch of an optimizer step, data.micro_batch_size=N what a device takes at a time: accumulation follows",
    ),
    **dict.fromkeys(
        ("grad_clip", "clip_grad", "clip", "max_grad_norm", "gradient_clip", "clip_grad_norm"),
        "trainer.gradient_clip_val=X, the largest global norm; null for none",
    ),
    "gradient_clip_algorithm": "gradients are clipped by their global norm: trainer.gradient_clip_val=X",
    **dict.fromkeys(
        (
            "block",
            "context",
            "context_length",
            "ctx_len",
            "seq_len",
            "sequence_length",
            "max_seq_len",
            "max_seq_length",
            "max_length",
            "n_ctx",
            "n_positions",
            "block_len",
        ),
        "model.block_size=N, in tokens",
    ),
    **dict.fromkeys(("n_layers", "num_layers", "layers", "depth", "num_hidden_layers"), "model.n_layer=N"),
    **dict.fromkeys(("n_heads", "num_heads", "heads", "num_attention_heads"), "model.n_head=N"),
    **dict.fromkeys(
        ("kv_heads", "num_kv_heads", "n_kv_heads", "num_key_value_heads", "n_query_groups"), "model.n_kv_head=N"
    ),
    **dict.fromkeys(
        (
            "d_model",
            "dim",
            "hidden_size",
            "hidden_dim",
            "n_embed",
            "n_emb",
            "embed_dim",
            "embedding_dim",
            "emb_dim",
            "width",
        ),
        "model.n_embd=N",
    ),
    **dict.fromkeys(("d_ff", "ffn_dim", "intermediate_size", "mlp_dim"), "model.n_inner=N"),
    **dict.fromkeys(
        ("drop", "dropout_rate", "p_dropout", "attn_dropout", "resid_dropout", "drop_rate"), "model.dropout=X"
    ),
    **dict.fromkeys(("weight_tying", "tie_word_embeddings", "tied"), "model.tie_weights=true|false"),
    **dict.fromkeys(("vocab", "n_vocab", "num_tokens"), "tokenizer.vocab_size=N"),
    **dict.fromkeys(("device", "cuda", "use_cuda"), "trainer=cpu|gpu|mps|auto"),
    **dict.fromkeys(("gpus", "n_gpus", "num_gpus", "num_devices", "world_size"), "trainer=ddp trainer.devices=N"),
    **dict.fromkeys(
        ("dtype", "fp16", "bf16", "amp", "mixed_precision", "half"),
        "trainer.precision=bf16-mixed|16-mixed|32-true|auto",
    ),
    **dict.fromkeys(
        ("ckpt", "ckpt_path", "checkpoint", "checkpoint_path", "resume_from", "resume_from_checkpoint", "resume_path"),
        "resume=RUN goes on with a run folder; init_from=RUN starts a new run from its weights",
    ),
    **dict.fromkeys(
        ("pretrained", "from_pretrained", "init_weights", "load", "load_from"),
        "init_from=MODEL starts from the weights of a run, a folder of Hugging Face, a .gguf file or smollm2",
    ),
    **dict.fromkeys(
        ("out_dir", "output_dir", "save_dir", "log_dir", "default_root_dir", "output", "dirpath"), "run_dir=PATH"
    ),
    **dict.fromkeys(("dataset", "corpus"), "data=oz|shakespeare|stdlib|text|openwebtext|mix"),
    **dict.fromkeys(
        ("file", "input", "input_file", "text", "train_file", "data_path", "train_data"),
        "data=text data.path=FILE, FOLDER or GLOB",
    ),
    "data_dir": "data.dir=PATH holds prepared texts; data=text data.path=PATH trains on files of your own",
    **dict.fromkeys(
        ("val_split", "test_size", "validation_split", "split", "val_size", "val_ratio"), "data.val_fraction=X"
    ),
    **dict.fromkeys(
        ("num_workers", "n_workers", "dataloader_num_workers"),
        "training needs no workers; prepare.workers=N prepares a large text",
    ),
    "shuffle": "the sampler draws a random place for every sequence: there is nothing to shuffle",
    **dict.fromkeys(("wandb", "use_wandb", "wandb_log", "report_to"), "logger=wandb"),
    "wandb_project": "logger=wandb logger.wandb.project=NAME",
    **dict.fromkeys(
        ("early_stopping", "early_stopping_patience"),
        "optim.patience=N ends a run after N validations without a lower loss",
    ),
    **dict.fromkeys(("ema", "ema_rate"), "optim.ema_decay=X"),
    **dict.fromkeys(("random_seed", "random_state", "manual_seed"), "seed=N"),
    **dict.fromkeys(("loss_type", "loss_fn", "objective"), "loss=cross_entropy|dpo"),
    **dict.fromkeys(("dpo_beta", "kl_coef"), "loss=dpo loss.beta=X"),
    "fast_dev_run": "debug=fast tries a whole run in seconds",
    "overfit_batches": "debug=overfit learns one batch by heart",
    **{name: f"+trainer.extra.{name}=VALUE hands it to Lightning" for name in TRAINER_EXTRA},
    "enable_progress_bar": "trainer.progress=true|false",
    "enable_checkpointing": "a checkpoint comes with every validation: trainer.val_check_interval=N",
    "enable_model_summary": "plan model=… says the size of a model",
    "use_distributed_sampler": "every process draws its own sequences of a step: there is no sampler to replace",
    "reload_dataloaders_every_n_epochs": "the sampler has no epochs: it draws a random place for every sequence",
    "inference_mode": "validation keeps no gradients: there is nothing to choose",
    "sync_batchnorm": "a GPT has no batch norm",
    "enable_autolog_hparams": "the settings are in config.yaml, and in TensorBoard beside the best validation",
    "model_registry": "a run folder holds the model: run=RUN, init_from=RUN",
    "profiler": "debug=profile, or trainer.profile=true",
    "plugins": "checkpoints are verified folders of the project's own: Lightning's plugins have no place",
    "barebones": "the loop does nothing that barebones would leave out; logger=none sample.max_new_tokens=0 leave out more",
    "compile_model": "trainer.compile=true|false|auto",
    "prompt": "sample.prompt=TEXT for the samples of a training; generate.py prompt=TEXT writes with a trained model",
    "temperature": "sample.temperature=X for the samples of a training; generate.py temperature=X",
    "max_new_tokens": "sample.max_new_tokens=N for the samples of a training; generate.py max_new_tokens=N",
    "run": "resume=RUN goes on with a run; generate.py run=RUN writes with it",
    "max_docs": "data.max_docs=N",
}
# The same for generate.py.
GENERATE_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("max_tokens", "length", "num_tokens", "n_tokens", "max_length", "tokens"), "max_new_tokens=N"),
    **dict.fromkeys(("temp", "t"), "temperature=X"),
    **dict.fromkeys(("n", "samples", "n_samples", "num_return_sequences", "batch_size"), "num_samples=N"),
    **dict.fromkeys(("topk", "k"), "top_k=N"),
    **dict.fromkeys(("topp", "p", "nucleus"), "top_p=X"),
    **dict.fromkeys(
        ("model", "checkpoint", "ckpt", "ckpt_path", "model_path", "run_dir", "out_dir", "resume", "init_from"),
        "run=RUN, a run folder or last",
    ),
    **dict.fromkeys(("start", "text", "input", "context"), "prompt=TEXT"),
    **dict.fromkeys(("trainer", "accelerator", "gpu", "cuda"), "device=auto|cpu|cuda|mps"),
    **dict.fromkeys(("penalty", "rep_pen", "frequency_penalty", "presence_penalty"), "repetition_penalty=X"),
    **dict.fromkeys(("stop_sequences", "stop_strings", "eos", "end"), "stop=TEXT"),
    **dict.fromkeys(("do_sample", "greedy", "sample"), "temperature=0 takes the likeliest token every time"),
    "num_beams": "there is no beam search: temperature, top_k, top_p and min_p choose the tokens",
}
# (setting or group, another program's value) -> the equivalent value here.
VALUES: Mapping[tuple[str, str], str] = {
    **dict.fromkeys((("trainer.precision", name) for name in ("fp16", "float16", "half", "16")), "16-mixed"),
    **dict.fromkeys((("trainer.precision", name) for name in ("bf16", "bfloat16")), "bf16-mixed"),
    **dict.fromkeys((("trainer.precision", name) for name in ("fp32", "float32", "32", "single")), "32-true"),
    **dict.fromkeys((("trainer.precision", name) for name in ("fp64", "float64", "64", "double")), "64-true"),
    **dict.fromkeys((("trainer.accelerator", name) for name in ("cuda", "nvidia")), "gpu"),
    ("trainer.accelerator", "metal"): "mps",
    ("trainer", "cuda"): "gpu",
    ("trainer", "fsdp2"): "fsdp",
    ("trainer", "metal"): "mps",
    ("device", "gpu"): "cuda",
    **dict.fromkeys((("tokenizer", name) for name in ("sentencepiece", "subword", "spm", "BPE")), "bpe"),
    **dict.fromkeys((("tokenizer", name) for name in ("tiktoken", "gpt-2", "cl100k_base")), "gpt2"),
    **dict.fromkeys((("tokenizer", name) for name in ("character", "chars", "characters")), "char"),
    **dict.fromkeys((("loss", name) for name in ("ce", "nll", "sft")), "cross_entropy"),
    **dict.fromkeys((("loss", name) for name in ("sigmoid", "preference", "DPO")), "dpo"),
    **dict.fromkeys((("optim", name) for name in ("adam", "AdamW", "sgd")), "adamw"),
    **dict.fromkeys((("model", name) for name in ("gpt", "gpt-2", "gpt2-small", "GPT2", "124M")), "gpt2"),
    **dict.fromkeys((("model", name) for name in ("nano", "mini", "micro")), "tiny"),
    **dict.fromkeys((("data", name) for name in ("wizard_of_oz", "wizard", "book")), "oz"),
    **dict.fromkeys(
        (("data", name) for name in ("tinyshakespeare", "tiny_shakespeare", "shakespeare_char")), "shakespeare"
    ),
    **dict.fromkeys((("data", name) for name in ("owt", "webtext", "OpenWebText")), "openwebtext"),
    **dict.fromkeys((("logger", name) for name in ("tb", "TensorBoard")), "tensorboard"),
    ("logger", "wb"): "wandb",
    ("optim.schedule", "cos"): "cosine",
    ("optim.schedule", "warmup_stable_decay"): "wsd",
    ("optim.schedule", "none"): "constant",
}


def answer(key: str, program: str) -> str | None:
    """Returns a sentence with the setting equivalent to another program's `key`, or None.

    Only the last part of `key` is compared. `program` is "train" or "generate".
    """
    names = GENERATE_NAMES if program == "generate" else TRAIN_NAMES
    return names.get(key.split(".")[-1].replace("-", "_"))


def meant(key: str, value: str) -> str | None:
    """Returns the equivalent here of another program's value, as bf16-mixed for bf16, or None.

    `key` is a setting or a group.
    """
    return VALUES.get((key, value))

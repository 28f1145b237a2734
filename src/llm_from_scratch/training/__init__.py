"""Training with Lightning. Each module may import those above it.

Small parts:
    internals    Lightning's private names, each checked by a test
    objects      the user's own classes, named by `_target_` in a setting
    peak         peak FLOP/s of a device, for the model FLOPs utilisation
    trackers     wandb and mlflow: one run there for a run folder, each point once
    loggers      TensorBoard and csv, each point once after a resume; what a user logs
    states       states to resume, as Lightning saves and loads them
    compilation  torch.compile, where it saves time
    sharded      trainer=fsdp, and its checkpoints
    averaging    the exponential moving average of the weights

A step:
    finetuning   which weights of a model are trained, and how fast each layer learns
    memory       bytes of weights, gradients, moments, activations; the micro-batch size that fits
    muon         Muon for matrices, AdamW for all other parameters
    optimizers   the optimizer and its groups; the learning rate as a function of the step
    data         batches for Lightning's training loop
    module       one step of training and of validation
    preferences  the loss on pairs of answers: one step of loss=dpo

Beside the steps:
    metrics      metrics.jsonl, timing.jsonl and the curves
    progress     log lines, progress bar, time left, the warning of a rising validation loss
    watch        texts that are validated and not trained on
    pruning      a sweep's trial, stopped at a validation
    callbacks    samples, early stopping, checkpoints, signals

A run:
    claim        the lock on a run folder, which is changed only once training begins
    trainer      the Lightning Trainer from the settings
    live         a server of the run's page, as long as it trains
    explaining   callbacks=explain: figures of the model's inside, in TensorBoard
    checks       devices, callbacks and loggers, checked before a run starts
    results      the table of results, the curves and the next commands
    fit          one training run, from the text to the model
"""

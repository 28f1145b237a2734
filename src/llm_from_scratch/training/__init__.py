"""Training with Lightning. Each module may import those above it.

Small parts:
    internals    Lightning's private names, each looked up by a test
    objects      the user's own classes, by the `_target_` of a setting
    loggers      TensorBoard, csv and wandb, each point once after a resume
    states       states to resume, as Lightning saves and loads them
    memory       bytes of weights, gradients, moments, activations; micro-batches by them
    compilation  torch.compile, where it pays
    averaging    the average of the weights
    sharded      trainer=fsdp, and its checkpoints

A step:
    muon         Muon for matrices, AdamW for the rest
    optimizers   the optimizer and its groups; the learning rate as a function of the step
    data         batches as Lightning's loop reads them
    module       one step of training and of validation

Beside the steps:
    metrics      metrics.jsonl, timing.jsonl and the curves
    progress     the lines of a run, the bar, the time that is left, a rising validation loss
    callbacks    samples, early stopping, checkpoints, signals

A run:
    claim        a run folder has one owner, and is written when nothing can be refused any more
    trainer      the Lightning Trainer from the settings
    checks       devices, callbacks and loggers that are refused before a run starts
    results      the table, the picture and the next commands
    fit          all of this, from the text to the model
"""

"""From files to batches, one module a step, in the order in which data flows.

sources (files) -> readers (bytes of documents) -> clean (text, every change counted) -> prepare (split, tokenizer, shards; once) ->
shards (ids in memory-mapped files) -> sampler (which chunk at which step) -> datamodule (batches for the Trainer)
"""

"""Serving: HTTP requests -> one model, many texts at once -> streams of text.

A module imports only those above it:

    slots       keys and values of texts of different lengths, side by side
    prefixes    keys and values of prompts that were read before
    requests    one text: its settings, its generator, its stop strings, what was written
    engine      continuous batching: texts join and leave at any step
"""

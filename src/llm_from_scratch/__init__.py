"""Build a GPT from scratch: tokenizer -> data -> model -> training -> generation and evaluation."""

__version__ = "0.1.0"

"""GGUF, the file format of llama.cpp and Ollama: models in and out.

library    the library `gguf`: quantised blocks, the writer of files
names      one table an architecture: settings, tensors and keys, both ways
read       a file -> the model and its tokenizer, all of it verified
write      a model and its tokenizer -> a file, with a Modelfile for Ollama
"""

DTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")  # of the matrices of a file that `write` makes

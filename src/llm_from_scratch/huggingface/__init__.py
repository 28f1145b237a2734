"""Models in Hugging Face's format: one table a family, a reader, a writer.

    families  one table a family: names, and the settings that its class computes
    settings  GPTConfig <-> config.json
    tensors   parameters <-> tensors
    hub       a model of the Hugging Face hub -> a folder
    adapters  LoRA adapters in PEFT's format
    read      a folder of transformers -> a GPT
    card      the model card of a run: README.md
    write     a trained model -> a folder that transformers loads

A folder of a stranger's is untrusted: nothing in it runs, and its sizes are compared with its
files before a model is built. No file here needs transformers.
"""

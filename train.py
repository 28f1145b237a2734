"""Trains a GPT: text -> tokens -> model -> run folder. `python train.py --help` lists the
choices.
"""

import sys
from importlib.util import find_spec

if __name__ == "__main__":
    for name in ("llm_from_scratch", "hydra", "torch", "lightning"):
        if find_spec(name) is None:
            activate = "run `make demo` once, then in each shell: source .venv/bin/activate"
            print(f"error: {name} is not installed for {sys.executable}: {activate}", file=sys.stderr)
            raise SystemExit(2)

from llm_from_scratch import signals

if __name__ == "__main__":
    signals.catch(end_with_reader=False)  # a training outlives the reader of its last line

from llm_from_scratch.commands.train import main

if __name__ == "__main__":
    main()

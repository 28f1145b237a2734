"""The entry point: `llm-from-scratch COMMAND` and `python -m llm_from_scratch COMMAND`."""

import sys

from llm_from_scratch import signals


def run() -> None:
    """Runs the command line.

    Signals are handled before the slow imports, so that Ctrl-C during one has its exit status, too.
    """
    training = "train" in sys.argv[1:2] or any(word.startswith(signals.LIGHTNING_CHILD) for word in sys.argv[1:])
    signals.catch(end_with_reader=not training)  # a training goes on without a reader of its output

    from llm_from_scratch.cli import main

    main()


if __name__ == "__main__":
    run()

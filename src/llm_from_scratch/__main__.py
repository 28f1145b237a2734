"""`python -m llm_from_scratch COMMAND`."""

from llm_from_scratch import signals

signals.catch()  # before imports that take seconds: Ctrl-C in one of them has its status, too

from llm_from_scratch.cli import main  # noqa: E402

main()

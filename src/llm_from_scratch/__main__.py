"""`python -m llm_from_scratch COMMAND`."""

from llm_from_scratch.cli import main

main()

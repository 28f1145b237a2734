"""The playground in a browser, against `llm-from-scratch serve` with small random models.

A package, so that its browser ends with its last test: playwright keeps an asyncio loop running, in
which `asyncio.run` of other tests of the same process would fail.
"""

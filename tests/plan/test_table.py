"""Numbers as a person reads them."""

from llm_from_scratch.plan.table import count, duration


def test_numbers_for_a_person() -> None:
    assert [count(n, "B") for n in (7, 1000, 123_456, 999_960, 1.5e12)] == ["7 B", "1 KB", "123 KB", "1 MB", "1.5 TB"]
    assert [count(n, " tokens") for n in (999, 1234)] == ["999 tokens", "1.23 K tokens"]
    assert [duration(s) for s in (5, 90, 5400, 129_600)] == ["5 seconds", "1.5 minutes", "1.5 hours", "1.5 days"]

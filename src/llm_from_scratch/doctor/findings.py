"""A finding: one line of the doctor's report, with advice."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: severity, finding, and advice (empty where all is well)."""

    mark: Literal["ok", "warning", "fault"]
    what: str
    advice: str = ""


def ok(what: str) -> Finding:
    """Returns a finding without a problem."""
    return Finding("ok", what)


def warning(what: str, advice: str) -> Finding:
    """Returns a finding of something that works poorly now, or may fail later."""
    return Finding("warning", what, advice)


def fault(what: str, advice: str) -> Finding:
    """Returns a finding of something that does not work."""
    return Finding("fault", what, advice)


def size_of(count: int) -> str:
    """Formats a number of bytes as decimal MB or GB."""
    return f"{count / 10**9:.1f} GB" if count >= 10**9 else f"{count / 10**6:.1f} MB"
